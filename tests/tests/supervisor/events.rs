//! What happened, as it is recorded: in which order, once, and beyond the supervisor.

use std::path::Path;

use super::{SECOND, request, run_timeless, settled};
use rootlessd::{
    engine::{driver::Event, incidents::Incident},
    events::Wanted,
    supervisor::{Shutdown, handle::Handle, memory::Store},
};
use rootlessd_api::{
    Death, Event as Told, EventKind, JobKind, Occurrence, Part, State, history, samples,
};
use rootlessd_tests::engine::{Engine, Setup, death, is, memory, obstacle, reaches};
use serde_json::json;

async fn told(handle: &Handle) -> Vec<Told> {
    handle.events().newest(Wanted::default(), usize::MAX).await.unwrap()
}

/// The events in short.
async fn short(handle: &Handle) -> Vec<String> {
    let short = |event: &Told| match (event.kind, event.part) {
        (EventKind::Whole(Occurrence::State), _) => event.state.to_string(),
        (kind, Some(part)) => format!("{kind} {part}"),
        (kind, None) => kind.to_string(),
    };
    told(handle).await.iter().map(short).collect()
}

fn lost(at: u64) -> Incident {
    Incident::Lost(Death { at, ..death(Part::Network) })
}

fn replaced(at: u64) -> Incident {
    Incident::Replaced { part: Part::Network, at, took: 250_000 }
}

async fn next(directory: &Path, found: bool) -> (Handle, Engine) {
    let memory = Store::below(directory).load().unwrap();
    Setup { memory, found, ..Setup::default() }.start_in(directory)
}

#[test]
fn a_life_is_told_from_its_beginning_to_its_end() {
    run_timeless(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.delay = SECOND;
        let (handle, mut engine) = setup.start();
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        is(&handle, State::Running).await;
        engine.tell_lost(Part::Dockerd).await;
        engine.tell_replaced(Part::Dockerd).await;
        settled(&handle, &engine).await;
        engine.tell_died().await;
        is(&handle, State::Backoff).await;
        engine.come_up().await;
        is(&handle, State::Running).await;
        request(&handle, JobKind::Stop).await;
        engine.go_down().await;
        is(&handle, State::Stopped).await;
        assert_eq!(
            short(&handle).await,
            [
                "began supervisor",
                "stopped",
                "starting",
                "running",
                "lost dockerd",
                "degraded",
                "replaced dockerd",
                "running",
                "died dockerd",
                "backoff",
                "starting",
                "running",
                "stopping",
                "stopped",
            ]
        );
        let told = told(&handle).await;
        assert!(told.iter().enumerate().all(|(index, event)| event.seq == index as u64 + 1));
        let codes: Vec<_> = told.iter().filter_map(|event| event.code.as_deref()).collect();
        assert_eq!(codes, ["start", "part-being-replaced", "died", "retry", "stop"]);
        assert_eq!(told[6].took, Some(410_000));
        assert_eq!(told[6].cause.as_deref(), Some("dockerd was killed."));
        assert!(told[9].action.as_ref().unwrap().contains("started again after 1.0 s"));
        assert!(told[11].took.is_some(), "how long the start took");
    });
}

#[test]
fn what_keeps_it_from_starting_is_told_and_then_that_it_does_no_more() {
    run_timeless(async {
        let (handle, mut engine) = Engine::stopped();
        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        is(&handle, State::Running).await;
        let told = told(&handle).await;
        let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        let states = ["state", "state", "raised", "state", "cleared", "state", "state"];
        assert_eq!(kinds[1..], states);
        assert_eq!(told[3].code.as_deref(), Some("subuid-missing"));
        assert_eq!(told[3].action.as_deref(), Some("sudo usermod"));
        assert_eq!(told[4].code, told[3].code, "it is the cause of the state");
    });
}

