//! The runtime directory as the ground that rootlessd and the engine stand on: it goes at a logout
//! without lingering, or when somebody removes or mounts over it.
//!
//! Every name that the engine's processes know each other by goes with it, and nothing brings them
//! back. So the engine is stopped in order, and rootlessd begins anew.

use std::{
    convert::Infallible,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use rootlessd_api::Reason;

use crate::{reasons::Code, sys::fd};

/// A directory that is watched.
pub struct Place<'a> {
    directory: &'a Path,
    /// Its device and inode: what another at its path has not got.
    identity: (u64, u64),
    events: EventStream<[u8; 4096]>,
}

impl<'a> Place<'a> {
    /// Watch a directory that is there.
    pub fn watch(directory: &'a Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        // Whoever has it open delays the news that it is gone, but not of its name.
        let parent = directory.parent().unwrap_or(directory);
        inotify.watches().add(parent, WatchMask::DELETE | WatchMask::MOVED_FROM)?;
        inotify.watches().add(directory, WatchMask::DELETE_SELF | WatchMask::MOVE_SELF)?;
        let events = inotify.into_event_stream([0; 4096])?;
        Ok(Self { directory, identity: identity(directory)?, events })
    }

    /// Wait until it is not what its path leads to: why.
    pub async fn lost(mut self) -> io::Result<Reason> {
        let mounts = fd::watch_priority(File::open("/proc/self/mountinfo")?.into())?;
        while identity(self.directory).is_ok_and(|it| it == self.identity) {
            tokio::select! {
                event = self.events.next() => {
                    if event.transpose()?.is_none() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                // Mounts are told so (proc_pid_mountinfo(5)), also one over it.
                ready = mounts.ready(tokio::io::Interest::PRIORITY) => ready?.clear_ready(),
            }
        }
        let how = match self.directory.exists() {
            true => "there is another directory at its path",
            false => "it was removed",
        };
        let text = format!(
            "rootlessd's directory {} is gone: {how}. The engine is stopped, since its processes do not \
             find each other any more, and rootlessd begins anew",
            self.directory.display()
        );
        let remedy = "sudo loginctl enable-linger \"$USER\", so that it stays after a logout";
        Ok(Code::RuntimeDirGone.reason_with_remedy(text, remedy))
    }
}

fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(directory)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What there is after all was done: this program again, with the same arguments.
pub fn begin_anew() -> io::Result<Infallible> {
    use std::os::unix::process::CommandExt;
    let program = crate::engine::exec::own_program()?;
    Err(std::process::Command::new(program).args(std::env::args_os().skip(1)).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_directory_is_lost_when_it_is_not_at_its_path_any_more() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("rootlessd");
        type Loss = fn(&Path);
        let losses: [(Loss, &str); 3] = [
            (|path| fs::remove_dir_all(path).unwrap(), "it was removed"),
            (|path| fs::rename(path, path.with_extension("old")).unwrap(), "it was removed"),
            (
                |path| {
                    fs::create_dir(path.with_extension("new")).unwrap();
                    fs::rename(path, path.with_extension("older")).unwrap();
                    fs::rename(path.with_extension("new"), path).unwrap();
                },
                "there is another directory at its path",
            ),
        ];
        for (lose, how) in losses {
            fs::create_dir(&path).unwrap();
            let _open = File::open(&path).unwrap();
            let place = Place::watch(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            let losing = async {
                tokio::task::yield_now().await;
                lose(&path);
            };
            let (reason, ()) = tokio::join!(place.lost(), losing);
            let reason = reason.unwrap();
            assert_eq!(reason.code, "runtime-dir-gone");
            assert!(reason.text.contains(how), "{}", reason.text);
        }
    }
}
