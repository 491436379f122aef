use super::{
    Effect, Event as E,
    Life::{self as L, Backoff, Degraded, Failed, Listening, Running, Stopped},
    Machine, Policy,
    Then::{Listen, Rest, Start},
};
use crate::restart_policy::{Deaths, RestartPolicy};
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
const WAIT: Effect = Effect::Delay(crate::engine::shortage::AGAIN);

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
    (Stopped,    E::Starved,           Stopped,    &[]),
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
    (Listening,  E::Starved,           Listening,  &[]),
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
    (UP,         E::Starved,           Backoff,    &[WAIT]),
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
    (Running,    E::Starved,           Backoff,    &[WAIT]),
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
    (Degraded,   E::Starved,           Backoff,    &[WAIT]),
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
    (DOWN,       E::Starved,           Stopped,    &[]),
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
    (DOWN_UP,    E::Starved,           AGAIN,      &[Effect::Start]),
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
    (DOWN_LISTEN, E::Starved,           Listening,  &[]),
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
    (Backoff,    E::Starved,           Backoff,    &[]),
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
    (Failed,     E::Starved,           Failed,     &[]),
    (Failed,   E::DelayOver,         Failed,     &[]),
    (Failed,    E::Client,            Failed,     &[]),
    (Failed,    E::Idle,              Failed,     &[]),
];

#[test]
fn every_row() {
    for &(life, event, then, effects) in TABLE {
        let mut machine = Machine { life, ..Machine::default() };
        let got = machine.next(event, Duration::from_secs(100), &POLICY);
        assert_eq!((machine.life, got.as_slice()), (then, effects), "{life:?} × {event:?}");
    }
}

#[test]
fn the_table_has_every_pair() {
    let events = 15;
    let lives =
        [Stopped, Listening, UP, Running, Degraded, DOWN, DOWN_UP, DOWN_LISTEN, Backoff, Failed];
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
            machine.life = UP;
            let _ = machine.next(E::Healthy, Duration::ZERO, &POLICY);
            effects = machine.next(E::Died, Duration::from_secs(second), &POLICY);
        }
        assert_eq!(machine.life, *life, "{seconds:?}");
        let delay: Vec<_> =
            delay.iter().map(|&ms| Effect::Delay(Duration::from_millis(ms))).collect();
        assert_eq!(effects, delay, "{seconds:?}");
    }
}

/// The seconds of some deaths, each of an engine that never got ready, and what is between them.
#[test]
fn a_start_that_fails_is_not_tried_for_ever_however_long_it_takes() {
    #[rustfmt::skip]
    let rows: &[(&[E], L)] = &[
        (&[E::DelayOver], Failed),
        (&[E::DelayOver, E::Phase(Dockerd)], Failed),
        // Its dockerd is there, and does not answer.
        (&[E::DelayOver, E::Unhealthy], Failed),
        (&[E::DelayOver, E::Healthy], Backoff),
        // Whoever stops it takes the matter into his own hands.
        (&[E::Stop, E::Start], Backoff),
        // Whoever cannot wait does not.
        (&[E::Start], Failed),
    ];
    for (between, life) in rows {
        let mut machine = Machine { life: UP, ..Machine::default() };
        for number in 1..=3 {
            let now = Duration::from_secs(90 * number);
            let _ = machine.next(E::Died, now, &POLICY);
            if number < 3 {
                assert_eq!(machine.life, Backoff, "{between:?}");
                for &event in *between {
                    let _ = machine.next(event, now, &POLICY);
                }
            }
        }
        assert_eq!(machine.life, *life, "{between:?}");
    }
}

/// What an older rootlessd remembers has no such count, and what a newer one does is read by it.
#[test]
fn the_deaths_of_an_older_rootlessd_are_read() {
    let old = r#"{"life":"backoff","deaths":[{"secs":7,"nanos":0}]}"#;
    let mut machine: Machine = serde_json::from_str(old).unwrap();
    assert_eq!((machine.life, machine.deaths.count()), (Backoff, 1));
    assert_ne!(machine.deaths, Deaths::default());
    machine.life = UP;
    let _ = machine.next(E::Died, Duration::from_secs(100), &POLICY);
    let told = serde_json::to_value(&machine).unwrap();
    let deaths = serde_json::json!([{ "secs": 100, "nanos": 0 }]);
    assert_eq!((&told["life"], &told["deaths"]), (&"backoff".into(), &deaths));
    assert_eq!(serde_json::from_value::<Machine>(told).unwrap(), machine);
}

#[test]
fn a_shortage_is_no_death() {
    let mut machine = Machine { life: Running, ..Machine::default() };
    for second in 0..10 {
        let now = Duration::from_secs(second);
        assert_eq!(machine.next(E::Starved, now, &POLICY), [WAIT]);
        assert_eq!(machine.life, Backoff);
        assert_eq!(machine.next(E::DelayOver, now, &POLICY), [Effect::Start]);
    }
}

#[test]
fn forgotten_deaths_do_not_count() {
    let now = Duration::from_secs(1);
    for forget in [E::ResetFailed, E::Start] {
        let mut machine = Machine::default();
        for _ in 0..3 {
            machine.life = Running;
            let _ = machine.next(E::Died, now, &POLICY);
        }
        assert_eq!(machine.life, Failed);
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
        let mut machine = Machine { life, ..Machine::default() };
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
