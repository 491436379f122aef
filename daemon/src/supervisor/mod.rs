//! The supervisor: one task that owns the state of the engine. Requests come in by the
//! [`handle`], events by the [engine's channel](crate::engine::driver); the [`machine`] decides,
//! and [`Supervisor::publish`] is the one place where the world is told.

mod deaths;
pub mod handle;
pub(crate) mod jobs;
pub mod machine;
pub mod memory;
mod parts;
mod ports;
mod reload;
pub(crate) mod requests;
mod status;

use std::{sync::Arc, time::Duration};

use futures_util::future::OptionFuture;
use rootlessd_api::{Error, ErrorKind, JobResult, Process, Reason, Status};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use self::status::Constants;
use self::{
    handle::{Mailbox, Reply},
    jobs::Jobs,
    machine::{Effect, Found, Life, Policy, Resumption},
    memory::{Memory, Moment, Store},
    ports::Ports,
    status::Knowledge,
};
use crate::{
    config::{Loaded, Reader},
    engine::{
        driver::{self, Unseen},
        processes::Processes,
    },
    events::Recorder,
    helper::Helper,
    sys::clock::{self, Alarm},
};

/// How the supervisor ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The engine is stopped first.
    StopEngine,
    /// The engine is stopped first, for this reason, and another supervisor begins.
    BeginAnew(Reason),
    /// The engine stays, for the next supervisor to take over.
    LeaveEngine,
}

/// What there is of an engine when a supervisor begins.
#[derive(Debug)]
pub enum Inheritance {
    /// One that an earlier supervisor left running. The driver will tell how it is and how it ends.
    Engine,
    /// None. The driver says nothing.
    Nothing(Unseen),
}

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
    /// Where it is read again.
    pub reader: Reader,
    /// Who grants ports.
    pub helper: Helper,
    /// Where to remember.
    pub store: Store,
    /// Who records what happens.
    pub recorder: Recorder,
}

/// The supervisor.
pub struct Supervisor {
    links: Links,
    constants: Constants,
    memory: Memory,
    /// What of it is in the file.
    saved: Memory,
    jobs: Jobs,
    engine: Knowledge,
    ports: Ports,
    /// When the delay of a back-off is over.
    delay: Option<Alarm>,
    ending: Option<Shutdown>,
    /// Who waits for a status with processes, and the list that is being made for all of them.
    asking: Vec<oneshot::Sender<Arc<Status>>>,
    listing: OptionFuture<JoinHandle<(Processes, Vec<Process>)>>,
    /// What is known of them, unless such a list is being made.
    processes: Processes,
    /// Who waits for the next reload, and the one that is at work.
    reloads: Vec<Reply<()>>,
    reloading: Option<reload::Work>,
}

impl Supervisor {
    /// A supervisor that remembers `memory`.
    pub fn new(links: Links, constants: Constants, memory: Memory) -> Self {
        let jobs = Jobs::new(links.mailbox.jobs.clone());
        Self {
            links,
            constants,
            saved: memory.clone(),
            memory,
            jobs,
            engine: Knowledge::default(),
            ports: Ports::default(),
            delay: None,
            ending: None,
            asking: vec![],
            listing: None.into(),
            processes: Processes::default(),
            reloads: vec![],
            reloading: None,
        }
    }

