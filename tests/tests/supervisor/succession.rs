//! One supervisor after another: what is remembered, resumed and left behind.

use super::{SECOND, outcome, request, run_timeless, running, settled, starting, stopping};
use rootlessd::{
    engine::driver::Command, engine::driver::Event, supervisor::Shutdown,
    supervisor::memory::Memory, supervisor::memory::Moment, supervisor::memory::Store,
};
use rootlessd_api::{ErrorKind, JobKind, JobOptions, JobResult, Part, Phase, State, names};
use rootlessd_tests::engine::{Setup, death, died, is, memory, obstacle};
use serde_json::json;
use tokio::task::spawn_local;

/// What a supervisor does first that remembers a life, with and without an engine to be found.
#[test]
fn every_life_is_resumed() {
    #[derive(Debug, PartialEq)]
    enum First {
        Start,
        Stop,
        Nothing,
    }
    use First::{Nothing, Start, Stop};
    run_timeless(async {
        let found = Some(Phase::Namespaces);
        #[rustfmt::skip]
        let rows = [
            // (remembered, whether there is one, what it does, what it says)
            (json!("stopped"),        false, Nothing, State::Stopped,  None),
            (json!("stopped"),        true,  Nothing, State::Starting, found),
            (json!("listening"),      false, Nothing, State::Listening, None),
            (json!("listening"),      true,  Nothing, State::Starting, found),
            (starting("preflight"),   false, Start,   State::Starting, Some(Phase::Preflight)),
            (starting("namespaces"),  false, Start,   State::Starting, Some(Phase::Namespaces)),
            (starting("dockerd"),     false, Nothing, State::Backoff,  None),
            (starting("dockerd"),     true,  Nothing, State::Starting, Some(Phase::Dockerd)),
            (json!("running"),        false, Nothing, State::Backoff,  None),
            (json!("running"),        true,  Nothing, State::Running,  None),
            (json!("degraded"),       false, Nothing, State::Backoff,  None),
            (json!("degraded"),       true,  Nothing, State::Degraded, None),
            (stopping("rest"),        false, Nothing, State::Stopped,  None),
            (stopping("rest"),        true,  Stop,    State::Stopping, Some(Phase::Dockerd)),
            (stopping("listen"),      false, Nothing, State::Listening, None),
            (stopping("listen"),      true,  Stop,    State::Stopping, Some(Phase::Dockerd)),
            (stopping("start"),       false, Start,   State::Starting, Some(Phase::Preflight)),
            (stopping("start"),       true,  Stop,    State::Stopping, Some(Phase::Dockerd)),
            (json!("backoff"),        false, Start,   State::Starting, Some(Phase::Preflight)),
            (json!("backoff"),        true,  Nothing, State::Starting, found),
            (json!("failed"),         false, Nothing, State::Failed,   None),
            (json!("failed"),         true,  Nothing, State::Starting, found),
        ];
        for (life, found, first, state, phase) in rows {
            let what = format!("{life}, found: {found}");
            let mut setup = Setup { memory: memory(life), found, ..Setup::default() };
            // Nothing is tried again within this test.
            setup.config.engine.restart.delay = 3600 * SECOND;
            setup.config.engine.restart.max_delay = 3600 * SECOND;
            let (handle, mut engine) = setup.start();
            // This clock goes on only when nobody has anything to do any more.
            tokio::time::sleep(SECOND).await;
            let status = handle.status();
            assert_eq!((status.state, status.phase), (state, phase), "{what}");
            let done = match engine.try_command() {
                Some(Command::Start) => Start,
                Some(Command::Stop { .. }) => Stop,
                Some(other) => panic!("{other:?}"),
                None => Nothing,
            };
            assert_eq!(done, first, "{what}");
            assert!(engine.is_left_alone(), "{what}");
            let unseen = state == State::Backoff;
            assert_eq!(status.deaths.len(), usize::from(unseen), "{what}");
        }
    });
}

#[test]
fn an_engine_that_was_found_tells_how_it_is() {
    run_timeless(async {
        let mut setup = running();
        setup.config.engine.restart.limit = 1;
        let (handle, engine) = setup.clone().start();
        engine.tell_launched().await;
        let status = settled(&handle, &engine).await;
        assert_eq!((status.state, status.since), (State::Running, 1), "it went on all the time");

        // Or how it dies while it is looked for.
        let (handle, engine) = setup.clone().start();
        engine.tell(Event::Died(death(Part::Containerd))).await;
        let status = is(&handle, State::Failed).await;
        assert_eq!(status.deaths, [death(Part::Containerd)]);
        // Or how it died before that, if it was believed to live.
        for (life, deaths) in [
            (json!("running"), vec![death(Part::Init)]),
            (starting("namespaces"), vec![death(Part::Init)]),
            (stopping("rest"), vec![]),
            (json!("stopped"), vec![]),
        ] {
            let (memory, unseen) = (memory(life), died(Part::Init));
            let setup = Setup { memory, found: false, unseen, ..setup.clone() };
            let (handle, mut engine) = setup.start();
            let state = if deaths.is_empty() { State::Stopped } else { State::Failed };
            assert_eq!(is(&handle, state).await.deaths, deaths);
            assert!(engine.is_left_alone());
        }
    });
}

