//! The session bus as something that may come and go.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};
use zbus::{
    Address, Connection,
    address::{Transport, transport::UnixSocket},
};

/// A bus that takes longer to say hello counts as none.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause between two attempts; each further one is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause, where nothing tells that a bus has come.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a socket may be there before anybody listens on it.
const SETTLING: Duration = Duration::from_secs(2);

/// Connect with `build`, as soon as that works.
pub async fn connect(
    address: &Address,
    build: impl AsyncFn() -> zbus::Result<Connection>,
) -> Connection {
    let mut error = match attempt(&build).await {
        Ok(connection) => return connection,
        Err(error) => error,
    };
    info!("no session bus at {address} ({error}); D-Bus clients have to wait for it");
    let mut chances = Chances::new(address);
    loop {
        // Once more, since the bus may have come before the watch was there.
        error = match attempt(&build).await {
            Ok(connection) => return connection,
            Err(error) => error,
        };
        debug!("still no session bus: {error}");
        chances.next(&error).await;
    }
}

async fn attempt(build: &impl AsyncFn() -> zbus::Result<Connection>) -> zbus::Result<Connection> {
    let timed_out = |_| zbus::Error::from(io::Error::from(io::ErrorKind::TimedOut));
    timeout(PATIENCE, build()).await.map_err(timed_out)?
}

/// When to try again: as soon as the socket appears if it is a file, and in growing intervals.
struct Chances {
    socket: Option<(EventStream<[u8; 1024]>, OsString)>,
    pause: Duration,
}

impl Chances {
    fn new(address: &Address) -> Self {
        let socket = socket_path(address).and_then(|path| {
            let watched = watch(path).inspect_err(|error| {
                debug!("cannot watch {}: {error}", path.display());
            });
            watched.ok().zip(path.file_name().map(OsStr::to_owned))
        });
        Self { socket, pause: SHORTEST_PAUSE }
    }

    async fn next(&mut self, error: &zbus::Error) {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        let Some((events, name)) = &mut self.socket else { return sleep(pause).await };
        let paused = async {
            if is_absent(error) && pause > SETTLING {
                std::future::pending().await
            } else {
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = paused => {}
            seen = appearance(events, name) => match seen {
                Ok(()) => self.pause = SHORTEST_PAUSE,
                Err(error) => {
                    debug!("cannot watch for the session bus any more: {error}");
                    self.socket = None;
                }
            },
        }
    }
}

/// Whether there is no socket, or nobody listens on it: nothing changes then without a new one.
fn is_absent(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::Connection(error, _)
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

fn socket_path(address: &Address) -> Option<&Path> {
    match address.transport() {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => Some(path),
            _ => None,
        },
        _ => None,
    }
}

fn watch(socket: &Path) -> io::Result<EventStream<[u8; 1024]>> {
    let directory = socket.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let inotify = Inotify::init()?;
    let seen = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ATTRIB;
    inotify.watches().add(directory, seen | WatchMask::ONLYDIR)?;
    inotify.into_event_stream([0; 1024])
}

/// Wait until something of this name appears, or events got lost.
async fn appearance(events: &mut EventStream<[u8; 1024]>, name: &OsStr) -> io::Result<()> {
    loop {
        let event = events.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        if event.mask.contains(inotify::EventMask::IGNORED) {
            return Err(io::Error::other("the directory has gone"));
        }
        if event.mask.contains(inotify::EventMask::Q_OVERFLOW)
            || event.name.as_deref() == Some(name)
        {
            return Ok(());
        }
    }
}
