//! What engine-init does about its parts as a pure machine: (state, event) → (state, effects), as the
//! [supervisor's](crate::supervisor::machine). Nothing here reads a clock, starts a process or signals
//! one; [`Init`](super::Init) does.
//!
//! The way up is here, [replacement](mend) and the [way down](descent) below.

mod descent;
mod mend;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nix::sys::signal::Signal;
use rootlessd_api::{Part, Phase};

use self::descent::Way;
use super::Stage;
use crate::restart_policy::{Deaths, RestartPolicy};

/// What can happen to an engine inside its namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Everything is prepared.
    Begun,
    /// What [`Effect::Start`] wanted cannot be started.
    NotStarted(Part, Fault),
    /// A part says that it is ready.
    Ready(Part),
    /// A part has ended.
    Exited(Part, Fault),
    /// A part was found to hang, so, while containers ran or not.
    Hung { part: Part, why: String, containers: bool },
    /// What a timer was for is over.
    Over(Timer),
    /// dockerd's configuration was written anew.
    Configured,
    /// Somebody wants parts replaced under the containers.
    Replace(BTreeSet<Part>),
    /// Everything is to stop.
    Stop {
        /// Whether there are no containers, and dockerd stands still.
        idle: bool,
    },
    /// dockerd will stop its containers when it ends, or cannot be told to.
    LiveRestoreEnded,
}

/// Whose fault it was that a part ended, or cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Its own.
    Own,
    /// The machine's, which is short of something for now.
    Shortage,
}

/// What is to be done about an event, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a part.
    Start(Part),
    /// Send a part a signal.
    Signal(Part, Signal),
    /// Send [`Event::Over`] after this, in place of what was said of that timer before.
    Time(Timer, Limit),
    /// Do not send it any more.
    EndTimer(Timer),
    /// Tell that a part is lost, and is replaced.
    TellLost(Part, Loss),
    /// Tell that a part is replaced.
    TellReplaced(Part),
    /// This is why a part hung, and is ended.
    NoteHung(Part, String),
    /// Tell that a part that hangs is left as it is.
    TellLeft(Part, String),
    /// Write the configuration by which dockerd is to go on: it was started by another, or before that was
    /// known.
    Configure,
    /// Answer all who wait for a replacement.
    AnswerWaiting,
    /// Who asked last for a replacement gets none.
    Refuse(Refusal),
    /// Watch what is watched of an engine that is up.
    Watch,
    /// Have dockerd read that it is to stop its containers when it ends, and send
    /// [`Event::LiveRestoreEnded`].
    EndLiveRestore,
    /// Do not wait for that any more.
    DropLiveRestore,
    /// Nothing is replaced any more, and whoever waits for it need not.
    DropWaiting,
    /// The containers cannot be stopped in order, and are killed.
    TellKilled(Killing),
    /// All of it dies of what happened.
    GiveUp(Verdict),
    /// It has stopped: end what is left of it.
    EndAll,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A part's start or end.
    Part(Part),
    /// The pause before the next part is started.
    Pause,
    /// dockerd's reading of its configuration.
    Reading,
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As a part may take to get ready.
    Start,
    /// As a part may take to end that is to be replaced.
    End,
    /// This.
    Pause(Duration),
    /// As dockerd may take on the way down to read its configuration.
    Reading,
    /// As this part may take on the way down to end.
    Stop(Part),
}

/// Why a part is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Somebody wants it.
    Asked,
    /// It does not see what ends while its containerd is away.
    Blind,
}

/// How a part was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It died, or could not be started.
    Died,
    /// It was ended.
    Ended(Why),
}

/// Why an engine is given up that lost a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was on its way up: one that never was ready would hardly be at the next try.
    TooYoung,
    /// A new dockerd would end the containers that it finds, and start none of them again.
    KeepsNothing,
    /// So many parts died within the window, or since none was lost.
    TooMany(u32),
}

/// Why nothing is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is on its way up, or down.
    NotUp,
    /// Containers do not outlive dockerd.
    KeepsNothing,
}

/// Why containers are killed on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killing {
    /// A part was lost, and is not replaced.
    Lost(Verdict),
    /// dockerd does not read its configuration.
    NotRead,
}

/// A part that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Running {
    /// Whether it said that it is ready.
    ready: bool,
    /// Whether its configuration was written anew before it could be told so.
    stale: bool,
    /// Whether a timer runs for it: until it is to be ready, or to have ended.
    timed: bool,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    stage: Stage,
    phase: Phase,
    containerd: Option<Running>,
    dockerd: Option<Running>,
    /// Whether containers outlive the dockerd that runs, or ran last, by the configuration that was written for it.
    pub live_restore: bool,
    /// The deaths of parts that count.
    deaths: Deaths,
    /// When a part was last lost for a shortage.
    starved: Option<Duration>,
    /// Who is not ready again.
    lost: BTreeSet<Part>,
    /// Who is to end and be replaced, and has not ended yet; and why.
    ending: BTreeMap<Part, Why>,
    /// Whether the next one has to wait for its start.
    pausing: bool,
    /// How far it is on the way down.
    way: Way,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            stage: Stage::Starting,
            phase: Phase::Network,
            containerd: None,
            dockerd: None,
            live_restore: false,
            deaths: Deaths::default(),
            starved: None,
            lost: BTreeSet::new(),
            ending: BTreeMap::new(),
            pausing: false,
            way: Way::Up,
        }
    }
}

