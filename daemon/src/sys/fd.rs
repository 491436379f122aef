//! Open files by number, and files to be watched. The one module with `unsafe` in it.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::io::{Interest, unix::AsyncFd};

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

/// Wait for a file to be readable, as it is the way of pidfds.
pub fn watch(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch_for(file, Interest::READABLE)
}

/// Wait for a file to have something exceptional to tell (POLLPRI), as it is the way of mountinfo.
pub fn watch_priority(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch_for(file, Interest::PRIORITY)
}

fn watch_for(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open file, always the same, for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}
