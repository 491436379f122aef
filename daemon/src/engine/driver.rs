//! The engine from outside: starts it, follows it, asks it to stop, and tells the supervisor what
//! became of it. Two channels are all that joins the two, so that a test can stand in for either.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt, process::ExitStatusExt},
    },
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use nix::sys::signal::Signal;
use rootlessd_api::{
    Death, Error, ErrorKind, Part, Phase, Reason,
    client::{ClientError, Connection},
    names,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    process::Child,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    dir::{EngineDir, Record},
    docker,
    init::{InitStatus, Stage},
    processes,
    shim::{self, ShimArgs},
    sweep,
};
use crate::{
    config::{self, Loaded},
    dirs::{Dirs, Environment},
    logging::LogArgs,
    plan::Plan,
    preflight,
    reasons::Code,
    sys::{
        self, cgroup,
        children::Exit,
        process::{Identity, Process},
    },
    systemd::Systemd,
};

/// How often a running dockerd is asked whether it still answers.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// How soon after a failed probe it is asked again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// What a stop may take beyond its time before everything is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// What an engine that is killed may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// engine-init answers in microseconds; this is for one that is stopped or gone.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an engine may take until it can be asked for its socket.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(30);
/// How soon to try again where there is no event to wait for.
const RETRY: Duration = Duration::from_millis(100);

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
    /// RootlessKit's pid.
    MainPid(u32),
    /// dockerd answers.
    Healthy(Facts),
    /// dockerd does not answer.
    Unhealthy(Reason),
    /// All of it is gone, in order.
    Gone,
    /// All of it is gone, and should not be.
    Died(Death),
    /// It cannot be started.
    Refused(Vec<Reason>),
}

/// What dockerd and the kernel say of a running engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What dockerd says.
    pub info: docker::Info,
    /// The cgroup controllers that containers can have.
    pub controllers: Vec<String>,
}

/// Drives one engine at a time.
#[derive(Debug)]
pub struct Driver {
    world: World,
    commands: mpsc::Receiver<Command>,
}

/// What an engine is started from and with.
#[derive(Debug)]
pub struct World {
    /// The user's directories.
    pub dirs: Dirs,
    /// The environment that rootlessd was started with.
    pub environment: Environment,
    /// The configuration, read again at each start.
    pub loaded: watch::Sender<Loaded>,
    /// The user's systemd, where there is one.
    pub systemd: Option<Systemd>,
    /// The socket that dockerd is to serve.
    pub listener: OwnedFd,
    /// Where the engine's processes log to.
    pub log: LogArgs,
    /// Where events go.
    pub events: mpsc::Sender<Event>,
}

/// An engine that is there.
struct Engine {
    plan: Plan,
    shim: Process,
    /// The shim as a child, unless an earlier rootlessd started it.
    child: Option<Child>,
}

