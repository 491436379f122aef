//! The few questions that we ask dockerd, over its socket.

use std::{io, path::Path, time::Duration};

use http_body_util::BodyExt;
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::{task::JoinSet, time::timeout};

use crate::sys::http;

/// A dockerd that takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(5);

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

/// containerd's version, from `GET /version`: dockerd asks containerd for it at each call, and leaves
/// it out while that does not answer.
pub async fn containerd_version(socket: &Path) -> io::Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        #[serde(default)]
        components: Vec<Component>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Component {
        name: String,
        version: String,
    }
    let Version { components } = get(socket, "/version").await?;
    let containerd = components.into_iter().find(|component| component.name == "containerd");
    Ok(containerd.map(|component| component.version))
}

/// How many containers run, are paused, or are about to be started again, which `/info` tells not of
/// all of them.
pub async fn running(socket: &Path) -> io::Result<usize> {
    let containers: Vec<IgnoredAny> = get(socket, "/containers/json").await?;
    Ok(containers.len())
}

/// Ask `GET /_ping`, for which dockerd looks at nothing.
pub async fn ping(socket: &Path, within: Duration) -> io::Result<()> {
    http::ask(socket, Method::GET, "/_ping", Bytes::new(), within).await.map(drop)
}

/// Ask for the newest container, whatever comes of it: dockerd looks at all that it knows of.
pub async fn newest(socket: &Path, within: Duration) -> io::Result<()> {
    let path = "/containers/json?limit=1";
    http::ask(socket, Method::GET, path, Bytes::new(), within).await.map(drop)
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
        let (mut sender, connection) = http::connect(socket).await?;
        let mut carrier = JoinSet::new();
        carrier.spawn_local(async move {
            // The body tells how it ends.
            let _ = connection.await;
        });
        let filters = "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%5D%7D";
        let path = format!("/events?filters={filters}");
        let request = http::request(Method::GET, &path, Bytes::new())?;
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
    let (status, body) = http::ask(socket, Method::GET, path, Bytes::new(), TIMEOUT).await?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(io::Error::other),
        _ => Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body)))),
    }
}
