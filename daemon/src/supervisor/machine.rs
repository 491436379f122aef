//! The life of the engine as a pure machine: (state, event) → (state, effects). Nothing here reads
//! a clock, starts a process or publishes anything; the [supervisor](super) does.

use std::time::Duration;

use rootlessd_api::{Phase, State};
use serde::{Deserialize, Serialize};

use crate::{
    engine::shortage,
    restart_policy::{Deaths, RestartPolicy},
};

/// Where the engine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Not running; only a request starts it.
    Stopped,
    /// Not running; the first client starts it.
    Listening,
    /// Coming up.
    Starting(Phase),
    /// dockerd is ready and answers.
    Running,
    /// dockerd is there and does not answer.
    Degraded,
    /// Going down.
    Stopping(Phase, Then),
    /// Dead; it is started again when the delay is over.
    Backoff,
    /// Dead too often, or not to be started on this machine as it is.
    Failed,
}

/// What comes after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Nothing.
    Rest,
    /// A start.
    Start,
    /// The wait for a client.
    Listen,
}

/// What can happen to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for it to run.
    Start,
    /// Somebody asks for it to be down.
    Stop,
    /// Somebody asks for it to go down and up again.
    Restart,
    /// Somebody asks for its deaths to be forgotten.
    ResetFailed,
    /// A client is in the queue of its socket.
    Client,
    /// Nobody has needed it for long enough.
    Idle,
    /// There is one that an earlier supervisor started.
    Found,
    /// It came further on its way up or down.
    Phase(Phase),
    /// dockerd is ready, and a probe passed.
    Healthy,
    /// dockerd is there, and a probe failed.
    Unhealthy,
    /// All of it is gone, as was asked.
    Gone,
    /// All of it is gone, as nobody asked.
    Died,
    /// It cannot be started until a person mends something.
    Refused,
    /// All of it is gone, or it cannot be started, since the machine is short of something for now.
    Starved,
    /// The delay before the next try is over.
    DelayOver,
}

/// What the supervisor has to do about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the engine.
    Start,
    /// Stop the engine.
    Stop,
    /// Send [`Event::DelayOver`] after this time.
    Delay(Duration),
    /// Do not send it any more.
    EndDelay,
}

/// What a new supervisor finds of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Engine,
    /// It is not there, and died unseen and said so.
    Death,
    /// It is not there.
    Nothing,
}

/// How a new supervisor goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// As it is.
    Rest,
    /// With this, which was decided and may not have been done.
    Do(Effect),
    /// With what happened meanwhile.
    Take(Event),
    /// With what is left of the delay.
    AwaitDelay,
}

/// What of the configuration the machine goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often and how fast a dead engine is started again.
    pub restart: RestartPolicy,
    /// Whether a client starts it that was given up, once its deaths are forgotten.
    pub listens: bool,
}

/// The machine: a life and the deaths that count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Machine {
    life: Life,
    #[serde(flatten)]
    deaths: Deaths,
}

impl Life {
    /// The state that the world sees.
    pub const fn state(self) -> State {
        match self {
            Self::Stopped => State::Stopped,
            Self::Listening => State::Listening,
            Self::Starting(_) => State::Starting,
            Self::Running => State::Running,
            Self::Degraded => State::Degraded,
            Self::Stopping(..) => State::Stopping,
            Self::Backoff => State::Backoff,
            Self::Failed => State::Failed,
        }
    }

    /// The phase that the world sees.
    pub const fn phase(self) -> Option<Phase> {
        match self {
            Self::Starting(phase) | Self::Stopping(phase, _) => Some(phase),
            _ => None,
        }
    }

    /// Whether there is (or may be) anything of the engine.
    pub const fn has_engine(self) -> bool {
        matches!(self, Self::Starting(_) | Self::Running | Self::Degraded | Self::Stopping(..))
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self { life: Life::Stopped, deaths: Deaths::default() }
    }
}

impl Machine {
    /// One of an engine that its first client starts.
    pub fn listening() -> Self {
        Self { life: Life::Listening, ..Self::default() }
    }

