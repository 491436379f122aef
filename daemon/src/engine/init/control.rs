//! engine-init's control socket: `org.rootlessd.EngineInit`, for rootlessd alone. It tells how far
//! the start or stop is, takes a stop and a reload, and hands the listening socket back, which a
//! rootlessd without systemd needs after it took the engine over.
//!
//! Compatibility: a rootlessd drives the engine-init of the release before it and of the one after
//! it. Methods and fields are only added; who does not know a field ignores it.

use std::{collections::BTreeSet, future::pending, io, os::fd::OwnedFd, rc::Rc, time::Duration};

use futures_util::{StreamExt, stream};
use nix::sys::signal::Signal;
use rootlessd_api::{Error, Part, Phase, Port, Reason, names};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    Request,
    part_probe::Attention,
    port_desk::{PortDesk, Verdict},
};
use crate::{
    engine::{
        dir::EngineDir,
        shortage::{self, Complaints, Shortage},
    },
    sys::{children, files::FileId, process::Process},
    varlink::{
        call::{self, Answer, ErrorReply, Interface},
        server::{self, Limits},
    },
};

/// How long dockerd may take to stand still; it takes less than a millisecond.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(1);

/// The version of this protocol. 2: a reload reads `live-restore` of the plan again. 3: parts can be
/// replaced, it is told of which files they are, and dockerd can be made to stand still. 4: parts that
/// hang are found here.
pub const PROTOCOL: u32 = 4;

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
    /// The pid of the RootlessKit that has the published ports.
    #[serde(default)]
    pub rootlesskit: Option<u32>,
    /// How often containerd or dockerd complained that they are short of something, not each time that
    /// they do so at once, or there was seen to be no room any more, on a file system or for open files: each
    /// time it has to be looked what the machine is short of.
    #[serde(default)]
    pub complaints: u32,
    /// Of what those two complained.
    #[serde(default)]
    pub complaints_of: Complaints,
    /// Which file containerd was when it was started.
    #[serde(default)]
    pub containerd_file: Option<FileId>,
    /// Which file dockerd was when it was started.
    #[serde(default)]
    pub dockerd_file: Option<FileId>,
}

impl InitStatus {
    /// Have it looked what the machine is short of. `of`: what was complained of.
    pub fn complain(&mut self, of: Option<Shortage>) {
        self.complaints = self.complaints.wrapping_add(1);
        if let Some(shortage) = of {
            self.complaints_of.add(shortage);
        }
    }

    /// Of which parts it is that have nearly as many files open as they may.
    pub fn too_many_files(self) -> impl Iterator<Item = Reason> {
        let parts = [
            (Part::Rootlesskit, self.rootlesskit),
            (Part::Containerd, self.containerd),
            (Part::Dockerd, self.dockerd),
        ];
        parts.into_iter().filter_map(|(part, pid)| shortage::too_many_files(part, pid?))
    }
}

/// Whether engine-init comes up, is up, or goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
            rootlesskit: None,
            complaints: 0,
            complaints_of: Complaints::default(),
            containerd_file: None,
            dockerd_file: None,
        }
    }
}

