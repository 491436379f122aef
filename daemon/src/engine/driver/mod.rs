//! The engine from outside: starts it, follows it, asks it to stop, and tells the supervisor what
//! became of it. Two channels are all that joins the two, so that a test can stand in for either.
//!
//! What the driver promises: every [`Command::Start`], and every engine that was found, comes to
//! exactly one end, which is [`Event::Gone`], [`Event::Died`] or [`Event::Refused`].

mod clients;
pub(crate) mod course;
mod follow;
mod hearing;
mod idle;
mod probe;
mod program_files;
mod replacement;
mod shortages;
mod takeover;
mod world;

use std::{collections::BTreeSet, os::fd::OwnedFd, time::Duration};

use rootlessd_api::{Death, Error, Part, Phase, Port, Reason};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

pub use self::world::World;
use self::{
    course::{Answer, Wish},
    follow::{Engine, Followed},
    world::Failure,
};
use super::{
    dir::{EngineDir, Record},
    docker,
    incidents::{self, Incident},
    init::client::InitClient,
    shortage::Shortage,
    sweep,
};
use crate::{
    dirs::Dirs,
    plan::Plan,
    sys::process::{Identity, Process},
    systemd::Systemd,
};

/// How long an engine may take until it can be asked for its socket.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the supervisor asks for.
#[derive(Debug)]
pub enum Command {
    /// Start an engine.
    Start,
    /// Stop it.
    Stop {
        /// Within this time.
        timeout: Duration,
    },
    /// Have dockerd read its configuration again.
    Reload(oneshot::Sender<Result<(), Error>>),
    /// Replace containerd and dockerd under the containers; [`Event::Replaced`] tells what came of it.
    Replace {
        /// Only a part whose file is another than when it was started.
        only_new: bool,
    },
}

impl Command {
    const fn wish(&self) -> Wish {
        match self {
            Self::Start => Wish::Start,
            Self::Stop { .. } => Wish::Stop,
            Self::Reload(_) => Wish::Reload,
            Self::Replace { .. } => Wish::Replace,
        }
    }
}

/// What became of it.
#[derive(Debug)]
pub enum Event {
    /// It came further on its way up or down.
    Phase(Phase),
    /// It is there, of this plan, and its first process is this one.
    Launched {
        /// What it was started with.
        plan: Box<Plan>,
        /// The pid of engine-shim.
        shim: u32,
    },
    /// It follows a change of the configuration, by this plan.
    Replanned(Box<Plan>),
    /// RootlessKit's pid.
    MainPid(u32),
    /// It serves another socket than the one that clients find now.
    OutOfReach,
    /// Nobody has needed it for long enough. Its dockerd stands still until it is stopped.
    Idle,
    /// dockerd answers.
    Healthy(Facts),
    /// dockerd does not answer.
    Unhealthy(Reason),
    /// It comes to its end, and should not: it is told so when all of it is gone.
    Dying(Reason),
    /// What happened to its parts, in the order in which it did.
    Incidents(Vec<Incident>),
    /// What a replacement came to: the parts that were replaced.
    Replaced(Result<Vec<Part>, Error>),
    /// The ports that its user was granted, and that it may listen on.
    Granted(BTreeSet<Port>),
    /// The ports that it was refused last, for want of a privilege.
    PortsRefused(Vec<Port>),
    /// A container waits for a port of these.
    PortAsked {
        /// Which.
        port: Port,
        /// Whether it was granted; if not, why.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// All of it is gone, in order.
    Gone,
    /// All of it is gone, and should not be.
    Died(Death),
    /// It cannot be started.
    Refused(Vec<Reason>),
    /// It cannot be started for now, or is gone, since the machine is short of something.
    Starved {
        /// Of what.
        reasons: Vec<Reason>,
        /// How it died, if there was one.
        death: Option<Death>,
    },
    /// What the machine is short of while it runs, after a change.
    Short(Vec<Reason>),
}

impl Event {
    /// The death of an engine, which is none of its own making if it was short of something.
    fn of_death(death: Death) -> Self {
        match Shortage::of_death(&death) {
            Some(shortage) => {
                let reasons = vec![shortage.reason(&death.text)];
                Self::Starved { reasons, death: Some(death) }
            }
            None => Self::Died(death),
        }
    }
}

/// What dockerd and the kernel say of a running engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What dockerd says.
    pub info: docker::Info,
    /// The cgroup controllers that containers can have.
    pub controllers: Vec<String>,
    /// containerd's version, as dockerd tells it.
    pub containerd_version: Option<String>,
    /// Parts whose file is another now than when they were started.
    pub outdated: Vec<Part>,
}

