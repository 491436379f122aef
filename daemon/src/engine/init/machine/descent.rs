//! The orderly stop: the containers, dockerd, containerd, the rest.

use nix::sys::signal::Signal;
use rootlessd_api::{Part, Phase};

use super::{Effect, Event, Limit, Machine, Stage, Timer};

/// How far the way down is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Nobody wants it to stop.
    Up,
    /// A part that is being replaced is waited for: without dockerd the containers would be killed.
    Mending,
    /// dockerd is told to stop its containers when it ends.
    Reading,
    /// dockerd is to end.
    Dockerd,
    /// containerd is to end.
    Containerd,
    /// Both are gone.
    Rest,
}

impl Machine {
    /// Begin with it. `idle`: there are no containers, and dockerd stands still.
    ///
    /// dockerd is to stop its containers when it ends, the way it does without live-restore: with
    /// their own signal and time, and without marking them as stopped by hand, so that their restart
    /// policies bring them back.
    pub(super) fn descend(&mut self, idle: bool, done: &mut Vec<Effect>) {
        let was_ready = self.stage == Stage::Ready;
        self.stage = Stage::Stopping;
        self.phase = Phase::Containers;
        if was_ready && !idle {
            self.way = Way::Mending;
            done.push(Effect::Time(Timer::Reading, Limit::Reading));
        } else {
            self.end_dockerd(idle, done);
        }
    }

    /// After whatever happened before dockerd was to end.
    pub(super) fn go_on_down(&mut self, done: &mut Vec<Effect>) {
        if self.way == Way::Reading {
            if self.dockerd.is_some() {
                self.mend(done);
                return;
            }
            done.push(Effect::DropLiveRestore);
            self.way = Way::Mending;
        }
        if self.way != Way::Mending {
            return;
        }
        // A part that has to wait before it is started is not waited for.
        if !self.is_whole() && !self.pausing {
            self.mend(done);
        } else if self.dockerd.is_some() {
            self.way = Way::Reading;
            done.push(Effect::EndLiveRestore);
        } else {
            self.end_dockerd(false, done);
        }
    }

    /// Nothing is replaced any more: end dockerd.
    pub(super) fn end_dockerd(&mut self, idle: bool, done: &mut Vec<Effect>) {
        done.push(Effect::DropLiveRestore);
        done.push(Effect::EndTimer(Timer::Reading));
        done.push(Effect::EndTimer(Timer::Pause));
        done.push(Effect::EndTimer(Timer::Part(Part::Containerd)));
        done.push(Effect::DropWaiting);
        self.lost.clear();
        self.ending.clear();
        self.pausing = false;
        self.phase = Phase::Dockerd;
        self.way = Way::Dockerd;
        if idle {
            // As it is: it has nothing to stop, and if it went on for this, it would accept clients
            // meanwhile, whom its end would cut off.
            done.push(Effect::Signal(Part::Dockerd, Signal::SIGKILL));
        }
        self.end(Part::Dockerd, done);
    }

    /// What happens from then on.
    pub(super) fn go_down(&mut self, event: &Event, done: &mut Vec<Effect>) {
        match *event {
            Event::Exited(part, _) | Event::NotStarted(part, _) => {
                *self.slot(part) = None;
                let awaited = match self.way {
                    Way::Dockerd => Part::Dockerd,
                    _ => Part::Containerd,
                };
                if part == awaited {
                    self.go_further(done);
                }
            }
            Event::Over(Timer::Part(part)) => done.push(Effect::Signal(part, Signal::SIGKILL)),
            _ => {}
        }
    }

    /// End a part: ask, wait, kill.
    fn end(&mut self, part: Part, done: &mut Vec<Effect>) {
        if self.slot(part).is_some() {
            done.push(Effect::Time(Timer::Part(part), Limit::Stop(part)));
            done.push(Effect::Signal(part, Signal::SIGTERM));
        } else {
            self.go_further(done);
        }
    }

    fn go_further(&mut self, done: &mut Vec<Effect>) {
        if self.way == Way::Dockerd {
            done.push(Effect::EndTimer(Timer::Part(Part::Dockerd)));
            self.phase = Phase::Containerd;
            self.way = Way::Containerd;
            self.end(Part::Containerd, done);
        } else {
            done.push(Effect::EndTimer(Timer::Part(Part::Containerd)));
            self.phase = Phase::Namespaces;
            self.way = Way::Rest;
            done.push(Effect::EndAll);
        }
    }
}
