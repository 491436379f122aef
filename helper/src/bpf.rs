//! Single ports for one user's engine: a BPF program at the hooks of bind(2) of one cgroup.
//!
//! Attached is a link (`BPF_LINK_CREATE`), which goes with its last user. What outlives us is a pin
//! of it in the bpf file system: `<bpffs>/<uid>/inet4` and `inet6`. Both go with the cgroup: after
//! that the pin is still there, but does nothing, and [`attached`] says so. Nothing outlives a reboot.
//!
//! The functions here take turns: two at once for the same user, of whatever process, are not meant.

mod pins;
mod program;
mod sys;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::libc::{EINVAL, ENOSYS, EPERM};
use rootlessd_api::Port;
use rustix::{
    fs::{fstat, fstatfs, statfs},
    system::uname,
};

use self::pins::Pins;
pub use self::{
    program::{Insn, program},
    sys::{Family, load},
};

/// The first Linux whose bind(2) may be granted by a program: commit 772412176fb9.
const NEEDED: (u32, u32) = (5, 12);
// include/uapi/linux/magic.h
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// Why ports could not be granted or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine, as it is, cannot do this at all.
    #[error("this machine cannot grant single ports: {0}")]
    Unsupported(String),
    /// It can, but something went wrong.
    #[error("cannot {what}: {error}")]
    Failed {
        /// What was tried, and on what.
        what: String,
        /// Why that did not work.
        #[source]
        error: io::Error,
    },
}

/// Let sockets that are made in a cgroup, and in those below it, be bound to these ports without
/// privilege, and to no others that this user was granted before, here or in another cgroup.
///
/// What stays granted is so without a gap: results of all programs at one hook are taken together
/// (`bpf_prog_run_array_cg` in kernel/bpf/cgroup.c), and the new ones are there before the old ones
/// go. If this fails, everything is as it was.
///
/// `bpffs` is a directory of ours in a bpf file system, made if need be, such as
/// `/sys/fs/bpf/rootlessd`. The cgroup's directory may be opened with `O_PATH`, for which it is no
/// matter whose it is. No ports: as [`detach`].
pub fn attach_ports(
    bpffs: &Path,
    uid: u32,
    cgroup: BorrowedFd<'_>,
    ports: &BTreeSet<Port>,
) -> Result<(), Error> {
    if ports.is_empty() {
        return detach(bpffs, uid);
    }
    check_support(bpffs, cgroup)?;
    let new = attach_all(cgroup, ports)?;
    let pins = Pins::make(bpffs, uid)?;
    let old = pins.open_all()?;
    let replaced = pins.replace(&new, &old);
    // What has lost its name is closed soon; this is so that it takes effect before we return.
    let over = if replaced.is_ok() { old } else { new.map(Some) };
    let ended = over.iter().flatten().try_for_each(detach_link);
    replaced.and(ended)
}

/// Take back all ports that a user was granted. Nothing to take back is no error.
pub fn detach(bpffs: &Path, uid: u32) -> Result<(), Error> {
    match Pins::find(bpffs, uid)? {
        Some(pins) => pins.remove(),
        None => Ok(()),
    }
}

