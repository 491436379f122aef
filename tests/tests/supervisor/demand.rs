//! An engine that its clients start, and that ends when nobody needs it.

use super::{outcome, request, run_timeless, running};
use rootlessd::{
    config::Start,
    engine::driver::Event,
    supervisor::{Shutdown, memory::Store},
    sys::clock,
};
use rootlessd_api::{JobKind, JobResult, State};
use rootlessd_tests::engine::{Engine, Setup, is, memory, obstacle};
use serde_json::json;

fn listening() -> Setup {
    Setup::of(memory(json!("listening")))
}

#[test]
fn the_first_client_starts_it_and_the_others_wait_for_it() {
    run_timeless(async {
        let (handle, mut engine) = listening().start();
        let status = is(&handle, State::Listening).await;
        assert_eq!((status.demand_starts, status.last_demand_start), (0, None));
        let begun = clock::now_realtime();
        for _ in 0..3 {
            handle.client().await.unwrap();
        }
        engine.come_up().await;
        let status = is(&handle, State::Running).await;
        assert_eq!(status.demand_starts, 1);
        assert!(status.last_demand_start >= Some(begun));
        // None of their business any more.
        handle.client().await.unwrap();
        assert!(engine.is_left_alone());
        assert!(handle.jobs().await.unwrap().is_empty(), "nobody asked for a job");
    });
}

#[test]
fn who_is_stopped_or_failed_is_started_by_no_client() {
    run_timeless(async {
        for life in [json!("stopped"), json!("failed"), json!("backoff")] {
            let mut setup = Setup::of(memory(life));
            setup.memory.next_attempt = None;
            setup.config.engine.start = Start::Demand;
            let (handle, mut engine) = setup.start();
            // A back-off is over at once; nothing else starts anything.
            if handle.status().state == State::Backoff {
                engine.take_start().await;
            }
            handle.client().await.unwrap();
            assert!(engine.is_left_alone());
            assert_eq!(handle.status().demand_starts, 0);
        }
        // A refused start fails it for good.
        let (handle, mut engine) = listening().start();
        handle.client().await.unwrap();
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        handle.client().await.unwrap();
        assert!(engine.is_left_alone());
        handle.reset_failed().await.unwrap();
        is(&handle, State::Listening).await;
        handle.client().await.unwrap();
        engine.take_start().await;
    });
}

#[test]
fn an_idle_engine_ends_and_waits_for_a_client() {
    run_timeless(async {
        let (handle, mut engine) = running().start();
        for round in 1..=2 {
            engine.tell(Event::Idle).await;
            engine.go_down().await;
            let status = is(&handle, State::Listening).await;
            assert_eq!(status.deaths, []);
            handle.client().await.unwrap();
            engine.come_up().await;
            assert_eq!(is(&handle, State::Running).await.demand_starts, round);
        }
    });
}

#[test]
fn an_idle_stop_can_be_turned_round() {
    run_timeless(async {
        for (kind, state) in [(JobKind::Start, State::Running), (JobKind::Stop, State::Stopped)] {
            let (handle, mut engine) = running().start();
            engine.tell(Event::Idle).await;
            engine.take_stop().await;
            let job = request(&handle, kind).await;
            engine.tell(Event::Gone).await;
            if state == State::Running {
                engine.come_up().await;
            }
            assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None), "{kind}");
            assert_eq!(handle.status().state, state);
            // A client of a stop that nobody turned round comes after it.
            handle.client().await.unwrap();
            assert!(engine.is_left_alone());
        }
    });
}

#[test]
fn a_listening_engine_is_started_and_stopped_by_hand() {
    run_timeless(async {
        let (handle, mut engine) = listening().start();
        let job = request(&handle, JobKind::Start).await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        assert_eq!(handle.status().demand_starts, 0, "no client did it");

        let (handle, mut engine) = listening().start();
        let job = request(&handle, JobKind::Stop).await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
        assert_eq!(handle.status().state, State::Stopped);
        assert!(engine.is_left_alone());
    });
}

#[test]
fn the_next_supervisor_listens_too_and_knows_how_often() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::below(directory.path());
        let next = |start: Start| {
            let mut setup = Setup::of(store.load().unwrap());
            setup.config.engine.start = start;
            setup.start_in(directory.path())
        };
        let (handle, mut engine) = listening().start_in(directory.path());
        handle.client().await.unwrap();
        engine.come_up().await;
        engine.tell(Event::Idle).await;
        engine.take_stop().await;
        drop(engine);

        // The stop goes on, and so does what comes after it.
        let (handle, mut engine) = next(Start::Auto);
        engine.go_down().await;
        let status = is(&handle, State::Listening).await;
        assert_eq!(status.demand_starts, 1);
        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);
        let (handle, mut engine) = next(Start::Demand);
        assert_eq!((handle.status().state, handle.status().demand_starts), (State::Listening, 1));
        assert!(engine.is_left_alone());
        drop(engine);

        // It was told otherwise since.
        let (_handle, mut engine) = next(Start::Boot);
        engine.take_start().await;
        drop(engine);
        ends_at_once(listening().start()).await;
    });
}

async fn ends_at_once((handle, engine): (rootlessd::supervisor::handle::Handle, Engine)) {
    engine.shut_down(Shutdown::StopEngine).await;
    assert_eq!(engine.ended().await, Shutdown::StopEngine);
    assert!(handle.client().await.is_err());
}
