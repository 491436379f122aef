//! A varlink client: of the supervisor for rootlessctl, of engine-init for rootlessd.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use zlink::{Call, tokio::unix, varlink_service};

use crate::{
    error::{Error, ErrorKind},
    job::{Job, JobKind, JobOptions},
    names::VARLINK_INTERFACE,
    port::PublishedPort,
    settings::{LogLocation, Setting},
    status::Status,
};

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or it is not ours.
    #[error("cannot connect to {path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection ended, as it does when the other side stops.
    #[error("the connection to {} ended", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// The other side refused or failed.
    #[error(transparent)]
    Api(#[from] Error),
    /// The other side is older than the method.
    #[error("the other side does not know this: {0}")]
    UnknownMethod(String),
    /// The other side says something this version does not understand.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

/// A connection to a varlink service.
#[derive(Debug)]
pub struct Connection {
    inner: unix::Connection,
    interface: &'static str,
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct RawCall<'a> {
    method: String,
    parameters: &'a Value,
}

#[derive(Debug, Deserialize)]
struct RawError {
    error: String,
    #[serde(default)]
    parameters: Value,
}

impl Connection {
    /// Connect to the service at `path`, to call methods of `interface`.
    pub async fn open(path: &Path, interface: &'static str) -> Result<Self, ClientError> {
        match unix::connect(path).await {
            Ok(inner) => Ok(Self { inner, interface, path: path.to_owned() }),
            Err(error) => Err(ClientError::Connect {
                path: path.to_owned(),
                source: match error {
                    zlink::Error::Io(source) => source,
                    other => io::Error::other(other.to_string()),
                },
            }),
        }
    }

    /// Call a method and take its answer.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: Value,
    ) -> Result<T, ClientError> {
        Ok(self.call_for_fds(method, parameters).await?.0)
    }

    /// Call a method whose answer comes with file descriptors.
    pub async fn call_for_fds<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: Value,
    ) -> Result<(T, Vec<OwnedFd>), ClientError> {
        self.send(method, &parameters, false).await?;
        self.receive().await
    }

    /// Call a method that answers more than once; take the answers with [`Self::receive`].
    pub async fn call_more(&mut self, method: &str, parameters: Value) -> Result<(), ClientError> {
        self.send(method, &parameters, true).await
    }

    /// Take the next answer.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), ClientError> {
        let (reply, fds) = self
            .inner
            .receive_reply::<Value, RawError>()
            .await
            .map_err(|error| error_of(&self.path, &error))?;
        match reply {
            Ok(reply) => {
                let value = reply.into_parameters().unwrap_or_else(|| json!({}));
                let value = serde_json::from_value(value)
                    .map_err(|error| ClientError::Protocol(error.to_string()))?;
                Ok((value, fds))
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    async fn send(
        &mut self,
        method: &str,
        parameters: &Value,
        more: bool,
    ) -> Result<(), ClientError> {
        let method = format!("{}.{method}", self.interface);
        let call = Call::new(RawCall { method, parameters }).set_more(more);
        self.inner.send_call(&call, vec![]).await.map_err(|error| error_of(&self.path, &error))
    }
}

fn error_of(path: &Path, error: &zlink::Error) -> ClientError {
    match error {
        zlink::Error::Io(_) | zlink::Error::UnexpectedEof => {
            ClientError::Closed { path: path.to_owned() }
        }
        // zlink takes these out of the answers before we see them.
        zlink::Error::VarlinkService(error) => match error.inner() {
            varlink_service::Error::PermissionDenied => ClientError::Api(Error::new(
                ErrorKind::AccessDenied,
                format!("{} is another user's", path.display()),
            )),
            varlink_service::Error::InvalidParameter { parameter } => ClientError::Api(Error::new(
                ErrorKind::InvalidArgument,
                format!("there is no parameter {parameter}, or it cannot have this value"),
            )),
            other => ClientError::Protocol(other.to_string()),
        },
        other => ClientError::Protocol(other.to_string()),
    }
}

fn refusal(error: &RawError) -> ClientError {
    #[derive(Deserialize)]
    struct Ours {
        message: String,
        remedy: Option<String>,
    }
    if error.error == "org.varlink.service.MethodNotFound" {
        return ClientError::UnknownMethod(error.parameters.to_string());
    }
    let Some(kind) = ErrorKind::from_varlink_name(&error.error) else {
        return ClientError::Protocol(format!("{} {}", error.error, error.parameters));
    };
    match serde_json::from_value::<Ours>(error.parameters.clone()) {
        Ok(Ours { message, remedy }) => ClientError::Api(Error { kind, message, remedy }),
        Err(_) => ClientError::Api(Error::new(kind, error.parameters.to_string())),
    }
}

/// A client of the supervisor.
#[derive(Debug)]
pub struct Client(Connection);

#[derive(Deserialize)]
struct StatusReply {
    status: Status,
}

#[derive(Deserialize)]
struct JobReply {
    job: Job,
}

#[derive(Deserialize)]
struct Nothing {}

impl Client {
    /// Connect to the supervisor that listens on `socket`.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        Ok(Self(Connection::open(socket, VARLINK_INTERFACE).await?))
    }

    /// How the engine is.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        let reply: StatusReply = self.0.call("GetStatus", json!({})).await?;
        Ok(reply.status)
    }

    /// Follow the status: the present one comes first. The connection serves nothing else then.
    pub async fn watch(mut self) -> Result<Watch, ClientError> {
        self.0.call_more("Watch", json!({})).await?;
        Ok(Watch(self.0))
    }

    /// Ask for a start, stop or restart.
    pub async fn request(
        &mut self,
        kind: JobKind,
        options: &JobOptions,
    ) -> Result<Job, ClientError> {
        let method = match kind {
            JobKind::Start => "Start",
            JobKind::Stop => "Stop",
            JobKind::Restart | JobKind::Replacement => "Restart",
            JobKind::Upgrade => "Upgrade",
        };
        let mut options = serde_json::to_value(options)
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        if kind == JobKind::Replacement {
            options["keepContainers"] = true.into();
        }
        let reply: JobReply = self.0.call(method, options).await?;
        Ok(reply.job)
    }

    /// Wait until a job is finished.
    pub async fn wait_job(&mut self, id: u32) -> Result<Job, ClientError> {
        let reply: JobReply = self.0.call("WaitJob", json!({ "id": id })).await?;
        Ok(reply.job)
    }

    /// End a job.
    pub async fn cancel_job(&mut self, id: u32) -> Result<(), ClientError> {
        let Nothing {} = self.0.call("CancelJob", json!({ "id": id })).await?;
        Ok(())
    }

    /// Have the configuration read again.
    pub async fn reload(&mut self) -> Result<(), ClientError> {
        let Nothing {} = self.0.call("Reload", json!({})).await?;
        Ok(())
    }

    /// Have the deaths forgotten.
    pub async fn reset_failed(&mut self) -> Result<(), ClientError> {
        let Nothing {} = self.0.call("ResetFailed", json!({})).await?;
        Ok(())
    }

    /// The effective configuration.
    pub async fn config(&mut self) -> Result<Vec<Setting>, ClientError> {
        #[derive(Deserialize)]
        struct Reply {
            settings: Vec<Setting>,
        }
        let reply: Reply = self.0.call("GetConfig", json!({})).await?;
        Ok(reply.settings)
    }

    /// The ports that containers publish.
    pub async fn list_ports(&mut self) -> Result<Vec<PublishedPort>, ClientError> {
        #[derive(Deserialize)]
        struct Reply {
            ports: Vec<PublishedPort>,
        }
        let reply: Reply = self.0.call("ListPorts", json!({})).await?;
        Ok(reply.ports)
    }

    /// Have it look again which ports are granted.
    pub async fn refresh_ports(&mut self) -> Result<(), ClientError> {
        #[derive(Deserialize)]
        struct Reply {}
        let Reply {} = self.0.call("RefreshPorts", json!({})).await?;
        Ok(())
    }

    /// Where the logs are.
    pub async fn log_location(&mut self) -> Result<LogLocation, ClientError> {
        self.0.call("GetLogLocation", json!({})).await
    }
}

/// A stream of statuses.
#[derive(Debug)]
pub struct Watch(Connection);

impl Watch {
    /// The next status, when it is there.
    pub async fn next(&mut self) -> Result<Status, ClientError> {
        let (reply, _): (StatusReply, _) = self.0.receive().await?;
        Ok(reply.status)
    }
}
