//! What is new in a status, as events: a pure function.

use rootlessd_api::{
    Death, Event, EventKind, Incident, IncidentKind, Occurrence, Part, Reason, State, Status,
};

use super::told::{Standing, Told};
use crate::{reasons::Code, supervisor::machine};

/// Reasons that only say what another kind of event says.
const TOLD_OTHERWISE: [Code; 4] =
    [Code::PartBeingReplaced, Code::PartMissing, Code::EngineDying, Code::DiedTooOften];

/// What `status` has that was not told, in the order in which one thing leads to another. `why` is
/// what brought the last change of the state about, and `now` the time in µs of CLOCK_REALTIME. The
/// numbers are still to be given.
pub fn news(told: &Told, status: &Status, why: Option<machine::Event>, now: u64) -> Vec<Event> {
    let blank = Event {
        seq: 0,
        at: now,
        kind: EventKind::Whole(Occurrence::State),
        part: None,
        state: status.state,
        from: None,
        text: String::new(),
        code: None,
        cause: None,
        action: None,
        took: None,
    };
    let mut news = vec![];
    // So that a replacement finds the loss that it is told with.
    let mut meanwhile = told.clone();
    for incident in &status.incidents {
        let kind = EventKind::Part(incident.kind);
        if !meanwhile.knows(kind, incident.part, incident.at) {
            let event = self::incident(incident, &meanwhile, &blank);
            meanwhile.take(&event);
            news.push(event);
        }
    }
    let died = EventKind::Whole(Occurrence::Died);
    let deaths = status.deaths.iter().filter(|it| !told.knows(died, it.part, it.at));
    news.extend(deaths.map(|it| death(it, status, &blank)));
    let is_told = |reason: &&Reason| {
        told.standing.iter().any(|standing| standing.is(reason))
            || TOLD_OTHERWISE.iter().any(|code| code.is(reason))
    };
    for reason in status.reasons.iter().filter(|reason| !is_told(reason)) {
        // Of two of a kind, the first is told: the graver one.
        let code = Some(&reason.code);
        if !news.iter().any(|it| it.code.as_ref() == code && it.part == Some(reason.part)) {
            news.push(raised(reason, &blank));
        }
    }
    let gone = told.standing.iter().filter(|standing| is_gone(standing, status));
    news.extend(gone.map(|standing| cleared(standing, &blank)));
    news.extend(state(told, status, why, &blank));
    news
}

fn death(death: &Death, status: &Status, blank: &Event) -> Event {
    let action = match status.state {
        State::Backoff => again(status),
        State::Failed => "it is not started again, since it died too often".to_owned(),
        _ => "what is left of it is removed".to_owned(),
    };
    Event {
        at: death.at,
        kind: EventKind::Whole(Occurrence::Died),
        part: Some(death.part),
        text: format!("the engine died: {}", death.text),
        cause: Some(death.text.clone()),
        action: Some(action),
        ..blank.clone()
    }
}

fn incident(incident: &Incident, told: &Told, blank: &Event) -> Event {
    let part = incident.part;
    let (text, cause, action) = match incident.kind {
        IncidentKind::Lost => {
            (incident.text.clone(), Some(incident.text.clone()), Some("it is being replaced"))
        }
        IncidentKind::Replaced => {
            (incident.text.clone(), told.loss(part).cloned(), Some("another took its place"))
        }
        IncidentKind::Missing => (
            incident.text.clone(),
            told.loss(part).cloned(),
            Some("the engine goes on as it is; rootlessctl restart"),
        ),
        // Its sentence says what was done about it, too, if anything was.
        IncidentKind::Changed | IncidentKind::Unknown => {
            let action = (part == Part::Host).then_some("dockerd is asked at once how it is");
            (incident.text.clone(), Some(incident.text.clone()), action)
        }
    };
    Event {
        at: incident.at,
        kind: EventKind::Part(incident.kind),
        part: Some(part),
        text,
        cause,
        action: action.map(str::to_owned),
        took: incident.took,
        ..blank.clone()
    }
}

fn raised(reason: &Reason, blank: &Event) -> Event {
    Event {
        kind: EventKind::Whole(Occurrence::Raised),
        part: Some(reason.part),
        text: reason.text.clone(),
        code: Some(reason.code.clone()),
        cause: Some(reason.text.clone()),
        action: reason.remedy.clone(),
        ..blank.clone()
    }
}

