//! A socket on which our children say that they are ready (sd_notify(3)).

use std::{
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
    path::Path,
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use tokio::{io::Interest, net::UnixDatagram};

use super::files;

/// The socket. Who sends is told by the kernel, not by the message.
#[derive(Debug)]
pub struct Notifications(UnixDatagram);

impl Notifications {
    /// Listen at `path`.
    pub fn listen(path: &Path) -> io::Result<Self> {
        files::remove(path)?;
        let socket = UnixDatagram::bind(path)?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self(socket))
    }

    /// Wait until somebody says `READY=1`: its pid.
    pub async fn ready(&mut self) -> i32 {
        loop {
            match self.0.async_io(Interest::READABLE, || receive(&self.0)).await {
                Ok(Some((pid, message))) if message.lines().any(|line| line == "READY=1") => {
                    return pid;
                }
                Ok(_) => {}
                // A datagram socket that is ours alone has no error that could last.
                Err(error) => tracing::warn!("a notification cannot be read: {error}"),
            }
        }
    }
}

fn receive(socket: &UnixDatagram) -> io::Result<Option<(i32, String)>> {
    let mut buffer = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(UnixCredentials);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let sender = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
        _ => None,
    });
    let length = message.bytes;
    Ok(sender.map(|pid| (pid, String::from_utf8_lossy(&buffer[..length]).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn ready_comes_with_its_senders_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let mut notifications = Notifications::listen(&path).unwrap();
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(b"STATUS=READY=1 soon", &path).unwrap();
        client.send_to(b"STATUS=up\nREADY=1", &path).unwrap();
        assert_eq!(notifications.ready().await, std::process::id() as i32);
    }
}
