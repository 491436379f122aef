//! The supervisor: one task that owns the state of the engine. Requests come in by the
//! [`handle`], events by the [engine's channel](crate::engine::driver); the [`machine`] decides,
//! and [`Supervisor::publish`] is the one place where the world is told.

pub mod handle;
mod jobs;
pub mod machine;
pub mod memory;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::OptionFuture;
use rootlessd_api::{
    Death, Error, ErrorKind, Job, JobKind, JobOptions, JobResult, JobState, Part, Phase, Process,
    Reason, Status,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use self::{
    handle::{Command, Mailbox, Reply},
    jobs::Jobs,
    machine::{Effect, Life, RestartPolicy},
    memory::{Memory, Moment, Store},
};
use crate::{
    config::Loaded,
    engine::{
        driver::{self, Facts},
        processes, shim,
    },
    plan::Plan,
    reasons::Code,
    sys::clock,
};

/// How many deaths are told.
const TOLD_DEATHS: usize = 20;

/// How the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The engine is stopped first.
    StopEngine,
    /// The engine stays, for the next supervisor to take over.
    LeaveEngine,
}

/// What there is of an engine when a supervisor begins.
#[derive(Debug)]
pub enum Inheritance {
    /// One that an earlier supervisor left running.
    Engine,
    /// None; how the last one died, if it did so unseen and wrote that down.
    Nothing(Option<Death>),
}

/// Reads the configuration again.
pub type Reader = Box<dyn Fn() -> Result<Loaded, Error>>;

/// What joins the supervisor to everything else.
pub struct Links {
    /// Requests, and where the answers go.
    pub mailbox: Mailbox,
    /// To the engine.
    pub commands: mpsc::Sender<driver::Command>,
    /// From the engine.
    pub events: mpsc::Receiver<driver::Event>,
    /// How to end, once that is said.
    pub shutdown: mpsc::Receiver<Shutdown>,
    /// The configuration, for the engine's next start.
    pub loaded: watch::Sender<Loaded>,
    /// Where the configuration is read again.
    pub reader: Reader,
    /// Where to remember.
    pub store: Store,
}

/// What the status says of the supervisor itself, and never changes.
#[derive(Clone, Debug)]
pub struct Constants {
    /// Who answers.
    pub supervisor: rootlessd_api::Supervisor,
    /// The socket of Docker's API.
    pub socket: PathBuf,
}

/// The supervisor.
pub struct Supervisor {
    links: Links,
    constants: Constants,
    memory: Memory,
    jobs: Jobs,
    engine: Knowledge,
    /// When the delay of a back-off is over.
    delay: Option<Instant>,
    /// Whether the configuration changed since the engine started.
    stale_config: bool,
    ending: bool,
    /// Who waits for a status with processes, and the list that is being made for all of them.
    asking: Vec<oneshot::Sender<Status>>,
    listing: OptionFuture<JoinHandle<Vec<Process>>>,
}

/// What is known of the engine. It can all be found out again.
#[derive(Default)]
struct Knowledge {
    plan: Option<Plan>,
    shim: Option<u32>,
    facts: Option<Facts>,
    main_pid: Option<u32>,
    unwell: Option<Reason>,
}

impl Supervisor {
    /// A supervisor that remembers `memory`, and follows the engine if one was `found`.
    pub fn new(links: Links, constants: Constants, memory: Memory) -> Self {
        let jobs = Jobs::new(links.mailbox.jobs.clone());
        Self {
            links,
            constants,
            memory,
            jobs,
            engine: Knowledge::default(),
            delay: None,
            stale_config: false,
            ending: false,
            asking: vec![],
            listing: None.into(),
        }
    }

    /// The status before anything happened.
    pub fn first_status(constants: &Constants, memory: &Memory) -> Status {
        status(constants, memory, &Knowledge::default(), false, &[])
    }

    /// Be the supervisor until it is to end.
    pub async fn run(mut self, inherited: Inheritance) -> Shutdown {
        self.resume(inherited);
        loop {
            let wake = self.delay;
            let deadline = self.jobs.deadline();
            tokio::select! {
                Some(command) = self.links.mailbox.commands.recv() => self.obey(command),
                Some(event) = self.links.events.recv() => self.learn(event),
                () = until(wake) => {
                    self.delay = None;
                    self.step(machine::Event::DelayOver);
                }
                Some(list) = &mut self.listing => self.answer_asking(list.unwrap_or_default()),
                () = until(deadline) => self.jobs.end(JobResult::Timeout, Some(out_of_time())),
                Some(how) = self.links.shutdown.recv() => match how {
                    Shutdown::LeaveEngine => return how,
                    Shutdown::StopEngine => {
                        self.ending = true;
                        self.step(machine::Event::Stop);
                    }
                },
            }
            if self.ending && !self.memory.machine.life().has_engine() {
                // The next supervisor starts from nothing, as after a boot.
                if let Err(error) = self.links.store.clear() {
                    tracing::warn!("the state cannot be forgotten: {error}");
                }
                return Shutdown::StopEngine;
            }
        }
    }

