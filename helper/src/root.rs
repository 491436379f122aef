//! The file system that the helper works on: the machine's, or a tree that a test made.
//!
//! Every path is opened below one directory by openat2(2) without following any symbolic link, in
//! directories too, and only in directories that nobody but their owner can change.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// No file that the helper reads is larger; what is, is none of those that it knows.
const MOST_BYTES: u64 = 1 << 20;

/// A directory, and who may own what is below it.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    owner: u32,
}

impl Root {
    /// The machine's, where everything is root's.
    pub fn machine() -> io::Result<Self> {
        Self::open_at(Path::new("/"), 0)
    }

    /// A tree that belongs to whoever calls.
    pub fn tree(path: &Path) -> io::Result<Self> {
        Self::open_at(path, rustix::process::geteuid().as_raw())
    }

    fn open_at(path: &Path, owner: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: fs::openat(CWD, path, flags, Mode::empty())?, owner })
    }

    /// Opens an absolute path; one with a symbolic link in it fails with `ELOOP`.
    pub fn open(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let below = path.trim_start_matches('/');
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        Ok(fs::openat2(&self.directory, below, flags, Mode::empty(), resolve)?.into())
    }

    /// Opens a directory, if it and all above it are changed by nobody but their owner.
    pub fn directory(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1).chain([path.len()]);
        let mut last = None;
        for end in ends {
            let directory = self.open(&path[..end], flags).map_err(|error| {
                match error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
                    true => io::Error::other(format!("{} is a symbolic link", &path[..end])),
                    false => error,
                }
            })?;
            let metadata = directory.metadata()?;
            if !self.is_safe(&metadata) {
                return Err(io::Error::other(format!(
                    "others than root can write to the directory {}",
                    &path[..end]
                )));
            }
            last = Some(directory);
        }
        last.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Whether nobody but the owner of everything here can change this.
    pub fn is_safe(&self, metadata: &std::fs::Metadata) -> bool {
        metadata.uid() == self.owner && metadata.mode() & 0o022 == 0
    }

    /// Reads a small text file; `None` if there is none.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        // Without NONBLOCK, a FIFO in its place would be waited for.
        let file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Puts a file into its place in one step: whoever reads it, also after a power cut, sees the
    /// old one or the new one. Its directory has to be there.
    pub fn replace(&self, path: &str, content: &str, mode: u32) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        self.refuse_special(path)?;
        let new = unfinished(name);
        // Left by one that was killed.
        remove_at(&directory, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let file = fs::openat(&directory, &new, flags | OFlags::CLOEXEC, mode)?;
        let written = write_and_rename(file.into(), content, mode, &directory, &new, name);
        if written.is_err() {
            let _ = remove_at(&directory, &new);
        }
        written
    }

    /// Removes what a [`Root::replace`] of this file that was killed left beside it, if that can be: nothing
    /// depends on it.
    pub fn remove_unfinished(&self, path: &str) {
        let Ok((directory, name)) = self.parent(path) else { return };
        let name = unfinished(name);
        // Who only looks touches nothing.
        if fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let _ = remove_at(&directory, &name);
        }
    }

    /// Makes a file `wanted`, or away with it, if it is one of those `known`; whether it was. What
    /// somebody else wrote stays.
    pub fn put(
        &self,
        path: &str,
        known: &[Option<String>],
        wanted: Option<String>,
    ) -> io::Result<bool> {
        self.remove_unfinished(path);
        let now = self.read(path)?;
        match wanted {
            wanted if now == wanted => {}
            _ if !known.contains(&now) => return Ok(false),
            Some(text) => self.replace(path, &text, 0o644)?,
            None => self.remove(path)?,
        }
        Ok(true)
    }

    /// Removes a file that may not be there.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (directory, name) = match self.parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            parent => parent?,
        };
        self.refuse_special(path)?;
        remove_at(&directory, name)?;
        fs::fsync(&directory)?;
        Ok(())
    }

    /// Writes into a file that is there, such as a kernel setting.
    pub fn set(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = self.open(path, OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK)?;
        // At once: the kernel takes each write for a whole value.
        file.write_all(format!("{value}\n").as_bytes())
    }

    /// Makes a directory that may be there, in one that has to be.
    pub fn make_directory(&self, path: &str, mode: u32) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        match fs::mkdirat(&directory, name, Mode::from_raw_mode(mode)) {
            Err(Errno::EXIST) => self.directory(path).map(drop),
            made => Ok(made?),
        }
    }

    /// Removes a directory that may not be there, or may have something in it.
    pub fn remove_empty_directory(&self, path: &str) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        match fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn parent<'a>(&self, path: &'a str) -> io::Result<(File, &'a str)> {
        let (parent, name) = path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(parent)?, name))
    }

    /// A file of ours is a regular one. What else stands in its place is somebody's, and stays.
    fn refuse_special(&self, path: &str) -> io::Result<()> {
        // With these flags a symbolic link itself is opened, openat2(2) says.
        let metadata = match self.open(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?.metadata()?,
        };
        match metadata {
            metadata if metadata.is_file() => Ok(()),
            metadata if metadata.is_symlink() => {
                Err(io::Error::other("a symbolic link is in its place"))
            }
            _ => Err(io::Error::other("something other than a regular file is in its place")),
        }
    }
}

