//! What is new in a status, by tables; and the history that the events make.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rootlessd_api::{
    Death, Event, EventKind, Incident, IncidentKind, Occurrence, Part, Reason, State, Status,
    history::{self, FILE, OLDER_FILE},
    samples,
};

use super::{
    Events, Told, Wanted,
    history::{FILE_BYTES, History},
    news::news,
};
use crate::{reasons::Code, supervisor::machine::Event as E};

/// A status in a state that began `since`.
fn status(state: State, since: u64) -> Status {
    Status {
        state,
        since,
        phase: None,
        reasons: vec![],
        deaths: vec![],
        incidents: vec![],
        next_attempt: None,
        containers_running: Some(1),
        ..samples::status()
    }
}

fn incident(kind: IncidentKind, at: u64, took: Option<u64>) -> Incident {
    Incident { at, part: Part::Network, kind, text: format!("slirp4netns {kind}"), took }
}

fn reason(code: Code) -> Reason {
    code.reason_with_remedy(format!("because of {code:?}"), "mend it")
}

/// A teller: what it told, in short.
#[derive(Default)]
struct Teller(Told);

impl Teller {
    fn events(&mut self, status: &Status, why: Option<E>) -> Vec<Event> {
        let mut events = news(&self.0, status, why, 1000);
        for event in &mut events {
            event.seq = self.0.last + 1;
            self.0.take(event);
        }
        events
    }

    fn tell(&mut self, status: &Status, why: Option<E>) -> Vec<String> {
        let short = |event: &Event| {
            let what = match event.kind {
                EventKind::Whole(Occurrence::State) => event.state.to_string(),
                EventKind::Whole(_) => event.code.clone().unwrap_or_default(),
                EventKind::Part(_) => event.part.map(|part| part.to_string()).unwrap_or_default(),
            };
            format!("{} {what}", event.kind)
        };
        self.events(status, why).iter().map(short).collect()
    }
}

#[test]
fn what_brought_a_state_about_is_its_cause() {
    let from = State::Listening;
    #[rustfmt::skip]
    let rows = [
        // (state, what the machine took, code)
        (State::Starting,  Some(E::Client),      Some("client")),
        (State::Starting,  Some(E::Start),       Some("start")),
        (State::Starting,  Some(E::Restart),     Some("restart")),
        (State::Starting,  Some(E::Gone),        Some("restart")),
        (State::Starting,  Some(E::DelayOver),   Some("retry")),
        (State::Starting,  Some(E::Found),       Some("found")),
        (State::Stopping,  Some(E::Idle),        Some("idle")),
        (State::Stopping,  Some(E::Stop),        Some("stop")),
        (State::Starting,  Some(E::Starved),     Some("restart")),
        (State::Stopped,   Some(E::Gone),        None),
        (State::Stopped,   Some(E::ResetFailed), Some("reset")),
        (State::Running,   Some(E::Healthy),     None),
        (State::Running,   None,                 None),
        (State::Degraded,  Some(E::Unhealthy),   Some("dockerd-not-answering")),
        (State::Failed,    Some(E::Refused),     Some("dockerd-not-answering")),
        (State::Failed,    Some(E::Died),        Some("dockerd-not-answering")),
        (State::Backoff,   Some(E::Died),        Some("died")),
        (State::Backoff,   Some(E::Gone),        Some("died")),
    ];
    for (state, why, code) in rows {
        let mut teller = Teller::default();
        teller.events(&status(from, 1), None);
        let mut now = status(state, 5);
        now.reasons = vec![reason(Code::DockerdNotAnswering)];
        now.deaths = vec![samples::death()];
        now.next_attempt = Some(2_000_005);
        let events = teller.events(&now, why);
        let event = events.last().unwrap();
        assert_eq!(event.kind, EventKind::Whole(Occurrence::State), "{state} {why:?}");
        assert_eq!((event.state, event.from, event.at), (state, Some(from), 5));
        assert_eq!(event.code.as_deref(), code, "{state} {why:?}");
        assert_eq!(event.cause.is_some(), code.is_some(), "{state} {why:?}");
        let action = match state {
            State::Backoff => Some("it is started again after 2.0 s"),
            State::Degraded | State::Failed => Some("mend it"),
            _ => None,
        };
        assert_eq!(event.action.as_deref(), action, "{state}");
        assert_eq!(event.took, None, "nobody waited for the end of {from}");
        assert_eq!(teller.events(&now, why), [], "each is told once");
    }
    // The state that one waits for the end of says how long that took.
    for from in [State::Starting, State::Stopping, State::Degraded, State::Backoff] {
        let mut teller = Teller::default();
        teller.events(&status(from, 100), None);
        assert_eq!(teller.events(&status(State::Stopped, 350), None)[0].took, Some(250));
        // The clock was set back.
        assert_eq!(teller.events(&status(from, 90), None)[0].took, None);
        assert_eq!(teller.events(&status(State::Stopped, 80), None)[0].took, None);
    }
}

