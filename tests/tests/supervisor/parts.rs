//! Parts that die under a running engine, and parts that somebody wants replaced.

use super::{finished, outcome, request, run_timeless, running, settled};
use rootlessd::{
    engine::{
        driver::{Event, Unseen},
        incidents::Incident,
    },
    reasons::Code,
    supervisor::{Shutdown, memory::Store},
};
use rootlessd_api::{Error, ErrorKind, IncidentKind, JobKind, JobOptions, JobResult, Part, State};
use rootlessd_tests::engine::{Engine, Setup, death, died, facts, is, reaches};

const KEEP: JobOptions = JobOptions { timeout: None, keep_containers: Some(true) };

#[test]
fn a_part_that_is_replaced_is_no_death() {
    run_timeless(async {
        let (handle, engine) = running().start();
        engine.tell_launched().await;
        engine.tell_healthy(1).await;
        engine.tell_lost(Part::Dockerd).await;
        let status = is(&handle, State::Degraded).await;
        let reason = &status.reasons[0];
        assert_eq!((reason.code.as_str(), reason.part), ("part-being-replaced", Part::Dockerd));
        assert!(reason.text.contains("dockerd was killed"), "{reason:?}");

        // A probe that passes meanwhile shows nothing, and the replacement alone does not, either.
        let status = settled(&handle, &engine).await;
        assert_eq!(status.state, State::Degraded);
        engine.tell_replaced(Part::Dockerd).await;
        let status = reaches(&handle, |status| status.incidents.len() == 2).await;
        assert_eq!((status.state, status.reasons.len()), (State::Degraded, 1));
        let status = settled(&handle, &engine).await;
        assert_eq!((status.state, status.reasons.len()), (State::Running, 0));

        assert_eq!(status.deaths, []);
        let kinds: Vec<_> = status.incidents.iter().map(|it| (it.kind, it.took)).collect();
        assert_eq!(kinds, [(IncidentKind::Lost, None), (IncidentKind::Replaced, Some(410_000))]);
    });
}

#[test]
fn a_part_that_cannot_be_replaced_stays_a_reason() {
    run_timeless(async {
        let (handle, engine) = running().start();
        engine.tell_launched().await;
        engine.tell_lost(Part::Network).await;
        let text = "slirp4netns cannot be started: it is not there".to_owned();
        let missing = Incident::Missing { part: Part::Network, at: 2, text: text.clone() };
        engine.tell(Event::Incidents(vec![missing])).await;
        for _ in 0..3 {
            let status = settled(&handle, &engine).await;
            assert_eq!((status.state, status.reasons.len()), (State::Degraded, 1));
            let reason = &status.reasons[0];
            assert_eq!((reason.code.as_str(), &reason.text), ("part-missing", &text));
        }
        engine.tell_replaced(Part::Network).await;
        assert_eq!(settled(&handle, &engine).await.state, State::Running);
    });
}

#[test]
fn who_takes_over_tells_of_each_incident_once_and_of_none_that_is_mended_as_if_it_were_not() {
    run_timeless(async {
        let mut setup = running();
        let lost = |at| {
            let died = death(Part::Containerd);
            Incident::Lost(rootlessd_api::Death { at, ..died })
        };
        let replaced = |at| Incident::Replaced { part: Part::Containerd, at, took: 1 };
        setup.memory.incidents = vec![lost(11).tell(), replaced(12).tell()];
        setup.memory.incidents_taken = 4;
        let (handle, engine) = setup.start();
        engine.tell_launched().await;
        let all = vec![lost(9), replaced(10), lost(11), replaced(12), lost(13), replaced(14)];
        engine.tell(Event::Incidents(all)).await;
        let status = settled(&handle, &engine).await;
        let told: Vec<_> = status.incidents.iter().map(|incident| incident.at).collect();
        assert_eq!(told, [11, 12, 13, 14]);
        assert_eq!((status.state, status.reasons.len()), (State::Running, 0));

        engine.tell(Event::Incidents((20..60).map(replaced).collect())).await;
        assert_eq!(settled(&handle, &engine).await.incidents.len(), 20);
        handle.reset_failed().await.unwrap();
        engine.tell(Event::Incidents(vec![replaced(60)])).await;
        assert_eq!(settled(&handle, &engine).await.incidents, [replaced(60).tell()]);
    });
}

/// A probe that was under way tells of a moment before, or of what comes of it.
#[test]
fn why_an_engine_dies_is_said_until_it_is_gone() {
    run_timeless(async {
        let (handle, engine) = running().start();
        let dying = Code::EngineDying.reason("dockerd was killed");
        engine.tell(Event::Dying(dying.clone())).await;
        let gone = Code::DockerdNotAnswering.reason("dockerd does not answer: it is gone");
        engine.tell(Event::Unhealthy(gone)).await;
        let status = settled(&handle, &engine).await;
        assert_eq!((status.state, status.reasons), (State::Degraded, vec![dying]));
    });
}

#[test]
fn what_an_engine_lost_with_itself_is_said() {
    run_timeless(async {
        for (containers, text) in [
            (0, "dockerd was killed."),
            (1, "dockerd was killed.; the container that ran ended with it"),
            (7, "dockerd was killed.; the 7 containers that ran ended with it"),
        ] {
            let (handle, engine) = running().start();
            engine.tell_healthy(containers).await;
            let dying = Code::EngineDying.reason("dockerd was killed");
            engine.tell(Event::Dying(dying.clone())).await;
            assert_eq!(is(&handle, State::Degraded).await.reasons, [dying]);
            engine.tell_died().await;
            assert_eq!(is(&handle, State::Backoff).await.deaths[0].text, text);
        }
    });
}

