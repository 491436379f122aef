//! bpf(2), as far as it is needed. The one module of this crate with `unsafe` in it: no library that
//! is kept well makes these few calls without a loader of object files around them.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::libc::{SYS_bpf, c_int, c_uint, syscall};

use super::Insn;

// Numbers of `enum bpf_cmd`, `enum bpf_prog_type` and `enum bpf_attach_type`
// (include/uapi/linux/bpf.h).
const BPF_PROG_LOAD: c_int = 5;
const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_CREATE: c_int = 28;
const BPF_LINK_DETACH: c_int = 34;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_BIND: u32 = 8;
const BPF_CGROUP_INET6_BIND: u32 = 9;

/// What bpftool(8) shows the programs as.
const NAME: [u8; 16] = *b"rootlessd_ports\0";
/// Only programs that call functions for GPL programs have to be under it.
const LICENSE: &CStr = c"MIT OR Apache-2.0";

/// Sockets of IPv4, or of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`
    Inet4,
    /// `AF_INET6`, also where it is bound to an address of IPv4
    Inet6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inet4, Self::Inet6];

    /// Its hook's number.
    pub(super) fn attach_type(self) -> u32 {
        match self {
            Self::Inet4 => BPF_CGROUP_INET4_BIND,
            Self::Inet6 => BPF_CGROUP_INET6_BIND,
        }
    }
}

/// Have the kernel check a program and keep it, for one of the hooks.
///
/// The error holds what the kernel's verifier said about the program. If it said nothing, the error
/// is the system's own, with its number.
pub fn load(program: &[Insn], family: Family) -> io::Result<OwnedFd> {
    // The log costs time and memory, and tells nothing about a program that is good.
    let error = match load_logged(program, family, &mut []) {
        Err(error) => error,
        loaded => return loaded,
    };
    let mut log = vec![0; 1 << 16];
    if let Ok(loaded) = load_logged(program, family, &mut log) {
        return Ok(loaded);
    }
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]);
    match verdict(&log) {
        Some(line) => {
            Err(io::Error::new(error.kind(), format!("the verifier refuses the program: {line}")))
        }
        None => Err(error),
    }
}

/// The last line of the verifier's log but for its statistics.
fn verdict(log: &str) -> Option<&str> {
    let mut lines = log.lines().map(str::trim);
    lines.rfind(|line| !line.is_empty() && !line.starts_with("processed "))
}

fn load_logged(program: &[Insn], family: Family, log: &mut [u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let attributes = Attributes {
        prog_type: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt: length(program.len())?,
        insns: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: length(log.len())?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: 0,
        prog_name: NAME,
        prog_ifindex: 0,
        expected_attach_type: family.attach_type(),
    };
    // SAFETY: the attributes are those of the command, without padding; the pointers among them are
    // to slices of the lengths beside them, or to a C string, all of which outlive the call, and the
    // kernel writes to none but the log. What is returned is an open file of ours.
    unsafe { bpf_open(BPF_PROG_LOAD, &attributes) }
}

/// Let a program decide for the sockets that are made in a cgroup and below it, together with all
/// others that are attached there, until nothing has the link open or pinned any more.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    family: Family,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_fd: c_int,
        target_fd: c_int,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        prog_fd: program.as_raw_fd(),
        target_fd: cgroup.as_raw_fd(),
        attach_type: family.attach_type(),
        flags: 0,
    };
    // SAFETY: the attributes are those of the command, without padding or pointers. What is returned
    // is an open file of ours.
    unsafe { bpf_open(BPF_LINK_CREATE, &attributes) }
}

/// End what a link does, at once and for good, whoever has it open or pinned.
///
/// Without this, what was unpinned last works until the kernel has come round to it.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: c_int,
    }
    // SAFETY: the attributes are those of the command, without padding or pointers.
    unsafe { bpf(BPF_LINK_DETACH, &Attributes { link_fd: link.as_raw_fd() }) }.map(drop)
}

#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: c_int,
    file_flags: u32,
}

/// Give a link a name in a bpf file system, which keeps it.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes =
        Pin { pathname: path.as_ptr() as u64, bpf_fd: link.as_raw_fd(), file_flags: 0 };
    // SAFETY: the attributes are those of the command, without padding; the path is a C string that
    // outlives the call, and the kernel does not write to it.
    unsafe { bpf(BPF_OBJ_PIN, &attributes) }.map(drop)
}

/// Open what is pinned.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pin { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: as for `pin`. What is returned is an open file of ours.
    unsafe { bpf_open(BPF_OBJ_GET, &attributes) }
}

/// What the kernel tells about an open link or program.
///
/// `BPF_OBJ_GET_INFO_BY_FD` tells the same, but to get from a link to the tag of its program takes
/// `CAP_SYS_ADMIN` that way (`bpf_prog_get_fd_by_id` in kernel/bpf/syscall.c).
pub(super) struct Info(String);

impl Info {
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let number = file.as_fd().as_raw_fd();
        fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map(Self)
    }

    /// A field of a program's (`bpf_prog_show_fdinfo`) or a link's (`bpf_link_show_fdinfo` in
    /// kernel/bpf/syscall.c, `bpf_cgroup_link_show_fdinfo` in kernel/bpf/cgroup.c): `prog_tag`, a
    /// hash of the program as it was loaded; `attach_type`; `cgroup_id`, 0 if that cgroup is gone.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    }
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A command that returns an open file, which the kernel never hands on to our children.
///
/// # Safety
///
/// As for `bpf`; and the command returns a file that nobody else owns.
unsafe fn bpf_open<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let number = unsafe { bpf(command, attributes) }?;
    // SAFETY: it is open, and ours: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// # Safety
///
/// `T` is what this command reads of `union bpf_attr`: from its beginning, without padding, and with
/// pointers that are good for what the command does with them. The kernel takes the rest, and what
/// later versions add, for zeros (`bpf_check_uarg_tail_zero` in kernel/bpf/syscall.c).
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_int> {
    let size = size_of::<T>() as c_uint;
    // SAFETY: the attributes are `size` bytes that outlive the call; the rest is the caller's.
    let returned = unsafe { syscall(SYS_bpf, command, std::ptr::from_ref(attributes), size) };
    match returned {
        0.. => Ok(returned as c_int),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_ends_with_the_verdict() {
        let stats = "processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0\n";
        let table = [
            ("", None),
            ("\n\n", None),
            (stats, None),
            (&format!("0: (95) exit\nR0 !read_ok\n{stats}"), Some("R0 !read_ok")),
            ("unreachable insn 1", Some("unreachable insn 1")),
        ];
        for (log, wanted) in table {
            assert_eq!(verdict(log), wanted, "{log:?}");
        }
    }

    #[test]
    fn fields_are_found() {
        let info = Info("pos:\t0\nlink_type:\tcgroup\nprog_tag:\t00a1\ncgroup_id:\t7\n".into());
        let table =
            [("prog_tag", Some("00a1")), ("cgroup_id", Some("7")), ("tag", None), ("", None)];
        for (name, wanted) in table {
            assert_eq!(info.field(name), wanted);
        }
    }
}
