//! rootlessd, and in it the supervisor by its machine.

use std::time::Duration;

use rootlessd_api::{JobKind, JobOptions};

use super::{
    Broken,
    state::{Driver, Follow, Rootlessd, State, Told},
};
use crate::{
    engine::driver::course::Wish,
    supervisor::{
        jobs,
        machine::{self, Found, Machine, Resumption},
        requests::{self, Work},
    },
};

impl super::state::Supervisor {
    pub fn new(machine: Machine, driver: Driver) -> Self {
        Self {
            machine,
            delay: false,
            job: None,
            unwell: false,
            replaced: false,
            commands: vec![],
            events: vec![],
            driver,
        }
    }

    fn settle_replacement(&mut self) {
        if self.replaced && !self.unwell && self.job == Some(JobKind::Replacement) {
            self.replaced = false;
            self.job = None;
        }
    }
}

impl State {
    /// The supervisor's machine takes an event. What it says is remembered, and sent to the driver.
    pub fn step(&mut self, event: machine::Event) {
        let policy = self.policy();
        // Without a window there are no others.
        let forgets = self.broken == Some(Broken::OnlyTheWindowCounts);
        let Some(supervisor) = self.supervisor_mut() else { return };
        if forgets {
            let _ = supervisor.machine.next(machine::Event::ResetFailed, Duration::ZERO, &policy);
        }
        let effects = supervisor.machine.next(event, Duration::ZERO, &policy);
        for effect in effects {
            match effect {
                machine::Effect::Delay(_) => supervisor.delay = true,
                machine::Effect::EndDelay => supervisor.delay = false,
                machine::Effect::Start => supervisor.commands.push(Wish::Start),
                machine::Effect::Stop => supervisor.commands.push(Wish::Stop),
            }
        }
        let life = supervisor.machine.life();
        if supervisor.job.is_some_and(|kind| jobs::outcome(kind, life).is_some()) {
            supervisor.job = None;
        }
        self.saved = supervisor.machine.clone();
    }

    /// Somebody asks for a job.
    pub fn request(&mut self, kind: JobKind, keep: bool) {
        let Some(supervisor) = self.supervisor_mut() else { return };
        let life = supervisor.machine.life();
        let options = JobOptions { keep_containers: keep.then_some(true), ..JobOptions::default() };
        // Refused, and told so.
        let Ok(kind) = requests::effective_kind(kind, &options, life) else { return };
        let is_at_work = supervisor.job == Some(kind);
        supervisor.job = Some(kind);
        match requests::work(kind, life, is_at_work) {
            Work::Skip => supervisor.job = None,
            Work::Take(event) => self.step(event),
            Work::Join => {}
            Work::Replace { .. } => {
                supervisor.replaced = false;
                supervisor.commands.push(Wish::Replace);
            }
        }
        if kind != JobKind::Replacement {
            self.wanted = Some(kind);
        }
    }

    /// The supervisor takes the next that the driver told.
    pub fn learn(&mut self) {
        let Some(supervisor) = self.supervisor_mut() else { return };
        match supervisor.events.remove(0) {
            Told::Phase(phase) => self.step(machine::Event::Phase(phase)),
            Told::Healthy => {
                supervisor.unwell = false;
                self.step(machine::Event::Healthy);
                self.supervisor_mut().into_iter().for_each(|it| it.settle_replacement());
            }
            Told::Unhealthy => {
                supervisor.unwell = true;
                self.step(machine::Event::Unhealthy);
            }
            Told::Idle => {
                self.step(machine::Event::Idle);
                self.wanted = self.wanted.filter(|&kind| kind == JobKind::Stop);
            }
            Told::Replaced(done) => {
                supervisor.replaced = done;
                if supervisor.job == Some(JobKind::Replacement) && !done {
                    supervisor.job = None;
                }
                supervisor.settle_replacement();
            }
            Told::Gone | Told::Died | Told::Starved if !supervisor.machine.life().has_engine() => {}
            Told::Gone => self.step(machine::Event::Gone),
            Told::Died => self.step(machine::Event::Died),
            Told::Starved => self.step(machine::Event::Starved),
            Told::Refused => self.step(machine::Event::Refused),
        }
    }

    /// rootlessd is killed. Its connections and channels end with it.
    pub fn end_rootlessd(&mut self) {
        self.unfreeze();
        self.rootlessd = Rootlessd::Dead;
    }

    /// The next rootlessd begins.
    pub fn begin_rootlessd(&mut self) {
        if self.record && self.shim.is_some() {
            self.resume(Found::Engine, Driver::Follow(Follow::new(false)));
        } else {
            self.rootlessd = Rootlessd::Burying { told: self.death };
            self.kill_all();
        }
    }

    /// What is left of the last engine is ended, and the next rootlessd goes on.
    pub fn bury(&mut self, told: bool) {
        self.remove_files();
        self.resume(if told { Found::Death } else { Found::Nothing }, Driver::Rest);
    }

    fn resume(&mut self, found: Found, driver: Driver) {
        let machine = self.saved.clone();
        let resumption = machine.resume(found, &self.policy());
        let mut supervisor = super::state::Supervisor::new(machine, driver);
        supervisor.delay =
            resumption == Resumption::AwaitDelay && self.broken != Some(Broken::ForgetsDelay);
        self.rootlessd = Rootlessd::Live(supervisor);
        match resumption {
            Resumption::Rest | Resumption::AwaitDelay => {}
            Resumption::Take(event) => self.step(event),
            Resumption::Do(effect) => {
                let wish = match effect {
                    machine::Effect::Start => Wish::Start,
                    _ => Wish::Stop,
                };
                self.supervisor_mut().into_iter().for_each(|it| it.commands.push(wish));
            }
        }
    }

    pub const fn remove_files(&mut self) {
        self.record = false;
        self.death = false;
    }
}