/// Why there is no engine after a launch.
enum Failure {
    Refused(Vec<Reason>),
    Died(Death),
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
        let Record { shim, .. } = dir.read_record().ok()??;
        Process::find(shim)?;
        Some(Self { shim, plan: dir.read_plan().ok()?? })
    }

    /// Remove what is left of an engine that is not found any more: how it died, if it wrote that
    /// down.
    pub async fn bury_unseen(dirs: &Dirs, systemd: Option<&Systemd>) -> Option<Death> {
        let dir = EngineDir::below(&dirs.runtime);
        if !dir.path().exists() {
            return None;
        }
        let death = dir.read_death().ok().flatten();
        let plan = dir.read_plan().ok().flatten();
        sweep::sweep(systemd, &dir, plan.as_ref()).await;
        death
    }

    /// The engine with the listening socket that its clients know. Waits while it is too young to
    /// answer; `None` if it dies of its youth, or cannot be talked to, so that it has to end.
    pub async fn listener(self, dirs: &Dirs) -> Option<(Self, OwnedFd)> {
        let dir = EngineDir::below(&dirs.runtime);
        let shim = Process::find(self.shim)?;
        let asked = async {
            loop {
                appeared(&dir.init_socket()).await;
                match call(&dir, "GetListener", json!({})).await {
                    Ok((Nothing {}, mut fds)) => return fds.pop(),
                    Err(error) => {
                        tracing::debug!("engine-init does not answer: {error}");
                        sleep(RETRY).await;
                    }
                }
            }
        };
        tokio::select! {
            listener = asked => Some((self, listener?)),
            () = shim.gone() => None,
            () = sleep(LISTENER_TIMEOUT) => {
                tracing::error!("the running engine does not hand over its socket, so it is ended");
                None
            }
        }
    }
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
            match command {
                Command::Start => self.live().await,
                // There is nothing to stop, which is what was asked for.
                Command::Stop { .. } => self.world.tell(Event::Gone).await,
                other => other.answer(None).await,
            }
        }
    }

    /// One engine's life, from its launch to its end.
    async fn live(&mut self) {
        match self.launch_unless_stopped().await {
            Some(Ok(engine)) => self.follow(engine).await,
            Some(Err(Failure::Refused(reasons))) => self.world.tell(Event::Refused(reasons)).await,
            Some(Err(Failure::Died(death))) => self.world.tell(Event::Died(death)).await,
            // A launch that is dropped takes its held-back shim along.
            None => {
                self.world.clean().await;
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
                command = self.commands.recv() => match command {
                    Some(Command::Stop { .. }) | None => return None,
                    Some(other) => other.answer(None).await,
                },
            }
        }
    }

    /// Follow an engine until it is gone.
    async fn follow(&mut self, mut engine: Engine) {
        let world = &self.world;
        let shim = engine.shim.identity().pid;
        world.tell(Event::Launched { plan: Box::new(engine.plan.clone()), shim }).await;
        let mut init = Following::of(world.dir());
        let child_pid = engine.plan.state_dir.join("child_pid");
        let namespaces = appeared(&child_pid);
        tokio::pin!(namespaces);
        let mut in_namespaces = false;
        let mut probe = JoinSet::new();
        let mut stage = Stage::Starting;
        let mut phase = Phase::Namespaces;
        let start_timeout = world.loaded.borrow().config.engine.start_timeout;
        let mut deadline = Some(Instant::now() + start_timeout);
        // Until when it is to have stopped, once it is to.
        let mut stop_by: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = engine.shim.gone() => break,
                () = &mut namespaces, if !in_namespaces => {
                    in_namespaces = true;
                    if stage == Stage::Starting && stop_by.is_none() && phase == Phase::Namespaces {
                        phase = Phase::Network;
                        world.tell(Event::Phase(phase)).await;
                    }
                    world.tell_main_pid(shim).await;
                }
                status = init.next() => {
                    if !in_namespaces || phase == Phase::Namespaces {
                        world.tell_main_pid(shim).await;
                    }
                    if let Some(until) = stop_by
                        && status.stage != Stage::Stopping
                    {
                        // It was too young when it was asked, and RootlessKit lost the signal.
                        world.ask_to_stop(&engine, until.saturating_duration_since(Instant::now())).await;
                    } else if status.stage == Stage::Ready && stage != Stage::Ready {
                        deadline = None;
                        phase = Phase::Containers;
                        world.tell(Event::Phase(phase)).await;
                        let docker = engine.plan.docker.socket.clone();
                        probe.spawn_local(keep_probing(docker, world.events.clone()));
                    } else if status.stage != Stage::Ready && phase != status.phase {
                        phase = status.phase;
                        world.tell(Event::Phase(phase)).await;
                    }
                    stage = status.stage;
                }
                command = self.commands.recv() => match command {
                    Some(Command::Stop { timeout }) => {
                        probe.abort_all();
                        stop_by = Some(Instant::now() + timeout);
                        deadline = Some(Instant::now() + timeout + STOP_GRACE);
                        world.ask_to_stop(&engine, timeout).await;
                    }
                    Some(other) => other.answer(Some(world)).await,
                    // The supervisor leaves, and the engine stays.
                    None => return,
                },
                () = until(deadline) => {
                    deadline = None;
                    if stop_by.is_none() {
                        let text = format!("the start did not get beyond its phase {phase} within {start_timeout:?}");
                        let part = if phase == Phase::Dockerd { Part::Dockerd } else { Part::Init };
                        let _ = world.dir().write_death(&shim::death(part, None, text, vec![]));
                    }
                    world.kill(&engine).await;
                }
            }
        }
        probe.abort_all();
        let status = match &mut engine.child {
            Some(child) => child.wait().await.ok(),
            None => None,
        };
        world.bury(&engine.plan, status).await;
    }
}

