//! The engine's own processes: engine-init by its machine, and the parts as they may behave.

use std::{collections::VecDeque, time::Duration};

use nix::sys::signal::Signal;
use rootlessd_api::Part;

use super::state::{At, Client, Driver, Kit, Proc, Replacing, State, Told};
use crate::engine::init::machine::{Effect, Event, Fault, Machine};

impl Kit {
    pub fn new(live_restore: bool) -> Self {
        let mut machine = Machine::default();
        machine.live_restore = live_restore;
        Self {
            machine,
            hung: false,
            timers: Default::default(),
            reading: false,
            frozen: false,
            containerd: None,
            dockerd: None,
            ending: None,
            no_start: false,
        }
    }

    pub const fn slot(&mut self, part: Part) -> &mut Option<Proc> {
        match part {
            Part::Containerd => &mut self.containerd,
            _ => &mut self.dockerd,
        }
    }

    pub const fn part(&self, part: Part) -> Option<&Proc> {
        match part {
            Part::Containerd => self.containerd.as_ref(),
            _ => self.dockerd.as_ref(),
        }
    }

    /// Whether a part ends by itself now.
    pub fn ends(&self, part: Part) -> bool {
        let stands_still = part == Part::Dockerd && self.frozen;
        self.part(part).is_some_and(|it| {
            let hears = it.asked_to_end && !it.hung && !stands_still;
            !it.dead && !it.stuck && (it.killed || hears)
        })
    }
}

impl State {
    /// engine-init's machine takes an event, and what it says is done. Whether who asked for a
    /// replacement was refused.
    pub fn tell_init(&mut self, event: Event) -> bool {
        let mut refused = false;
        let policy = self.policy().restart;
        let Some(kit) = &mut self.kit else { return true };
        let mut effects: VecDeque<_> = kit.machine.next(event, Duration::ZERO, &policy).into();
        while let Some(effect) = effects.pop_front() {
            let Some(kit) = &mut self.kit else { return true };
            match effect {
                Effect::Start(part) if std::mem::take(&mut kit.no_start) => {
                    let event = Event::NotStarted(part, Fault::Own);
                    effects.extend(kit.machine.next(event, Duration::ZERO, &policy));
                }
                Effect::Start(part) => {
                    if kit.slot(part).replace(Proc::default()).is_some() {
                        self.wrong = Some("a part is started twice");
                    }
                }
                Effect::Signal(part, signal) => self.signal(part, signal),
                Effect::Time(timer, _) => drop(kit.timers.insert(timer)),
                Effect::EndTimer(timer) => drop(kit.timers.remove(&timer)),
                Effect::AnswerWaiting => self.answer_waiting(Replacing::Healing),
                Effect::DropWaiting => self.answer_waiting(Replacing::Asking),
                Effect::Refuse(_) => refused = true,
                Effect::EndLiveRestore => kit.reading = true,
                Effect::DropLiveRestore => kit.reading = false,
                Effect::GiveUp(_) => {
                    self.death = true;
                    kit.ending = Some(false);
                    self.kill_parts();
                }
                Effect::EndAll => {
                    kit.ending = Some(true);
                    self.kill_parts();
                }
                Effect::TellLost(..)
                | Effect::TellReplaced(_)
                | Effect::TellKilled(_)
                | Effect::NoteHung(..)
                | Effect::Configure
                | Effect::TellLeft(..)
                | Effect::Watch => {}
            }
        }
        refused
    }

    /// Whoever waits for a replacement goes on so; `Asking`: is told that there is none.
    fn answer_waiting(&mut self, then: Replacing) {
        let Some(follow) = self.followed_mut() else { return };
        if follow.replacing != Some(Replacing::Waiting) {
            return;
        }
        follow.replacing = Some(then).filter(|&then| then == Replacing::Healing);
        if then == Replacing::Asking {
            self.tell(Told::Replaced(false));
        }
    }

    fn signal(&mut self, part: Part, signal: Signal) {
        let Some(kit) = &mut self.kit else { return };
        let Some(proc) = kit.slot(part) else { return };
        match signal {
            Signal::SIGKILL => proc.killed = true,
            Signal::SIGTERM => proc.asked_to_end = true,
            _ if !proc.ready => self.wrong = Some("dockerd is signalled before it is ready"),
            _ => {}
        }
    }

    fn kill_parts(&mut self) {
        let Some(kit) = &mut self.kit else { return };
        for proc in [&mut kit.containerd, &mut kit.dockerd].into_iter().flatten() {
            proc.killed = true;
        }
    }

    /// A part has ended: nobody talks to it any more.
    pub fn end_part(&mut self, part: Part) {
        let Some(kit) = &mut self.kit else { return };
        if let Some(proc) = kit.slot(part) {
            proc.dead = true;
        }
        if part == Part::Dockerd {
            kit.frozen = false;
            self.hang_up();
        }
    }

    pub fn hang_up(&mut self) {
        if self.client == Client::Talking {
            self.client = Client::None;
        }
    }

    /// RootlessKit, and engine-init with it, has ended: the kernel kills its children.
    pub fn end_kit(&mut self, in_order: bool) {
        if let Some(kit) = self.kit.take()
            && let Some(dockerd) = kit.dockerd.filter(|it| !it.dead)
        {
            self.orphans.push(Proc { killed: true, ..dockerd });
            self.hang_up();
        }
        if let Some(shim) = &mut self.shim {
            shim.at = At::Ending { in_order };
        }
        self.answer_waiting(Replacing::Asking);
    }

    /// The same, which engine-shim sees: it writes down what was a death.
    pub fn kit_ends(&mut self, in_order: bool) {
        self.death |= !in_order && self.shim.is_some_and(|shim| !shim.hung);
        self.end_kit(in_order);
    }

    /// engine-shim has ended, and RootlessKit with it.
    pub fn end_shim(&mut self, succeeded: bool) {
        self.end_kit(false);
        self.shim = None;
        self.succeeded = succeeded;
    }

    /// Everything of the engine is killed.
    pub fn kill_all(&mut self) {
        self.end_shim(false);
        self.orphans.iter_mut().for_each(|it| it.killed = true);
    }

    /// The driver tells the supervisor.
    pub fn tell(&mut self, told: Told) {
        if let Some(supervisor) = self.supervisor_mut() {
            supervisor.events.push(told);
        }
    }

    /// What engine-init does for rootlessd ends with the connection.
    pub fn unfreeze(&mut self) {
        if let Some(follow) = self.followed_mut() {
            follow.frozen = false;
        }
        if let Some(kit) = &mut self.kit {
            kit.frozen = false;
        }
    }

    pub fn drive(&mut self, driver: Driver) {
        if let Some(supervisor) = self.supervisor_mut() {
            supervisor.driver = driver;
        }
    }
}