#[test]
fn a_supervisor_goes_on_with_the_history_of_the_last_one() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let (handle, mut engine) = Setup::default().start_in(directory.path());
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        engine.tell(Event::Incidents(vec![lost(100), replaced(200)])).await;
        settled(&handle, &engine).await;
        let before = told(&handle).await;
        // As by kill -9: it says nothing of its end.
        drop(engine);

        let (handle, engine) = next(directory.path(), true).await;
        engine.tell_launched().await;
        // The whole file again, and what happened meanwhile: more than a status has.
        let mut all = vec![lost(100), replaced(200)];
        all.extend((3..33).flat_map(|n| [lost(n * 100), replaced(n * 100 + 50)]));
        engine.tell(Event::Incidents(all)).await;
        settled(&handle, &engine).await;
        let after = told(&handle).await;
        assert_eq!(after[..before.len()], before);
        let new = &after[before.len()..];
        assert_eq!(new[0].kind, EventKind::Whole(Occurrence::TakenOver));
        let at: Vec<u64> =
            new.iter().filter(|it| it.took == Some(250_000)).map(|it| it.at).collect();
        assert_eq!(at, (3..33).map(|n| n * 100 + 50).collect::<Vec<_>>(), "each of them, once");
        let numbers: Vec<u64> = after.iter().map(|event| event.seq).collect();
        // It could have told of some that it did not come to record.
        assert!(new[0].seq > before.last().unwrap().seq + 100);
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");

        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);
        assert_eq!(short(&handle).await.last().unwrap(), "ended supervisor");
        // The next one reads all of it again, and nothing is new.
        let count = told(&handle).await.len();
        let (handle, engine) = next(directory.path(), true).await;
        engine.tell_launched().await;
        settled(&handle, &engine).await;
        assert_eq!(short(&handle).await[count..], ["taken_over supervisor"]);
        let told = told(&handle).await;
        assert_eq!(told[count].seq, told[count - 1].seq + 1, "the last one told nothing more");
    });
}

#[test]
fn what_was_remembered_and_not_recorded_is_recorded_by_the_next() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        // Killed between the two.
        let mut setup = Setup::of(memory(json!("running")));
        setup.memory.deaths = vec![samples::death()];
        setup.memory.incidents = vec![lost(100).tell()];
        let (handle, _engine) = setup.clone().start_in(directory.path());
        let all = ["taken_over supervisor", "lost network", "died dockerd", "running"];
        reaches(&handle, |_| true).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(short(&handle).await, all);
        // After a power cut, the state is not the one that was recorded last.
        let stopped = Setup { memory: memory(json!("stopped")), ..Setup::default() };
        let (handle, _engine) = stopped.start_in(directory.path());
        tokio::time::sleep(SECOND).await;
        assert_eq!(short(&handle).await[4..], ["began supervisor", "stopped"]);
    });
}

#[test]
fn a_history_that_cannot_be_written_or_read_holds_up_nothing() {
    run_timeless(async {
        let directory = tempfile::tempdir().unwrap();
        let place = Setup::history_in(directory.path());
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "in the way").unwrap();
        let (handle, mut engine) = Setup::default().start_in(directory.path());
        let mut follow = handle.events().follow();
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        is(&handle, State::Running).await;
        let mut followed = vec![];
        while followed.last() != Some(&State::Running) {
            followed.extend(follow.next().await.unwrap().iter().map(|event| event.state));
        }
        // Nor does it hide anything from who asks.
        let told = handle.events().newest(Wanted::default(), 9).await.unwrap();
        assert_eq!(told.last().map(|event| event.state), Some(State::Running));

        // What was not written is, as soon as it can be.
        std::fs::remove_file(&place).unwrap();
        request(&handle, JobKind::Stop).await;
        engine.go_down().await;
        is(&handle, State::Stopped).await;
        handle.events().flush().await;
        let recorded: Vec<_> = history::read(&place).unwrap().map(|event| event.state).collect();
        use State::{Running, Starting, Stopped, Stopping};
        assert_eq!(recorded, [Stopped, Stopped, Starting, Running, Stopping, Stopped]);
    });
}