impl Command {
    /// Answer what needs no decision; in the name of the engine, if there is one.
    async fn answer(self, world: Option<&World>) {
        if let Self::Reload(reply) = self {
            let answer = match world {
                Some(world) => world.reload().await,
                None => Ok(()),
            };
            // Whoever stopped waiting needs no answer.
            let _ = reply.send(answer);
        }
    }
}

impl World {
    fn dir(&self) -> EngineDir {
        EngineDir::below(&self.dirs.runtime)
    }

    async fn tell(&self, event: Event) {
        // A supervisor that left does not need to know.
        let _ = self.events.send(event).await;
    }

    async fn tell_main_pid(&self, shim: u32) {
        if let Some(pid) = processes::rootlesskit(shim) {
            self.tell(Event::MainPid(pid)).await;
        }
    }

    /// Start an engine. It can be dropped at any point: what it began ends by itself, or is found
    /// by [`Self::clean`].
    async fn launch(&self) -> Result<Engine, Failure> {
        self.tell(Event::Phase(Phase::Preflight)).await;
        self.clean().await;
        let loaded = self.read_config().map_err(|reason| Failure::Refused(vec![reason]))?;
        let systemd = self.systemd.is_some();
        let plan = preflight::prepare(&self.dirs, &self.environment, &loaded, systemd)
            .await
            .map_err(Failure::Refused)?;
        self.tell(Event::Phase(Phase::Namespaces)).await;
        self.start_shim(plan).await.map_err(|error| {
            let text = format!("the engine cannot be started: {error}");
            Failure::Died(shim::death(Part::Shim, None, text, vec![]))
        })
    }

    fn read_config(&self) -> Result<Loaded, Reason> {
        let loaded = config::load(&self.dirs, &self.environment).map_err(|error| {
            let reason = Code::ConfigInvalid.reason(error.message);
            Reason { remedy: error.remedy, ..reason }
        })?;
        self.loaded.send_replace(loaded.clone());
        Ok(loaded)
    }

    async fn start_shim(&self, plan: Plan) -> io::Result<Engine> {
        let dir = self.dir();
        let state_dir =
            || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&plan.state_dir);
        let made = dir.make().and_then(|()| dir.write_plan(&plan)).and_then(|()| state_dir());
        made.map_err(|error| {
            let runtime = self.dirs.runtime.display();
            io::Error::new(error.kind(), format!("{runtime} cannot be written to: {error}"))
        })?;
        let args = ShimArgs { dir: dir.path().to_owned(), log: self.log.clone() };
        let command = shim::command(&args, &plan, self.listener.try_clone()?)?;
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let shim = Process::open(child.id().unwrap_or_default())?;
        if let Some(systemd) = &self.systemd {
            systemd.start_scope(names::ENGINE_SCOPE, names::SLICE, shim.identity().pid).await?;
        }
        dir.write_record(&Record { shim: shim.identity() })?;
        // It is where it belongs, and can be found again: now it may have children.
        let mut gate = child.stdin.take().ok_or_else(|| io::Error::other("no gate"))?;
        gate.write_all(&[1]).await?;
        Ok(Engine { plan, shim, child: Some(child) })
    }

    async fn ask_to_stop(&self, engine: &Engine, timeout: Duration) {
        let parameters =
            json!({ "timeout": u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX) });
        let asked: Result<(Nothing, _), _> = call(&self.dir(), "Stop", parameters).await;
        if asked.is_err() {
            // engine-init is not there yet, or does not listen: RootlessKit passes a signal on.
            let _ = engine.shim.signal(Signal::SIGTERM);
        }
    }

    async fn reload(&self) -> Result<(), Error> {
        match call(&self.dir(), "Reload", json!({})).await {
            Ok((Nothing {}, _)) => Ok(()),
            Err(ClientError::Api(error)) => Err(error),
            Err(error) => Err(Error::new(
                ErrorKind::Busy,
                format!("the engine cannot be told to read its configuration again: {error}"),
            )),
        }
    }

    /// End an engine that does not end when it is asked to. Its shim removes the rest, or is ended
    /// too.
    async fn kill(&self, engine: &Engine) {
        if let Some(pid) = processes::rootlesskit(engine.shim.identity().pid) {
            sys::process::kill(pid);
            if timeout(KILL_GRACE, engine.shim.gone()).await.is_ok() {
                return;
            }
        }
        let _ = engine.shim.signal(Signal::SIGKILL);
    }

    /// Remove what an engine left, and tell how it ended.
    async fn bury(&self, plan: &Plan, status: Option<ExitStatus>) {
        let death = self.dir().read_death().ok().flatten();
        sweep::sweep(self.systemd.as_ref(), &self.dir(), Some(plan)).await;
        let event = match (death, status) {
            (Some(death), _) => Event::Died(death),
            (None, Some(status)) if !status.success() => {
                let exit = Exit { pid: 0, code: status.code(), signal: status.signal() };
                let text = format!("engine-shim {}", exit.describe());
                Event::Died(shim::death(Part::Shim, Some(exit), text, vec![]))
            }
            (None, _) => Event::Gone,
        };
        self.tell(event).await;
    }

    /// Remove what an engine left that nobody saw end.
    async fn clean(&self) {
        let plan = self.dir().read_plan().ok().flatten();
        sweep::sweep(self.systemd.as_ref(), &self.dir(), plan.as_ref()).await;
    }
}