    /// Go on where the last supervisor was, or begin. The driver, which found nothing where nothing
    /// was inherited, says nothing.
    fn resume(&mut self, inherited: Inheritance) {
        use Inheritance::{Engine, Nothing};
        let life = self.memory.machine.life();
        match (life, inherited) {
            (Life::Stopping(..), _) => self.perform(&[Effect::Stop]),
            (_, Engine) if !life.has_engine() => self.step(machine::Event::Start),
            (_, Engine) => {}
            // There was none yet that could have died.
            (Life::Starting(Phase::Preflight), Nothing(_)) => self.perform(&[Effect::Start]),
            (Life::Starting(_) | Life::Running | Life::Degraded, Nothing(death)) => {
                self.bury(death.unwrap_or_else(unseen_death));
                self.step(machine::Event::Died);
            }
            (Life::Backoff, Nothing(_)) => {
                let left = self.memory.next_attempt.map_or(Duration::ZERO, Moment::left);
                self.delay = Some(Instant::now() + left);
            }
            (Life::Stopped | Life::Failed, Nothing(_)) => {}
        }
        self.publish();
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Who does not wait for an answer any more needs none: `let _` below.
            Command::Status(reply) => self.tell_status(reply),
            Command::Request { kind, options, reply } => {
                let _ = reply.send(self.begin(kind, &options));
            }
            Command::WaitJob { id, reply } => self.jobs.wait(id, reply),
            Command::CancelJob { id, reply } => {
                let _ = reply.send(self.cancel(id));
            }
            Command::Jobs(reply) => {
                let _ = reply.send(self.jobs.list());
            }
            Command::Reload(reply) => self.reload(reply),
            Command::ResetFailed(reply) => {
                self.memory.deaths.clear();
                self.memory.refusals.clear();
                self.step(machine::Event::ResetFailed);
                let _ = reply.send(Ok(()));
            }
            Command::Settings(reply) => {
                let _ = reply.send(self.links.loaded.borrow().settings.clone());
            }
        }
    }

    /// Take what the engine tells.
    fn learn(&mut self, event: driver::Event) {
        use driver::Event as E;
        match event {
            E::Phase(phase) => self.step(machine::Event::Phase(phase)),
            E::Launched { plan, shim } => {
                self.engine =
                    Knowledge { plan: Some(*plan), shim: Some(shim), ..Knowledge::default() };
                self.stale_config = false;
                self.publish();
            }
            E::MainPid(pid) => {
                self.engine.main_pid = Some(pid);
                self.publish();
            }
            E::Healthy(facts) => {
                self.engine.facts = Some(facts);
                self.engine.unwell = None;
                self.step(machine::Event::Healthy);
            }
            E::Unhealthy(reason) => {
                self.engine.unwell = Some(reason);
                self.step(machine::Event::Unhealthy);
            }
            E::Refused(reasons) => {
                for Reason { code, part, text, .. } in &reasons {
                    let part = part.as_str();
                    tracing::error!(rootlessd_part = part, "cannot start ({code}): {text}");
                }
                self.memory.refusals = reasons;
                self.forget_engine();
                self.step(machine::Event::Refused);
            }
            E::Gone if !self.memory.machine.life().has_engine() => {}
            E::Gone => {
                if !matches!(self.memory.machine.life(), Life::Stopping(..)) {
                    self.bury(stranger_stop());
                }
                self.forget_engine();
                self.step(machine::Event::Gone);
            }
            E::Died(death) => {
                if !matches!(self.memory.machine.life(), Life::Stopping(..)) {
                    self.bury(death);
                }
                self.forget_engine();
                self.step(machine::Event::Died);
            }
        }
    }

    /// Let the machine take an event, do what it says, and tell the world.
    fn step(&mut self, event: machine::Event) {
        let before = self.memory.machine.life();
        let effects = self.memory.machine.next(event, clock::now_boottime(), &self.policy());
        let life = self.memory.machine.life();
        if life.state() != before.state() {
            self.memory.since = clock::now_realtime();
            if life != Life::Failed {
                self.memory.refusals.clear();
            }
            if life != Life::Backoff {
                self.memory.next_attempt = None;
            }
        }
        for effect in &effects {
            match *effect {
                Effect::Delay(delay) => {
                    self.delay = Some(Instant::now() + delay);
                    self.memory.next_attempt = Some(Moment::after(delay));
                }
                Effect::EndDelay => self.delay = None,
                Effect::Start | Effect::Stop => {}
            }
        }
        // What was decided is remembered before it is done: a supervisor that dies in between
        // leaves a decision, not a riddle.
        self.publish();
        self.perform(&effects);
        let error = || self.memory.why_not(life);
        self.jobs.settle(life, error);
    }

    fn perform(&self, effects: &[Effect]) {
        for effect in effects {
            let command = match effect {
                Effect::Start => driver::Command::Start,
                Effect::Stop => driver::Command::Stop { timeout: self.stop_timeout() },
                Effect::Delay(_) | Effect::EndDelay => continue,
            };
            // The driver takes commands faster than a person gives them; it only ends after us.
            if self.links.commands.try_send(command).is_err() {
                tracing::error!("the engine's driver does not take commands");
            }
        }
    }

    /// Tell the world how the engine is, and remember it. Nobody else does.
    fn publish(&mut self) {
        let status = self.status();
        let changed = self.links.mailbox.status.send_if_modified(|last| {
            let changed = **last != status;
            if changed {
                log_change(last, &status);
                *last = Arc::new(status);
            }
            changed
        });
        if changed && let Err(error) = self.links.store.save(&self.memory) {
            tracing::warn!("the state cannot be remembered: {error}");
        }
    }

    fn status(&self) -> Status {
        let loaded = self.links.loaded.borrow();
        let advice = self.engine.plan.as_ref().map_or(&loaded.reasons, |plan| &plan.reasons);
        status(&self.constants, &self.memory, &self.engine, self.stale_config, advice)
    }

    fn begin(&mut self, kind: JobKind, options: &JobOptions) -> Result<Job, Error> {
        if self.ending {
            return Err(Error::new(ErrorKind::Busy, "rootlessd is shutting down"));
        }
        let timeout = options.timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros);
        // A time beyond what the clock can tell is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let job = self.jobs.begin(kind, deadline);
        let life = self.memory.machine.life();
        let event = match kind {
            JobKind::Start => machine::Event::Start,
            JobKind::Stop => machine::Event::Stop,
            JobKind::Restart => machine::Event::Restart,
        };
        match (kind, life) {
            (JobKind::Start, Life::Running | Life::Degraded) | (JobKind::Stop, Life::Stopped) => {
                self.jobs.end(JobResult::Skipped, None);
            }
            _ => self.step(event),
        }
        Ok(self.jobs.get(job.id).unwrap_or(job))
    }

    fn cancel(&mut self, id: u32) -> Result<(), Error> {
        let job = self.jobs.get(id).ok_or_else(|| jobs::no_such_job(id))?;
        if job.state == JobState::Running {
            let error = Error::new(ErrorKind::Canceled, "the job was cancelled");
            self.jobs.end(JobResult::Canceled, Some(error));
            if job.kind != JobKind::Stop {
                self.step(machine::Event::Stop);
            }
        }
        Ok(())
    }

    fn reload(&mut self, reply: Reply<()>) {
        let loaded = match (self.links.reader)() {
            Ok(loaded) => loaded,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let up = self.memory.machine.life().has_engine();
        if up && needs_restart(&self.links.loaded.borrow(), &loaded) {
            self.stale_config = true;
        }
        self.links.loaded.send_replace(loaded);
        self.publish();
        let command = driver::Command::Reload(reply);
        if let Err(mpsc::error::TrySendError::Full(driver::Command::Reload(reply))) =
            self.links.commands.try_send(command)
        {
            let _ = reply.send(Err(Error::new(ErrorKind::Busy, "the engine has too much to do")));
        }
    }

    /// One list of processes serves all who ask while it is made.
    fn tell_status(&mut self, reply: oneshot::Sender<Status>) {
        if self.asking.is_empty() {
            let shim = self.engine.shim;
            self.listing = Some(spawn_blocking(move || processes::list(shim))).into();
        }
        self.asking.push(reply);
    }

    fn answer_asking(&mut self, processes: Vec<Process>) {
        self.listing = None.into();
        let status = Status { processes, ..self.status() };
        for reply in self.asking.drain(..) {
            // Whoever stopped waiting needs no answer.
            let _ = reply.send(status.clone());
        }
    }

    fn bury(&mut self, death: Death) {
        tracing::error!(rootlessd_part = death.part.as_str(), "the engine died: {}", death.text);
        // Only the newest keeps its lines: the older ones are in the log.
        self.memory.deaths.iter_mut().for_each(|death| death.log.clear());
        self.memory.deaths.push(death);
        let excess = self.memory.deaths.len().saturating_sub(TOLD_DEATHS);
        self.memory.deaths.drain(..excess);
    }

    fn forget_engine(&mut self) {
        self.engine = Knowledge::default();
        self.stale_config = false;
    }

    fn policy(&self) -> RestartPolicy {
        let loaded = self.links.loaded.borrow();
        let restart = &loaded.config.engine.restart;
        RestartPolicy {
            limit: restart.limit,
            window: restart.window,
            delay: restart.delay,
            max_delay: restart.max_delay,
        }
    }

    fn stop_timeout(&self) -> Duration {
        self.links.loaded.borrow().config.engine.stop_timeout
    }
}

