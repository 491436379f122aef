//! The file capability that lets RootlessKit listen on every port: setcap(8), capabilities(7).
//!
//! Of the distribution's programs only, by fixed paths. Each is opened once, looked at, and changed
//! through the same open file, so that nothing can be put in its place in between.

use std::{fmt, fs::File, io, os::unix::fs::MetadataExt};

use rootlessd_api::{Error, ErrorKind};
use rustix::fs::{self, OFlags, XattrFlags};
use serde::{Deserialize, Serialize};

use crate::{change::Change, error::cannot, root::Root, systemd::Systemd};

/// Where distributions have RootlessKit; Debian and Fedora the first, Docker's own packages both.
const PATHS: [&str; 2] = ["/usr/bin/rootlesskit", "/usr/bin/docker-rootlesskit"];
/// The extended attribute (kernel: `include/uapi/linux/xattr.h`).
const XATTR: &str = "security.capability";
/// `cap_net_bind_service=ep` as the kernel stores it: `struct vfs_cap_data` of
/// `include/uapi/linux/capability.h`, little endian. Revision 2 with the effective bit, then bit 10
/// of the permitted set; nothing is inheritable.
const NET_BIND_SERVICE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of file systems whose server may have its own mind about what was checked (statfs(2)).
const FOREIGN: [i64; 5] = [0x6969, 0x6573_5546, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997];

/// A program that was given the capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCapability {
    /// The program.
    pub path: String,
}

impl fmt::Display for FileCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cap_net_bind_service=ep; undone by taking it off", self.path)
    }
}

/// What watches for the upgrade of a program, which loses the capability; installed beside the helper.
fn watch(path: &str) -> String {
    format!("rootlessd-setcap@{}.path", path.rsplit_once('/').map_or(path, |(_, name)| name))
}

/// Has the programs watched, from now on or no more; a note for each where that failed.
pub async fn watch_all(systemd: &Systemd, files: &[FileCapability], on: bool) -> Vec<String> {
    let mut notes = Vec::new();
    for FileCapability { path } in files {
        let unit = watch(path);
        let done = if on { systemd.enable(&unit).await } else { systemd.disable(&unit).await };
        if let Err(error) = done {
            let verb = if on { "enabled" } else { "disabled" };
            notes.push(format!(
                "{unit}, which gives {path} its capability again after an upgrade, could not be {verb}: \
                 {error}"
            ));
        }
    }
    notes
}

/// The programs that are there and do not have it.
pub fn plan(root: &Root) -> Result<Option<Change>, Error> {
    let mut files = Vec::new();
    let mut found = false;
    for path in PATHS {
        let Some(file) = open(root, path)? else { continue };
        found = true;
        match get(&file).map_err(|error| cannot("read the capability of", path, &error))? {
            Some(now) if now == NET_BIND_SERVICE => {}
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{path} has other capabilities, which are left alone"),
                )
                .with_remedy(format!("getcap {path}; sudo setcap -r {path}")));
            }
            None => files.push(FileCapability { path: path.into() }),
        }
    }
    if !found {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("there is no RootlessKit of the distribution's at {}", PATHS.join(" or ")),
        )
        .with_remedy("sudo apt install rootlesskit"));
    }
    Ok((!files.is_empty()).then_some(Change::GrantBindCapability { files }))
}

