//! An engine that is there, followed from its launch or its take-over to its end.

mod doing;

use std::{collections::BTreeSet, future::pending, path::PathBuf, rc::Rc, time::Duration};

use futures_util::{FutureExt, future::LocalBoxFuture};
use rootlessd_api::{Error, Port};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_local},
    time::Instant,
};

use super::{
    Command, Event, World,
    course::{self, Course},
    idle::Verdict,
    probe::Probe,
    replacement,
};
use crate::{
    engine::{
        incidents::{Incident, Incidents},
        init::{
            InitStatus, PortsStatus,
            client::{Following, Frozen, InitClient, InitReply, PortsReply},
        },
        processes,
    },
    plan::Plan,
    sys::{children::Exit, clock, files, oom::OomKills, process::Process},
};

/// The first version of the protocol whose engine-init reads the plan again when it reloads.
const READS_PLANS: u32 = 2;

/// An engine that is there.
pub(super) struct Engine {
    pub plan: Plan,
    pub shim: Process,
    /// The shim as a child, unless an earlier rootlessd started it.
    pub child: Option<Child>,
}

/// What can happen to an engine that is followed.
enum Happening {
    /// Its first process, and so all of it, is gone.
    Gone,
    /// It was written down how it dies.
    Dying,
    /// RootlessKit has made its namespaces.
    InNamespaces,
    /// engine-init says how it is.
    Told(InitStatus),
    /// It says which ports were refused.
    Refused(PortsStatus),
    /// Something happened to parts of it.
    Incidents(Vec<Incident>),
    /// It was looked whether anybody needs it.
    Looked(Box<Verdict>),
    /// The supervisor wants something.
    Asked(Command),
    /// The supervisor leaves, and the engine stays.
    Left,
    /// The start or the stop takes longer than it may.
    OutOfTime,
    /// Neither dockerd nor engine-init answers.
    Deaf,
}

/// An engine, and how far it is.
pub(super) struct Followed<'a> {
    world: &'a World,
    engine: Engine,
    init: Following<InitReply>,
    ports: Following<PortsReply>,
    /// The ports that the supervisor was asked for.
    asked: BTreeSet<Port>,
    /// The version of the protocol that engine-init speaks, once it was heard.
    protocol: Option<u32>,
    /// It ends when it is written down how the engine dies.
    dies: LocalBoxFuture<'static, ()>,
    /// Where RootlessKit writes the pid of its child, which has the namespaces.
    child_pid: PathBuf,
    /// Decides.
    course: Course,
    /// RootlessKit's pid.
    main_pid: Option<u32>,
    /// Until when it is to have stopped, once it is to.
    stop_by: Instant,
    start_timeout: Duration,
    deadline: Option<Instant>,
    /// Whom of it the kernel killed for memory.
    oom_kills: OomKills,
    /// What happened to its parts; `None` if that cannot be read.
    incidents: Option<Incidents>,
    probe: Rc<Probe>,
    /// The tasks that ask a ready engine how it is. They end with this, or with a stop.
    asking: JoinSet<()>,
    /// The tasks that have parts replaced.
    replacing: JoinSet<()>,
    /// The task that looks whether anybody needs a ready engine.
    looking: JoinSet<Verdict>,
    /// What looking came to, until it is judged.
    looked: Option<Verdict>,
    /// What keeps dockerd still, once it is to be stopped for that.
    frozen: Option<Frozen>,
}

impl<'a> Followed<'a> {
    pub async fn new(world: &'a World, engine: Engine) -> Self {
        let (plan, shim) = (Box::new(engine.plan.clone()), engine.shim.identity().pid);
        world.tell(Event::Launched { plan, shim }).await;
        let start_timeout = world.loaded.borrow().config.engine.start_timeout;
        Self {
            world,
            init: InitClient::of(world.dir()).follow(),
            ports: InitClient::of(world.dir()).follow_ports(),
            asked: BTreeSet::new(),
            protocol: None,
            dies: world.dir().dies().boxed_local(),
            child_pid: engine.plan.state_dir.join("child_pid"),
            oom_kills: OomKills::around(shim),
            incidents: Incidents::of(&world.dir())
                .inspect_err(|error| {
                    tracing::warn!("the engine's incidents cannot be read: {error}")
                })
                .ok(),
            probe: Rc::new(Probe::of(&engine.plan, world.dir(), world.events.clone())),
            course: Course::new(engine.child.is_none()),
            engine,
            main_pid: None,
            stop_by: Instant::now(),
            start_timeout,
            deadline: Some(Instant::now() + start_timeout),
            asking: JoinSet::new(),
            replacing: JoinSet::new(),
            looking: JoinSet::new(),
            looked: None,
            frozen: None,
        }
    }