/// The status that follows from what is known.
fn status(
    constants: &Constants,
    memory: &Memory,
    engine: &Knowledge,
    stale_config: bool,
    advice: &[Reason],
) -> Status {
    let life = memory.machine.life();
    let plan = engine.plan.as_ref();
    let info = engine.facts.as_ref().map(|facts| &facts.info);
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let version = |of: fn(&crate::plan::Versions) -> &Option<String>| {
        plan.and_then(|plan| of(&plan.versions).clone())
    };
    Status {
        state: life.state(),
        phase: life.phase(),
        since: memory.since,
        reasons: memory
            .reasons()
            .chain(engine.unwell.iter().cloned().filter(|_| life == Life::Degraded))
            .chain(stale_config.then(restart_needed))
            .chain(advice.iter().cloned())
            .collect(),
        next_attempt: memory.next_attempt.map(|moment| moment.realtime),
        deaths: memory.deaths.clone(),
        main_pid: engine.main_pid,
        supervisor: constants.supervisor.clone(),
        version: info.map(|info| info.server_version.clone()).or_else(|| version(|it| &it.dockerd)),
        containerd_version: version(|it| &it.containerd),
        runc_version: version(|it| &it.runc),
        rootlesskit_version: version(|it| &it.rootlesskit),
        socket_path: text(&constants.socket),
        data_root: plan.map(|plan| text(&plan.docker.data_root)),
        state_dir: plan.map(|plan| text(&plan.state_dir)),
        network_driver: plan.map(|plan| plan.network_driver.clone()),
        port_driver: plan.map(|plan| plan.port_driver.clone()),
        storage_driver: info.map(|info| info.driver.clone()),
        cgroup_driver: info.map(|info| info.cgroup_driver.clone()),
        controllers: engine.facts.as_ref().map(|it| it.controllers.clone()).unwrap_or_default(),
        containers_running: info.map(|info| info.containers_running),
        processes: vec![],
    }
}