/// What it is about.
pub(super) struct Control {
    pub listener: OwnedFd,
    pub status: watch::Receiver<InitStatus>,
    pub ports: PortDesk,
    pub attention: Rc<Attention>,
    pub requests: mpsc::Sender<Request>,
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
                Ok(follow("status", self.status.clone()))
            }
            "FollowPorts" => {
                request.expect_more()?;
                request.end()?;
                Ok(follow("ports", self.ports.follow()))
            }
            "AnswerPort" => {
                let port: Port = request.required("port")?;
                let granted = request.required("granted")?;
                let message = request.optional("message")?;
                request.end()?;
                let verdict = if granted { Verdict::Granted } else { Verdict::Refused(message) };
                self.ports.answer(port, verdict);
                Ok(Answer::nothing())
            }
            "Stop" => {
                let timeout = Duration::from_micros(request.required("timeout")?);
                let idle = request.optional("idle")?.unwrap_or(false);
                request.end()?;
                let idle = is_idle(idle, self.attention.kept_still(), self.status.borrow().dockerd);
                self.ask(Request::Stop { timeout, idle }).await?;
                Ok(Answer::nothing())
            }
            "Freeze" => {
                request.expect_more()?;
                request.end()?;
                let status = *self.status.borrow();
                let dockerd = status.dockerd.filter(|_| status.stage == Stage::Ready);
                let attention = Rc::clone(&self.attention);
                let frozen = Frozen::new(dockerd.ok_or_else(stopping)?, attention).await;
                frozen.map(Frozen::tell).map_err(|error| {
                    let message = format!("dockerd does not stand still: {error}");
                    own_error("Busy", json!({ "message": message }))
                })
            }
            "Reload" => {
                request.end()?;
                let (reply, answer) = oneshot::channel();
                self.ask(Request::Reload(reply)).await?;
                answered(answer).await
            }
            "Doubt" => {
                request.end()?;
                self.attention.doubt();
                Ok(Answer::nothing())
            }
            "Replace" => {
                let parts: BTreeSet<Part> = request.required("parts")?;
                request.end()?;
                if !parts.iter().all(|part| matches!(part, Part::Containerd | Part::Dockerd)) {
                    return Err(ErrorReply::invalid_parameter("parts"));
                }
                let (reply, answer) = oneshot::channel();
                self.ask(Request::Replace { parts, reply }).await?;
                answered(answer).await
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
    /// Serve the control socket in a task of its own.
    pub fn serve(self, dir: &EngineDir) -> io::Result<()> {
        let socket = UnixListener::bind(dir.init_socket())?;
        tokio::task::spawn_local(server::serve(socket, self, Limits::default()));
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<(), ErrorReply> {
        self.requests.send(request).await.map_err(|_| stopping())
    }
}

/// What came of a request that the engine itself has to answer.
async fn answered(answer: oneshot::Receiver<Result<(), Error>>) -> Result<Answer, ErrorReply> {
    match answer.await {
        Ok(Ok(())) => Ok(Answer::nothing()),
        Ok(Err(error)) => {
            let parameters = json!({ "message": error.message, "remedy": error.remedy });
            Err(own_error(&format!("{}", error.kind), parameters))
        }
        Err(_) => Err(stopping()),
    }
}

/// Whether dockerd is needed by nobody, if that was asked: only one that stands still is. If it died
/// since, there is another, and that has accepted clients.
fn is_idle(asked: bool, frozen: Option<u32>, dockerd: Option<u32>) -> bool {
    asked && frozen.is_some() && frozen == dockerd
}

/// dockerd, which stands still for as long as this lives.
struct Frozen {
    dockerd: Process,
    attention: Rc<Attention>,
}

impl Frozen {
    async fn new(dockerd: u32, attention: Rc<Attention>) -> io::Result<Self> {
        let frozen = Self { dockerd: Process::open(dockerd)?, attention };
        frozen.attention.keep_still(Some(dockerd));
        frozen.dockerd.signal(Signal::SIGSTOP)?;
        timeout(FREEZE_TIMEOUT, children::stopped(dockerd)).await??;
        Ok(frozen)
    }

    /// One answer, and no end, with which it would go on.
    fn tell(self) -> Answer {
        let once = stream::once(std::future::ready(json!({})));
        let ever = stream::once(async move {
            let _frozen = self;
            pending().await
        });
        Answer::Many(once.chain(ever).boxed_local())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // One that is gone needs it no more.
        let _ = self.dockerd.signal(Signal::SIGCONT);
        self.attention.keep_still(None);
    }
}

/// The value at hand and every later one, each under a name.
fn follow<T: Clone + Serialize + 'static>(
    name: &'static str,
    mut following: watch::Receiver<T>,
) -> Answer {
    following.mark_changed();
    let changes = stream::unfold(following, move |mut following| async move {
        following.changed().await.ok()?;
        let value = following.borrow_and_update().clone();
        Some((json!({ name: value }), following))
    });
    Answer::Many(changes.boxed_local())
}

fn stopping() -> ErrorReply {
    own_error("Busy", json!({ "message": "the engine is being stopped" }))
}

fn own_error(name: &str, parameters: Value) -> ErrorReply {
    // The names are those of the supervisor's interface: its client understands them.
    ErrorReply::new(format!("{}.{name}", names::VARLINK_INTERFACE), parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_newer_engine_init_is_understood() {
        let status = InitStatus { complaints: 3, ..InitStatus::default() };
        let mut told = serde_json::to_value(status).unwrap();
        told["news"] = 7.into();
        told.as_object_mut().unwrap().remove("complaints_of");
        assert_eq!(serde_json::from_value::<InitStatus>(told).unwrap(), status);
    }

    #[test]
    fn only_a_dockerd_that_stands_still_is_idle() {
        for (asked, frozen, dockerd, idle) in [
            (true, Some(1), Some(1), true),
            (false, Some(1), Some(1), false),
            (true, Some(1), Some(2), false),
            (true, Some(1), None, false),
            (true, None, Some(1), false),
            (true, None, None, false),
        ] {
            assert_eq!(is_idle(asked, frozen, dockerd), idle, "{asked} {frozen:?} {dockerd:?}");
        }
    }
}
