//! A machine that is short of something for a while.

use super::{outcome, request, run_timeless, running};
use rootlessd::{
    engine::{driver::Event, incidents::Incident},
    reasons::Code,
};
use rootlessd_api::{Death, ErrorKind, IncidentKind, JobKind, JobResult, Part, Reason, State};
use rootlessd_tests::engine::{Engine, death, is, reaches};

fn full() -> Vec<Reason> {
    vec![Code::DataRootFull.reason("/d is full: 0 KiB are left")]
}

#[test]
fn a_start_waits_until_it_is_over() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Starved { reasons: full(), death: None }).await;
        let ended = outcome(&handle, job.id).await;
        assert_eq!(ended, (JobResult::Failed, Some(ErrorKind::Preflight)));
        // However often: nobody is to blame.
        for _ in 0..20 {
            let status = is(&handle, State::Backoff).await;
            assert_eq!((status.deaths.len(), &status.reasons), (0, &full()));
            engine.take_start().await;
            engine.tell(Event::Starved { reasons: full(), death: None }).await;
        }
        engine.take_start().await;
        engine.tell_healthy(0).await;
        assert_eq!(is(&handle, State::Running).await.reasons, []);
    });
}

#[test]
fn an_engine_that_dies_of_it_is_no_death_that_counts() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 2;
        let (handle, mut engine) = setup.start();
        for count in 1..5 {
            engine.tell_healthy(0).await;
            is(&handle, State::Running).await;
            let death = Some(death(Part::Dockerd));
            engine.tell(Event::Starved { reasons: full(), death }).await;
            let status = is(&handle, State::Backoff).await;
            assert_eq!((status.deaths.len(), &status.reasons), (count, &full()));
            engine.take_start().await;
        }
        // What it dies of next is something else.
        engine.tell_died().await;
        assert_eq!(is(&handle, State::Backoff).await.reasons, []);
    });
}

#[test]
fn an_engine_that_runs_goes_on() {
    run_timeless(async {
        let (handle, engine) = running().start();
        engine.tell_launched().await;
        engine.tell_healthy(1).await;
        engine.tell(Event::Short(full())).await;
        let status = reaches(&handle, |status| !status.reasons.is_empty()).await;
        assert_eq!((status.state, &status.reasons), (State::Running, &full()));
        engine.tell(Event::Short(vec![])).await;
        let status = reaches(&handle, |status| status.reasons.is_empty()).await;
        assert_eq!(status.state, State::Running);
    });
}

#[test]
fn what_is_killed_for_memory_has_a_reason_of_its_own() {
    run_timeless(async {
        let (handle, engine) = running().start();
        engine.tell_launched().await;
        engine.tell_healthy(1).await;
        let death = Death { out_of_memory: true, ..death(Part::Dockerd) };
        engine.tell(Event::Incidents(vec![Incident::lost(death)])).await;
        let status = is(&handle, State::Degraded).await;
        let reason = &status.reasons[0];
        assert_eq!((reason.code.as_str(), reason.part), ("killed-for-memory", Part::Dockerd));
        assert_eq!(status.incidents[0].kind, IncidentKind::Lost);
    });
}

#[test]
fn an_engine_that_is_killed_for_memory_is_a_death_with_that_reason() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        for count in 1..3 {
            engine.tell_healthy(0).await;
            is(&handle, State::Running).await;
            let death = Death { out_of_memory: true, ..death(Part::Rootlesskit) };
            engine.tell(Event::Died(death)).await;
            let status = is(&handle, State::Backoff).await;
            let reason = &status.reasons[0];
            assert_eq!(
                (reason.code.as_str(), reason.part),
                ("killed-for-memory", Part::Rootlesskit)
            );
            // Nobody waits until that has passed.
            assert_eq!(status.deaths.len(), count);
            engine.take_start().await;
            let status = is(&handle, State::Starting).await;
            assert_eq!(status.reasons.len(), 1, "{:?}", status.reasons);
        }
        engine.tell_healthy(0).await;
        assert_eq!(is(&handle, State::Running).await.reasons, []);
        engine.tell_died().await;
        assert_eq!(is(&handle, State::Backoff).await.reasons, []);
    });
}