    /// Where the engine is in its life.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Take `event` at `now` (CLOCK_BOOTTIME), and say what is to be done.
    #[must_use]
    pub fn next(&mut self, event: Event, now: Duration, policy: &Policy) -> Vec<Effect> {
        use Event as E;
        use Life as L;
        let (life, effects) = match (self.life, event) {
            (_, E::ResetFailed) => {
                self.deaths = Deaths::default();
                match self.life {
                    L::Failed if policy.listens => (L::Listening, vec![]),
                    L::Failed => (L::Stopped, vec![]),
                    life => (life, vec![]),
                }
            }

            (L::Stopped, E::Start | E::Restart)
            | (L::Listening, E::Start | E::Restart | E::Client) => {
                (L::Starting(Phase::Preflight), vec![Effect::Start])
            }
            // A person asks, so the deaths that came before count no more.
            (L::Failed, E::Start | E::Restart) => {
                self.deaths = Deaths::default();
                (L::Starting(Phase::Preflight), vec![Effect::Start])
            }
            (L::Backoff, E::Start | E::Restart) => {
                (L::Starting(Phase::Preflight), vec![Effect::EndDelay, Effect::Start])
            }
            (L::Backoff, E::DelayOver) => (L::Starting(Phase::Preflight), vec![Effect::Start]),
            (L::Backoff, E::Stop) => (L::Stopped, vec![Effect::EndDelay]),
            (L::Failed | L::Listening, E::Stop) => (L::Stopped, vec![]),

            // How far it is it will tell.
            (L::Stopped | L::Listening | L::Failed | L::Backoff, E::Found) => {
                (L::Starting(Phase::Namespaces), vec![Effect::EndDelay])
            }

            (L::Starting(_), E::Phase(phase)) => (L::Starting(phase), vec![]),
            (L::Starting(_) | L::Running | L::Degraded, E::Healthy) => {
                self.deaths.end_row();
                (L::Running, vec![])
            }
            (L::Starting(_) | L::Running | L::Degraded, E::Unhealthy) => (L::Degraded, vec![]),
            (L::Starting(_) | L::Running | L::Degraded, E::Stop) => {
                (L::Stopping(Phase::Containers, Then::Rest), vec![Effect::Stop])
            }
            (L::Starting(_) | L::Running | L::Degraded, E::Restart) => {
                (L::Stopping(Phase::Containers, Then::Start), vec![Effect::Stop])
            }
            // Its dockerd stands still already, so this has to be obeyed whatever is believed of it.
            (L::Starting(_) | L::Running | L::Degraded, E::Idle) => {
                (L::Stopping(Phase::Containers, Then::Listen), vec![Effect::Stop])
            }
            (L::Starting(_), E::Refused) => (L::Failed, vec![]),
            // Somebody ended it behind our back, if ever so gently: it is to run.
            (L::Starting(_) | L::Running | L::Degraded, E::Died | E::Gone) => self.die(now, policy),

            // It is nobody's fault, and passes: it is tried until it does, at a slow pace.
            (L::Starting(_) | L::Running | L::Degraded, E::Starved) => {
                (L::Backoff, vec![Effect::Delay(shortage::AGAIN)])
            }

            (L::Stopping(_, then), E::Phase(phase)) => (L::Stopping(phase, then), vec![]),
            (L::Stopping(phase, _), E::Stop) => (L::Stopping(phase, Then::Rest), vec![]),
            (L::Stopping(phase, _), E::Start | E::Restart) => {
                (L::Stopping(phase, Then::Start), vec![])
            }
            // A death on the way down is a stop that was less orderly than it should be.
            (L::Stopping(_, Then::Rest), E::Gone | E::Died | E::Refused | E::Starved) => {
                (L::Stopped, vec![])
            }
            (L::Stopping(_, Then::Listen), E::Gone | E::Died | E::Refused | E::Starved) => {
                (L::Listening, vec![])
            }
            (L::Stopping(_, Then::Start), E::Gone | E::Died | E::Refused | E::Starved) => {
                (L::Starting(Phase::Preflight), vec![Effect::Start])
            }

            // What asks for what is already so, and what comes too late.
            (life, _) => (life, vec![]),
        };
        // Nobody tries any more.
        if matches!(life, L::Stopped | L::Listening) {
            self.deaths.end_row();
        }
        self.life = life;
        effects
    }

    /// How a new supervisor goes on that remembers this machine.
    pub const fn resume(&self, found: Found, policy: &Policy) -> Resumption {
        use Life as L;
        match (self.life, found) {
            (L::Stopping(..), Found::Engine) => Resumption::Do(Effect::Stop),
            (L::Stopping(..), _) => Resumption::Take(Event::Gone),
            (L::Starting(_) | L::Running | L::Degraded, Found::Engine) => Resumption::Rest,
            (L::Stopped | L::Listening | L::Backoff | L::Failed, Found::Engine) => {
                Resumption::Take(Event::Found)
            }
            // The start had not come so far that there was anything that could have died.
            (L::Starting(Phase::Preflight | Phase::Namespaces), Found::Nothing) => {
                Resumption::Do(Effect::Start)
            }
            (L::Starting(_) | L::Running | L::Degraded, _) => Resumption::Take(Event::Died),
            (L::Backoff, _) => Resumption::AwaitDelay,
            // It was told to start with rootlessd since.
            (L::Listening, _) if !policy.listens => Resumption::Take(Event::Start),
            (L::Stopped | L::Listening | L::Failed, _) => Resumption::Rest,
        }
    }

    fn die(&mut self, now: Duration, policy: &Policy) -> (Life, Vec<Effect>) {
        match policy.restart.count(&mut self.deaths, now) {
            Some(delay) => (Life::Backoff, vec![Effect::Delay(delay)]),
            None => (Life::Failed, vec![]),
        }
    }
}

#[cfg(test)]
mod tests;
