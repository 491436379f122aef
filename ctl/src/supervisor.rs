//! The way to the supervisor: its socket, a connection, and answers within a time.

use std::{future::Future, path::PathBuf, time::Duration};

use rootlessd_api::{
    Status,
    client::{Client, ClientError, Connection},
    names,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{failure::Failure, runtime_dir};

/// How long an answer may take that needs no work.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Where the supervisor is, and how long it may take to answer.
#[derive(Clone, Debug)]
pub struct Supervisor {
    socket: PathBuf,
    patience: Duration,
}

impl Supervisor {
    /// The supervisor of the user who runs this process.
    pub fn find(patience: Option<Duration>) -> Result<Self, Failure> {
        let socket = names::varlink_socket(&runtime_dir::find()?);
        Ok(Self { socket, patience: patience.unwrap_or(ANSWER) })
    }

    /// A connection.
    pub async fn connect(&self) -> Result<Client, Failure> {
        self.answer(Client::connect(&self.socket)).await
    }

    /// A connection, with the client's own error: for who tries again.
    pub async fn try_connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket).await
    }

    /// The status as the supervisor wrote it, with what only a later version knows.
    pub async fn raw_status(&self) -> Result<Value, Failure> {
        #[derive(Deserialize)]
        struct Reply {
            status: Value,
        }
        self.answer(async {
            let mut connection = Connection::open(&self.socket, names::VARLINK_INTERFACE).await?;
            let reply: Reply = connection.call("GetStatus", json!({})).await?;
            Ok(reply.status)
        })
        .await
    }

    /// Follow the status as the supervisor writes it.
    pub async fn raw_watch(&self) -> Result<RawWatch, Failure> {
        self.answer(async {
            let mut connection = Connection::open(&self.socket, names::VARLINK_INTERFACE).await?;
            connection.call_more("Watch", json!({})).await?;
            Ok(RawWatch(connection))
        })
        .await
    }

    /// The events by the parameters of `ListEvents`, and then those to come.
    pub async fn events(&self, parameters: Value) -> Result<EventStream, Failure> {
        self.answer(async {
            let mut connection = Connection::open(&self.socket, names::VARLINK_INTERFACE).await?;
            connection.call_more("ListEvents", parameters).await?;
            Ok(EventStream(connection))
        })
        .await
    }

    /// Wait for an answer, but not for ever: a supervisor that hangs must not hang a script.
    pub async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Timeout {
                what: "the answer of rootlessd".to_owned(),
                after: self.patience,
                remedy: "rootlessctl logs --part supervisor shows what it is doing",
            }),
        }
    }
}

/// A stream of statuses as the supervisor writes them.
#[derive(Debug)]
pub struct RawWatch(Connection);

impl RawWatch {
    /// The next status, when it is there.
    pub async fn next(&mut self) -> Result<Value, ClientError> {
        #[derive(Deserialize)]
        struct Reply {
            status: Value,
        }
        let (reply, _): (Reply, _) = self.0.receive().await?;
        Ok(reply.status)
    }
}

/// A stream of events as the supervisor writes them.
#[derive(Debug)]
pub struct EventStream(Connection);

/// Some events.
#[derive(Debug, Deserialize)]
pub struct EventReply {
    /// The events, with what only a later version knows.
    pub events: Vec<Value>,
    /// Whether these are the last ones of the past.
    #[serde(default)]
    pub ready: bool,
}

impl EventStream {
    /// The next events, when they are there.
    pub async fn next(&mut self) -> Result<EventReply, ClientError> {
        Ok(self.0.receive().await?.0)
    }
}

/// A status that this version understands.
pub fn understood(status: &Value) -> Result<Status, Failure> {
    Status::deserialize(status).map_err(|error| Failure::Protocol(error.to_string()))
}
