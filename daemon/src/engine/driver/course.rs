//! How an engine is followed and led, as a pure machine: (state, event) → (state, effects), as the
//! [supervisor's](crate::supervisor::machine). [`Followed`](super::follow::Followed) does it.

use rootlessd_api::Phase;

use crate::engine::init::Stage;

/// What can happen to an engine that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// RootlessKit has made its namespaces.
    InNamespaces,
    /// engine-init says how it is.
    Told(Stage, Phase),
    /// It was looked whether anybody needs it.
    Looked {
        /// What came of it.
        verdict: Verdict,
        /// Whether parts are being replaced because somebody wants it.
        replacing: bool,
    },
    /// The supervisor wants it stopped.
    Stop,
    /// engine-init was asked to stop, and does not listen.
    NotHeard,
    /// The start or the stop takes longer than it may.
    OutOfTime,
    /// dockerd does not answer, and engine-init, which is to mend that, does neither.
    Deaf,
}

/// How far it is found out that nobody needs an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nobody has for long enough. To be sure, nobody may ask dockerd anything now, neither we.
    Quiet,
    /// Nobody does, and its dockerd stands still.
    Idle,
    /// Somebody does after all.
    Needed,
}

/// What is to be done about an event, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell that it came so far.
    Tell(Phase),
    /// Send [`Event::OutOfTime`] after this, in place of what was said before.
    Time(Limit),
    /// Do not send it any more.
    EndTime,
    /// Ask dockerd again and again how it is.
    Probe,
    /// Do not.
    EndProbe,
    /// Begin to look whether anybody needs it.
    Look,
    /// Look once more, at a dockerd that stands still.
    MakeSure,
    /// Keep dockerd still until it is stopped, and tell that nobody needs it.
    TellIdle,
    /// Find out what an engine has that an earlier rootlessd started.
    Compare,
    /// Nothing is asked, replaced or looked for any more.
    EndTasks,
    /// Ask engine-init to stop, within what is left of the time.
    AskToStop,
    /// Have RootlessKit asked by a signal.
    Signal,
    /// Write down that engine-init hangs.
    WriteHang,
    /// Write down that the start took too long.
    WriteDeath(Phase),
    /// End what does not end when it is asked to.
    Kill,
}

/// What the supervisor wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// An engine.
    Start,
    /// None.
    Stop,
    /// That it reads its configuration again.
    Reload,
    /// Other parts.
    Replace,
}

/// What the driver does about a wish for which there is no engine, or none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It launches one.
    Launch,
    /// It gives the launch up.
    GiveUp,
    /// Nothing: it is so, or what it was about has come to its end, and that was told.
    Nothing,
}

/// What the driver does about a wish while there is no engine.
pub const fn at_rest(wish: Wish) -> Answer {
    match wish {
        Wish::Start => Answer::Launch,
        Wish::Stop | Wish::Reload | Wish::Replace => Answer::Nothing,
    }
}

/// What the driver does about a wish while it launches an engine, which then reads its configuration.
pub const fn in_launch(wish: Wish) -> Answer {
    match wish {
        Wish::Stop => Answer::GiveUp,
        Wish::Start | Wish::Reload | Wish::Replace => Answer::Nothing,
    }
}

/// Whether an engine died that is gone. `told`: it said how it died. `in_order`: it took its record
/// along. `succeeded`: its first process, where that could be had.
pub const fn is_death(told: bool, in_order: bool, succeeded: Option<bool>) -> bool {
    told || match succeeded {
        Some(succeeded) => !succeeded,
        None => !in_order,
    }
}

/// How long something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The stop, and a bit.
    Stop,
    /// The stop of an engine that is too young to be asked.
    Young,
}

/// An engine's course, from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Course {
    /// Whether an earlier rootlessd started it.
    taken_over: bool,
    has_namespaces: bool,
    /// Whether engine-init was heard.
    heard: bool,
    stage: Stage,
    phase: Phase,
    stopping: bool,
}

impl Course {
    /// That of an engine of which nothing is known but its first process.
    pub const fn new(taken_over: bool) -> Self {
        Self {
            taken_over,
            has_namespaces: false,
            heard: false,
            stage: Stage::Starting,
            phase: Phase::Namespaces,
            stopping: false,
        }
    }

    /// Whether it is known to have its namespaces.
    pub const fn has_namespaces(&self) -> bool {
        self.has_namespaces
    }

