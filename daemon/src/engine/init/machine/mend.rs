//! Which part is replaced when, and when an engine is given up instead.

use std::{collections::BTreeSet, time::Duration};

use nix::sys::signal::Signal;
use rootlessd_api::Part;

use super::{Effect, Fault, Limit, Loss, Machine, Refusal, Stage, Timer, Verdict, Why};
use crate::{
    engine::shortage,
    restart_policy::{Deaths, RestartPolicy},
};

/// How long a part that was lost for a shortage makes the next one wait.
const STARVED_WINDOW: Duration = Duration::from_secs(60);

/// How long to wait before a part that died is replaced: not at all for one that had been ready,
/// else as before the start of an engine. `None`: too many died, and the engine is given up.
pub(super) fn remedy(
    policy: &RestartPolicy,
    deaths: &mut Deaths,
    now: Duration,
    was_ready: bool,
) -> Option<Duration> {
    let delay = policy.count(deaths, now)?;
    Some(if was_ready { Duration::ZERO } else { delay })
}

/// How long to wait before a part that the machine had no room for is replaced: it is nobody's fault,
/// and the engine is not given up for it, but not even one that had been ready is replaced at once again
/// and again.
pub(super) fn starved_remedy(
    last: &mut Option<Duration>,
    now: Duration,
    was_ready: bool,
) -> Duration {
    let is_first = last.replace(now).is_none_or(|last| now.saturating_sub(last) >= STARVED_WINDOW);
    if was_ready && is_first { Duration::ZERO } else { shortage::AGAIN }
}

impl Machine {
    /// Do the next that has to be done so that both parts run.
    pub(super) fn mend(&mut self, done: &mut Vec<Effect>) {
        self.end_next(done);
        if self.pausing {
            return;
        }
        if self.containerd.is_none() {
            self.start(Part::Containerd, done);
        } else if self.dockerd.is_none() && self.may_start_dockerd() {
            self.start(Part::Dockerd, done);
        }
    }

    /// dockerd takes longer to find a containerd that comes later than to start.
    fn may_start_dockerd(&self) -> bool {
        self.containerd.is_some_and(|containerd| containerd.ready)
            && !self.ending.contains_key(&Part::Containerd)
    }

    /// Ask the next part to end that is to be replaced: dockerd first, which talks to containerd.
    fn end_next(&mut self, done: &mut Vec<Effect>) {
        for part in [Part::Dockerd, Part::Containerd] {
            if !self.ending.contains_key(&part) {
                continue;
            }
            if let Some(running) = self.slot(part).as_mut().filter(|running| !running.timed) {
                running.timed = true;
                done.push(Effect::Time(Timer::Part(part), Limit::End));
                done.push(Effect::Signal(part, Signal::SIGTERM));
            }
            return;
        }
    }

    /// The pause is over; or a part is not ready or gone when it should be, and is killed: its end is
    /// a death then.
    pub(super) fn take_over(&mut self, timer: Timer, done: &mut Vec<Effect>) {
        match timer {
            Timer::Pause => self.pausing = false,
            Timer::Part(part) => {
                if let Some(running) = self.slot(part) {
                    running.timed = false;
                    done.push(Effect::Signal(part, Signal::SIGKILL));
                }
            }
            Timer::Reading => {}
        }
    }

    /// A part has ended.
    pub(super) fn take_exit(
        &mut self,
        part: Part,
        fault: Fault,
        now: Duration,
        policy: &RestartPolicy,
        done: &mut Vec<Effect>,
    ) -> Result<(), Verdict> {
        let was_ready = self.forget(part, done);
        match self.ending.remove(&part) {
            Some(why) => self.note_loss(part, Loss::Ended(why), done),
            None => self.lose(part, fault, was_ready, now, policy, done)?,
        }
        if part == Part::Containerd && self.live_restore {
            self.end_blind_dockerd(done);
        }
        Ok(())
    }

    /// dockerd is not told of what ends while its containerd is away, and shows it as running for ever;
    /// a new one looks, and is there sooner than the old one finds the new containerd.
    fn end_blind_dockerd(&mut self, done: &mut Vec<Effect>) {
        if let Some(dockerd) = &mut self.dockerd {
            dockerd.timed = true;
            done.push(Effect::Time(Timer::Part(Part::Dockerd), Limit::End));
            done.push(Effect::Signal(Part::Dockerd, Signal::SIGKILL));
            self.ending.insert(Part::Dockerd, Why::Blind);
        }
    }

    /// End a part that hangs: its end is a death, and it is replaced. `containers`: whether any run, which
    /// are not to end for it.
    pub(super) fn end_hung(
        &mut self,
        part: Part,
        why: String,
        containers: bool,
        done: &mut Vec<Effect>,
    ) {
        let outlive_it = part != Part::Dockerd || self.live_restore || !containers;
        let Some(running) = self.slot(part).as_mut().filter(|it| it.ready && !it.timed) else {
            return;
        };
        if !outlive_it {
            done.push(Effect::TellLeft(part, why));
            return;
        }
        running.timed = true;
        done.push(Effect::NoteHung(part, why));
        done.push(Effect::Time(Timer::Part(part), Limit::End));
        done.push(Effect::Signal(part, Signal::SIGKILL));
    }

    /// A part died, or cannot be started: have it replaced, or give the engine up.
    pub(super) fn lose(
        &mut self,
        part: Part,
        fault: Fault,
        was_ready: bool,
        now: Duration,
        policy: &RestartPolicy,
        done: &mut Vec<Effect>,
    ) -> Result<(), Verdict> {
        if self.stage == Stage::Starting {
            return Err(Verdict::TooYoung);
        }
        if part == Part::Dockerd && !self.live_restore {
            return Err(Verdict::KeepsNothing);
        }
        let delay = match fault {
            Fault::Shortage => starved_remedy(&mut self.starved, now, was_ready),
            Fault::Own => remedy(policy, &mut self.deaths, now, was_ready)
                .ok_or(Verdict::TooMany(self.deaths.count()))?,
        };
        // The last death decides.
        self.pausing = !delay.is_zero();
        done.push(match self.pausing {
            true => Effect::Time(Timer::Pause, Limit::Pause(delay)),
            false => Effect::EndTimer(Timer::Pause),
        });
        // One that is short of something dies of it at each try.
        if fault != Fault::Shortage || !self.lost.contains(&part) {
            self.note_loss(part, Loss::Died, done);
        }
        Ok(())
    }

    fn note_loss(&mut self, part: Part, loss: Loss, done: &mut Vec<Effect>) {
        self.lost.insert(part);
        done.push(Effect::TellLost(part, loss));
    }

    /// Replace parts because somebody wants it; those that are being replaced already will do.
    pub(super) fn replace(&mut self, parts: BTreeSet<Part>, done: &mut Vec<Effect>) {
        if self.stage != Stage::Ready {
            done.push(Effect::Refuse(Refusal::NotUp));
        } else if parts.contains(&Part::Dockerd) && !self.live_restore {
            done.push(Effect::Refuse(Refusal::KeepsNothing));
        } else {
            let there = parts.into_iter().filter(|part| !self.lost.contains(part));
            self.ending.extend(there.map(|part| (part, Why::Asked)));
            if self.is_whole() {
                done.push(Effect::AnswerWaiting);
            }
        }
    }
}