/// Whether a user has exactly these ports granted, in this cgroup.
pub fn attached(
    bpffs: &Path,
    uid: u32,
    cgroup: BorrowedFd<'_>,
    ports: &BTreeSet<Port>,
) -> Result<bool, Error> {
    let Some(pins) = Pins::find(bpffs, uid)? else { return Ok(ports.is_empty()) };
    if pins.is_unfinished() {
        return Ok(false);
    }
    let links = pins.open_all()?;
    if ports.is_empty() {
        return Ok(links.iter().all(Option::is_none));
    }
    check_cgroup(cgroup)?;
    // The inode's number is the cgroup's id (`kernfs_ino` in include/linux/kernfs.h), and no other
    // cgroup ever gets it; on machines of 32 bits it is the lower half of it.
    let id = fstat(cgroup).map_err(|error| failed("look at the cgroup")(error.into()))?.st_ino;
    let code = program(ports);
    for (family, link) in Family::ALL.into_iter().zip(links) {
        let Some(link) = link else { return Ok(false) };
        let (link, program) = (inspect(&link)?, inspect(&load_checked(&code, family)?)?);
        let right = link.field("cgroup_id") == Some(&id.to_string())
            && link.field("attach_type") == Some(&family.attach_type().to_string())
            && link.field("prog_tag") == program.field("prog_tag");
        if !right {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the machine can do this, as far as that is seen without doing it; the cgroup may be any, such
/// as the root of all.
pub fn check_support(bpffs: &Path, cgroup: BorrowedFd<'_>) -> Result<(), Error> {
    check_kernel()?;
    check_bpffs(bpffs)?;
    check_cgroup(cgroup)
}

/// New links, which are gone again if they are dropped.
fn attach_all(cgroup: BorrowedFd<'_>, ports: &BTreeSet<Port>) -> Result<[OwnedFd; 2], Error> {
    let code = program(ports);
    let [inet4, inet6] = Family::ALL.map(|family| {
        let program = load_checked(&code, family)?;
        sys::attach(program.as_fd(), cgroup, family).map_err(|error| {
            // `hierarchy_allows_attach` in kernel/bpf/cgroup.c. What may be loaded may be attached.
            let error = match error.raw_os_error() {
                Some(EPERM) => io::Error::new(
                    error.kind(),
                    "a program there, or above, wants to be the only one",
                ),
                _ => error,
            };
            failed("attach a program to the cgroup")(error)
        })
    });
    Ok([inet4?, inet6?])
}

/// As [`load`], with errors that tell the machine's limits from ours.
fn load_checked(code: &[Insn], family: Family) -> Result<OwnedFd, Error> {
    load(code, family).map_err(|error| match error.raw_os_error() {
        // `find_prog_type` in kernel/bpf/syscall.c, before the verifier sees the program.
        Some(EINVAL) => Error::Unsupported("its kernel was built without CONFIG_CGROUP_BPF".into()),
        _ => bpf_failed("load a program that grants ports")(error),
    })
}

fn detach_link(link: &OwnedFd) -> Result<(), Error> {
    sys::detach(link.as_fd()).map_err(bpf_failed("detach a program from a cgroup"))
}

fn inspect(file: &OwnedFd) -> Result<sys::Info, Error> {
    sys::Info::of(file).map_err(failed("read what the kernel tells about a program"))
}

fn check_kernel() -> Result<(), Error> {
    let release = uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(found) if found < NEEDED => Err(Error::Unsupported(format!(
            "that is possible from Linux {}.{} on, and this is {release}",
            NEEDED.0, NEEDED.1
        ))),
        // What cannot be read is tried.
        _ => Ok(()),
    }
}

/// The first two numbers of a kernel's release, such as `6.1.0-13-amd64` or `6.18-rc1`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `bpffs` may not be there yet; then it is to be made where its parent is.
fn check_bpffs(bpffs: &Path) -> Result<(), Error> {
    let found = statfs(bpffs).or_else(|_| statfs(bpffs.parent().unwrap_or(bpffs)));
    // The type has another size on each machine.
    if found.is_ok_and(|found| found.f_type as u32 == BPF_FS_MAGIC) {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "there is no bpf file system at {}; `mount -t bpf -o mode=700 bpf /sys/fs/bpf` mounts one",
        bpffs.display()
    )))
}

fn check_cgroup(cgroup: BorrowedFd<'_>) -> Result<(), Error> {
    let found = fstatfs(cgroup);
    let found = found.map_err(|error| failed("look at the cgroup's file system")(error.into()))?;
    if found.f_type as u32 == CGROUP2_SUPER_MAGIC {
        return Ok(());
    }
    Err(Error::Unsupported(
        "that takes cgroups of version 2, and here they are of version 1".into(),
    ))
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    |error| Error::Failed { what: what.into(), error }
}

/// The same for bpf(2), which may be missing, or be kept from us: by a capability that we lack, a
/// filter of system calls, or a security module.
fn bpf_failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    |error| match error.raw_os_error() {
        Some(EPERM | ENOSYS) => {
            Error::Unsupported(format!("bpf(2) may not {}: {error}", what.into()))
        }
        _ => failed(what)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let table = [
            ("6.18.44-fc-v769", Some((6, 18))),
            ("5.12.0", Some((5, 12))),
            ("5.4.0-150-generic", Some((5, 4))),
            ("6.18-rc1", Some((6, 18))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("6", None),
            ("", None),
            ("x.y", None),
        ];
        for (release, wanted) in table {
            assert_eq!(version(release), wanted, "{release:?}");
        }
        assert!(version("5.4.0") < Some(NEEDED) && version("10.0.0") > Some(NEEDED));
    }

    #[test]
    fn errors_say_what_is_lacking() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(temporary.path()).unwrap();
        let ports = BTreeSet::from([Port::new("tcp", 80).unwrap()]);
        let bpffs = temporary.path().join("rootlessd");
        let error = attach_ports(&bpffs, 1000, directory.as_fd(), &ports).unwrap_err();
        assert!(error.to_string().contains("no bpf file system at"), "{error}");
        assert!(!bpffs.exists());
        let error = check_cgroup(directory.as_fd()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        let refused = bpf_failed("load")(io::Error::from_raw_os_error(EPERM));
        assert!(matches!(refused, Error::Unsupported(_)), "{refused}");
        let other = bpf_failed("load")(io::Error::from_raw_os_error(EINVAL));
        assert!(matches!(other, Error::Failed { .. }), "{other}");
    }
}