/// Gives it to the programs. All, or none.
pub fn apply(root: &Root, files: &[FileCapability]) -> Result<(), Error> {
    for (done, file) in files.iter().enumerate() {
        if let Err(error) = give(root, &file.path) {
            undo(root, &files[..done])?;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes it off again, where it is still what was given.
pub fn undo(root: &Root, files: &[FileCapability]) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    for FileCapability { path } in files {
        let Some(file) = open(root, path)? else { continue };
        match get(&file).map_err(|error| cannot("read the capability of", path, &error))? {
            Some(now) if now == NET_BIND_SERVICE => fs::fremovexattr(&file, XATTR)
                .map_err(|error| cannot("take the capability off", path, &error.into()))?,
            Some(_) => notes.push(format!(
                "{path} has other capabilities now, which somebody else set; they are left alone"
            )),
            None => {}
        }
    }
    Ok(notes)
}

/// Where it is gone.
pub fn drift(root: &Root, files: &[FileCapability]) -> Result<Vec<String>, Error> {
    let lost = lost(root, files)?.into_iter();
    Ok(lost.map(|file| format!("{} does not have the capability any more", file.path)).collect())
}

/// The programs that are there without it, as after an upgrade of their package.
pub fn lost(root: &Root, files: &[FileCapability]) -> Result<Vec<FileCapability>, Error> {
    let mut lost = Vec::new();
    for file in files {
        let Some(open) = open(root, &file.path)? else { continue };
        if !matches!(get(&open), Ok(Some(now)) if now == NET_BIND_SERVICE) {
            lost.push(file.clone());
        }
    }
    Ok(lost)
}

fn give(root: &Root, path: &str) -> Result<(), Error> {
    let file =
        open(root, path)?.ok_or_else(|| cannot("find", path, &io::ErrorKind::NotFound.into()))?;
    fs::fsetxattr(&file, XATTR, &NET_BIND_SERVICE, XattrFlags::CREATE)
        .map_err(|error| cannot("give the capability to", path, &error.into()))
}

/// Opens a program, if it is what a package installs: root's, changed by nobody else, and known by
/// this name alone. `None` if it is not there.
fn open(root: &Root, path: &str) -> Result<Option<File>, Error> {
    let opened = root
        .directory(path.rsplit_once('/').map_or("/", |(directory, _)| directory))
        // A FIFO would be waited for without NONBLOCK.
        .and_then(|_| root.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot("open", path, &error)),
    };
    match check(root, path, &file) {
        Ok(()) => Ok(Some(file)),
        Err(why) => {
            Err(Error::new(ErrorKind::Conflict, format!("{path} is not given a capability: {why}")))
        }
    }
}

fn check(root: &Root, path: &str, file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    if !root.is_safe(&metadata) {
        return Err("others than root can change it".into());
    }
    if metadata.nlink() != 1 {
        return Err("it has other names (hard links)".into());
    }
    if is_nosuid(root, path).map_err(|error| error.to_string())? {
        return Err(
            "its file system is mounted nosuid, where the kernel ignores capabilities".into()
        );
    }
    let kind = fs::fstatfs(file).map_err(|error| error.to_string())?.f_type;
    if FOREIGN.contains(&(kind as i64)) {
        return Err("its file system is another machine's or a user's (NFS, SMB, 9p, FUSE)".into());
    }
    Ok(())
}

/// Whether the machine has a path on a file system that is mounted nosuid. statfs(2) would tell of the
/// helper's own view of it, in which NoNewPrivileges= makes everything so: this is PID 1's.
fn is_nosuid(root: &Root, path: &str) -> io::Result<bool> {
    let mounts = root.read("/proc/1/mountinfo")?.unwrap_or_default();
    let mut longest = ("", false);
    for line in mounts.lines() {
        // proc_pid_mountinfo(5): the fifth field is where it is mounted, the sixth how.
        let mut fields = line.split(' ').skip(4);
        let (Some(place), Some(options)) = (fields.next(), fields.next()) else { continue };
        let is_below =
            path == place || path.starts_with(&format!("{}/", place.trim_end_matches('/')));
        // Of two at one place, the later one covers the other.
        if is_below && place.len() >= longest.0.len() {
            longest = (place, options.split(',').any(|option| option == "nosuid"));
        }
    }
    Ok(longest.1)
}

fn get(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match fs::fgetxattr(file, XATTR, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nosuid_is_what_pid_1_sees() {
        let tree = tempfile::tempdir().unwrap();
        let root = Root::tree(tree.path()).unwrap();
        assert!(!is_nosuid(&root, "/usr/bin/rootlesskit").unwrap());
        std::fs::create_dir_all(tree.path().join("proc/1")).unwrap();
        for (mounts, nosuid) in [
            ("1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw", false),
            ("1 0 8:1 / / rw,nosuid - ext4 /dev/sda1 rw", true),
            ("1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /usr rw,nosuid shared:2 - ext4 b rw", true),
            ("1 0 8:1 / / rw,nosuid - ext4 a rw\n2 1 8:2 / /usr rw - ext4 b rw", false),
            ("1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /us rw,nosuid - ext4 b rw", false),
            ("1 0 8:1 / / rw,nosuid - ext4 a rw\n2 0 8:2 / / rw - ext4 b rw", false),
        ] {
            std::fs::write(tree.path().join("proc/1/mountinfo"), mounts).unwrap();
            assert_eq!(is_nosuid(&root, "/usr/bin/rootlesskit").unwrap(), nosuid, "{mounts}");
        }
    }
}
