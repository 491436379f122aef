//! engine-init's control socket: `org.rootlessd.EngineInit`, for rootlessd alone. It tells how far
//! the start or stop is, takes a stop and a reload, and hands the listening socket back, which a
//! rootlessd without systemd needs after it took the engine over.
//!
//! Compatibility: a rootlessd drives the engine-init of the release before it and of the one after
//! it. Methods and fields are only added; who does not know a field ignores it.

use std::{io, os::fd::OwnedFd, time::Duration};

use futures_util::{StreamExt, stream};
use rootlessd_api::{Phase, names};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};

use super::Request;
use crate::{
    engine::dir::EngineDir,
    varlink::{
        call::{self, Answer, ErrorReply, Interface},
        server::{self, Limits},
    },
};

/// The version of this protocol. 2: a reload reads `live-restore` of the plan again.
pub const PROTOCOL: u32 = 2;

/// How engine-init is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitStatus {
    /// The version of the protocol that it speaks.
    pub protocol: u32,
    /// Whether it comes up, is up, or goes down.
    pub stage: Stage,
    /// What it is busy with, on the way up or down.
    pub phase: Phase,
    /// containerd's pid.
    pub containerd: Option<u32>,
    /// dockerd's pid.
    pub dockerd: Option<u32>,
}

/// Whether engine-init comes up, is up, or goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Coming up.
    Starting,
    /// dockerd is ready.
    Ready,
    /// Going down.
    Stopping,
}

impl Default for InitStatus {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL,
            stage: Stage::Starting,
            phase: Phase::Network,
            containerd: None,
            dockerd: None,
        }
    }
}

/// Serve the control socket in a task of its own.
pub(super) fn serve(
    dir: &EngineDir,
    listener: OwnedFd,
    status: watch::Receiver<InitStatus>,
    requests: mpsc::Sender<Request>,
) -> io::Result<()> {
    let socket = UnixListener::bind(dir.init_socket())?;
    let control = Control { listener, status, requests };
    tokio::task::spawn_local(server::serve(socket, control, Limits::default()));
    Ok(())
}

struct Control {
    listener: OwnedFd,
    status: watch::Receiver<InitStatus>,
    requests: mpsc::Sender<Request>,
}

impl Interface for Control {
    fn name(&self) -> &'static str {
        names::INIT_INTERFACE
    }

    fn idl(&self) -> &'static str {
        include_str!("org.rootlessd.EngineInit.varlink")
    }

    async fn call(&self, mut request: call::Request) -> Result<Answer, ErrorReply> {
        match request.method() {
            "Follow" => {
                request.expect_more()?;
                request.end()?;
                let mut following = self.status.clone();
                following.mark_changed();
                let changes = stream::unfold(following, |mut following| async {
                    following.changed().await.ok()?;
                    let status = *following.borrow_and_update();
                    Some((json!({ "status": status }), following))
                });
                Ok(Answer::Many(changes.boxed_local()))
            }
            "Stop" => {
                let timeout = Duration::from_micros(request.required("timeout")?);
                request.end()?;
                self.ask(Request::Stop(timeout)).await?;
                Ok(Answer::nothing())
            }
            "Reload" => {
                request.end()?;
                let (reply, answer) = oneshot::channel();
                self.ask(Request::Reload(reply)).await?;
                match answer.await {
                    Ok(Ok(())) => Ok(Answer::nothing()),
                    Ok(Err(error)) => {
                        let parameters =
                            json!({ "message": error.message, "remedy": error.remedy });
                        Err(own_error(&format!("{}", error.kind), parameters))
                    }
                    Err(_) => Err(stopping()),
                }
            }
            "GetListener" => {
                request.end()?;
                let listener = self.listener.try_clone().map_err(|error| {
                    own_error("Internal", json!({ "message": error.to_string() }))
                })?;
                Ok(Answer::OneWithFds(json!({}), vec![listener]))
            }
            _ => Err(request.unknown_method()),
        }
    }
}

impl Control {
    async fn ask(&self, request: Request) -> Result<(), ErrorReply> {
        self.requests.send(request).await.map_err(|_| stopping())
    }
}

fn stopping() -> ErrorReply {
    own_error("Busy", json!({ "message": "the engine is being stopped" }))
}

fn own_error(name: &str, parameters: Value) -> ErrorReply {
    // The names are those of the supervisor's interface: its client understands them.
    ErrorReply::new(format!("{}.{name}", names::VARLINK_INTERFACE), parameters)
}