    /// The status before anything happened.
    pub fn first_status(constants: &Constants, memory: &Memory) -> Status {
        status::status(
            constants,
            memory,
            &Knowledge::default(),
            &Ports::default(),
            &Loaded::default(),
        )
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
                Some(()) = OptionFuture::from(wake.map(Alarm::rings)) => {
                    self.delay = None;
                    self.step(machine::Event::DelayOver);
                }
                Some(step) = OptionFuture::from(self.reloading.as_mut()) => self.go_on_reloading(step),
                news = self.ports.news() => self.learn_ports(news),
                Some(list) = &mut self.listing => self.answer_asking(list.unwrap_or_default()),
                () = clock::until(deadline) => self.jobs.end(JobResult::Timeout, Some(out_of_time())),
                Some(how) = self.links.shutdown.recv() => match how {
                    Shutdown::LeaveEngine => return self.end(how),
                    Shutdown::StopEngine | Shutdown::BeginAnew(_) => {
                        if let Shutdown::BeginAnew(reason) = &how {
                            self.engine.uprooted = Some(reason.clone());
                        }
                        // Who was told to end does not begin anew.
                        if !matches!(self.ending, Some(Shutdown::StopEngine)) {
                            self.ending = Some(how);
                        }
                        self.step(machine::Event::Stop);
                    }
                },
            }
            if let Some(how) = &self.ending
                && !self.memory.machine.life().has_engine()
            {
                // The next supervisor starts from nothing, as after a boot.
                if let Err(error) = self.links.store.clear() {
                    tracing::warn!("the state cannot be forgotten: {error}");
                }
                let how = how.clone();
                return self.end(how);
            }
        }
    }

    /// Tell that this is the end.
    fn end(&mut self, how: Shutdown) -> Shutdown {
        let status = self.status();
        self.links.recorder.end(&status, &how);
        how
    }

    /// Go on where the last supervisor was.
    fn resume(&mut self, inherited: Inheritance) {
        let status = self.status();
        self.links.recorder.begin(&status, matches!(inherited, Inheritance::Engine));
        let (found, Unseen { death, incidents }) = match inherited {
            Inheritance::Engine => (Found::Engine, Unseen::default()),
            Inheritance::Nothing(unseen) if unseen.death.is_none() => (Found::Nothing, unseen),
            Inheritance::Nothing(unseen) => (Found::Death, unseen),
        };
        self.remember_unseen(&incidents);
        match self.memory.machine.resume(found, &self.policy()) {
            Resumption::Rest => {}
            Resumption::Do(effect) => self.perform(&[effect]),
            Resumption::Take(event) => {
                if event == machine::Event::Died {
                    let mut death = death.unwrap_or_else(deaths::unseen_death);
                    death.text += &self.casualties();
                    self.bury(death);
                }
                self.step(event);
            }
            Resumption::AwaitDelay => {
                let left = self.memory.next_attempt.map_or(Duration::ZERO, Moment::left);
                self.delay = Some(Alarm::after(left));
            }
        }
        if found != Found::Engine {
            self.memory.incidents_taken = 0;
            self.memory.containers = 0;
        }
        self.publish();
    }

    /// Take what the engine tells.
    fn learn(&mut self, event: driver::Event) {
        use driver::Event as E;
        match event {
            E::Phase(phase) => self.step(machine::Event::Phase(phase)),
            E::Launched { plan, shim } => {
                self.engine =
                    Knowledge { plan: Some(*plan), shim: Some(shim), ..Knowledge::default() };
                self.publish();
            }
            E::Replanned(plan) => {
                self.engine.plan = Some(*plan);
                self.publish();
            }
            E::MainPid(pid) => {
                self.engine.main_pid = Some(pid);
                self.publish();
            }
            E::Healthy(facts) => {
                self.memory.containers = facts.info.containers_running;
                self.engine.facts = Some(facts);
                if self.engine.is_dying() {
                    // It was well when it was asked.
                    self.publish();
                    return;
                }
                self.engine.unwell = None;
                self.step(match self.engine.lost.is_empty() {
                    true => machine::Event::Healthy,
                    false => machine::Event::Unhealthy,
                });
                self.settle_replacement();
            }
            // Why it is dying is told, and what a probe says now comes of that.
            E::Unhealthy(_) if self.engine.is_dying() => {}
            E::Unhealthy(reason) => {
                self.engine.unwell = Some(reason);
                self.step(machine::Event::Unhealthy);
            }
            // Of one that comes up or goes down, its end says all.
            E::Dying(reason) => {
                if matches!(self.memory.machine.life(), Life::Running | Life::Degraded) {
                    self.engine.unwell = Some(reason);
                    self.step(machine::Event::Unhealthy);
                }
            }
            E::Idle => self.step(machine::Event::Idle),
            E::OutOfReach => {
                if matches!(self.memory.machine.life(), Life::Stopping(..)) {
                    return;
                }
                tracing::warn!(
                    "the engine serves a socket that was replaced by another meanwhile: it is \
                     restarted, so that clients reach it again"
                );
                self.step(machine::Event::Restart);
            }
            E::Refused(reasons) => {
                self.memory.refusals = reasons;
                self.engine = Knowledge::default();
                self.step(machine::Event::Refused);
            }
            E::Starved { reasons, death } => {
                self.lose_engine(machine::Event::Starved, death, reasons);
            }
            E::Short(reasons) => {
                self.engine.short = reasons;
                self.publish();
            }
            E::Granted(ports) => {
                self.ports.granted = ports;
                self.publish();
            }
            E::PortsRefused(ports) => {
                self.ports.refused = ports;
                self.publish();
            }
            E::Incidents(incidents) => self.learn_incidents(&incidents),
            E::Replaced(result) => self.take_replacement(result),
            E::PortAsked { port, reply } => self.ask_for_port(port, reply),
            E::Gone => {
                self.lose_engine(machine::Event::Gone, Some(deaths::stranger_stop()), vec![]);
            }
            E::Died(death) => {
                let killed = deaths::killed_for_memory(&death).into_iter().collect();
                self.lose_engine(machine::Event::Died, Some(death), killed);
            }
        }
    }

    /// Let the machine take an event, do what it says, and tell the world.
    fn step(&mut self, event: machine::Event) {
        let before = self.memory.machine.life();
        let effects = self.memory.machine.next(event, clock::now_boottime(), &self.policy());
        let life = self.memory.machine.life();
        if !matches!(life, Life::Backoff | Life::Starting(_)) {
            self.memory.shortages.clear();
        }
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
                    self.delay = Some(Alarm::after(delay));
                    self.memory.next_attempt = Some(Moment::after(delay));
                }
                Effect::EndDelay => self.delay = None,
                Effect::Start | Effect::Stop => {}
            }
        }
        self.publish_after(Some(event));
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
            self.command(command);
        }
    }

    fn command(&self, command: driver::Command) {
        // There is room: at most one start, one stop, one reload and one replacement of each kind are
        // on their way, as an engine comes to its end before the next start, and the reloads wait for
        // each other.
        if self.links.commands.try_send(command).is_err() {
            tracing::error!("the engine's driver does not take commands");
        }
    }

    /// Tell the world how the engine is, and remember it. Nobody else does.
    fn publish(&mut self) {
        self.publish_after(None);
    }

    /// The same, after the machine took an event.
    fn publish_after(&mut self, event: Option<machine::Event>) {
        let status = self.status();
        // What was decided is remembered before it is told: a supervisor that dies in between
        // leaves a decision, not a riddle.
        if self.memory != self.saved {
            match self.links.store.save(&self.memory) {
                Ok(()) => self.saved = self.memory.clone(),
                // It is tried again with the next change of the status.
                Err(error) => tracing::warn!("the state cannot be remembered: {error}"),
            }
        }
        let (old, status) = (self.links.mailbox.status.borrow().clone(), Arc::new(status));
        if old != status {
            self.links.mailbox.status.send_replace(status.clone());
        }
        // Behind the status, so that who is told of an event finds what it brought about.
        self.links.recorder.take(&status, event);
        status::log_phase(&old, &status);
    }

    fn status(&self) -> Status {
        let loaded = self.links.loaded.borrow();
        status::status(&self.constants, &self.memory, &self.engine, &self.ports, &loaded)
    }

    fn policy(&self) -> Policy {
        let loaded = self.links.loaded.borrow();
        let engine = &loaded.config.engine;
        Policy { restart: (&engine.restart).into(), listens: engine.listens() }
    }

    fn stop_timeout(&self) -> Duration {
        self.links.loaded.borrow().config.engine.stop_timeout
    }
}

fn out_of_time() -> Error {
    Error::new(ErrorKind::Timeout, "the time for it ran out; the engine goes on")
}
