//! What people ask for, and how it goes.

use super::{SECOND, finished, outcome, request, run_timeless, running, settled};
use rootlessd::engine::driver::Event;
use rootlessd_api::{
    ErrorKind, JobKind, JobOptions, JobResult, JobState, Part, Phase, State, Status,
};
use rootlessd_tests::engine::{Engine, Setup, death, is, obstacle, reaches};
use tokio::{sync::broadcast, task::spawn_local, time::Instant};

#[test]
fn a_start_is_told_step_by_step_and_nothing_before_it_happened() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let mut jobs = handle.watch_jobs();
        let job = request(&handle, JobKind::Start).await;
        assert_eq!((job.id, job.state, job.result), (1, JobState::Running, None));
        let at = |status: &Status| (status.state, status.phase);
        assert_eq!(at(&handle.status()), (State::Starting, Some(Phase::Preflight)));
        assert_eq!(jobs.try_recv().unwrap(), job);
        engine.take_start().await;
        for phase in [Phase::Namespaces, Phase::Network, Phase::Containerd, Phase::Dockerd] {
            engine.tell(Event::Phase(phase)).await;
            let status = reaches(&handle, |status| status.phase == Some(phase)).await;
            assert_eq!(status.state, State::Starting);
        }
        engine.tell_launched().await;
        let status = reaches(&handle, |status| status.data_root.is_some()).await;
        assert_eq!((status.main_pid, status.storage_driver), (None, None));
        engine.tell(Event::MainPid(4711)).await;
        reaches(&handle, |status| status.main_pid == Some(4711)).await;
        assert!(matches!(jobs.try_recv(), Err(broadcast::error::TryRecvError::Empty)));
        assert_eq!(handle.jobs().await.unwrap(), [job]);

        // The state is there before the job is over.
        engine.tell_healthy(3).await;
        let job = jobs.recv().await.unwrap();
        assert_eq!((job.id, job.result, job.error), (1, Some(JobResult::Done), None));
        let status = handle.status();
        assert_eq!((status.state, status.phase), (State::Running, None));
        assert_eq!(status.containers_running, Some(3));
        assert!(engine.is_left_alone());
    });
}

#[test]
fn a_stop_is_told_step_by_step() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.stop_timeout = 7 * SECOND;
        let (handle, mut engine) = setup.start();
        engine.tell_launched().await;
        settled(&handle, &engine).await;
        let mut jobs = handle.watch_jobs();
        let job = request(&handle, JobKind::Stop).await;
        assert_eq!(engine.take_stop().await, 7 * SECOND);
        for phase in [Phase::Containers, Phase::Dockerd, Phase::Containerd, Phase::Namespaces] {
            engine.tell(Event::Phase(phase)).await;
            let status = reaches(&handle, |status| status.phase == Some(phase)).await;
            assert_eq!(status.state, State::Stopping);
            assert!(status.data_root.is_some(), "it is still there");
        }
        engine.tell(Event::Gone).await;
        assert_eq!(jobs.recv().await.unwrap(), job);
        assert_eq!(jobs.recv().await.unwrap().result, Some(JobResult::Done));
        let status = handle.status();
        assert_eq!((status.state, status.phase), (State::Stopped, None));
        // What was known of the engine went with it, and it was no death.
        assert_eq!((status.data_root.as_ref(), status.version.as_ref()), (None, None));
        assert_eq!((status.containers_running, status.deaths.len()), (None, 0));
    });
}

#[test]
fn what_is_so_already_is_skipped() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Stop).await;
        assert_eq!((job.state, job.result), (JobState::Finished, Some(JobResult::Skipped)));
        let job = request(&handle, JobKind::Start).await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        assert_eq!(request(&handle, JobKind::Start).await.result, Some(JobResult::Skipped));
        engine.tell_unhealthy("it hangs").await;
        is(&handle, State::Degraded).await;
        assert_eq!(request(&handle, JobKind::Start).await.result, Some(JobResult::Skipped));
        assert!(engine.is_left_alone());
    });
}

#[test]
fn a_job_fails_with_the_reason() {
    run_timeless(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 2;
        let (handle, mut engine) = setup.start();
        let job = request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle(), obstacle()])).await;
        let (result, error) = finished(&handle, job.id).await;
        let error = error.unwrap();
        assert_eq!((result, error.kind), (JobResult::Failed, ErrorKind::Preflight));
        assert_eq!(error.message, "there are no ids, and 1 more reasons");
        assert_eq!(error.remedy.as_deref(), Some("sudo usermod"));
        let status = handle.status();
        assert_eq!((status.state, status.reasons.len()), (State::Failed, 2));

        // A death says so, whether there is another try or not.
        for state in [State::Backoff, State::Failed] {
            let job = request(&handle, JobKind::Start).await;
            assert_eq!(handle.status().reasons, []);
            engine.take_start().await;
            engine.tell(Event::Died(death(Part::Containerd))).await;
            let (result, error) = finished(&handle, job.id).await;
            let error = error.unwrap();
            assert_eq!((result, error.kind), (JobResult::Failed, ErrorKind::EngineDied));
            assert_eq!(error.message, "the engine died: dockerd was killed.");
            assert_eq!(error.remedy.as_deref(), Some("rootlessctl logs --part containerd"));
            assert_eq!(handle.status().state, state);
        }
        let reason = &handle.status().reasons[0];
        assert_eq!((reason.code.as_str(), reason.part), ("died-too-often", Part::Containerd));
    });
}