    /// Take an event, and say what is to be done.
    #[must_use]
    pub fn next(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::InNamespaces => {
                self.has_namespaces = true;
                let is_news = self.stage == Stage::Starting
                    && !self.stopping
                    && self.phase == Phase::Namespaces;
                if is_news { self.enter(Phase::Network) } else { vec![] }
            }
            Event::Told(stage, phase) => self.learn(stage, phase),
            Event::Looked { verdict, replacing } => match verdict {
                _ if self.stopping => vec![],
                // A question that dockerd does not get to would stay in its queue, and would be the
                // first client of the next engine.
                Verdict::Quiet if !replacing => vec![Effect::EndProbe, Effect::MakeSure],
                Verdict::Idle if !replacing => vec![Effect::TellIdle],
                Verdict::Quiet => vec![Effect::Look],
                Verdict::Idle | Verdict::Needed => vec![Effect::Probe, Effect::Look],
            },
            Event::Stop => {
                self.stopping = true;
                vec![Effect::EndTasks, Effect::Time(Limit::Stop), Effect::AskToStop]
            }
            // engine-init is not there yet, or does not listen: RootlessKit passes a signal on.
            Event::NotHeard if self.heard => vec![Effect::Signal],
            Event::NotHeard => vec![Effect::Signal, Effect::Time(Limit::Young)],
            // The stop has its time.
            Event::Deaf if self.stopping => vec![],
            Event::Deaf => vec![Effect::WriteHang, Effect::Kill],
            Event::OutOfTime if self.stopping => vec![Effect::EndTime, Effect::Kill],
            Event::OutOfTime => {
                vec![Effect::EndTime, Effect::WriteDeath(self.phase), Effect::Kill]
            }
        }
    }

    fn learn(&mut self, stage: Stage, phase: Phase) -> Vec<Effect> {
        self.heard = true;
        let became_ready = stage == Stage::Ready && self.stage != Stage::Ready;
        self.stage = stage;
        let mut effects = vec![];
        if self.stopping {
            effects.push(Effect::Time(Limit::Stop));
            if stage != Stage::Stopping {
                // It was too young when it was asked, and RootlessKit lost the signal.
                effects.push(Effect::AskToStop);
            }
        }
        if became_ready && !self.stopping {
            effects.push(Effect::EndTime);
            effects.extend(self.enter(Phase::Containers));
            effects.extend([Effect::Probe, Effect::Look]);
            if self.taken_over {
                effects.push(Effect::Compare);
            }
        } else if stage != Stage::Ready && phase != self.phase {
            effects.extend(self.enter(phase));
        }
        effects
    }

    fn enter(&mut self, phase: Phase) -> Vec<Effect> {
        self.phase = phase;
        vec![Effect::Tell(phase)]
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Course, Effect as F, Event as E, Limit,
        Stage::{Ready, Starting, Stopping},
        Verdict, is_death,
    };
    use rootlessd_api::Phase;

    const UP: E = E::Told(Ready, Phase::Dockerd);

    const fn looked(verdict: Verdict, replacing: bool) -> E {
        E::Looked { verdict, replacing }
    }

    #[test]
    fn courses() {
        let stopped = vec![F::EndTasks, F::Time(Limit::Stop), F::AskToStop];
        let up = vec![F::EndTime, F::Tell(Phase::Containers), F::Probe, F::Look];
        #[rustfmt::skip]
        let rows: &[(&[E], Vec<F>)] = &[
            (&[E::InNamespaces], vec![F::Tell(Phase::Network)]),
            (&[E::Told(Starting, Phase::Containerd), E::InNamespaces], vec![]),
            (&[E::Told(Starting, Phase::Containerd)], vec![F::Tell(Phase::Containerd)]),
            (&[E::Told(Starting, Phase::Containerd), E::Told(Starting, Phase::Containerd)], vec![]),
            (&[UP], up),
            (&[UP, UP], vec![]),
            (&[E::OutOfTime], vec![F::EndTime, F::WriteDeath(Phase::Namespaces), F::Kill]),
            (&[UP, E::Stop], stopped.clone()),
            (&[E::Stop], stopped),
            (&[E::Stop, E::InNamespaces], vec![]),
            (&[UP, E::Stop, E::Told(Stopping, Phase::Dockerd)], vec![F::Time(Limit::Stop), F::Tell(Phase::Dockerd)]),
            // It was too young to hear it: it is asked again when it is heard.
            (&[E::Stop, E::NotHeard], vec![F::Signal, F::Time(Limit::Young)]),
            (&[E::Stop, E::NotHeard, E::Told(Starting, Phase::Network)], vec![
                F::Time(Limit::Stop), F::AskToStop, F::Tell(Phase::Network)]),
            (&[E::Stop, UP], vec![F::Time(Limit::Stop), F::AskToStop]),
            (&[UP, E::Stop, E::NotHeard], vec![F::Signal]),
            (&[UP, E::Stop, E::OutOfTime], vec![F::EndTime, F::Kill]),
            (&[UP, E::Deaf], vec![F::WriteHang, F::Kill]),
            (&[UP, E::Stop, E::Deaf], vec![]),
            // Whether anybody needs it.
            (&[UP, looked(Verdict::Quiet, false)], vec![F::EndProbe, F::MakeSure]),
            (&[UP, looked(Verdict::Quiet, true)], vec![F::Look]),
            (&[UP, looked(Verdict::Idle, false)], vec![F::TellIdle]),
            (&[UP, looked(Verdict::Idle, true)], vec![F::Probe, F::Look]),
            (&[UP, looked(Verdict::Needed, false)], vec![F::Probe, F::Look]),
            (&[UP, E::Stop, looked(Verdict::Idle, false)], vec![]),
        ];
        for (events, effects) in rows {
            let mut course = Course::new(false);
            let got = events.iter().map(|&event| course.next(event)).last();
            assert_eq!(got.as_ref(), Some(effects), "{events:?}");
        }
        assert_eq!(Course::new(true).next(UP).last(), Some(&F::Compare));
    }

    #[test]
    fn ends() {
        for (told, in_order, succeeded, died) in [
            (true, true, Some(true), true),
            (false, true, Some(true), false),
            (false, false, Some(true), false),
            (false, true, Some(false), true),
            (false, true, None, false),
            (false, false, None, true),
        ] {
            assert_eq!(
                is_death(told, in_order, succeeded),
                died,
                "{told} {in_order} {succeeded:?}"
            );
        }
    }
}