#[test]
fn what_an_engine_lost_with_itself_is_said_by_the_next_supervisor_too() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let (handle, engine) = running().start_in(directory.path());
        engine.tell_healthy(2).await;
        reaches(&handle, |status| status.containers_running == Some(2)).await;
        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);

        let remembered = || Store::below(directory.path()).load().unwrap();
        let lost = Incident::Lost(rootlessd_api::Death { at: 7, ..death(Part::Network) });
        let unseen = Unseen { incidents: vec![lost.clone()], ..died(Part::Init) };
        let setup = Setup { memory: remembered(), found: false, unseen, ..Setup::default() };
        let (handle, _engine) = setup.start_in(directory.path());
        let status = is(&handle, State::Backoff).await;
        let text = "dockerd was killed.; the 2 containers that ran ended with it";
        assert_eq!(status.deaths[0].text, text);
        // Nor did anybody see what had happened to its parts.
        assert_eq!(status.incidents, [lost.tell()]);
        // They are gone, and are not said again.
        assert_eq!(remembered().containers, 0);
    });
}

#[test]
fn an_engine_that_dies_on_its_way_up_is_not_up() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Dying(Code::EngineDying.reason("dockerd was killed"))).await;
        engine.tell_died().await;
        assert_eq!(is(&handle, State::Backoff).await.deaths.len(), 1);
        assert_eq!(outcome(&handle, job.id).await.0, JobResult::Failed);
    });
}

#[test]
fn a_restart_that_keeps_the_containers_ends_when_dockerd_is_well() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell_launched().await;
        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        assert_eq!(job.kind, JobKind::Replacement);
        assert!(!engine.take_replacement().await);
        // Who asks for it again gets the same.
        assert_eq!(handle.request(JobKind::Restart, KEEP).await.unwrap(), job);
        assert!(engine.is_left_alone());
        for part in [Part::Dockerd, Part::Containerd] {
            engine.tell_lost(part).await;
        }
        is(&handle, State::Degraded).await;
        engine.tell(Event::Replaced(Ok(vec![Part::Containerd, Part::Dockerd]))).await;
        for part in [Part::Containerd, Part::Dockerd] {
            engine.tell_replaced(part).await;
        }
        reaches(&handle, |status| status.incidents.len() >= 3).await;
        assert_eq!(handle.jobs().await.unwrap()[0].result, None);
        engine.tell_healthy(1).await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        assert_eq!(handle.status().state, State::Running);
    });
}

#[test]
fn a_replacement_can_be_refused_cancelled_and_overtaken() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        let why = Error::new(ErrorKind::Unsupported, "live-restore is off");
        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        engine.take_replacement().await;
        engine.tell(Event::Replaced(Err(why.clone()))).await;
        assert_eq!(finished(&handle, job.id).await, (JobResult::Failed, Some(why)));

        // The engine goes on.
        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        engine.take_replacement().await;
        handle.cancel_job(job.id).await.unwrap();
        assert!(engine.is_left_alone());
        assert_eq!(settled(&handle, &engine).await.state, State::Running);

        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        engine.take_replacement().await;
        request(&handle, JobKind::Stop).await;
        assert_eq!(outcome(&handle, job.id).await.0, JobResult::Canceled);
        let busy = handle.request(JobKind::Restart, KEEP).await.unwrap_err();
        assert_eq!(busy.kind, ErrorKind::Busy);
        engine.go_down().await;
        is(&handle, State::Stopped).await;

        // Where there is nothing to be kept, it is a start.
        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        assert_eq!(job.kind, JobKind::Restart);
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));

        // It dies of it.
        let job = handle.request(JobKind::Restart, KEEP).await.unwrap();
        engine.take_replacement().await;
        engine.tell_died().await;
        let ended = outcome(&handle, job.id).await;
        assert_eq!(ended, (JobResult::Failed, Some(ErrorKind::EngineDied)));

        let refused = handle.request(JobKind::Stop, KEEP).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument);
    });
}

#[test]
fn an_upgrade_is_offered_and_made() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell_launched().await;
        let outdated = vec![Part::Containerd, Part::Dockerd];
        let newer = rootlessd::engine::driver::Facts { outdated, ..facts() };
        engine.tell(Event::Healthy(newer)).await;
        let status = reaches(&handle, |status| !status.reasons.is_empty()).await;
        let reason = &status.reasons[0];
        assert_eq!(reason.code, "upgrade-available");
        assert!(reason.text.contains("containerd and dockerd"), "{reason:?}");
        assert_eq!(reason.remedy.as_deref(), Some("rootlessctl upgrade"));
        assert_eq!(status.state, State::Running);

        let job = request(&handle, JobKind::Upgrade).await;
        assert!(engine.take_replacement().await);
        engine.tell_healthy(1).await;
        engine.tell(Event::Replaced(Ok(vec![Part::Dockerd]))).await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        assert_eq!(handle.status().reasons, []);

        let job = request(&handle, JobKind::Upgrade).await;
        engine.take_replacement().await;
        engine.tell(Event::Replaced(Ok(vec![]))).await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Skipped, None));

        // The next start is of what there is then.
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Upgrade).await;
        assert_eq!(job.result, Some(JobResult::Skipped));
        assert!(engine.is_left_alone());
    });
}
