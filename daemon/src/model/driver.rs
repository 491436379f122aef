//! The driver by the course of its engine.

use std::collections::VecDeque;

use rootlessd_api::{Part, Phase};

use super::{
    Broken,
    state::{At, Client, Driver, Follow, Kit, Looking, Proc, Replacing, Shim, State, Told},
};
use crate::engine::{
    driver::course::{self, Answer, Course, Effect, Verdict, Wish},
    init::{Stage, machine as init},
};

impl State {
    /// The driver takes the next command.
    pub fn obey(&mut self) {
        let Some(supervisor) = self.supervisor_mut() else { return };
        let wish = supervisor.commands.remove(0);
        match &mut supervisor.driver {
            Driver::Rest => {
                if course::at_rest(wish) == Answer::Launch {
                    supervisor.driver = Driver::Clean;
                    self.kill_all();
                }
            }
            Driver::Clean | Driver::Preflight | Driver::Held { .. } => {
                if course::in_launch(wish) == Answer::GiveUp {
                    supervisor.driver = Driver::Sweep { died: false };
                    self.kill_all();
                }
            }
            Driver::Follow(follow) => match wish {
                Wish::Start | Wish::Reload => {}
                Wish::Replace => follow.replacing = Some(Replacing::Asking),
                Wish::Stop => self.take(course::Event::Stop),
            },
            Driver::Sweep { .. } => {}
        }
    }

    /// The course of the followed engine takes an event, and what it says is done.
    pub fn take(&mut self, event: course::Event) {
        let Some(follow) = self.followed_mut() else { return };
        let mut effects: VecDeque<_> = follow.course.next(event).into();
        while let Some(effect) = effects.pop_front() {
            let Some(follow) = self.followed_mut() else { return };
            match effect {
                Effect::Tell(phase) => self.tell(Told::Phase(phase)),
                Effect::Time(_) => follow.timed = true,
                Effect::EndTime => follow.timed = false,
                Effect::Probe => follow.probing = true,
                Effect::EndProbe => follow.probing = false,
                Effect::Look => follow.looking = Looking::Now,
                Effect::MakeSure => follow.looking = Looking::Sure,
                Effect::TellIdle => {
                    follow.frozen = true;
                    self.tell(Told::Idle);
                }
                Effect::Compare => {}
                Effect::EndTasks => {
                    follow.probing = false;
                    follow.looking = Looking::No;
                    follow.replacing = None;
                }
                Effect::AskToStop => {
                    let asked = follow.frozen;
                    let is_blind = self.broken == Some(Broken::KillsTheNextAsIdle);
                    let stands_still = self.kit.as_ref().is_some_and(|kit| kit.frozen);
                    let idle = asked && (stands_still || is_blind);
                    self.cut_off |= idle && self.client == Client::Talking;
                    if self.kit.as_ref().is_some_and(|kit| !kit.is_deaf()) {
                        self.tell_init(init::Event::Stop { idle });
                    } else {
                        self.unfreeze();
                        if let Some(follow) = self.followed_mut() {
                            effects.extend(follow.course.next(course::Event::NotHeard));
                        }
                    }
                }
                Effect::Signal => self.signal_shim(),
                Effect::WriteHang | Effect::WriteDeath(_) => self.death = true,
                Effect::Kill => self.kill(),
            }
        }
    }

    /// engine-shim passes a SIGTERM on.
    fn signal_shim(&mut self) {
        let Some(shim) = self.shim.as_mut().filter(|shim| !shim.hung) else { return };
        match &mut shim.at {
            At::Young { signalled } => *signalled = true,
            At::Up if self.kit.as_ref().is_some_and(|kit| !kit.is_deaf()) => {
                self.tell_init(init::Event::Stop { idle: false });
            }
            At::Held | At::Up | At::Ending { .. } => {}
        }
    }

    /// RootlessKit is killed, or engine-shim if that is alone.
    fn kill(&mut self) {
        match self.shim {
            Some(shim) if matches!(shim.at, At::Young { .. } | At::Up) => {
                self.kit_ends(false);
                self.followed_mut().into_iter().for_each(|it| it.killing = true);
            }
            Some(_) => self.end_shim(false),
            None => {}
        }
    }

    /// The driver sees that engine-shim is gone, and ends what is left.
    pub fn see_gone(&mut self) {
        let own = self.followed().is_some_and(|follow| follow.own);
        let succeeded = own.then_some(self.succeeded);
        let died = course::is_death(self.death, !self.record, succeeded);
        self.drive(Driver::Sweep { died });
        self.kill_all();
    }

