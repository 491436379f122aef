//! engine-init from outside: its [control socket](super::control) as rootlessd uses it.

use std::{os::fd::OwnedFd, time::Duration};

use rootlessd_api::{
    Error, ErrorKind,
    client::{ClientError, Connection},
    names,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::InitStatus;
use crate::{engine::dir::EngineDir, sys::files};

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

    /// Stop everything within a time. It answers before it does so.
    pub async fn stop(&self, within: Duration) -> Result<(), ClientError> {
        let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let (Nothing {}, _) = self.call("Stop", json!({ "timeout": micros })).await?;
        Ok(())
    }

    /// Read the user's `daemon.json` again.
    pub async fn reload(&self) -> Result<(), Error> {
        match self.call("Reload", json!({})).await {
            Ok((Nothing {}, _)) => Ok(()),
            Err(ClientError::Api(error)) => Err(error),
            Err(error) => Err(Error::new(
                ErrorKind::Busy,
                format!("the engine cannot be told to read its configuration again: {error}"),
            )),
        }
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

    /// Its status, as it changes.
    pub fn follow(self) -> Following {
        Following { dir: self.dir, connection: None }
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
        timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::Protocol("engine-init does not answer".into())))
    }
}

async fn open(dir: &EngineDir) -> Result<Connection, ClientError> {
    Connection::open(&dir.init_socket(), names::INIT_INTERFACE).await
}

/// The status of engine-init, as it changes.
#[derive(Debug)]
pub struct Following {
    dir: EngineDir,
    connection: Option<Connection>,
}

#[derive(Deserialize)]
struct InitReply {
    status: InitStatus,
}

impl Following {
    /// Wait for the next status, for the first one until engine-init is there. What does not come
    /// is not told: the end of the engine's first process is. Cancelling it loses nothing.
    pub async fn next(&mut self) -> InitStatus {
        loop {
            match self.try_next().await {
                Ok(status) => return status,
                Err(error) => {
                    tracing::debug!("engine-init is not heard: {error}");
                    self.connection = None;
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<InitStatus, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                files::appeared(&self.dir.init_socket()).await;
                let mut connection = open(&self.dir).await?;
                connection.call_more("Follow", json!({})).await?;
                self.connection.insert(connection)
            }
        };
        let (reply, _): (InitReply, _) = connection.receive().await?;
        Ok(reply.status)
    }
}
