//! An engine that ends when it should not.

use super::{SECOND, outcome, request, run_timeless, running};
use rootlessd::{engine::driver::Event, sys::clock};
use rootlessd_api::{JobKind, JobResult, Part, Phase, State};
use rootlessd_tests::engine::{death, is, obstacle, reaches};
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn each_death_makes_the_pause_longer_until_there_were_too_many() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 5;
        setup.config.engine.restart.window = 3600 * SECOND;
        setup.config.engine.restart.delay = SECOND;
        setup.config.engine.restart.max_delay = 5 * SECOND;
        let (handle, mut engine) = setup.start();
        for (number, pause) in [1, 2, 4, 5].into_iter().enumerate() {
            let told = clock::now_realtime();
            engine.tell(Event::Died(death(Part::Dockerd))).await;
            let status = is(&handle, State::Backoff).await;
            let next = status.next_attempt.unwrap() - told;
            // A second of ours and one of the clock on the wall are not the same in this test.
            assert!((pause * 1_000_000..pause * 1_000_000 + 900_000).contains(&next), "{next}");
            assert_eq!(status.deaths.len(), number + 1);
            let lines: Vec<_> = status.deaths.iter().map(|death| !death.log.is_empty()).collect();
            assert_eq!(
                lines.iter().filter(|has| **has).count(),
                1,
                "only the newest has its lines"
            );
            assert!(lines[number]);
            let begin = Instant::now();
            engine.take_start().await;
            assert_eq!(begin.elapsed().as_secs(), pause);
            assert_eq!(handle.status().next_attempt, None);
            engine.tell_healthy(0).await;
            is(&handle, State::Running).await;
        }
        engine.tell(Event::Died(death(Part::Containerd))).await;
        let status = is(&handle, State::Failed).await;
        assert_eq!((status.next_attempt, status.deaths.len()), (None, 5));
        let reason = &status.reasons[0];
        assert_eq!((reason.code.as_str(), reason.part), ("died-too-often", Part::Containerd));
        assert!(reason.remedy.as_ref().unwrap().contains("logs --part containerd"));
        assert!(engine.is_left_alone());

        // Somebody who starts it all the same begins to count anew.
        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell_died().await;
        is(&handle, State::Backoff).await;
        let begin = Instant::now();
        engine.take_start().await;
        assert_eq!(begin.elapsed().as_secs(), 1);
    });
}

#[test]
fn deaths_beyond_the_window_do_not_count() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 2;
        setup.config.engine.restart.window = Duration::from_nanos(1);
        setup.config.engine.restart.delay = SECOND;
        let (handle, mut engine) = setup.start();
        for _ in 0..50 {
            engine.tell_died().await;
            let begin = Instant::now();
            engine.take_start().await;
            assert_eq!(begin.elapsed().as_secs(), 1);
            engine.tell_healthy(0).await;
            is(&handle, State::Running).await;
        }
        // They are told, the last of them.
        assert_eq!(handle.status().deaths.len(), 20);
    });
}

/// As one that hangs until its time is over.
#[test]
fn starts_that_fail_count_beyond_the_window() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 5;
        setup.config.engine.restart.window = Duration::from_nanos(1);
        setup.config.engine.restart.delay = SECOND;
        let (handle, mut engine) = setup.start();
        engine.tell_healthy(0).await;
        // That of the one which was ready, and those of four starts.
        for pause in [1, 2, 4, 8] {
            engine.tell_died().await;
            is(&handle, State::Backoff).await;
            let begin = Instant::now();
            engine.take_start().await;
            assert_eq!(begin.elapsed().as_secs(), pause);
            engine.tell(Event::Phase(Phase::Dockerd)).await;
        }
        engine.tell_died().await;
        assert_eq!(is(&handle, State::Failed).await.reasons[0].code, "died-too-often");
        assert!(engine.is_left_alone());
    });
}

#[test]
fn a_back_off_can_be_cut_short() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.delay = 3600 * SECOND;
        setup.config.engine.restart.max_delay = 3600 * SECOND;
        let (handle, mut engine) = setup.start();
        let begin = Instant::now();
        engine.tell_died().await;
        is(&handle, State::Backoff).await;
        let job = request(&handle, JobKind::Start).await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));

        engine.tell_died().await;
        is(&handle, State::Backoff).await;
        let job = request(&handle, JobKind::Stop).await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        let status = handle.status();
        assert_eq!((status.state, status.next_attempt), (State::Stopped, None));
        // The delay is no more, either.
        tokio::time::sleep(2 * 3600 * SECOND).await;
        assert_eq!(handle.status().state, State::Stopped);
        assert!(engine.is_left_alone());
        assert!(begin.elapsed() > 3600 * SECOND);
    });
}

#[test]
fn deaths_can_be_forgotten() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 2;
        let (handle, mut engine) = setup.start();
        engine.tell_died().await;
        engine.take_start().await;
        engine.tell_healthy(0).await;
        is(&handle, State::Running).await;
        handle.reset_failed().await.unwrap();
        let status = handle.status();
        assert_eq!((status.state, status.deaths.len()), (State::Running, 0));
        // It does not count any more.
        engine.tell_died().await;
        engine.take_start().await;
        engine.tell_died().await;
        is(&handle, State::Failed).await;
        handle.reset_failed().await.unwrap();
        let status = handle.status();
        assert_eq!(
            (status.state, status.deaths.len(), status.reasons.len()),
            (State::Listening, 0, 0)
        );

        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        handle.reset_failed().await.unwrap();
        assert_eq!((handle.status().state, handle.status().reasons.len()), (State::Listening, 0));
        assert!(engine.is_left_alone());
    });
}

#[test]
fn who_ends_it_behind_our_back_ends_it_for_a_moment() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell(Event::Gone).await;
        let status = is(&handle, State::Backoff).await;
        assert!(status.deaths[0].text.contains("not through rootlessd"), "{status:?}");
        engine.take_start().await;

        // What an engine tells that is gone changes nothing.
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        engine.tell(Event::Gone).await;
        engine.tell_died().await;
        engine.tell(Event::Phase(Phase::Dockerd)).await;
        engine.tell_unhealthy("it hangs").await;
        engine.tell(Event::MainPid(4711)).await;
        let status = reaches(&handle, |status| status.main_pid == Some(4711)).await;
        assert_eq!((status.state, status.phase, status.deaths.len()), (State::Failed, None, 1));
    });
}

#[test]
fn an_engine_out_of_reach_is_restarted() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        engine.tell(Event::OutOfReach).await;
        engine.take_stop().await;
        // Once is enough, and somebody may want it to stay down.
        request(&handle, JobKind::Stop).await;
        engine.tell(Event::OutOfReach).await;
        engine.tell(Event::Gone).await;
        is(&handle, State::Stopped).await;
        assert!(engine.is_left_alone());

        let (handle, mut engine) = running().start();
        engine.tell(Event::OutOfReach).await;
        engine.go_down().await;
        engine.come_up().await;
        let status = is(&handle, State::Running).await;
        assert_eq!(status.deaths, []);
    });
}