/// Whether the engine has to be started anew to follow the new configuration.
fn needs_restart(old: &Loaded, new: &Loaded) -> bool {
    // What only the supervisor itself goes by is followed at once.
    let mut engine = new.config.clone();
    engine.engine.restart = old.config.engine.restart.clone();
    engine.engine.client_wait = old.config.engine.client_wait;
    engine.engine.start_timeout = old.config.engine.start_timeout;
    engine.engine.stop_timeout = old.config.engine.stop_timeout;
    engine != old.config
}

fn restart_needed() -> Reason {
    let text = "the configuration has changed in ways that the engine reads at its start";
    Code::RestartNeeded.reason_with_remedy(text, "rootlessctl restart")
}

fn unseen_death() -> Death {
    let text = "it died while no rootlessd was there to see it".to_owned();
    shim::death(Part::Shim, None, text, vec![])
}

fn stranger_stop() -> Death {
    let text = "it was stopped in order, and not through rootlessd".to_owned();
    shim::death(Part::Rootlesskit, None, text, vec![])
}

fn out_of_time() -> Error {
    Error::new(ErrorKind::Timeout, "the time for it ran out; the engine goes on")
}

fn log_change(old: &Status, new: &Status) {
    if (old.state, old.phase) == (new.state, new.phase) {
        return;
    }
    let state = new.state.as_str();
    match new.phase {
        Some(phase) => {
            tracing::info!(
                rootlessd_state = state,
                rootlessd_phase = phase.as_str(),
                "{state}: {phase}"
            );
        }
        None => tracing::info!(rootlessd_state = state, "{state}"),
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