#[test]
fn the_next_supervisor_goes_on_where_the_last_one_was() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::below(directory.path());
        assert_eq!(store.load(), None);
        let mut setup = Setup::default();
        setup.config.engine.restart.delay = 3600 * SECOND;
        setup.config.engine.restart.max_delay = 3600 * SECOND;
        let next = async |found: bool| {
            let memory = store.load().unwrap();
            Setup { memory, found, ..setup.clone() }.start_in(directory.path())
        };

        let (handle, mut engine) = setup.clone().start_in(directory.path());
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        let since = is(&handle, State::Running).await.since;
        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);

        // Nobody asked anything of the engine.
        let (handle, mut engine) = next(true).await;
        assert_eq!((handle.status().state, handle.status().since), (State::Running, since));
        assert!(engine.is_left_alone());
        // Not everything that has to be remembered is to be seen in the status.
        request(&handle, JobKind::Stop).await;
        request(&handle, JobKind::Start).await;
        drop(engine);
        let (handle, mut engine) = next(true).await;
        engine.take_stop().await;
        engine.tell(Event::Gone).await;
        engine.take_start().await;
        engine.tell_died().await;
        let told = is(&handle, State::Backoff).await;
        drop(engine);

        // A delay goes on too.
        let (handle, mut engine) = next(false).await;
        assert_eq!(handle.status().next_attempt, told.next_attempt);
        assert_eq!(handle.status().deaths, told.deaths);
        tokio::time::sleep(3590 * SECOND).await;
        assert_eq!(handle.status().state, State::Backoff);
        assert!(engine.is_left_alone());
        tokio::time::sleep(20 * SECOND).await;
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        drop(engine);
        let (handle, _engine) = next(false).await;
        assert_eq!(handle.status().reasons, [obstacle()]);
    });
}

#[test]
fn what_cannot_be_remembered_holds_up_nothing() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let file = names::runtime_dir(directory.path()).join("state.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let store = Store::below(directory.path());
        for garbage in ["", "{", "null", "[]", "{\"machine\":{\"life\":\"asleep\"}}", "\0\u{1}"] {
            std::fs::write(&file, garbage).unwrap();
            assert_eq!(store.load(), None, "{garbage:?}");
        }
        // What an older one wrote, and what a newer one adds, is read.
        let words =
            json!({ "machine": { "life": "running", "deaths": [] }, "since": 7, "new": {} });
        std::fs::write(&file, words.to_string()).unwrap();
        assert_eq!(store.load().map(|memory: Memory| memory.since), Some(7));

        // A directory in its place is as bad as a full disk.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("x")).unwrap();
        let (handle, mut engine) = Setup::default().start_in(directory.path());
        let job = request(&handle, JobKind::Start).await;
        engine.come_up().await;
        assert_eq!(outcome(&handle, job.id).await, (JobResult::Done, None));
    });
}

#[test]
fn a_supervisor_that_is_to_stop_everything_does_so_first() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::below(directory.path());
        for life in [json!("running"), json!("degraded"), starting("network"), stopping("start")] {
            let (handle, mut engine) = Setup::of(memory(life.clone())).start_in(directory.path());
            engine.shut_down(Shutdown::StopEngine).await;
            is(&handle, State::Stopping).await;
            engine.take_stop().await;
            // Nobody turns it round any more.
            for kind in JobKind::ALL {
                let refused = handle.request(*kind, JobOptions::default()).await.unwrap_err();
                assert_eq!(refused.kind, ErrorKind::Busy);
            }
            engine.tell(Event::Gone).await;
            assert_eq!(engine.ended().await, Shutdown::StopEngine, "{life}");
            assert_eq!(store.load(), None, "the next one begins as after a boot");
            assert_eq!(handle.status().state, State::Stopped);
            assert_eq!(handle.full_status().await.unwrap_err().kind, ErrorKind::Busy);
        }
        for life in [json!("stopped"), json!("backoff"), json!("failed")] {
            let (_handle, engine) = Setup::of(memory(life.clone())).start_in(directory.path());
            engine.shut_down(Shutdown::StopEngine).await;
            assert_eq!(engine.ended().await, Shutdown::StopEngine, "{life}");
        }
    });
}

#[test]
fn a_supervisor_that_is_to_leave_the_engine_does_so_at_once() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::below(directory.path());
        for life in [json!("running"), starting("network"), stopping("rest"), json!("backoff")] {
            let mut setup = Setup::of(memory(life.clone()));
            setup.memory.next_attempt = Some(Moment::after(3600 * SECOND));
            let (handle, mut engine) = setup.start_in(directory.path());
            // It waits for nobody who waits, either.
            let job = request(&handle, JobKind::Restart).await;
            let waiting = spawn_local({
                let handle = handle.clone();
                async move { handle.wait_job(job.id).await }
            });
            handle.jobs().await.unwrap();
            while engine.try_command().is_some() {}
            engine.shut_down(Shutdown::LeaveEngine).await;
            assert_eq!(waiting.await.unwrap().unwrap_err().kind, ErrorKind::Busy);
            assert!(engine.is_left_alone());
            assert_eq!(engine.ended().await, Shutdown::LeaveEngine);
            assert!(store.load().is_some(), "{life}");
        }
        // Also while it stops the engine: the next one goes on with that.
        let (handle, mut engine) = running().start_in(directory.path());
        engine.shut_down(Shutdown::StopEngine).await;
        is(&handle, State::Stopping).await;
        engine.take_stop().await;
        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);
        let (_handle, mut engine) = Setup::of(store.load().unwrap()).start_in(directory.path());
        engine.take_stop().await;
    });
}
