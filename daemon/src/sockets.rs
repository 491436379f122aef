//! The two sockets that rootlessd listens on: systemd's, or its own.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rootlessd_api::names;
use tokio::time::{Instant, sleep};

use crate::sys::{
    fd, files,
    process::{Process, Stat},
};

/// The name that `rootlessd.socket` gives its file (`FileDescriptorName=`).
const DOCKER: &str = "docker";
/// The name that `rootlessd-varlink.socket` gives its file.
const VARLINK: &str = "varlink";

/// How long what a dead rootlessd had just started may take to be gone; it takes milliseconds.
const HEIRS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to look: nothing tells that a socket is closed.
const RETRY: Duration = Duration::from_millis(5);

/// The listening sockets.
#[derive(Debug)]
pub struct Sockets {
    /// Docker's API.
    pub docker: Socket,
    /// The control API.
    pub varlink: Socket,
}

/// One listening socket.
#[derive(Debug)]
pub struct Socket {
    /// It.
    pub listener: UnixListener,
    /// Where clients find it.
    pub path: PathBuf,
    /// Whether it is ours to remove; else systemd holds it.
    pub own: bool,
}

/// The files that systemd started this process with. To be called once, before anything opens a
/// file.
pub fn passed() -> io::Result<Vec<(String, OwnedFd)>> {
    let passed = sd_notify::listen_fds_with_names()?;
    passed.map(|(number, name)| Ok((name, fd::take(number)?))).collect()
}

/// Whether the socket of Docker's API is among what systemd `passed`.
pub fn has_docker(passed: &[(String, OwnedFd)]) -> bool {
    passed.iter().any(|(name, _)| name == DOCKER)
}

/// What tells sockets apart: two files with the same inode are one socket.
pub fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino)
}

/// Take the sockets from what systemd `passed`, from a running `engine`, or make them.
pub async fn acquire(
    runtime_dir: &Path,
    passed: Vec<(String, OwnedFd)>,
    engine: Option<OwnedFd>,
) -> io::Result<Sockets> {
    let mut passed: Vec<_> = passed.into_iter().map(|(name, file)| (name, Some(file))).collect();
    let mut take = |wanted: &str| {
        passed.iter_mut().find(|(name, _)| name == wanted).and_then(|(_, file)| file.take())
    };
    let docker = names::docker_socket(runtime_dir);
    let varlink = names::varlink_socket(runtime_dir);
    Ok(Sockets {
        docker: match (take(DOCKER), engine) {
            (Some(file), _) => Socket { listener: file.into(), path: docker, own: false },
            (None, Some(file)) => Socket { listener: file.into(), path: docker, own: true },
            (None, None) => listen(docker).await?,
        },
        varlink: match take(VARLINK) {
            Some(file) => Socket { listener: file.into(), path: varlink, own: false },
            None => listen(varlink).await?,
        },
    })
}

impl Socket {
    /// Remove it, if it is ours to remove.
    pub fn remove(&self) {
        if self.own
            && let Err(error) = files::remove(&self.path)
        {
            tracing::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Listen at `path`, in place of whoever is gone, but of nobody who is there.
async fn listen(path: PathBuf) -> io::Result<Socket> {
    let fail = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
    };
    let patience = Instant::now() + HEIRS_TIMEOUT;
    while let Some(pid) = listening(&path).map_err(fail)? {
        // One that is gone has left the socket to what it had just started, which goes too.
        if Process::open(pid).is_ok() || Instant::now() > patience {
            let name = Stat::of(pid).map_or(String::new(), |stat| format!(", {},", stat.name));
            let text = format!(
                "cannot listen on {}: process {pid}{name} does; stop it first",
                path.display()
            );
            return Err(io::Error::new(ErrorKind::AddrInUse, text));
        }
        sleep(RETRY).await;
    }
    files::remove(&path).map_err(fail)?;
    let listener = UnixListener::bind(&path).map_err(fail)?;
    // The sticky bit keeps it from clean-up by age (XDG base directory specification).
    fs::set_permissions(&path, fs::Permissions::from_mode(0o1600)).map_err(fail)?;
    Ok(Socket { listener, path, own: true })
}

/// The process that made the socket at `path` listen, if anybody still does.
fn listening(path: &Path) -> io::Result<Option<u32>> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
            Ok(Some(u32::try_from(pid).unwrap_or(0)))
        }
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rootlessd")).unwrap();
        let first = acquire(directory.path(), vec![], None).await.unwrap();
        let error = acquire(directory.path(), vec![], None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        let path = first.docker.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1600);
        drop(first);
        // What another test starts has it as well, for a moment.
        while UnixStream::connect(&path).is_ok() {
            std::thread::yield_now();
        }
        let second = acquire(directory.path(), vec![], None).await.unwrap();
        UnixStream::connect(&path).unwrap();
        second.docker.remove();
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn passed_files_are_told_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name: &str| {
            let listener = UnixListener::bind(directory.path().join(name)).unwrap();
            (name.to_owned(), OwnedFd::from(listener))
        };
        let passed = vec![bind(VARLINK), bind("other")];
        assert!(!has_docker(&passed));
        let docker = bind(DOCKER);
        let again = docker.1.try_clone().unwrap();
        assert_eq!(inode(&docker.1), inode(&again));
        assert_ne!(inode(&docker.1), inode(&passed[0].1));
        let passed: Vec<_> = passed.into_iter().chain([docker]).collect();
        assert!(has_docker(&passed));
        let sockets = acquire(directory.path(), passed, None).await.unwrap();
        assert!(!sockets.docker.own && !sockets.varlink.own);
        UnixStream::connect(directory.path().join(DOCKER)).unwrap();
        sockets.docker.listener.accept().unwrap();
    }
}