/// What a file is called until it is whole.
fn unfinished(name: &str) -> String {
    format!(".{name}.new")
}

fn write_and_rename(
    mut file: File,
    content: &str,
    mode: Mode,
    directory: &File,
    new: &str,
    name: &str,
) -> io::Result<()> {
    // The mode, whatever the umask.
    fs::fchmod(&file, mode)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::renameat(directory, new, directory, name)?;
    fs::fsync(directory)?;
    Ok(())
}

fn remove_at(directory: &File, name: &str) -> io::Result<()> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc/sysctl.d")).unwrap();
        let root = Root::tree(directory.path()).unwrap();
        (directory, root)
    }

    const PATH: &str = "/etc/sysctl.d/60-rootlessd.conf";

    #[test]
    fn a_file_is_put_into_its_place_whole() {
        let (tree, root) = tree();
        assert_eq!(root.read(PATH).unwrap(), None);
        // What a killed one left is in nobody's way.
        fs::write(tree.path().join("etc/sysctl.d/.60-rootlessd.conf.new"), "half").unwrap();
        for content in ["one\n", "two\n"] {
            root.replace(PATH, content, 0o644).unwrap();
            assert_eq!(root.read(PATH).unwrap().as_deref(), Some(content));
        }
        let metadata = fs::metadata(tree.path().join(&PATH[1..])).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(tree.path().join("etc/sysctl.d")).unwrap().count(), 1);
        root.remove(PATH).unwrap();
        root.remove(PATH).unwrap();
        assert_eq!(root.read(PATH).unwrap(), None);
    }

    #[test]
    fn what_is_not_a_file_stays() {
        let (tree, root) = tree();
        let place = tree.path().join(&PATH[1..]);
        let victim = tree.path().join("victim");
        fs::write(&victim, "untouched").unwrap();

        symlink(&victim, &place).unwrap();
        assert!(root.replace(PATH, "x", 0o644).unwrap_err().to_string().contains("symbolic link"));
        assert!(root.remove(PATH).is_err());
        assert!(root.read(PATH).is_err());
        assert!(fs::symlink_metadata(&place).unwrap().is_symlink());
        fs::remove_file(&place).unwrap();

        fs::create_dir(&place).unwrap();
        assert!(root.replace(PATH, "x", 0o644).unwrap_err().to_string().contains("regular file"));
        assert!(root.remove(PATH).is_err());
        fs::remove_dir(&place).unwrap();

        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(root.read(PATH).unwrap_err().to_string().contains("regular file"));
        assert!(root.replace(PATH, "x", 0o644).is_err());
        assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
    }

    #[test]
    fn directories_are_looked_at_as_well() {
        let (tree, root) = tree();
        let real = tree.path().join("etc/sysctl.d");
        // A missing one is not made.
        assert!(root.replace("/etc/other.d/a.conf", "x", 0o644).is_err());
        // One that others can write to.
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = root.replace(PATH, "x", 0o644).unwrap_err().to_string();
        assert_eq!(error, "others than root can write to the directory /etc/sysctl.d");
        // A symbolic link on the way.
        fs::rename(&real, tree.path().join("elsewhere")).unwrap();
        symlink("../elsewhere", &real).unwrap();
        assert!(root.replace(PATH, "x", 0o644).is_err());
        assert_eq!(fs::read_dir(tree.path().join("elsewhere")).unwrap().count(), 0);
        // And one out of the tree.
        assert!(root.open("/../etc/passwd", OFlags::RDONLY).is_err());
    }
}
