//! What can happen next.

use rootlessd_api::{Part, Reason, Status};
use std::time::Duration;

use super::{
    outside::{Asked, Fault},
    state::{At, Client, Driver, Looking, Proc, Replacing, Rootlessd, State, Supervisor, Told},
};
use crate::{
    doorman::{self, Door},
    engine::{
        driver::course,
        init::{Stage, machine as init},
    },
    reasons::Code,
    supervisor::machine,
    testing,
};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on by itself.
    Goes(Step),
    /// A time is over. `late`: though what was waited for was about to come.
    Over { due: Due, late: bool },
    /// Somebody asks for something.
    Asked(Asked),
    /// Something breaks.
    Breaks(Fault),
}

/// What goes on by itself, sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// rootlessd: begins, has ended what was left, takes what was told, does what was decided.
    Begin,
    Bury,
    Learn,
    Obey,
    Launch,
    Swept,
    /// It sees how the engine is.
    Hear,
    SeeGone,
    Probe,
    /// It finds that engine-init does not hear.
    FindDeaf,
    Replace,
    Look,
    /// The engine's processes.
    EnterNamespaces,
    EndYoung,
    EndHeld,
    EndShim,
    EndKit,
    EndOrphan(usize),
    Unstick,
    GetReady(Part),
    TakeReady(Part),
    /// It is found to hang.
    FindHung(Part),
    End(Part),
    TakeExit(Part),
    Read,
    /// The client, and the doorman.
    Accept,
    HangUp,
    Answer,
    Demand,
}

/// What waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Delay,
    Course,
    /// A process that is killed does not end.
    Sweep,
    Shim,
    /// engine-shim does not end with a RootlessKit that the driver killed.
    Kill,
    /// A client has waited for long enough, and is told why in vain.
    Client,
    Init(init::Timer),
}

const PARTS: [Part; 2] = [Part::Containerd, Part::Dockerd];

/// What goes on by itself in a state.
pub fn steps(state: &State) -> Vec<Step> {
    let mut steps = vec![];
    let mut may = |step, if_so: bool| steps.extend(if_so.then_some(step));
    match &state.rootlessd {
        Rootlessd::Dead => may(Step::Begin, true),
        Rootlessd::Burying { .. } => may(Step::Bury, state.orphans.is_empty()),
        Rootlessd::Live(supervisor) => {
            let driver = &supervisor.driver;
            let is_sweeping = matches!(driver, Driver::Clean | Driver::Sweep { .. });
            may(Step::Learn, !supervisor.events.is_empty());
            let hears = !matches!(driver, Driver::Sweep { .. });
            may(Step::Obey, !supervisor.commands.is_empty() && hears);
            may(Step::Launch, matches!(driver, Driver::Preflight | Driver::Held { .. }));
            may(Step::Swept, is_sweeping && state.orphans.is_empty());
        }
    }
    if let Some(follow) = state.followed() {
        let kit = state.kit.as_ref().filter(|kit| !kit.hung);
        let told = kit.map(|kit| (kit.machine.stage(), kit.machine.phase()));
        may(Step::Hear, told.is_some() && told != follow.heard);
        may(Step::SeeGone, state.shim.is_none());
        let silent = follow.replacing == Some(Replacing::Waiting);
        may(Step::Probe, follow.probing && !silent && follow.probed != Some(state.is_well()));
        let misses = follow.probing && !silent && follow.probed == Some(false);
        may(Step::FindDeaf, misses && kit.is_none() && state.shim.is_some() && !follow.killing);
        may(
            Step::Replace,
            match follow.replacing {
                Some(Replacing::Asking) => follow.heard.is_some(),
                Some(Replacing::Waiting) => kit.is_none(),
                Some(Replacing::Healing) => follow.probing && state.is_well(),
                None => false,
            },
        );
        may(Step::Look, follow.looking == Looking::Sure);
    }
    if let Some(shim) = state.shim.filter(|shim| !shim.hung) {
        let held = matches!(state.supervisor().map(|it| &it.driver), Some(Driver::Held { .. }));
        may(Step::EndHeld, shim.at == At::Held && !held);
        may(Step::EndShim, matches!(shim.at, At::Ending { .. }) && state.orphans.is_empty());
        may(Step::EndYoung, shim.at == At::Young { signalled: true });
    }
    let is_young = |at| matches!(at, At::Young { .. });
    may(Step::EnterNamespaces, state.shim.is_some_and(|shim| is_young(shim.at)));
    for (index, orphan) in state.orphans.iter().enumerate() {
        may(Step::EndOrphan(index), orphan.killed && !orphan.stuck);
    }
    may(Step::Unstick, state.is_stuck());
    if let Some(kit) = &state.kit {
        let alive = |part| kit.part(part).filter(|it| !it.dead);
        may(
            Step::EndKit,
            kit.ending.is_some() && !kit.hung && PARTS.iter().all(|&it| alive(it).is_none()),
        );
        for part in PARTS {
            let never = state.slow && part == Part::Dockerd;
            let gets_ready = |it: &Proc| !(it.ready || it.hung || it.stuck || it.killed || never);
            let stands = part == Part::Dockerd && kit.frozen;
            may(Step::GetReady(part), alive(part).is_some_and(gets_ready) && !stands);
            let hears = !kit.is_deaf();
            may(Step::TakeReady(part), hears && kit.part(part).is_some_and(|it| it.said));
            let hangs =
                |it: &Proc| it.ready && it.hung && !(it.said || it.asked_to_end || it.killed);
            let may_end = part == Part::Containerd || kit.machine.live_restore;
            let found = hears && kit.machine.stage() == Stage::Ready && !kit.frozen && may_end;
            may(Step::FindHung(part), found && alive(part).is_some_and(hangs));
            may(Step::End(part), kit.ends(part));
            may(Step::TakeExit(part), hears && kit.part(part).is_some_and(|it| it.dead));
        }
        may(Step::Read, kit.reading && !kit.is_deaf() && state.is_well());
    }
    may(Step::Accept, state.client == Client::Queued && state.is_well());
    may(Step::HangUp, state.client == Client::Talking);
    if let Some(supervisor) = state.supervisor()
        && state.client == Client::Queued
    {
        let door = door(state, supervisor);
        may(Step::Answer, matches!(door, Door::Answer(_)));
        may(Step::Demand, door == Door::Start);
    }
    steps
}

