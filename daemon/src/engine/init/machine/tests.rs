use super::{
    Effect as F, Event as E,
    Fault::{Own, Shortage},
    Killing, Limit, Loss, Machine, Refusal, Stage, Timer, Verdict, Why,
    mend::{remedy, starved_remedy},
};
use crate::restart_policy::{Deaths, RestartPolicy};
use nix::sys::signal::Signal::{SIGHUP, SIGKILL, SIGTERM};
use rootlessd_api::{
    Part::{self, Containerd as C, Dockerd as D},
    Phase,
};
use std::{collections::BTreeSet, time::Duration};

const POLICY: RestartPolicy = RestartPolicy {
    limit: 4,
    window: Duration::from_secs(60),
    delay: Duration::from_millis(200),
    max_delay: Duration::from_millis(500),
};
const UP: [E; 3] = [E::Begun, E::Ready(C), E::Ready(D)];
const PAUSE: F = F::Time(Timer::Pause, Limit::Pause(Duration::from_millis(400)));
const CONTAINERD_DIES: E = E::Exited(C, Own);
const DOCKERD_DIES: E = E::Exited(D, Own);
const STARVED: F = F::Time(Timer::Pause, Limit::Pause(crate::engine::shortage::AGAIN));
const NO_PAUSE: F = F::EndTimer(Timer::Pause);

fn replace(parts: &[Part]) -> E {
    E::Replace(BTreeSet::from_iter(parts.iter().copied()))
}

fn hung(part: Part) -> E {
    E::Hung { part, why: "why".to_owned(), containers: true }
}

/// An engine after these events, and what the last one led to.
fn after(live_restore: bool, events: &[E]) -> (Machine, Vec<F>) {
    let mut machine = Machine { live_restore, ..Machine::default() };
    let mut effects = vec![];
    for event in events {
        effects = machine.next(event.clone(), Duration::ZERO, &POLICY);
    }
    (machine, effects)
}

fn lost(part: Part) -> F {
    F::TellLost(part, Loss::Died)
}

fn ended(part: Part, why: Why) -> F {
    F::TellLost(part, Loss::Ended(why))
}

fn time(part: Part, limit: Limit) -> F {
    F::Time(Timer::Part(part), limit)
}

fn no_time(part: Part) -> F {
    F::EndTimer(Timer::Part(part))
}

#[test]
fn way_up() {
    #[rustfmt::skip]
    let rows: &[(&[E], Vec<F>, Phase)] = &[
        (&[E::Begun], vec![F::Start(C)], Phase::Containerd),
        // What dockerd would say, there is none yet to say.
        (&[E::Begun, E::Ready(D)], vec![], Phase::Containerd),
        (&[E::Begun, E::Ready(C)], vec![F::Start(D)], Phase::Dockerd),
        (&[E::Begun, E::Ready(C), E::Ready(C)], vec![], Phase::Dockerd),
        (&UP, vec![F::Watch], Phase::Dockerd),
        (&[E::Begun, E::Exited(C, Own)], vec![F::GiveUp(Verdict::TooYoung)], Phase::Containerd),
        (&[E::Begun, E::NotStarted(C, Own)], vec![F::GiveUp(Verdict::TooYoung)], Phase::Containerd),
        (&[E::Begun, E::Ready(C), E::Exited(C, Own)], vec![F::GiveUp(Verdict::TooYoung)], Phase::Dockerd),
        (&[E::Begun, E::Ready(C), E::Exited(D, Own)], vec![F::GiveUp(Verdict::TooYoung)], Phase::Dockerd),
        (&[E::Begun, replace(&[D])], vec![F::Refuse(Refusal::NotUp)], Phase::Containerd),
        (&[E::Begun, E::Ready(C), E::Configured, E::Ready(D)], vec![F::Configure, F::Signal(D, SIGHUP), F::Watch], Phase::Dockerd),
    ];
    for (events, effects, phase) in rows {
        let (machine, got) = after(true, events);
        assert_eq!((&got, machine.phase()), (effects, *phase), "{events:?}");
    }
}

