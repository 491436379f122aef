//! The life of the engine as a pure machine: (state, event) → (state, effects). Nothing here reads
//! a clock, starts a process or publishes anything; the [supervisor](super) does.

use std::time::Duration;

use rootlessd_api::{Phase, State};
use serde::{Deserialize, Serialize};

use crate::restart_policy::RestartPolicy;

/// Where the engine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What of the configuration the machine goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often and how fast a dead engine is started again.
    pub restart: RestartPolicy,
    /// Whether a client starts it that was given up, once its deaths are forgotten.
    pub listens: bool,
}

/// The machine: a life and the deaths that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    life: Life,
    /// When it died, in CLOCK_BOOTTIME since boot, the newest last; only those of the window.
    deaths: Vec<Duration>,
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
        Self { life: Life::Stopped, deaths: vec![] }
    }
}

impl Machine {
    /// One of an engine that its first client starts.
    pub const fn listening() -> Self {
        Self { life: Life::Listening, deaths: vec![] }
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
                self.deaths.clear();
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
                self.deaths.clear();
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
            (L::Starting(_) | L::Running | L::Degraded, E::Healthy) => (L::Running, vec![]),
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

            (L::Stopping(_, then), E::Phase(phase)) => (L::Stopping(phase, then), vec![]),
            (L::Stopping(phase, _), E::Stop) => (L::Stopping(phase, Then::Rest), vec![]),
            (L::Stopping(phase, _), E::Start | E::Restart) => {
                (L::Stopping(phase, Then::Start), vec![])
            }
            // A death on the way down is a stop that was less orderly than it should be.
            (L::Stopping(_, Then::Rest), E::Gone | E::Died | E::Refused) => (L::Stopped, vec![]),
            (L::Stopping(_, Then::Listen), E::Gone | E::Died | E::Refused) => {
                (L::Listening, vec![])
            }
            (L::Stopping(_, Then::Start), E::Gone | E::Died | E::Refused) => {
                (L::Starting(Phase::Preflight), vec![Effect::Start])
            }

            // What asks for what is already so, and what comes too late.
            (life, _) => (life, vec![]),
        };
        self.life = life;
        effects
    }

    fn die(&mut self, now: Duration, policy: &Policy) -> (Life, Vec<Effect>) {
        match policy.restart.count(&mut self.deaths, now) {
            Some(delay) => (Life::Backoff, vec![Effect::Delay(delay)]),
            None => (Life::Failed, vec![]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Effect, Event as E,
        Life::{self as L, Backoff, Degraded, Failed, Listening, Running, Stopped},
        Machine, Policy,
        Then::{Listen, Rest, Start},
    };
    use crate::restart_policy::RestartPolicy;
    use rootlessd_api::Phase::{self, Containerd, Containers, Dockerd, Namespaces, Preflight};
    use std::time::Duration;

    const POLICY: Policy = Policy {
        restart: RestartPolicy {
            limit: 3,
            window: Duration::from_secs(60),
            delay: Duration::from_millis(200),
            max_delay: Duration::from_millis(300),
        },
        listens: false,
    };
    const UP: L = L::Starting(Dockerd);
    const AGAIN: L = L::Starting(Preflight);
    const FOUND: L = L::Starting(Namespaces);
    const DOWN: L = L::Stopping(Containerd, Rest);
    const DOWN_UP: L = L::Stopping(Containerd, Start);
    const DOWN_LISTEN: L = L::Stopping(Containerd, Listen);
    const STOP: L = L::Stopping(Containers, Rest);
    const STOP_START: L = L::Stopping(Containers, Start);
    const STOP_LISTEN: L = L::Stopping(Containers, Listen);
    const DELAY: Effect = Effect::Delay(Duration::from_millis(200));

    /// A row for each (life, event): what comes of it, and what is to be done.
    #[rustfmt::skip]
    const TABLE: &[(L, E, L, &[Effect])] = &[
        (Stopped,  E::Start,             AGAIN,      &[Effect::Start]),
        (Stopped,  E::Stop,              Stopped,    &[]),
        (Stopped,  E::Restart,           AGAIN,      &[Effect::Start]),
        (Stopped,  E::ResetFailed,       Stopped,    &[]),
        (Stopped,  E::Found,             FOUND,      &[Effect::EndDelay]),
        (Stopped,  E::Phase(Containers), Stopped,    &[]),
        (Stopped,  E::Healthy,           Stopped,    &[]),
        (Stopped,  E::Unhealthy,         Stopped,    &[]),
        (Stopped,  E::Gone,              Stopped,    &[]),
        (Stopped,  E::Died,              Stopped,    &[]),
        (Stopped,  E::Refused,           Stopped,    &[]),
        (Stopped,  E::DelayOver,         Stopped,    &[]),
        (Stopped,   E::Client,            Stopped,    &[]),
        (Stopped,   E::Idle,              Stopped,    &[]),

        (Listening, E::Start,            AGAIN,      &[Effect::Start]),
        (Listening, E::Stop,             Stopped,    &[]),
        (Listening, E::Restart,          AGAIN,      &[Effect::Start]),
        (Listening, E::ResetFailed,      Listening,  &[]),
        (Listening, E::Found,            FOUND,      &[Effect::EndDelay]),
        (Listening, E::Phase(Containers), Listening, &[]),
        (Listening, E::Healthy,          Listening,  &[]),
        (Listening, E::Unhealthy,        Listening,  &[]),
        (Listening, E::Gone,             Listening,  &[]),
        (Listening, E::Died,             Listening,  &[]),
        (Listening, E::Refused,          Listening,  &[]),
        (Listening, E::DelayOver,        Listening,  &[]),
        (Listening, E::Client,           AGAIN,      &[Effect::Start]),
        (Listening, E::Idle,             Listening,  &[]),

        (UP,       E::Start,             UP,         &[]),
        (UP,       E::Stop,              STOP,       &[Effect::Stop]),
        (UP,       E::Restart,           STOP_START, &[Effect::Stop]),
        (UP,       E::ResetFailed,       UP,         &[]),
        (UP,       E::Found,             UP,         &[]),
        (UP,       E::Phase(Containers), L::Starting(Containers), &[]),
        (UP,       E::Healthy,           Running,    &[]),
        (UP,       E::Unhealthy,         Degraded,   &[]),
        (UP,       E::Gone,              Backoff,    &[DELAY]),
        (UP,       E::Died,              Backoff,    &[DELAY]),
        (UP,       E::Refused,           Failed,     &[]),
        (UP,       E::DelayOver,         UP,         &[]),
        (UP,        E::Client,            UP,         &[]),
        (UP,        E::Idle,              STOP_LISTEN, &[Effect::Stop]),

        (Running,  E::Start,             Running,    &[]),
        (Running,  E::Stop,              STOP,       &[Effect::Stop]),
        (Running,  E::Restart,           STOP_START, &[Effect::Stop]),
        (Running,  E::ResetFailed,       Running,    &[]),
        (Running,  E::Found,             Running,    &[]),
        (Running,  E::Phase(Containers), Running,    &[]),
        (Running,  E::Healthy,           Running,    &[]),
        (Running,  E::Unhealthy,         Degraded,   &[]),
        (Running,  E::Gone,              Backoff,    &[DELAY]),
        (Running,  E::Died,              Backoff,    &[DELAY]),
        (Running,  E::Refused,           Running,    &[]),
        (Running,  E::DelayOver,         Running,    &[]),
        (Running,   E::Client,            Running,    &[]),
        (Running,   E::Idle,              STOP_LISTEN, &[Effect::Stop]),

        (Degraded, E::Start,             Degraded,   &[]),
        (Degraded, E::Stop,              STOP,       &[Effect::Stop]),
        (Degraded, E::Restart,           STOP_START, &[Effect::Stop]),
        (Degraded, E::ResetFailed,       Degraded,   &[]),
        (Degraded, E::Found,             Degraded,   &[]),
        (Degraded, E::Phase(Containers), Degraded,   &[]),
        (Degraded, E::Healthy,           Running,    &[]),
        (Degraded, E::Unhealthy,         Degraded,   &[]),
        (Degraded, E::Gone,              Backoff,    &[DELAY]),
        (Degraded, E::Died,              Backoff,    &[DELAY]),
        (Degraded, E::Refused,           Degraded,   &[]),
        (Degraded, E::DelayOver,         Degraded,   &[]),
        (Degraded,  E::Client,            Degraded,   &[]),
        (Degraded,  E::Idle,              STOP_LISTEN, &[Effect::Stop]),

        (DOWN,     E::Start,             DOWN_UP,    &[]),
        (DOWN,     E::Stop,              DOWN,       &[]),
        (DOWN,     E::Restart,           DOWN_UP,    &[]),
        (DOWN,     E::ResetFailed,       DOWN,       &[]),
        (DOWN,     E::Found,             DOWN,       &[]),
        (DOWN,     E::Phase(Containers), STOP,       &[]),
        (DOWN,     E::Healthy,           DOWN,       &[]),
        (DOWN,     E::Unhealthy,         DOWN,       &[]),
        (DOWN,     E::Gone,              Stopped,    &[]),
        (DOWN,     E::Died,              Stopped,    &[]),
        (DOWN,     E::Refused,           Stopped,    &[]),
        (DOWN,     E::DelayOver,         DOWN,       &[]),
        (DOWN,      E::Client,            DOWN,       &[]),
        (DOWN,      E::Idle,              DOWN,       &[]),

        (DOWN_UP,  E::Start,             DOWN_UP,    &[]),
        (DOWN_UP,  E::Stop,              DOWN,       &[]),
        (DOWN_UP,  E::Restart,           DOWN_UP,    &[]),
        (DOWN_UP,  E::ResetFailed,       DOWN_UP,    &[]),
        (DOWN_UP,  E::Found,             DOWN_UP,    &[]),
        (DOWN_UP,  E::Phase(Containers), STOP_START, &[]),
        (DOWN_UP,  E::Healthy,           DOWN_UP,    &[]),
        (DOWN_UP,  E::Unhealthy,         DOWN_UP,    &[]),
        (DOWN_UP,  E::Gone,              AGAIN,      &[Effect::Start]),
        (DOWN_UP,  E::Died,              AGAIN,      &[Effect::Start]),
        (DOWN_UP,  E::Refused,           AGAIN,      &[Effect::Start]),
        (DOWN_UP,  E::DelayOver,         DOWN_UP,    &[]),
        (DOWN_UP,   E::Client,            DOWN_UP,    &[]),
        (DOWN_UP,   E::Idle,              DOWN_UP,    &[]),

        (DOWN_LISTEN, E::Start,          DOWN_UP,    &[]),
        (DOWN_LISTEN, E::Stop,           DOWN,       &[]),
        (DOWN_LISTEN, E::Restart,        DOWN_UP,    &[]),
        (DOWN_LISTEN, E::ResetFailed,    DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Found,          DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Phase(Containers), STOP_LISTEN, &[]),
        (DOWN_LISTEN, E::Healthy,        DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Unhealthy,      DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Gone,           Listening,  &[]),
        (DOWN_LISTEN, E::Died,           Listening,  &[]),
        (DOWN_LISTEN, E::Refused,        Listening,  &[]),
        (DOWN_LISTEN, E::DelayOver,      DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Client,         DOWN_LISTEN, &[]),
        (DOWN_LISTEN, E::Idle,           DOWN_LISTEN, &[]),

        (Backoff,  E::Start,             AGAIN,      &[Effect::EndDelay, Effect::Start]),
        (Backoff,  E::Stop,              Stopped,    &[Effect::EndDelay]),
        (Backoff,  E::Restart,           AGAIN,      &[Effect::EndDelay, Effect::Start]),
        (Backoff,  E::ResetFailed,       Backoff,    &[]),
        (Backoff,  E::Found,             FOUND,      &[Effect::EndDelay]),
        (Backoff,  E::Phase(Containers), Backoff,    &[]),
        (Backoff,  E::Healthy,           Backoff,    &[]),
        (Backoff,  E::Unhealthy,         Backoff,    &[]),
        (Backoff,  E::Gone,              Backoff,    &[]),
        (Backoff,  E::Died,              Backoff,    &[]),
        (Backoff,  E::Refused,           Backoff,    &[]),
        (Backoff,  E::DelayOver,         AGAIN,      &[Effect::Start]),
        (Backoff,   E::Client,            Backoff,    &[]),
        (Backoff,   E::Idle,              Backoff,    &[]),

        (Failed,   E::Start,             AGAIN,      &[Effect::Start]),
        (Failed,   E::Stop,              Stopped,    &[]),
        (Failed,   E::Restart,           AGAIN,      &[Effect::Start]),
        (Failed,   E::ResetFailed,       Stopped,    &[]),
        (Failed,   E::Found,             FOUND,      &[Effect::EndDelay]),
        (Failed,   E::Phase(Containers), Failed,     &[]),
        (Failed,   E::Healthy,           Failed,     &[]),
        (Failed,   E::Unhealthy,         Failed,     &[]),
        (Failed,   E::Gone,              Failed,     &[]),
        (Failed,   E::Died,              Failed,     &[]),
        (Failed,   E::Refused,           Failed,     &[]),
        (Failed,   E::DelayOver,         Failed,     &[]),
        (Failed,    E::Client,            Failed,     &[]),
        (Failed,    E::Idle,              Failed,     &[]),
    ];

    #[test]
    fn every_row() {
        for &(life, event, then, effects) in TABLE {
            let mut machine = Machine { life, deaths: vec![] };
            let got = machine.next(event, Duration::from_secs(100), &POLICY);
            assert_eq!((machine.life, got.as_slice()), (then, effects), "{life:?} × {event:?}");
        }
    }

    #[test]
    fn the_table_has_every_pair() {
        let events = 14;
        let lives = [
            Stopped,
            Listening,
            UP,
            Running,
            Degraded,
            DOWN,
            DOWN_UP,
            DOWN_LISTEN,
            Backoff,
            Failed,
        ];
        assert_eq!(TABLE.len(), events * lives.len());
        for life in lives {
            assert_eq!(TABLE.iter().filter(|row| row.0 == life).count(), events, "{life:?}");
        }
    }

    #[test]
    fn deaths_count_within_the_window_only() {
        // (second of each death, what the last one leads to)
        let rows: &[(&[u64], L, Option<u64>)] = &[
            (&[0], Backoff, Some(200)),
            (&[0, 1], Backoff, Some(300)),
            (&[0, 1, 2], Failed, None),
            (&[0, 1, 61], Backoff, Some(200)),
            (&[0, 30, 61], Backoff, Some(300)),
            (&[0, 100, 200, 300], Backoff, Some(200)),
        ];
        for (seconds, life, delay) in rows {
            let mut machine = Machine::default();
            let mut effects = vec![];
            for &second in *seconds {
                machine.life = Running;
                effects = machine.next(E::Died, Duration::from_secs(second), &POLICY);
            }
            assert_eq!(machine.life, *life, "{seconds:?}");
            let delay: Vec<_> =
                delay.iter().map(|&ms| Effect::Delay(Duration::from_millis(ms))).collect();
            assert_eq!(effects, delay, "{seconds:?}");
        }
    }

    #[test]
    fn forgotten_deaths_do_not_count() {
        let now = Duration::from_secs(1);
        for forget in [E::ResetFailed, E::Start] {
            let mut machine = Machine { life: Failed, deaths: vec![now; 3] };
            let _ = machine.next(forget, now, &POLICY);
            machine.life = Running;
            let _ = machine.next(E::Died, now, &POLICY);
            assert_eq!(machine.life, Backoff);
        }
    }

    #[test]
    fn a_failed_engine_listens_again_where_clients_start_it() {
        let policy = Policy { listens: true, ..POLICY };
        for (life, then) in [(Failed, Listening), (Stopped, Stopped), (Backoff, Backoff)] {
            let mut machine = Machine { life, deaths: vec![] };
            assert_eq!(machine.next(E::ResetFailed, Duration::ZERO, &policy), []);
            assert_eq!(machine.life, then, "{life:?}");
        }
    }

    #[test]
    fn phases_show_only_on_the_way() {
        for phase in Phase::ALL {
            assert_eq!(L::Starting(*phase).phase(), Some(*phase));
            assert_eq!(L::Stopping(*phase, Rest).phase(), Some(*phase));
        }
        for life in [Stopped, Listening, Running, Degraded, Backoff, Failed] {
            assert_eq!(life.phase(), None);
        }
    }
}