/// What the doorman does with a client that has not waited yet.
fn door(state: &State, supervisor: &Supervisor) -> Door {
    let lost = Code::PartBeingReplaced.reason("dockerd is lost");
    let lost = Reason { part: Part::Dockerd, ..lost };
    let reasons = state.misses_dockerd().then_some(lost).into_iter().collect();
    let life = supervisor.machine.life();
    let status = Status { state: life.state(), reasons, ..testing::status() };
    doorman::door(&status, Duration::ZERO, Duration::from_secs(30), None)
}

const fn is_bounded(door: &Door) -> bool {
    matches!(door, Door::Queue(Some(_)))
}

/// The times that run.
pub fn dues(state: &State) -> Vec<Due> {
    let mut dues = vec![];
    let is_stuck = state.orphans.iter().any(|it| it.stuck);
    if let Some(supervisor) = state.supervisor() {
        dues.extend(supervisor.delay.then_some(Due::Delay));
        let is_sweeping = matches!(supervisor.driver, Driver::Clean | Driver::Sweep { .. });
        dues.extend((is_sweeping && is_stuck).then_some(Due::Sweep));
        let waits = state.client == Client::Queued;
        dues.extend((waits && is_bounded(&door(state, supervisor))).then_some(Due::Client));
    }
    if matches!(state.rootlessd, Rootlessd::Burying { .. }) && is_stuck {
        dues.push(Due::Sweep);
    }
    let ends = state.shim.is_some_and(|it| !it.hung && matches!(it.at, At::Ending { .. }));
    dues.extend((ends && is_stuck).then_some(Due::Shim));
    dues.extend(state.followed().filter(|follow| follow.timed).map(|_| Due::Course));
    dues.extend(
        state.followed().filter(|it| it.killing && state.shim.is_some()).map(|_| Due::Kill),
    );
    if let Some(kit) = state.kit.as_ref().filter(|kit| !kit.is_deaf()) {
        dues.extend(kit.timers.iter().copied().map(Due::Init));
    }
    dues
}

