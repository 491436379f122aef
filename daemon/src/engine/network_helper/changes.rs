//! How to wait until what a network helper goes by may be another, as after the start of a VPN: the
//! file with the name servers by inotify(7), the routes by rtnetlink(7).

use std::{
    fs,
    future::pending,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::{io::unix::AsyncFd, time::sleep};

use super::surroundings::RESOLV_CONF;
use crate::sys::fd;

/// Changes come in groups: who brings a VPN up writes the routes, the file, and both again.
const PAUSE: Duration = Duration::from_millis(200);
/// The multicast groups RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE and
/// RTNLGRP_IPV6_RULE, as bits (linux/rtnetlink.h).
const ROUTE_GROUPS: u32 = 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18;
/// More links in a row are a circle.
const LINKS: usize = 8;
/// After so many changes within a [`WINDOW`] the next one is looked at when that is over.
const LIMIT: usize = 9;
/// For how long a change counts.
const WINDOW: Duration = Duration::from_secs(60);

/// Who waits until something may have changed.
pub struct Changes {
    resolv_conf: PathBuf,
    /// `None` without inotify, whose instances are limited: then it is looked with each change of a route.
    files: Option<EventStream<[u8; 4096]>>,
    routes: AsyncFd<OwnedFd>,
}

impl Changes {
    /// From now on.
    pub fn follow() -> io::Result<Self> {
        Self::of(RESOLV_CONF.into())
    }

    fn of(resolv_conf: PathBuf) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let routes = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(routes.as_raw_fd(), &NetlinkAddr::new(0, ROUTE_GROUPS))?;
        let files = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; 4096]));
        let files = files
            .inspect_err(|error| tracing::warn!("changes of {RESOLV_CONF} are not seen: {error}"))
            .ok();
        let changes = Self { resolv_conf, files, routes: fd::watch(routes)? };
        changes.watch();
        Ok(changes)
    }

    /// Wait until something may have changed, and is still for a moment.
    pub async fn next(&mut self) {
        tokio::select! {
            // It ends with an error only, and then there is nothing to wait for.
            event = next_of(&mut self.files) => if event.is_none() { pending().await },
            readable = self.routes.readable() => match readable {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => pending().await,
            },
        }
        sleep(PAUSE).await;
        // What it is about is looked at afterwards, and links may lead elsewhere now.
        self.watch();
        drain(self.routes.get_ref());
        while next_of(&mut self.files).now_or_never().flatten().is_some() {}
    }

    /// Watch the directories of the file and of what it links to: files are replaced there.
    fn watch(&self) {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let Some(files) = &self.files else { return };
        for directory in directories(&self.resolv_conf) {
            // One that cannot be watched cannot be helped.
            let _ = files.watches().add(directory, mask);
        }
    }
}

async fn next_of(files: &mut Option<EventStream<[u8; 4096]>>) -> Option<()> {
    match files {
        Some(files) => files.next().await.map(drop),
        None => pending().await,
    }
}

/// Wait as [`Changes::next`] does; for ever, if nothing can be seen.
pub async fn next_change(changes: &mut Option<Changes>) {
    match changes {
        Some(changes) => changes.next().await,
        None => pending().await,
    }
}

/// When the next change is looked at: a file that programs replace in turn, each with its own, is no reason
/// to cut the containers' connections without end. Times are those of CLOCK_BOOTTIME, since boot.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// When there were some, within the window.
    changes: Vec<Duration>,
}

impl Pace {
    /// There was one.
    pub fn count(&mut self, now: Duration) {
        self.changes.retain(|&change| now.saturating_sub(change) < WINDOW);
        self.changes.push(now);
    }

    /// How long no other is looked at.
    pub fn left(&self, now: Duration) -> Duration {
        match &self.changes[..] {
            [.., last] if self.changes.len() >= LIMIT => (*last + WINDOW).saturating_sub(now),
            _ => Duration::ZERO,
        }
    }
}

/// Throw away what the kernel told; that it told something is all that matters.
fn drain(socket: &OwnedFd) {
    let mut message = [0; 8192];
    loop {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            // Some of it did not fit and was lost: that is one more that something happened.
            Ok(1..) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
            _ => return,
        }
    }
}

/// The directories of a file and of all that it links to; of a missing one the nearest that is there.
fn directories(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut path = file.to_owned();
    for _ in 0..LINKS {
        let Some(directory) = path.ancestors().skip(1).find(|it| it.is_dir()) else { break };
        found.push(directory.to_owned());
        let Ok(link) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(&path).join(link);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn too_many_changes_are_looked_at_now_and_then() {
        let mut pace = Pace::default();
        for (seconds, left) in [
            (0, 0),
            (1, 0),
            (2, 0),
            (3, 0),
            (4, 0),
            (5, 0),
            (6, 0),
            (7, 0),
            (8, 60),
            (68, 0),
            (69, 0),
        ] {
            let now = Duration::from_secs(seconds);
            pace.count(now);
            assert_eq!(pace.left(now), Duration::from_secs(left), "{seconds}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_is_followed_wherever_it_links_to() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        for directory in ["etc", "run"] {
            fs::create_dir(path(directory)).unwrap();
        }
        let mut changes = Changes::of(path("etc/resolv.conf")).unwrap();
        fs::write(path("etc/resolv.conf"), "1").unwrap();
        changes.next().await;
        fs::write(path("etc/new"), "2").unwrap();
        fs::rename(path("etc/new"), path("etc/resolv.conf")).unwrap();
        changes.next().await;
        fs::remove_file(path("etc/resolv.conf")).unwrap();
        // Its target comes later, and so does the directory.
        symlink("../run/resolve/stub", path("etc/resolv.conf")).unwrap();
        changes.next().await;
        fs::create_dir(path("run/resolve")).unwrap();
        changes.next().await;
        fs::write(path("run/resolve/stub"), "3").unwrap();
        changes.next().await;
        fs::write(path("run/resolve/new"), "4").unwrap();
        fs::rename(path("run/resolve/new"), path("run/resolve/stub")).unwrap();
        changes.next().await;
    }
}