#[test]
fn parts_of_an_engine_that_is_up() {
    #[rustfmt::skip]
    let rows: &[(bool, &[E], Vec<F>)] = &[
        (true, &[E::Configured], vec![F::Signal(D, SIGHUP)]),
        (true, &[DOCKERD_DIES], vec![NO_PAUSE, lost(D), time(D, Limit::Start), F::Start(D)]),
        (false, &[DOCKERD_DIES], vec![F::GiveUp(Verdict::KeepsNothing)]),
        (true, &[DOCKERD_DIES, E::Ready(D)], vec![no_time(D), F::TellReplaced(D), F::AnswerWaiting]),
        // The new one dies before it is ready, cannot be started, or takes too long.
        (true, &[DOCKERD_DIES, DOCKERD_DIES], vec![no_time(D), PAUSE, lost(D)]),
        (true, &[DOCKERD_DIES, E::NotStarted(D, Own)], vec![no_time(D), PAUSE, lost(D)]),
        (true, &[DOCKERD_DIES, E::Over(Timer::Part(D))], vec![F::Signal(D, SIGKILL)]),
        (true, &[DOCKERD_DIES, DOCKERD_DIES, E::Over(Timer::Pause)], vec![time(D, Limit::Start), F::Start(D)]),
        (true, &[DOCKERD_DIES, DOCKERD_DIES, E::Over(Timer::Pause), DOCKERD_DIES, E::Over(Timer::Pause), DOCKERD_DIES],
            vec![no_time(D), F::GiveUp(Verdict::TooMany(4))]),
        // It starved: that is no death, and it is not replaced at once again and again.
        (true, &[E::Exited(D, Shortage)], vec![NO_PAUSE, lost(D), time(D, Limit::Start), F::Start(D)]),
        (true, &[E::Exited(D, Shortage), E::Ready(D), E::Exited(D, Shortage)], vec![STARVED, lost(D)]),
        // dockerd goes with containerd, and comes after it.
        (true, &[CONTAINERD_DIES], vec![
            NO_PAUSE, lost(C), time(D, Limit::End), F::Signal(D, SIGKILL), time(C, Limit::Start), F::Start(C)]),
        (false, &[CONTAINERD_DIES], vec![NO_PAUSE, lost(C), time(C, Limit::Start), F::Start(C)]),
        (true, &[CONTAINERD_DIES, DOCKERD_DIES], vec![no_time(D), ended(D, Why::Blind)]),
        (true, &[CONTAINERD_DIES, E::Ready(C)], vec![no_time(C), F::TellReplaced(C)]),
        (true, &[CONTAINERD_DIES, DOCKERD_DIES, E::Ready(C)],
            vec![no_time(C), F::TellReplaced(C), time(D, Limit::Start), F::Start(D)]),
        // Somebody wants it.
        (false, &[replace(&[D])], vec![F::Refuse(Refusal::KeepsNothing)]),
        (true, &[replace(&[])], vec![F::AnswerWaiting]),
        (true, &[replace(&[C, D])], vec![time(D, Limit::End), F::Signal(D, SIGTERM)]),
        (true, &[replace(&[C, D]), E::Over(Timer::Part(D))], vec![
            F::Signal(D, SIGKILL), time(D, Limit::End), F::Signal(D, SIGTERM)]),
        (true, &[replace(&[C, D]), DOCKERD_DIES], vec![
            no_time(D), ended(D, Why::Asked), time(C, Limit::End), F::Signal(C, SIGTERM)]),
        (true, &[replace(&[C, D]), DOCKERD_DIES, CONTAINERD_DIES], vec![
            no_time(C), ended(C, Why::Asked), time(C, Limit::Start), F::Start(C)]),
        // While another dockerd starts: it goes with its containerd, too.
        (true, &[DOCKERD_DIES, replace(&[C, D])], vec![time(C, Limit::End), F::Signal(C, SIGTERM)]),
        (true, &[DOCKERD_DIES, replace(&[C, D]), CONTAINERD_DIES], vec![
            no_time(C), ended(C, Why::Asked), time(D, Limit::End), F::Signal(D, SIGKILL),
            time(C, Limit::Start), F::Start(C)]),
        // What it is to go by is not shown to one that is being replaced, nor to one that starts.
        (true, &[replace(&[C, D]), E::Configured], vec![]),
        (true, &[hung(D), E::Configured], vec![]),
        (true, &[DOCKERD_DIES, E::Configured, E::Ready(D)], vec![
            no_time(D), F::Configure, F::Signal(D, SIGHUP), F::TellReplaced(D), F::AnswerWaiting]),
        // One hangs.
        (true, &[hung(D)], vec![
            F::NoteHung(D, "why".into()), time(D, Limit::End), F::Signal(D, SIGKILL)]),
        (true, &[hung(C)], vec![
            F::NoteHung(C, "why".into()), time(C, Limit::End), F::Signal(C, SIGKILL)]),
        (false, &[hung(D)], vec![F::TellLeft(D, "why".into())]),
        (false, &[E::Hung { part: D, why: "why".to_owned(), containers: false }], vec![
            F::NoteHung(D, "why".into()), time(D, Limit::End), F::Signal(D, SIGKILL)]),
        (true, &[hung(D), hung(D)], vec![]),
        (true, &[hung(D), DOCKERD_DIES], vec![
            no_time(D), NO_PAUSE, lost(D), time(D, Limit::Start), F::Start(D)]),
        // Who is being replaced already will do.
        (true, &[DOCKERD_DIES, replace(&[D])], vec![]),
    ];
    for (live_restore, events, effects) in rows {
        let (_, got) = after(*live_restore, &[&UP[..], events].concat());
        assert_eq!(&got, effects, "{live_restore} {events:?}");
    }
}

