//! The few questions that we ask dockerd, over its socket.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

/// A dockerd that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than this is no answer of dockerd's.
const ANSWER_BYTES: usize = 4 << 20;

/// What we read of `GET /info`. dockerd 20.10 to 29 have these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    /// dockerd's version.
    pub server_version: String,
    /// The storage driver.
    pub driver: String,
    /// The cgroup driver.
    pub cgroup_driver: String,
    /// How many containers run.
    pub containers_running: u32,
    /// Whether containers outlive dockerd.
    pub live_restore_enabled: bool,
}

/// Ask `GET /info`.
pub async fn info(socket: &Path) -> io::Result<Info> {
    get(socket, "/info").await
}

/// Containers that start and end, as dockerd tells it: each item says that something happened.
#[derive(Debug)]
pub struct ContainerEvents {
    body: Incoming,
    /// What carries the body; it ends with this.
    _connection: JoinSet<()>,
}

impl ContainerEvents {
    /// Ask `GET /events`.
    pub async fn follow(socket: &Path) -> io::Result<Self> {
        let (mut sender, connection) = connect(socket).await?;
        let mut carrier = JoinSet::new();
        carrier.spawn_local(async move {
            // The body tells how it ends.
            let _ = connection.await;
        });
        let filters = "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%5D%7D";
        let request = request(&format!("/events?filters={filters}"))?;
        let answer = timeout(TIMEOUT, sender.send_request(request)).await;
        let response = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let response = response.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::OK => Ok(Self { body: response.into_body(), _connection: carrier }),
            status => Err(io::Error::other(status.to_string())),
        }
    }

    /// Wait for the next; `None` when dockerd tells no more.
    pub async fn next(&mut self) -> Option<()> {
        self.body.frame().await?.ok().map(drop)
    }
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> io::Result<T> {
    let answer = timeout(TIMEOUT, exchange(socket, path));
    let body = answer.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    serde_json::from_slice(&body).map_err(io::Error::other)
}

async fn exchange(socket: &Path, path: &str) -> io::Result<Bytes> {
    let (mut sender, connection) = connect(socket).await?;
    let request = request(path)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        match status {
            StatusCode::OK => Ok(body),
            _ => Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    };
    tokio::pin!(connection);
    tokio::select! {
        answer = answer => answer,
        ended = &mut connection => Err(match ended {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => io::Error::other(error),
        }),
    }
}

type Sender = http1::SendRequest<Empty<Bytes>>;
type Connection = http1::Connection<TokioIo<UnixStream>, Empty<Bytes>>;

async fn connect(socket: &Path) -> io::Result<(Sender, Connection)> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    http1::handshake(stream).await.map_err(io::Error::other)
}

fn request(path: &str) -> io::Result<Request<Empty<Bytes>>> {
    Request::get(path).header("Host", "docker").body(Empty::new()).map_err(io::Error::other)
}