impl Machine {
    /// Whether it comes up, is up, or goes down.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// What it is busy with, on the way up or down.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Take `event` at `now` (CLOCK_BOOTTIME), and say what is to be done.
    #[must_use]
    pub fn next(&mut self, event: Event, now: Duration, policy: &RestartPolicy) -> Vec<Effect> {
        let mut effects = vec![];
        let done = &mut effects;
        let verdict = match (event, self.way) {
            (Event::Begun, _) => {
                self.phase = Phase::Containerd;
                self.start(Part::Containerd, done);
                Ok(())
            }
            (Event::Stop { idle }, Way::Up) => {
                self.descend(idle, done);
                Ok(())
            }
            // A second one is none.
            (Event::Stop { .. }, _) => Ok(()),
            (Event::Replace(parts), _) => {
                self.replace(parts, done);
                Ok(())
            }
            (Event::Configured, Way::Up) => {
                if self.has_dockerd() {
                    done.push(Effect::Signal(Part::Dockerd, Signal::SIGHUP));
                } else if let Some(dockerd) = &mut self.dockerd {
                    // It would die of the signal.
                    dockerd.stale = true;
                }
                Ok(())
            }
            (Event::Over(Timer::Reading), Way::Mending | Way::Reading) => {
                done.push(Effect::TellKilled(Killing::NotRead));
                self.end_dockerd(false, done);
                Ok(())
            }
            (Event::LiveRestoreEnded, Way::Reading) => {
                self.end_dockerd(false, done);
                Ok(())
            }
            // Nothing is replaced any more. Whatever else comes, comes too late.
            (event, Way::Dockerd | Way::Containerd | Way::Rest) => {
                self.go_down(&event, done);
                Ok(())
            }
            (Event::Ready(part), _) => {
                self.take_ready(part, done);
                Ok(())
            }
            (Event::Hung { part, why, containers }, _) => {
                self.end_hung(part, why, containers, done);
                Ok(())
            }
            (Event::Exited(part, fault), _) => self.take_exit(part, fault, now, policy, done),
            (Event::NotStarted(part, fault), _) => {
                self.forget(part, done);
                self.lose(part, fault, false, now, policy, done)
            }
            (Event::Over(timer), _) => {
                self.take_over(timer, done);
                Ok(())
            }
            (Event::Configured | Event::LiveRestoreEnded, _) => Ok(()),
        };
        match (verdict, self.way) {
            (Err(verdict), Way::Up) => done.push(Effect::GiveUp(verdict)),
            (Err(verdict), _) => {
                done.push(Effect::TellKilled(Killing::Lost(verdict)));
                self.end_dockerd(false, done);
            }
            (Ok(()), Way::Up) if self.stage == Stage::Ready => self.mend(done),
            (Ok(()), Way::Up) => {}
            (Ok(()), _) => self.go_on_down(done),
        }
        effects
    }

    /// A part is ready.
    fn take_ready(&mut self, part: Part, done: &mut Vec<Effect>) {
        let Some(running) = self.slot(part) else { return };
        if !running.ready {
            let Running { stale, timed, .. } = std::mem::take(running);
            running.ready = true;
            if timed {
                done.push(Effect::EndTimer(Timer::Part(part)));
            }
            if stale {
                done.push(Effect::Configure);
                done.push(Effect::Signal(part, Signal::SIGHUP));
            }
        }
        if self.lost.remove(&part) {
            done.push(Effect::TellReplaced(part));
            // One alone may come back again and again, and the other never.
            if self.lost.is_empty() {
                self.deaths.end_row();
            }
        }
        if self.stage != Stage::Starting && self.is_whole() {
            done.push(Effect::AnswerWaiting);
        }
        match (self.stage, self.phase, part) {
            (Stage::Starting, Phase::Containerd, Part::Containerd) => {
                self.phase = Phase::Dockerd;
                self.start(Part::Dockerd, done);
            }
            (Stage::Starting, Phase::Dockerd, Part::Dockerd) => {
                self.stage = Stage::Ready;
                done.push(Effect::Watch);
            }
            _ => {}
        }
    }

    /// Whether there is a dockerd that is ready, and is to stay: one that is timed is being killed.
    pub fn has_dockerd(&self) -> bool {
        self.dockerd.is_some_and(|dockerd| dockerd.ready && !dockerd.timed)
            && !self.ending.contains_key(&Part::Dockerd)
    }

    /// Whether there is a dockerd that is to get ready.
    pub fn awaits_dockerd(&self) -> bool {
        self.dockerd.is_some_and(|dockerd| !dockerd.ready)
            && !self.ending.contains_key(&Part::Dockerd)
    }

    /// Whether nothing is lost, and nothing is to end.
    fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.ending.is_empty()
    }

    /// Start a part. One on the way up has the time that the engine has.
    fn start(&mut self, part: Part, done: &mut Vec<Effect>) {
        let timed = self.stage != Stage::Starting;
        *self.slot(part) = Some(Running { timed, ..Running::default() });
        if timed {
            done.push(Effect::Time(Timer::Part(part), Limit::Start));
        }
        done.push(Effect::Start(part));
    }

    /// A part does not run: whether it had been ready.
    fn forget(&mut self, part: Part, done: &mut Vec<Effect>) -> bool {
        let running = self.slot(part).take().unwrap_or_default();
        if running.timed {
            done.push(Effect::EndTimer(Timer::Part(part)));
        }
        running.ready
    }

    const fn slot(&mut self, part: Part) -> &mut Option<Running> {
        match part {
            Part::Containerd => &mut self.containerd,
            _ => &mut self.dockerd,
        }
    }
}

#[cfg(test)]
mod tests;