/// Drives one engine at a time.
#[derive(Debug)]
pub struct Driver {
    world: World,
    commands: mpsc::Receiver<Command>,
}

/// An engine that an earlier rootlessd left running.
#[derive(Debug)]
pub struct Found {
    shim: Identity,
    plan: Plan,
}

impl Found {
    /// Find it.
    pub fn find(dirs: &Dirs) -> Option<Self> {
        let dir = EngineDir::below(&dirs.runtime);
        let Record { shim } = dir.read_record().ok()??;
        Process::find(shim)?;
        Some(Self { shim, plan: dir.read_plan().ok()?? })
    }

    /// Remove what is left of an engine that is not found any more: what it wrote down of its end.
    pub async fn bury_unseen(dirs: &Dirs, systemd: Option<&Systemd>) -> Unseen {
        let dir = EngineDir::below(&dirs.runtime);
        if !dir.path().exists() {
            return Unseen::default();
        }
        let incidents = incidents::left_in(&dir);
        let death = sweep::sweep(systemd, &dir, &dirs.runtime, None).await.death;
        Unseen { death, incidents }
    }

    /// The engine with the listening socket that its clients know. Waits while it is too young to
    /// answer; `None` if it dies of its youth, or cannot be talked to, so that it has to end.
    pub async fn listener(self, dirs: &Dirs) -> Option<(Self, OwnedFd)> {
        let shim = Process::find(self.shim)?;
        let init = InitClient::of(EngineDir::below(&dirs.runtime));
        tokio::select! {
            listener = init.listener() => Some((self, listener?)),
            () = shim.gone() => None,
            () = sleep(LISTENER_TIMEOUT) => {
                tracing::error!("the running engine does not hand over its socket, so it is ended");
                None
            }
        }
    }
}

/// What an engine wrote down that ended while there was no supervisor.
#[derive(Clone, Debug, Default)]
pub struct Unseen {
    /// How it died, if it did.
    pub death: Option<Death>,
    /// What had happened to its parts, from its start.
    pub incidents: Vec<Incident>,
}

impl Driver {
    /// A driver that obeys `commands`.
    pub const fn new(world: World, commands: mpsc::Receiver<Command>) -> Self {
        Self { world, commands }
    }

    /// Obey, until there is nobody to do so for. An engine that was `found` is taken over first.
    pub async fn run(mut self, found: Option<Found>) {
        if let Some(Found { shim, plan }) = found {
            match Process::find(shim) {
                Some(shim) => self.follow(Engine { plan, shim, child: None }).await,
                None => self.world.bury(&plan, None).await,
            }
        }
        while let Some(command) = self.commands.recv().await {
            match (course::at_rest(command.wish()), command) {
                (Answer::Launch, _) => self.live().await,
                (_, Command::Reload(reply)) => nothing_to_reload(reply),
                _ => {}
            }
        }
    }

    /// One engine's life, from its launch to its end.
    async fn live(&mut self) {
        match self.launch_unless_stopped().await {
            Some(Ok(engine)) => self.follow(engine).await,
            Some(Err(Failure::Refused(reasons))) => self.world.tell(Event::Refused(reasons)).await,
            Some(Err(Failure::Died(death))) => self.world.tell(Event::Died(death)).await,
            Some(Err(Failure::Short(reasons))) => {
                self.world.tell(Event::Starved { reasons, death: None }).await;
            }
            // A launch that is dropped takes its held-back shim along.
            None => {
                let _ = self.world.clean().await;
                self.world.tell(Event::Gone).await;
            }
        }
    }

    /// Start an engine; `None` if a stop came in between.
    async fn launch_unless_stopped(&mut self) -> Option<Result<Engine, Failure>> {
        let launch = self.world.launch();
        tokio::pin!(launch);
        loop {
            tokio::select! {
                launched = &mut launch => return Some(launched),
                command = self.commands.recv() => {
                    let command = command?;
                    match (course::in_launch(command.wish()), command) {
                        (Answer::GiveUp, _) => return None,
                        (_, Command::Reload(reply)) => nothing_to_reload(reply),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Follow an engine until it is gone, or nobody follows it any more.
    async fn follow(&mut self, engine: Engine) {
        let followed = Followed::new(&self.world, engine).await;
        if let Some((plan, exit)) = followed.until_gone(&mut self.commands).await {
            self.world.bury(&plan, exit).await;
        }
    }
}

/// An engine reads its configuration when it starts.
fn nothing_to_reload(reply: oneshot::Sender<Result<(), Error>>) {
    // Whoever stopped waiting needs no answer.
    let _ = reply.send(Ok(()));
}