impl State {
    /// Go on.
    pub fn go(&mut self, step: Step, live_restore: bool) {
        match step {
            Step::Begin => self.begin_rootlessd(),
            Step::Bury => {
                if let Rootlessd::Burying { told } = self.rootlessd {
                    self.bury(told);
                }
            }
            Step::Learn => self.learn(),
            Step::Obey => self.obey(),
            Step::Launch => self.launch(),
            Step::Swept => self.swept(),
            Step::Hear => {
                let told = self.kit.as_ref().map(|kit| (kit.machine.stage(), kit.machine.phase()));
                if let (Some(told), Some(follow)) = (told, self.followed_mut()) {
                    follow.heard = Some(told);
                    self.take(course::Event::Told(told.0, told.1));
                }
            }
            Step::SeeGone => self.see_gone(),
            Step::Probe => {
                let is_well = self.is_well();
                if let Some(follow) = self.followed_mut() {
                    follow.probed = Some(is_well);
                }
                self.tell(if is_well { Told::Healthy } else { Told::Unhealthy });
            }
            Step::FindDeaf => self.take(course::Event::Deaf),
            Step::Replace => self.go_on_replacing(),
            Step::Look => self.look(),
            Step::EnterNamespaces => {
                if let Some(shim) = &mut self.shim {
                    shim.at = At::Up;
                }
                self.kit = Some(super::state::Kit::new(live_restore));
                self.tell_init(init::Event::Begun);
            }
            Step::EndYoung => self.kit_ends(false),
            Step::EndHeld => self.end_shim(false),
            Step::EndShim => {
                let in_order = self.shim.is_some_and(|it| it.at == At::Ending { in_order: true });
                match in_order {
                    true => self.record = false,
                    false => self.death = true,
                }
                self.end_shim(in_order);
            }
            Step::EndKit => {
                let in_order = self.kit.as_ref().and_then(|kit| kit.ending).unwrap_or_default();
                self.kit_ends(in_order);
            }
            Step::EndOrphan(index) => self.orphan_ends(index),
            Step::Unstick => self.unstick(),
            Step::GetReady(part) => {
                if let Some(it) = self.kit.as_mut().and_then(|kit| kit.slot(part).as_mut()) {
                    (it.ready, it.said) = (true, true);
                }
            }
            Step::TakeReady(part) => {
                if let Some(it) = self.kit.as_mut().and_then(|kit| kit.slot(part).as_mut()) {
                    it.said = false;
                }
                self.tell_init(init::Event::Ready(part));
            }
            Step::FindHung(part) => {
                // Without containers it is as if it died.
                let hung = init::Event::Hung { part, why: String::new(), containers: true };
                self.tell_init(hung);
            }
            Step::End(part) => self.end_part(part),
            Step::TakeExit(part) => {
                let proc = self.kit.as_mut().and_then(|kit| kit.slot(part).take());
                let fault = match proc {
                    Some(Proc { starved: true, .. }) => init::Fault::Shortage,
                    _ => init::Fault::Own,
                };
                self.tell_init(init::Event::Exited(part, fault));
            }
            Step::Read => {
                if let Some(kit) = &mut self.kit {
                    kit.reading = false;
                }
                self.tell_init(init::Event::LiveRestoreEnded);
            }
            Step::Accept => self.client = Client::Talking,
            Step::HangUp | Step::Answer => self.client = Client::None,
            Step::Demand => {
                self.wanted = None;
                self.step(machine::Event::Client);
            }
        }
    }

    /// A time is over.
    pub fn come(&mut self, due: Due) {
        match due {
            Due::Delay => {
                if let Some(supervisor) = self.supervisor_mut() {
                    supervisor.delay = false;
                }
                self.step(machine::Event::DelayOver);
            }
            Due::Course => self.take(course::Event::OutOfTime),
            Due::Sweep => match self.rootlessd {
                Rootlessd::Burying { told } => self.bury(told),
                _ => self.swept(),
            },
            Due::Kill => self.end_shim(false),
            Due::Client => self.client = Client::None,
            Due::Shim => self.go(Step::EndShim, false),
            Due::Init(timer) => {
                if let Some(kit) = &mut self.kit {
                    kit.timers.remove(&timer);
                }
                self.tell_init(init::Event::Over(timer));
            }
        }
    }
}
