//! Small files that are whole or not there at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{EventMask, Inotify, WatchMask};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How often to look for a file where the kernel does not tell that it comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Write a file in one step: a reader sees the old one or the new one, never half. Mode 0600.
///
/// There is no fsync: what is written here lives in the runtime directory, which no power cut
/// survives anyway.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Write a file in its own place, which takes no space that it does not have; a reader may see half of it.
pub fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// [`replace`] a file by a value's JSON.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

/// The value in a JSON file; `None` if there is no such file, an error if it is not to be read.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lock a file, made if need be, for as long as the value lives; `None` if somebody else holds it.
pub fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Remove a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Remove a directory that may not be there, with all that is in it. Its mode may keep its owner out:
/// whoever made it was root among its own users.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, PermissionsExt::from_mode(0o700))
                .and_then(|()| fs::remove_dir_all(path))
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Which file it is that is at a path: one that took its place has another of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
    /// When its content was last changed, in s and ns since 1970.
    modified: (i64, i64),
}

impl FileId {
    /// Of what is at a path, at the end of all links; `None` if there is nothing to be seen.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Wait until there is a file. Its directory has to be there.
pub async fn appeared(path: &Path) {
    let Some(directory) = path.parent() else { return };
    until_in(directory, LOOK_INTERVAL, || path.exists()).await;
}

/// Wait until something holds that can only come to hold by what comes into a directory. Where the
/// kernel does not tell of that, it is looked again after each `pause`.
pub async fn until_in(directory: &Path, pause: Duration, holds: impl Fn() -> bool) {
    let watched = Inotify::init().and_then(|inotify| {
        inotify.watches().add(directory, WatchMask::CREATE | WatchMask::MOVED_TO)?;
        inotify.into_event_stream([0; 1024])
    });
    if let Ok(mut events) = watched {
        loop {
            if holds() {
                return;
            }
            match events.next().await {
                Some(Ok(event)) if !event.mask.contains(EventMask::IGNORED) => {}
                // The directory is gone.
                _ => break,
            }
        }
    }
    // Or there is no inotify: its instances are limited.
    while !holds() {
        tokio::time::sleep(pause).await;
    }
}