#[test]
fn a_part_that_is_replaced_is_told_with_its_loss_and_nothing_twice() {
    let mut teller = Teller::default();
    teller.tell(&status(State::Running, 1), None);
    let mut now = status(State::Degraded, 10);
    now.incidents = vec![incident(IncidentKind::Lost, 9, None)];
    now.reasons = vec![Reason { part: Part::Network, ..reason(Code::PartBeingReplaced) }];
    let told = teller.events(&now, Some(E::Unhealthy));
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((told[0].at, told[0].part), (9, Some(Part::Network)));
    assert_eq!(told[0].cause.as_deref(), Some("slirp4netns lost"));
    assert_eq!(told[1].code.as_deref(), Some("part-being-replaced"));

    now.incidents.push(incident(IncidentKind::Missing, 11, None));
    now.reasons = vec![Reason { part: Part::Network, ..reason(Code::PartMissing) }];
    let told = teller.events(&now, None);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].cause.as_deref(), Some("slirp4netns lost"));

    now.incidents.push(incident(IncidentKind::Replaced, 12, Some(3)));
    let told = teller.events(&now, None);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].cause.as_deref(), Some("slirp4netns lost"));
    assert_eq!((told[0].took, told[0].state), (Some(3), State::Degraded));
    let well = Status { incidents: now.incidents, ..status(State::Running, 20) };
    let told = teller.events(&well, Some(E::Healthy));
    assert_eq!((told.len(), told[0].took), (1, Some(10)));

    // Those that nobody was there to see come at once, each with its own loss.
    let mut missed = well.clone();
    missed.incidents.extend([
        incident(IncidentKind::Lost, 30, None),
        incident(IncidentKind::Replaced, 31, Some(1)),
        incident(IncidentKind::Lost, 40, None),
    ]);
    assert_eq!(teller.tell(&missed, None), ["lost network", "replaced network", "lost network"]);
    // Forgotten, they are not new when they are back.
    assert_eq!(teller.tell(&status(State::Running, 20), None), [""; 0]);
    assert_eq!(teller.tell(&missed, None), [""; 0]);
}

#[test]
fn what_changed_is_told_with_how_long_it_lasted() {
    let mut teller = Teller::default();
    teller.tell(&status(State::Running, 1), None);
    let mut now = status(State::Running, 1);
    let slept = incident(IncidentKind::Changed, 9, Some(7));
    now.incidents = vec![Incident { part: Part::Host, ..slept }];
    let told = teller.events(&now, None);
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.part, event.took), (Some(Part::Host), Some(7)));
    assert_eq!(event.cause.as_deref(), Some("slirp4netns changed"));
    assert_eq!(event.action.as_deref(), Some("dockerd is asked at once how it is"));
}

#[test]
fn a_death_comes_before_the_state_that_it_leads_to() {
    let mut teller = Teller::default();
    teller.tell(&status(State::Running, 1), None);
    let mut now = status(State::Backoff, 10);
    now.deaths = vec![Death { at: 9, ..samples::death() }];
    now.incidents = vec![incident(IncidentKind::Lost, 8, None)];
    now.next_attempt = Some(1_000_010);
    let told = teller.events(&now, Some(E::Died));
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["lost", "died", "state"]);
    assert_eq!(told[1].text, "the engine died: dockerd was killed.");
    assert_eq!(told[1].action.as_deref(), Some("it is started again after 1.0 s"));
    now.state = State::Failed;
    now.deaths.push(Death { at: 19, ..samples::death() });
    now.reasons = vec![reason(Code::DiedTooOften)];
    let told = teller.events(&now, Some(E::Died));
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["died", "state"], "the reason says no more than the state");
    assert_eq!(told[1].code.as_deref(), Some("died-too-often"));
}

