//! Files that came open from the process before us. The one module with `unsafe` in it.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Take a file that this process was started with, by its number, and keep it from our own
/// children. Call it once a number, before anything else opens files.
///
/// Fails with `EBADF` if there is no such file.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lasts for the one call below, which itself finds out whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, as fcntl(2) just said, and it is ours alone: whoever started us meant it
    // for us, and every number is taken once only (this function's contract).
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