/// What ends with the replacement of parts, and then dockerd's end.
fn dockerd_ends(idle: bool) -> Vec<F> {
    let mut effects =
        vec![F::DropLiveRestore, F::EndTimer(Timer::Reading), NO_PAUSE, no_time(C), F::DropWaiting];
    effects.extend(idle.then_some(F::Signal(D, SIGKILL)));
    effects.extend([time(D, Limit::Stop(D)), F::Signal(D, SIGTERM)]);
    effects
}

#[test]
fn way_down() {
    let stop = E::Stop { idle: false };
    let idle = E::Stop { idle: true };
    let reading = F::Time(Timer::Reading, Limit::Reading);
    let containerd_ends = vec![no_time(D), time(C, Limit::Stop(C)), F::Signal(C, SIGTERM)];
    let killed = |killing| [vec![F::TellKilled(killing)], dockerd_ends(false)].concat();
    let gone = [
        vec![F::DropLiveRestore, F::EndTimer(Timer::Reading), NO_PAUSE, no_time(C), F::DropWaiting],
        containerd_ends.clone(),
    ]
    .concat();
    #[rustfmt::skip]
    let rows: Vec<(bool, Vec<E>, Vec<F>, Phase)> = vec![
        (true, vec![stop.clone()], vec![reading.clone(), F::EndLiveRestore], Phase::Containers),
        (true, vec![stop.clone(), stop.clone()], vec![], Phase::Containers),
        (true, vec![stop.clone(), replace(&[D])], vec![F::Refuse(Refusal::NotUp)], Phase::Containers),
        (true, vec![stop.clone(), E::LiveRestoreEnded], dockerd_ends(false), Phase::Dockerd),
        (true, vec![idle.clone()], dockerd_ends(true), Phase::Dockerd),
        (true, vec![stop.clone(), E::Over(Timer::Reading)], killed(Killing::NotRead), Phase::Dockerd),
        // A dockerd that is lost meanwhile, or was before, comes back for its containers.
        (true, vec![stop.clone(), E::Exited(D, Own)], vec![
            NO_PAUSE, lost(D), F::DropLiveRestore, time(D, Limit::Start), F::Start(D)], Phase::Containers),
        (true, vec![stop.clone(), E::Exited(D, Own), E::Ready(D)], vec![
            no_time(D), F::TellReplaced(D), F::AnswerWaiting, F::EndLiveRestore], Phase::Containers),
        (true, vec![E::Exited(D, Own), stop.clone()], vec![reading.clone()], Phase::Containers),
        // But not one that has to wait, or is not replaced.
        (true, vec![E::Exited(D, Own), E::Exited(D, Own), stop.clone()], [vec![reading], gone.clone()].concat(), Phase::Containerd),
        (true, vec![stop.clone(), E::Exited(D, Own), E::Exited(D, Own)], [vec![no_time(D), PAUSE, lost(D)], gone.clone()].concat(), Phase::Containerd),
        (false, vec![stop.clone(), E::Exited(D, Own)], [vec![F::TellKilled(Killing::Lost(Verdict::KeepsNothing))], gone].concat(), Phase::Containerd),
        (true, vec![idle.clone(), E::Over(Timer::Part(D))], vec![F::Signal(D, SIGKILL)], Phase::Dockerd),
        (true, vec![idle.clone(), E::Configured], vec![], Phase::Dockerd),
        (true, vec![idle.clone(), E::Exited(C, Own)], vec![], Phase::Dockerd),
        (true, vec![idle.clone(), E::Exited(C, Own), E::Exited(D, Own)], vec![no_time(D), no_time(C), F::EndAll], Phase::Namespaces),
        (true, vec![idle.clone(), E::Exited(D, Own)], containerd_ends, Phase::Containerd),
        (true, vec![idle, E::Exited(D, Own), E::Exited(C, Own)], vec![no_time(C), F::EndAll], Phase::Namespaces),
    ];
    for (live_restore, events, effects, phase) in rows {
        let (machine, got) = after(live_restore, &[&UP[..], &events].concat());
        assert_eq!((got, machine.phase()), (effects, phase), "{live_restore} {events:?}");
        assert_eq!(machine.stage(), Stage::Stopping);
    }
}