#[test]
fn a_shortage_is_told_once_however_often_a_start_is_tried() {
    let mut teller = Teller::default();
    teller.tell(&status(State::Starting, 1), Some(E::Client));
    let short = |state, since| Status {
        reasons: vec![reason(Code::DataRootFull)],
        deaths: vec![samples::death()],
        next_attempt: Some(since + 10_000_000),
        containers_running: None,
        ..status(state, since)
    };
    let told = teller.events(&short(State::Backoff, 10), Some(E::Starved));
    assert_eq!(told.len(), 3, "an old death, the reason, the state: {told:?}");
    assert_eq!(told[2].code.as_deref(), Some("data-root-full"));
    assert_eq!(told[2].cause.as_deref(), Some("because of DataRootFull"));
    assert_eq!(told[2].action.as_deref(), Some("it is started again after 10.0 s"));
    for since in [20, 30] {
        assert_eq!(teller.events(&short(State::Starting, since), Some(E::DelayOver)), []);
        assert_eq!(teller.events(&short(State::Starting, since), None), []);
        assert_eq!(teller.events(&short(State::Backoff, since + 5), Some(E::Starved)), []);
    }
    teller.events(&short(State::Starting, 40), Some(E::DelayOver));
    let told = teller.events(&status(State::Running, 45), Some(E::Healthy));
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["cleared", "state"]);
    assert_eq!((told[1].from, told[1].took), (Some(State::Backoff), Some(35)));
    // A start that follows a death is told as ever.
    let mut teller = Teller::default();
    teller.tell(&status(State::Backoff, 1), None);
    assert_eq!(teller.tell(&status(State::Starting, 2), Some(E::DelayOver)), ["state starting"]);
}

#[test]
fn reasons_come_and_go_with_what_they_are_about() {
    let (upgrade, advice) = (reason(Code::UpgradeAvailable), reason(Code::CgroupDriverNone));
    let with = |status: Status, reasons: &[&Reason]| Status {
        reasons: reasons.iter().copied().cloned().collect(),
        ..status
    };
    let unknown = |state| Status { containers_running: None, ..status(state, 1) };
    let none: [String; 0] = [];
    let mut teller = Teller::default();
    teller.tell(&status(State::Stopped, 1), None);
    // One of the engine stands until one is up that does not have it.
    let told = teller.tell(&with(unknown(State::Starting), &[&advice]), None);
    assert_eq!(told, ["raised cgroup-driver-none", "state starting"]);
    assert_eq!(teller.tell(&with(unknown(State::Running), &[]), None), ["state running"]);
    let told = teller.tell(&with(status(State::Running, 1), &[&upgrade, &advice]), None);
    assert_eq!(told, ["raised upgrade-available"]);
    assert_eq!(teller.tell(&unknown(State::Stopped), None), ["state stopped"]);
    assert_eq!(teller.tell(&with(unknown(State::Stopped), &[]), None), none);
    let told = teller.tell(&with(status(State::Running, 1), &[&advice]), None);
    assert_eq!(told, ["cleared upgrade-available", "state running"]);

    // Other words for the same, and two of a kind, are no news.
    let again = Reason { text: "in other words".into(), ..advice.clone() };
    assert_eq!(teller.tell(&with(status(State::Running, 1), &[&again, &advice]), None), none);

    // What keeps an engine from starting is gone when it is tried again.
    let refusal = reason(Code::SubuidMissing);
    teller.tell(&with(status(State::Stopped, 1), &[]), None);
    let told = teller.tell(&with(unknown(State::Failed), &[&refusal, &refusal]), Some(E::Refused));
    assert_eq!(told, ["raised subuid-missing", "state failed"]);
    let events = teller.events(&unknown(State::Starting), Some(E::Start));
    assert_eq!(events[0].kind, EventKind::Whole(Occurrence::Cleared));
    assert_eq!((events[0].part, events[0].took), (Some(Part::Host), Some(0)));
}

