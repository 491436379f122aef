//! engine-init from outside: its [control socket](super::control) as rootlessd uses it.

use std::{future::pending, marker::PhantomData, os::fd::OwnedFd, time::Duration};

use rootlessd_api::{
    Error, ErrorKind, Part, Port,
    client::{ClientError, Connection},
    names,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{InitStatus, PortsStatus};
use crate::{
    engine::dir::EngineDir,
    sys::{clock, files},
};

/// engine-init answers in microseconds; this is for one that is stopped or gone.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How soon to try again where there is no event to wait for.
const RETRY: Duration = Duration::from_millis(100);

/// What engine-init is asked. Each call has a connection of its own: there are a few in an engine's
/// life.
#[derive(Clone, Debug)]
pub struct InitClient {
    dir: EngineDir,
}

#[derive(Deserialize)]
struct Nothing {}

impl InitClient {
    /// The engine-init of the engine in `dir`, which need not be there yet.
    pub const fn of(dir: EngineDir) -> Self {
        Self { dir }
    }

    /// Stop everything within a time. It answers before it does so. `frozen`: what keeps dockerd
    /// still, if it runs nothing that it would have to stop.
    pub async fn stop(&self, within: Duration, frozen: Option<&Frozen>) -> Result<(), ClientError> {
        let micros = clock::micros(within);
        let mut parameters = json!({ "timeout": micros });
        if frozen.is_some() {
            // An engine-init that cannot freeze does not know this either.
            parameters["idle"] = true.into();
        }
        let (Nothing {}, _) = self.call("Stop", parameters).await?;
        Ok(())
    }

    /// Have dockerd stand still, until what comes of it is dropped or everything is stopped.
    pub async fn freeze(&self) -> Result<Frozen, ClientError> {
        let exchange = async {
            let mut connection = open(&self.dir).await?;
            connection.call_more("Freeze", json!({})).await?;
            let (Nothing {}, _) = connection.receive().await?;
            Ok(Frozen { _connection: connection })
        };
        within_reason(exchange).await
    }

    /// Read the user's `daemon.json` again.
    pub async fn reload(&self) -> Result<(), Error> {
        let asked = self.call("Reload", json!({})).await;
        done(asked, "the engine cannot be told to read its configuration again")
    }

    /// Have it looked at once whether a part hangs.
    pub async fn doubt(&self) -> Result<(), ClientError> {
        let (Nothing {}, _) = self.call("Doubt", json!({})).await?;
        Ok(())
    }

    /// Replace parts under the containers; waits until the new ones are ready, however long that is.
    pub async fn replace(&self, parts: &[Part]) -> Result<(), Error> {
        let exchange = async {
            let mut connection = open(&self.dir).await?;
            connection.call_for_fds("Replace", json!({ "parts": parts })).await
        };
        done(exchange.await, "the engine cannot be told to replace its parts")
    }

    /// The listening socket. Waits while engine-init is too young to answer; whoever asks knows
    /// when there is nobody left to wait for.
    pub async fn listener(&self) -> Option<OwnedFd> {
        loop {
            files::appeared(&self.dir.init_socket()).await;
            if let Ok((Nothing {}, fds)) = self.call("GetListener", json!({})).await {
                return fds.into_iter().next();
            }
            sleep(RETRY).await;
        }
    }

    /// Whether it answers, whatever: not one that is stopped, and not one that is gone.
    pub async fn hears(&self) -> bool {
        let asked: Result<(Nothing, _), _> = self.call("GetListener", json!({})).await;
        matches!(asked, Ok(_) | Err(ClientError::Api(_)))
    }

    /// Tell whether a port that is asked for was granted.
    pub async fn answer_port(
        &self,
        port: Port,
        verdict: Result<(), String>,
    ) -> Result<(), ClientError> {
        let mut parameters = json!({ "port": port, "granted": verdict.is_ok() });
        if let Err(message) = verdict {
            parameters["message"] = message.into();
        }
        let (Nothing {}, _) = self.call("AnswerPort", parameters).await?;
        Ok(())
    }

    /// Its status, as it changes.
    pub fn follow(self) -> Following<InitReply> {
        Following::new(self.dir, "Follow")
    }

    /// Which ports are refused, as it changes. An engine-init that knows no such thing tells nothing.
    pub fn follow_ports(self) -> Following<PortsReply> {
        Following::new(self.dir, "FollowPorts")
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        parameters: Value,
    ) -> Result<(T, Vec<OwnedFd>), ClientError> {
        let exchange = async {
            let mut connection = open(&self.dir).await?;
            connection.call_for_fds(method, parameters).await
        };
        within_reason(exchange).await
    }
}

fn done(asked: Result<(Nothing, Vec<OwnedFd>), ClientError>, why_not: &str) -> Result<(), Error> {
    match asked {
        Ok((Nothing {}, _)) => Ok(()),
        Err(ClientError::Api(error)) => Err(error),
        Err(error) => Err(Error::new(ErrorKind::Busy, format!("{why_not}: {error}"))),
    }
}

/// A dockerd that stands still, for as long as this lives: the connection tells engine-init, whatever
/// becomes of rootlessd.
#[derive(Debug)]
pub struct Frozen {
    _connection: Connection,
}

async fn within_reason<T>(
    exchange: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(ClientError::Protocol("engine-init does not answer".into())))
}

async fn open(dir: &EngineDir) -> Result<Connection, ClientError> {
    Connection::open(&dir.init_socket(), names::INIT_INTERFACE).await
}

/// What engine-init tells, as it changes.
#[derive(Debug)]
pub struct Following<T> {
    dir: EngineDir,
    method: &'static str,
    connection: Option<Connection>,
    told: PhantomData<fn() -> T>,
}

/// What it tells of itself.
#[derive(Debug, Deserialize)]
pub struct InitReply {
    /// How it is.
    pub status: InitStatus,
}

/// What it tells of ports.
#[derive(Debug, Deserialize)]
pub struct PortsReply {
    /// Which are refused.
    pub ports: PortsStatus,
}

impl<T: DeserializeOwned> Following<T> {
    const fn new(dir: EngineDir, method: &'static str) -> Self {
        Self { dir, method, connection: None, told: PhantomData }
    }

    /// Wait for the next, for the first one until engine-init is there. What does not come is not
    /// told: the end of the engine's first process is. Cancelling it loses nothing.
    pub async fn next(&mut self) -> T {
        loop {
            match self.try_next().await {
                Ok(told) => return told,
                Err(ClientError::UnknownMethod(_)) => return pending().await,
                Err(error) => {
                    tracing::debug!("engine-init is not heard: {error}");
                    self.connection = None;
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<T, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                files::appeared(&self.dir.init_socket()).await;
                let mut connection = open(&self.dir).await?;
                connection.call_more(self.method, json!({})).await?;
                self.connection.insert(connection)
            }
        };
        let (reply, _) = connection.receive().await?;
        Ok(reply)
    }
}