    /// It was looked whether anybody needs the engine.
    pub fn judge(&mut self, verdict: Verdict) {
        let Some(follow) = self.followed_mut() else { return };
        follow.looking = Looking::No;
        let replacing = follow.replacing.is_some();
        self.take(course::Event::Looked { verdict, replacing });
        if self.followed().is_some_and(|follow| !follow.frozen) {
            self.unfreeze();
        }
    }

    /// The last look, at a dockerd that stands still.
    pub fn look(&mut self) {
        let needed = self.client == Client::Talking;
        let is_up = |kit: &&mut Kit| !kit.is_deaf() && kit.machine.stage() == Stage::Ready;
        let frozen = match self.kit.as_mut().filter(is_up) {
            Some(kit) if kit.dockerd.is_some_and(|it| !it.dead && !it.stuck) => {
                kit.frozen = true;
                !needed
            }
            _ => false,
        };
        self.judge(if frozen { Verdict::Idle } else { Verdict::Needed });
    }

    /// The replacement that somebody wants goes on.
    pub fn go_on_replacing(&mut self) {
        let Some(follow) = self.followed_mut() else { return };
        let replacing = follow.replacing;
        if replacing != Some(Replacing::Healing)
            && self.kit.as_ref().is_none_or(|kit| kit.is_deaf())
        {
            return self.end_replacement(false);
        }
        let Some(follow) = self.followed_mut() else { return };
        match replacing {
            Some(Replacing::Asking) => {
                follow.replacing = Some(Replacing::Waiting);
                let parts = [Part::Containerd, Part::Dockerd];
                let event = init::Event::Replace(parts.into());
                if self.tell_init(event) {
                    self.end_replacement(false);
                }
            }
            _ => self.end_replacement(true),
        }
    }

    fn end_replacement(&mut self, done: bool) {
        if let Some(follow) = self.followed_mut() {
            follow.replacing = None;
        }
        self.tell(Told::Replaced(done));
    }

    /// The launch goes on.
    pub fn launch(&mut self) {
        match self.supervisor().map(|supervisor| &supervisor.driver) {
            Some(Driver::Preflight) => {
                self.tell(Told::Phase(Phase::Namespaces));
                self.shim = Some(Shim { at: At::Held, hung: false });
                self.drive(Driver::Held { recorded: false });
            }
            Some(Driver::Held { recorded: false }) => {
                self.record = true;
                self.drive(Driver::Held { recorded: true });
            }
            _ => match &mut self.shim {
                Some(shim) => {
                    shim.at = At::Young { signalled: false };
                    self.drive(Driver::Follow(Follow::new(true)));
                }
                None => self.fail_launch(),
            },
        }
    }

    /// The launch fails, and what it began is ended.
    pub fn fail_launch(&mut self) {
        self.drive(Driver::Sweep { died: true });
        self.kill_all();
    }

    /// What was left is ended, or does not end in time.
    pub fn swept(&mut self) {
        let left = !self.orphans.is_empty();
        self.remove_files();
        let driver = self.supervisor().map(|supervisor| supervisor.driver.clone());
        match driver {
            Some(Driver::Clean) => self.cleaned(left),
            Some(Driver::Sweep { died }) => {
                if died || self.broken != Some(Broken::LosesGone) {
                    self.tell(if died { Told::Died } else { Told::Gone });
                }
                self.drive(Driver::Rest);
            }
            _ => {}
        }
    }

    /// There is no launch beside what is left.
    fn cleaned(&mut self, left: bool) {
        if left && self.broken != Some(Broken::LaunchesBesideRemains) {
            self.tell(Told::Died);
            self.drive(Driver::Rest);
        } else {
            self.drive(Driver::Preflight);
        }
    }

    pub fn orphan_ends(&mut self, index: usize) {
        self.orphans.remove(index);
    }

    pub fn unstick(&mut self) {
        let own = self.kit.iter_mut().filter_map(|kit| kit.dockerd.as_mut());
        own.chain(&mut self.orphans).for_each(|it: &mut Proc| it.stuck = false);
    }
}

impl Follow {
    pub fn new(own: bool) -> Self {
        Self {
            course: Course::new(!own),
            own,
            heard: None,
            timed: true,
            killing: false,
            probing: false,
            probed: None,
            looking: Looking::No,
            frozen: false,
            replacing: None,
        }
    }
}
