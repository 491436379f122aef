//! A second name of Docker's socket, in rootlessd's own directory, from which the first is made again
//! when somebody removes it. A stock dockerd does, for one: it listened at the same path before
//! systemd did for us, and when it ends it removes what it takes for its own.
//!
//! Nothing else can bring a socket's name back: to bind another would leave the clients of the first,
//! and the dockerd that serves it, behind.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};

use crate::sys::files;

/// The two names.
#[derive(Clone, Debug)]
pub struct SpareName {
    name: PathBuf,
    spare: PathBuf,
}

impl SpareName {
    /// For the socket at `name`, in rootlessd's directory.
    pub fn of(name: &Path, runtime_dir: &Path) -> Self {
        Self { name: name.to_owned(), spare: runtime_dir.join("docker.sock") }
    }

    /// Keep both names, for ever, or until the spare one is removed.
    pub async fn keep(self) -> io::Result<Infallible> {
        let directory = self.name.parent().unwrap_or_else(|| Path::new("/"));
        let inotify = Inotify::init()?;
        inotify.watches().add(directory, WatchMask::DELETE | WatchMask::MOVED_FROM)?;
        self.begin()?;
        let mut events = inotify.into_event_stream([0; 1024])?;
        while events.next().await.transpose()?.is_some() {
            self.restore()?;
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Remove the spare name: the first is to go, or may.
    pub fn remove(&self) {
        if let Err(error) = files::remove(&self.spare) {
            tracing::warn!("{} cannot be removed: {error}", self.spare.display());
        }
    }

    /// Whatever has the first name gets the spare one. If nothing has, the socket lost it while
    /// nobody looked.
    fn begin(&self) -> io::Result<()> {
        if !self.name.exists() {
            return self.restore();
        }
        files::remove(&self.spare)?;
        fs::hard_link(&self.name, &self.spare)
    }

    /// Whoever took the name for a socket of their own keeps it.
    fn restore(&self) -> io::Result<()> {
        match fs::hard_link(&self.spare, &self.name) {
            Ok(()) => {
                tracing::warn!("{} was removed, and is there again", self.name.display());
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_removed_name_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("docker.sock");
        let own = directory.path().join("rootlessd");
        fs::create_dir(&own).unwrap();
        let _listener = UnixListener::bind(&name).unwrap();
        let spare = SpareName::of(&name, &own);
        spare.begin().unwrap();

        fs::remove_file(&name).unwrap();
        spare.restore().unwrap();
        UnixStream::connect(&name).unwrap();
        // While nobody looked.
        fs::remove_file(&name).unwrap();
        spare.begin().unwrap();
        UnixStream::connect(&name).unwrap();

        // Somebody else's stays, and one made anew gets the spare name.
        fs::remove_file(&name).unwrap();
        let other = UnixListener::bind(&name).unwrap();
        spare.restore().unwrap();
        UnixStream::connect(&name).unwrap();
        other.accept().unwrap();
        spare.begin().unwrap();
        fs::remove_file(&name).unwrap();
        spare.restore().unwrap();
        UnixStream::connect(&name).unwrap();
        other.accept().unwrap();

        spare.remove();
        fs::remove_file(&name).unwrap();
        spare.restore().unwrap();
        assert!(!name.exists());
    }
}