#[test]
fn who_had_been_ready_is_replaced_at_once_and_too_many_are_not() {
    let forever = RestartPolicy { limit: 0, ..POLICY };
    // (second of each death, delay in ms before the last one is replaced if it was not ready)
    let rows: &[(RestartPolicy, &[u64], Option<u64>)] = &[
        (POLICY, &[0], Some(200)),
        (POLICY, &[0, 1], Some(400)),
        (POLICY, &[0, 1, 2], Some(500)),
        (POLICY, &[0, 1, 2, 3], None),
        (POLICY, &[0, 1, 2, 61], Some(400)),
        (POLICY, &[0, 60], Some(200)),
        (POLICY, &[0, 100, 200, 300], Some(200)),
        (RestartPolicy { limit: 1, ..POLICY }, &[0], None),
        (forever, &[0, 1, 2, 3, 4, 5], Some(500)),
    ];
    for (policy, seconds, delay) in rows {
        for was_ready in [true, false] {
            let mut deaths = Deaths::default();
            let mut found = None;
            for &second in *seconds {
                deaths.end_row();
                found = remedy(policy, &mut deaths, Duration::from_secs(second), was_ready);
            }
            let delay = delay.map(|delay| if was_ready { 0 } else { delay });
            let delay = delay.map(Duration::from_millis);
            assert_eq!(found, delay, "{policy:?} {seconds:?} {was_ready}");
        }
    }
}

/// A part that takes longer to fail than deaths count.
#[test]
fn a_part_that_never_gets_ready_is_not_replaced_for_ever() {
    let over = E::Over(Timer::Pause);
    #[rustfmt::skip]
    let rows: &[(&[E], bool)] = &[
        (&[over.clone(), DOCKERD_DIES], true),
        (&[over.clone(), E::NotStarted(D, Own)], true),
        (&[over.clone(), E::Ready(D), DOCKERD_DIES], false),
        // containerd comes back each time, and dockerd never.
        (&[CONTAINERD_DIES, E::Ready(C), over, DOCKERD_DIES], true),
    ];
    for (again, given_up) in rows {
        let (mut machine, _) = after(true, &[&UP[..], &[DOCKERD_DIES]].concat());
        let mut effects = vec![];
        for minute in (10..100).step_by(10) {
            for event in *again {
                let now = Duration::from_secs(60 * minute);
                effects.extend(machine.next(event.clone(), now, &POLICY));
            }
        }
        let gives_up = effects.iter().any(|it| matches!(it, F::GiveUp(Verdict::TooMany(4))));
        assert_eq!(gives_up, *given_up, "{again:?}");
    }
}

#[test]
fn what_a_shortage_ends_is_replaced_at_once_only_now_and_then() {
    let mut last = None;
    for (second, was_ready, delay) in
        [(0, true, 0), (1, true, 10), (11, false, 10), (40, true, 10), (100, true, 0)]
    {
        let found = starved_remedy(&mut last, Duration::from_secs(second), was_ready);
        assert_eq!(found, Duration::from_secs(delay), "{second} s");
    }
}