    /// Follow it until it is gone: what it was, and how its first process ended where that could
    /// be had. `None` if it goes on and nobody follows it any more.
    pub async fn until_gone(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<(Plan, Option<Exit>)> {
        loop {
            match self.next(commands).await {
                Happening::Gone => break,
                Happening::Dying => {
                    self.dies = pending().boxed_local();
                    self.world.tell_dying().await;
                }
                Happening::InNamespaces => {
                    self.take(course::Event::InNamespaces).await;
                    self.find_main_pid().await;
                }
                Happening::Told(status) => self.learn(status).await,
                Happening::Refused(ports) => self.learn_ports(ports).await,
                Happening::Incidents(incidents) => {
                    self.world.tell(Event::Incidents(incidents)).await;
                    self.probe.at_once();
                }
                Happening::Looked(verdict) => self.judge(*verdict).await,
                Happening::Asked(Command::Stop { timeout }) => {
                    self.stop_by = Instant::now() + timeout;
                    self.take(course::Event::Stop).await;
                }
                Happening::Asked(Command::Reload(reply)) => self.reload(reply).await,
                Happening::Asked(Command::Replace { only_new }) => self.replace(only_new),
                // It is there.
                Happening::Asked(Command::Start) => {}
                Happening::Left => return None,
                Happening::Deaf => self.take(course::Event::Deaf).await,
                Happening::OutOfTime => self.take(course::Event::OutOfTime).await,
            }
        }
        self.asking.abort_all();
        self.replacing.abort_all();
        // What led to the end is told before it.
        let unread = self.incidents.as_mut().map(Incidents::unread).unwrap_or_default();
        if !unread.is_empty() {
            self.world.tell(Event::Incidents(unread)).await;
        }
        let status = match &mut self.engine.child {
            Some(child) => child.wait().await.ok(),
            None => None,
        };
        let exit = status.map(|status| {
            let exit = Exit::of_status(self.engine.shim.identity().pid, status);
            exit.judged_by(&self.oom_kills)
        });
        Some((self.engine.plan, exit))
    }

    async fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Happening {
        tokio::select! {
            biased;
            () = self.engine.shim.gone() => Happening::Gone,
            () = files::appeared(&self.child_pid), if !self.course.has_namespaces() => Happening::InNamespaces,
            reply = self.init.next() => Happening::Told(reply.status),
            reply = self.ports.next() => Happening::Refused(reply.ports),
            incidents = next_of(&mut self.incidents) => Happening::Incidents(incidents),
            Some(Ok(verdict)) = self.looking.join_next() => {
                Happening::Looked(Box::new(verdict))
            }
            command = commands.recv() => command.map_or(Happening::Left, Happening::Asked),
            () = self.probe.hearing.lost() => Happening::Deaf,
            () = clock::until(self.deadline) => Happening::OutOfTime,
            // After what happened to its parts before.
            () = &mut self.dies => Happening::Dying,
            never = self.oom_kills.keep_up() => match never {},
        }
    }

    async fn learn(&mut self, status: InitStatus) {
        self.protocol = Some(status.protocol);
        self.probe.learn(status);
        self.find_main_pid().await;
        self.take(course::Event::Told(status.stage, status.phase)).await;
    }

    async fn learn_ports(&mut self, status: PortsStatus) {
        self.world.tell(Event::PortsRefused(status.refused)).await;
        for &port in status.asked.iter().filter(|port| !self.asked.contains(port)) {
            let (reply, answer) = oneshot::channel();
            self.world.tell(Event::PortAsked { port, reply }).await;
            let init = self.init_client();
            spawn_local(async move {
                // A supervisor that does not say is none that grants.
                let verdict =
                    answer.await.unwrap_or_else(|_| Err("rootlessd does not answer".into()));
                if let Err(error) = init.answer_port(port, verdict).await {
                    tracing::warn!("engine-init is not told about port {port}: {error}");
                }
            });
        }
        self.asked = status.asked.into_iter().collect();
    }

    /// RootlessKit has its name only after the program that becomes it has become it.
    async fn find_main_pid(&mut self) {
        if self.main_pid.is_none() {
            self.main_pid = processes::rootlesskit(self.engine.shim.identity().pid);
            if let Some(pid) = self.main_pid {
                self.world.tell(Event::MainPid(pid)).await;
            }
        }
    }

    async fn reload(&mut self, reply: oneshot::Sender<Result<(), Error>>) {
        // What a running engine cannot follow, the status tells.
        let plan = self.engine.plan.following(&self.world.loaded.borrow().config);
        if let Some(plan) = plan.filter(|_| self.protocol >= Some(READS_PLANS)) {
            self.replan(plan).await;
        }
        // Beside everything else: engine-init may take its time to answer.
        let init = self.init_client();
        spawn_local(async move {
            // Whoever stopped waiting needs no answer.
            let _ = reply.send(init.reload().await);
        });
    }

    /// Have parts replaced. A stop ends that, and what waits for it.
    fn replace(&mut self, only_new: bool) {
        let (init, probe, events) =
            (self.init_client(), self.probe.clone(), self.world.events.clone());
        self.replacing.spawn_local(async move {
            let replaced = replacement::replace(&init, &probe, only_new).await;
            // A supervisor that left does not need to know.
            let _ = events.send(Event::Replaced(replaced)).await;
        });
    }

    async fn replan(&mut self, plan: Plan) {
        match self.world.dir().write_plan(&plan) {
            Ok(()) => {
                self.engine.plan = plan.clone();
                self.world.tell(Event::Replanned(Box::new(plan))).await;
            }
            Err(error) => tracing::warn!("the engine's plan cannot be written: {error}"),
        }
    }

    fn init_client(&self) -> InitClient {
        InitClient::of(self.world.dir())
    }
}

async fn next_of(incidents: &mut Option<Incidents>) -> Vec<Incident> {
    let Some(following) = incidents else { return pending().await };
    match following.next().await {
        Some(incidents) => incidents,
        None => {
            *incidents = None;
            pending().await
        }
    }
}