/// The status of engine-init, as it changes.
struct Following {
    dir: EngineDir,
    connection: Option<Connection>,
}

#[derive(Deserialize)]
struct InitReply {
    status: InitStatus,
}

#[derive(Deserialize)]
struct Nothing {}

impl Following {
    const fn of(dir: EngineDir) -> Self {
        Self { dir, connection: None }
    }

    /// Wait for the next status, for the first one until engine-init is there. What does not come
    /// is not told: the shim's end is.
    async fn next(&mut self) -> InitStatus {
        loop {
            if let Some(connection) = &mut self.connection {
                match connection.receive::<InitReply>().await {
                    Ok((reply, _)) => return reply.status,
                    Err(error) => {
                        tracing::debug!("engine-init is not heard any more: {error}");
                        self.connection = None;
                        sleep(RETRY).await;
                    }
                }
            }
            appeared(&self.dir.init_socket()).await;
            match self.open().await {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    tracing::debug!("engine-init does not answer: {error}");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<Connection, ClientError> {
        let mut connection =
            Connection::open(&self.dir.init_socket(), names::INIT_INTERFACE).await?;
        connection.call_more("Follow", json!({})).await?;
        Ok(connection)
    }
}

/// Call engine-init.
async fn call<T: serde::de::DeserializeOwned>(
    dir: &EngineDir,
    method: &str,
    parameters: serde_json::Value,
) -> Result<(T, Vec<OwnedFd>), ClientError> {
    let exchange = async {
        let mut connection = Connection::open(&dir.init_socket(), names::INIT_INTERFACE).await?;
        connection.call_for_fds(method, parameters).await
    };
    timeout(INIT_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(ClientError::Protocol("engine-init does not answer".into())))
}

/// Ask dockerd again and again whether it answers, and tell.
async fn keep_probing(socket: std::path::PathBuf, events: mpsc::Sender<Event>) {
    loop {
        let (event, pause) = match docker::info(&socket).await {
            Ok(info) => {
                let controllers = cgroup::users_controllers();
                (Event::Healthy(Facts { info, controllers }), PROBE_INTERVAL)
            }
            Err(error) => {
                let text = format!("dockerd does not answer: {error}");
                let reason =
                    Code::DockerdNotAnswering.reason_with_remedy(text, "rootlessctl restart");
                (Event::Unhealthy(reason), PROBE_AGAIN)
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// Wait until there is a file.
async fn appeared(path: &Path) {
    let Some(directory) = path.parent() else { return };
    let watched = Inotify::init().and_then(|inotify| {
        inotify.watches().add(directory, WatchMask::CREATE | WatchMask::MOVED_TO)?;
        inotify.into_event_stream([0; 1024])
    });
    match watched {
        Ok(mut events) => while !path.exists() && events.next().await.is_some() {},
        // Without inotify (its instances are limited), look now and then.
        Err(_) => {
            while !path.exists() {
                sleep(RETRY).await;
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
