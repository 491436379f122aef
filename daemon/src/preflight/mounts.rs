//! What is mounted where: proc_pid_mountinfo(5). It names each kind of FUSE, and asking it never
//! hangs, as statfs(2) may.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::dirs::Dirs;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// How, such as `rw,nosuid`.
    pub options: String,
    /// The type of the file system.
    pub kind: String,
}

impl Mount {
    /// Whether programs on it have no privilege of their own.
    pub fn is_nosuid(&self) -> bool {
        self.options.split(',').any(|option| option == "nosuid")
    }
}

/// The mount that a path, which has no symbolic links, is on.
pub fn mount_of(dirs: &Dirs, path: &Path) -> Option<Mount> {
    find(&fs::read(dirs.on_system("/proc/self/mountinfo")).ok()?, path)
}

fn find(mountinfo: &[u8], path: &Path) -> Option<Mount> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .filter(|mount| path.starts_with(&mount.point))
        // The last of equals: it is mounted over the others.
        .max_by_key(|mount| mount.point.as_os_str().as_bytes().len())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let point = unescape(fields.nth(4)?);
    let options = text(fields.next()?);
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some(Mount { point, options, kind })
}

/// Blanks and the like are three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let octal = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_the_nearest_and_the_last() {
        let mounts = b"1 1 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:2 / /home rw,nosuid shared:1 - nfs4 srv:/home rw\n\
            3 1 8:3 / /home/al\\040ice rw - xfs /dev/b rw\n\
            4 1 0:4 / /home rw - autofs x rw\nbroken\n\n";
        for (path, kind) in [
            ("/home/bob/x", "autofs"),
            ("/home/al ice/x", "xfs"),
            ("/homes/bob", "ext4"),
            ("/", "ext4"),
        ] {
            assert_eq!(find(mounts, Path::new(path)).expect(path).kind, kind, "{path}");
        }
        assert_eq!(find(b"", Path::new("/")), None);
    }

    #[test]
    fn options_are_of_the_mount_and_not_of_the_file_system() {
        let line = b"1 1 8:1 / /usr ro,nosuid,nodev shared:1 master:2 - ext4 /dev/a rw";
        assert!(parse(line).expect("a mount").is_nosuid());
        let line = b"1 1 8:1 / /usr ro - ext4 /dev/a rw,nosuid";
        assert!(!parse(line).expect("a mount").is_nosuid());
    }

    #[test]
    fn odd_names_are_read() {
        for (field, path) in [("/a\\040b", "/a b"), ("/a\\134", "/a\\"), ("/a\\04", "/a\\04")] {
            assert_eq!(unescape(field.as_bytes()), Path::new(path));
        }
    }
}