fn cleared(standing: &Standing, blank: &Event) -> Event {
    Event {
        kind: EventKind::Whole(Occurrence::Cleared),
        part: Some(standing.part),
        text: format!("{} holds no more", standing.code),
        code: Some(standing.code.clone()),
        took: blank.at.checked_sub(standing.since),
        ..blank.clone()
    }
}

/// A reason is not gone with the engine that it is about, nor while nothing is known of it yet: the
/// same one would come and go with each start, and with each rootlessd.
fn is_gone(standing: &Standing, status: &Status) -> bool {
    let is_known = status.state.is_up() && status.containers_running.is_some();
    let holds = status.reasons.iter().any(|reason| standing.is(reason));
    !holds && (is_known || !standing.with_engine)
}

fn state(
    told: &Told,
    status: &Status,
    why: Option<machine::Event>,
    blank: &Event,
) -> Option<Event> {
    let from = told.state.map(|(state, _)| state);
    if from == Some(status.state) || is_retry(from, status) {
        return None;
    }
    let (code, cause, action) = cause(status, why);
    let text = match status.state {
        State::Backoff => "the engine waits to be started again".to_owned(),
        State::Failed => "the engine has failed".to_owned(),
        state => format!("the engine is {state}"),
    };
    // The others last for as long as nobody wants another.
    let was_passing =
        matches!(from, Some(State::Starting | State::Stopping | State::Degraded | State::Backoff));
    let since = told.state.map(|(_, since)| since).filter(|_| was_passing);
    Some(Event {
        at: status.since,
        from,
        text: cause.as_ref().map_or_else(|| text.clone(), |cause| format!("{text}: {cause}")),
        code,
        cause,
        action,
        took: since.and_then(|since| status.since.checked_sub(since)),
        ..blank.clone()
    })
}

/// While something is short, a start is tried again and again: only what comes of it is news.
fn is_retry(from: Option<State>, status: &Status) -> bool {
    from == Some(State::Backoff) && status.state == State::Starting && shortage(status).is_some()
}

/// What the engine waits for with its start.
fn shortage(status: &Status) -> Option<&Reason> {
    status.reasons.iter().find(|reason| Code::passes(reason))
}

type Cause = (Option<String>, Option<String>, Option<String>);

fn cause(status: &Status, why: Option<machine::Event>) -> Cause {
    use machine::Event as E;
    let told = |code: &str, cause: &str| (Some(code.to_owned()), Some(cause.to_owned()), None);
    match (status.state, why) {
        (State::Degraded, Some(E::Unhealthy)) | (State::Failed, _) => {
            let reason = status.reasons.first();
            let code = reason.map(|reason| reason.code.clone());
            let remedy = reason.and_then(|reason| reason.remedy.clone());
            (code, reason.map(|reason| reason.text.clone()), remedy)
        }
        (State::Backoff, _) => {
            let (code, cause) = match shortage(status) {
                Some(reason) => (reason.code.clone(), Some(reason.text.clone())),
                None => ("died".to_owned(), status.deaths.last().map(|death| death.text.clone())),
            };
            (Some(code), cause, Some(again(status)))
        }
        (_, Some(E::Start)) => told("start", "a start was asked for"),
        (_, Some(E::Stop)) => told("stop", "a stop was asked for"),
        (_, Some(E::Restart)) => told("restart", "it is to come up again"),
        (_, Some(E::Client)) => told("client", "a client connected to Docker's socket"),
        (_, Some(E::Idle)) => told("idle", "nobody has needed it for engine.idle_timeout"),
        (_, Some(E::DelayOver)) => told("retry", "the delay after its death is over"),
        (_, Some(E::Found)) => told("found", "an earlier rootlessd has started it"),
        (_, Some(E::ResetFailed)) => told("reset", "its deaths were forgotten"),
        // It went down to come up again.
        (State::Starting, Some(E::Gone | E::Died | E::Refused | E::Starved)) => {
            told("restart", "it was to come up again")
        }
        _ => (None, None, None),
    }
}

/// When it is started again.
fn again(status: &Status) -> String {
    let delay = status.next_attempt.and_then(|next| next.checked_sub(status.since));
    match delay {
        Some(micros) => {
            let seconds = std::time::Duration::from_micros(micros).as_secs_f64();
            format!("it is started again after {seconds:.1} s")
        }
        None => "it is started again".to_owned(),
    }
}