#[test]
fn a_contrary_job_takes_the_place_of_one_at_work() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let start = request(&handle, JobKind::Start).await;
        assert_eq!(request(&handle, JobKind::Start).await.id, start.id, "it is being done");
        engine.take_start().await;
        let stop = request(&handle, JobKind::Stop).await;
        let (result, error) = finished(&handle, start.id).await;
        let error = error.unwrap();
        assert_eq!((result, error.kind), (JobResult::Canceled, ErrorKind::Canceled));
        assert_eq!(error.message, "a stop was asked for instead");
        assert_eq!(handle.status().state, State::Stopping);

        // And back: it goes down before it comes up.
        let start = request(&handle, JobKind::Start).await;
        assert_eq!(outcome(&handle, stop.id).await.0, JobResult::Canceled);
        engine.go_down().await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, start.id).await, (JobResult::Done, None));

        // A restart that becomes a stop stays down.
        let restart = request(&handle, JobKind::Restart).await;
        let stop = request(&handle, JobKind::Stop).await;
        assert_eq!(outcome(&handle, restart.id).await.0, JobResult::Canceled);
        engine.go_down().await;
        assert_eq!(outcome(&handle, stop.id).await, (JobResult::Done, None));
        assert_eq!(handle.status().state, State::Stopped);
        assert!(engine.is_left_alone());
    });
}

#[test]
fn a_restart_goes_down_and_up() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        for down in [Event::Gone, Event::Died(death(Part::Dockerd)), Event::Refused(vec![])] {
            let job = request(&handle, JobKind::Restart).await;
            engine.take_stop().await;
            assert!(engine.is_left_alone(), "one after the other");
            engine.tell(down).await;
            engine.come_up().await;
            assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
            // An end on the way down is no death, however it came.
            assert_eq!(handle.status().deaths, []);
        }
        let job = request(&handle, JobKind::Stop).await;
        engine.go_down().await;
        finished(&handle, job.id).await;
        let job = request(&handle, JobKind::Restart).await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
    });
}

#[test]
fn a_cancelled_start_is_undone_and_a_cancelled_stop_goes_on() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Start).await;
        engine.take_start().await;
        handle.cancel_job(job.id).await.unwrap();
        assert_eq!(
            outcome(&handle, job.id).await,
            (JobResult::Canceled, Some(ErrorKind::Canceled))
        );
        assert_eq!(handle.status().state, State::Stopping);
        engine.go_down().await;
        is(&handle, State::Stopped).await;

        let start = request(&handle, JobKind::Start).await;
        engine.come_up().await;
        finished(&handle, start.id).await;
        let stop = request(&handle, JobKind::Stop).await;
        handle.cancel_job(stop.id).await.unwrap();
        assert_eq!(outcome(&handle, stop.id).await.0, JobResult::Canceled);
        engine.go_down().await;
        is(&handle, State::Stopped).await;

        for over in [start.id, stop.id, 99] {
            let error = handle.cancel_job(over).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::NoSuchJob);
        }
        assert!(engine.is_left_alone());
    });
}

#[test]
fn a_job_that_runs_out_of_time_ends_and_the_engine_goes_on() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let options = JobOptions { timeout: Some(5_000_000), ..JobOptions::default() };
        let begin = Instant::now();
        let job = handle.request(JobKind::Start, options).await.unwrap();
        engine.take_start().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Timeout, Some(ErrorKind::Timeout)));
        assert_eq!(begin.elapsed().as_secs(), 5);
        assert_eq!(handle.status().state, State::Starting);
        engine.tell_healthy(0).await;
        is(&handle, State::Running).await;
        assert!(engine.is_left_alone());

        // Zero, and more than any clock can tell, are no limit.
        for forever in [0, u64::MAX] {
            let options = JobOptions { timeout: Some(forever), ..JobOptions::default() };
            let job = handle.request(JobKind::Restart, options).await.unwrap();
            engine.go_down().await;
            engine.come_up().await;
            assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        }
    });
}

#[test]
fn everybody_who_waits_is_told_and_old_jobs_are_forgotten() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        let job = request(&handle, JobKind::Start).await;
        let waiters: Vec<_> = (0..50)
            .map(|_| {
                let handle = handle.clone();
                spawn_local(async move { handle.wait_job(1).await })
            })
            .collect();
        for impatient in &waiters[..25] {
            impatient.abort();
        }
        assert_eq!(handle.wait_job(2).await.unwrap_err().kind, ErrorKind::NoSuchJob);
        engine.come_up().await;
        finished(&handle, job.id).await;
        for waiter in waiters.into_iter().skip(25) {
            assert_eq!(waiter.await.unwrap().unwrap().result, Some(JobResult::Done));
        }
        // Also those who come when it is over; but not for ever.
        for _ in 0..15 {
            request(&handle, JobKind::Start).await;
        }
        assert_eq!(outcome(&handle, 1).await.0, JobResult::Done);
        request(&handle, JobKind::Start).await;
        assert_eq!(handle.wait_job(1).await.unwrap_err().kind, ErrorKind::NoSuchJob);
        assert_eq!(handle.jobs().await.unwrap().len(), 16);
    });
}