#[test]
fn what_was_told_is_the_sum_of_the_events() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path().join("a/b"));
    let mut teller = Teller::default();
    let mut now = status(State::Degraded, 10);
    now.incidents = vec![incident(IncidentKind::Lost, 9, None)];
    now.reasons = vec![reason(Code::UpgradeAvailable), reason(Code::CgroupDriverNone)];
    now.deaths = vec![samples::death()];
    let well = Status { reasons: vec![], ..now.clone() };
    for status in [&now, &Status { state: State::Running, ..well }, &now] {
        teller.events(status, None).into_iter().for_each(|event| {
            history.push(event);
        });
    }
    let told = Told::of(history.read().unwrap());
    assert_eq!(told, teller.0);
    assert_eq!(news(&told, &now, None, 0), []);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(history.directory()), 0o700);
    assert_eq!(mode(&history.directory().join(FILE)), 0o600);
}

fn event(seq: u64) -> Event {
    Event { seq, ..samples::event() }
}

fn recorded(directory: &Path) -> Vec<u64> {
    history::read(directory).unwrap().map(|event| event.seq).collect()
}

#[test]
fn the_history_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path().into());
    let line = serde_json::to_vec(&event(100_000)).unwrap().len() as u64 + 1;
    // Enough to fill three files.
    let last = 3 * FILE_BYTES / line;
    for seq in 1..=last {
        history.push(event(seq));
        if seq % 100 == 0 {
            history.write();
        }
    }
    history.write();
    let size = |name| fs::metadata(directory.path().join(name)).unwrap().len();
    assert!(size(FILE) <= FILE_BYTES && size(OLDER_FILE) <= FILE_BYTES);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    let recorded = recorded(directory.path());
    assert_eq!(recorded.last(), Some(&last));
    assert!(recorded.len() as u64 >= FILE_BYTES / line - 100, "{}", recorded.len());
    assert!(recorded.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn what_a_disk_does_not_take_is_written_when_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("state");
    // A file in the place of the directory is as bad as a full disk.
    fs::write(&place, "").unwrap();
    let history = History::new(place.clone());
    for seq in 1..=3 {
        history.push(event(seq));
        history.write();
    }
    // Whoever asks is told them all the same.
    let seqs = |history: &History| Vec::from_iter(history.read().unwrap().map(|event| event.seq));
    assert_eq!(seqs(&history), [1, 2, 3]);
    fs::remove_file(&place).unwrap();
    assert!(history.push(event(4)), "it is tried again");
    history.write();
    assert_eq!((recorded(&place), seqs(&history)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));

    // Another may have been killed in the middle of a line, or the power cut.
    let file = place.join(FILE);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 20]).unwrap();
    assert_eq!(recorded(&place), [1, 2, 3]);
    history.push(event(5));
    history.write();
    assert_eq!(recorded(&place), [1, 2, 3, 5]);
    // And somebody may remove all of it.
    fs::remove_dir_all(&place).unwrap();
    history.push(event(6));
    history.write();
    assert_eq!(recorded(&place), [6]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_follower_that_falls_behind_reads_what_it_missed() {
    let directory = tempfile::tempdir().unwrap();
    let events = Events::new(directory.path().into(), 7);
    let seqs = |events: &[Arc<Event>]| events.iter().map(|event| event.seq).collect::<Vec<_>>();
    let mut follow = events.follow();
    assert_eq!((follow.last(), follow.at_hand().await.len()), (7, 0));
    events.tell(event(8));
    assert_eq!(seqs(&follow.next().await.unwrap()), [8]);
    // More than is kept for a follower, and less than waits for a disk.
    let last = 400;
    (9..=last).for_each(|seq| events.tell(event(seq)));
    // A look that is given up loses nothing.
    tokio::select! {
        biased;
        _ = follow.next() => panic!("nothing was read yet"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(seqs(&follow.at_hand().await), (9..=last).collect::<Vec<_>>());
    assert_eq!(events.follow().last(), last);

    let wanted = Wanted { after: Some(390), ..Wanted::default() };
    let first: Vec<_> = events.oldest(wanted, 395, 3).await.unwrap();
    assert_eq!(first.iter().map(|event| event.seq).collect::<Vec<_>>(), [391, 392, 393]);
    assert_eq!(events.oldest(wanted, 392, 3).await.unwrap().len(), 2);
    assert_eq!(events.newest(wanted, 3).await.unwrap()[0].seq, 398);
    let later = Wanted { since: Some(samples::event().at + 1), ..wanted };
    assert_eq!(events.newest(later, 3).await, Ok(vec![]));
}
