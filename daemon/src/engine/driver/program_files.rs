//! Whether another file is put in the place of a program that runs, as a package does with each upgrade.

use std::{collections::BTreeSet, ffi::OsString, fs, io, path::PathBuf};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

/// Follows the directories of some programs.
pub(super) struct ProgramFiles {
    names: BTreeSet<OsString>,
    events: EventStream<[u8; 1024]>,
}

impl ProgramFiles {
    /// Follow these, and what they are links to.
    pub fn of<'a>(programs: impl IntoIterator<Item = &'a PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut names = BTreeSet::new();
        for program in programs {
            let target = fs::canonicalize(program).ok();
            for path in [Some(program), target.as_ref()].into_iter().flatten() {
                if let Some((directory, name)) = path.parent().zip(path.file_name()) {
                    // A file that is written over is none that runs: the kernel forbids it (ETXTBSY).
                    inotify.watches().add(directory, WatchMask::MOVED_TO | WatchMask::CREATE)?;
                    names.insert(name.to_owned());
                }
            }
        }
        Ok(Self { names, events: inotify.into_event_stream([0; 1024])? })
    }

    /// Wait until another file is in the place of one of them. Cancelling it loses nothing; it never ends
    /// where the kernel tells nothing any more.
    pub async fn replaced(&mut self) {
        loop {
            match self.events.next().await {
                Some(Ok(event))
                    if event.name.as_ref().is_some_and(|name| self.names.contains(name)) =>
                {
                    return;
                }
                // More than the kernel could keep: one of them may be among those.
                Some(Ok(event)) if event.name.is_none() => return,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_package_is_upgraded() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("lib")).unwrap();
        fs::write(at("lib/dockerd"), "1").unwrap();
        symlink(at("lib/dockerd"), at("dockerd")).unwrap();
        let replace = |path: &Path| {
            let new = path.with_extension("dpkg-new");
            fs::write(&new, "2").unwrap();
            fs::rename(new, path).unwrap();
        };
        let mut files = ProgramFiles::of([&at("dockerd")]).unwrap();
        replace(&at("docker"));
        replace(&at("lib/dockerd"));
        timeout(Duration::from_secs(20), files.replaced()).await.unwrap();
        // What is not about them was read, and is not told.
        assert!(futures_util::FutureExt::now_or_never(files.replaced()).is_none());
        fs::remove_file(at("dockerd")).unwrap();
        symlink(at("lib/dockerd"), at("dockerd")).unwrap();
        timeout(Duration::from_secs(20), files.replaced()).await.unwrap();
    }
}
