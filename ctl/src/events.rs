//! `rootlessctl events`: what happened, and what happens.

use std::{
    env,
    path::{Path, PathBuf},
};

use anstyle::Style;
use rootlessd_api::{Event, EventKind, IncidentKind, Occurrence, State, history};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    cli::{Events, Lines},
    exit::Exit,
    failure::Failure,
    human::{Clock, duration, printable, timestamp},
    output::{self, Palette},
    supervisor::{EventStream, Supervisor},
};

/// How many are shown, if nothing else is said.
const SHOWN: Lines = Lines::Last(100);

/// Show the events that are wanted.
pub async fn run(wanted: &Events, json: bool) -> Result<Exit, Failure> {
    let sink = Sink { wanted, json, clock: Clock::system(), palette: Palette::of_stdout() };
    let (past, stream) = match ask(wanted).await {
        Ok((past, stream)) => (past, Some(stream)),
        // Of a rootlessd that is gone, it is the history that one wants to see.
        Err(
            failure @ (Failure::NoSupervisor { .. }
            | Failure::NoRuntimeDir { .. }
            | Failure::Closed),
        ) if !wanted.follow => {
            let past = recorded(wanted).filter(|past| !past.is_empty()).ok_or(failure)?;
            output::note("no rootlessd answers; this is what it has recorded");
            (past, None)
        }
        Err(failure) => return Err(failure),
    };
    let past: Vec<Value> = past.into_iter().filter(|event| sink.shows(event)).collect();
    let skipped = match count(wanted) {
        Lines::All => 0,
        Lines::Last(count) => past.len().saturating_sub(count),
    };
    sink.put(&past[skipped..])?;
    if let Some(mut stream) = stream.filter(|_| wanted.follow) {
        loop {
            let events = stream.next().await?.events;
            let shown: Vec<Value> = events.into_iter().filter(|it| sink.shows(it)).collect();
            sink.put(&shown)?;
        }
    }
    Ok(Exit::Ok)
}

/// How many of the past are shown: since a moment, all of them.
fn count(wanted: &Events) -> Lines {
    wanted.lines.unwrap_or(if wanted.since.is_some() { Lines::All } else { SHOWN })
}

/// What happened, and the way to what happens.
async fn ask(wanted: &Events) -> Result<(Vec<Value>, EventStream), Failure> {
    let supervisor = Supervisor::find(wanted.patience.timeout)?;
    let mut parameters = json!({ "since": wanted.since });
    if let (Lines::Last(count), true) = (count(wanted), wanted.parts.is_empty()) {
        parameters["limit"] = count.into();
    }
    let mut stream = supervisor.events(parameters).await?;
    let mut past = vec![];
    loop {
        let reply = supervisor.answer(stream.next()).await?;
        past.extend(reply.events);
        if reply.ready {
            return Ok((past, stream));
        }
    }
}

/// What is recorded, without anybody to ask.
fn recorded(wanted: &Events) -> Option<Vec<Value>> {
    let events = history::read(&history::directory(&state_home()?)).ok()?;
    let is_wanted = |event: &Event| wanted.since.is_none_or(|since| event.at >= since);
    let recorded = events.filter(is_wanted).filter_map(|it| serde_json::to_value(it).ok());
    Some(recorded.collect())
}

/// `$XDG_STATE_HOME`, as rootlessd understands it.
fn state_home() -> Option<PathBuf> {
    let below_home = || Some(Path::new(&env::var_os("HOME")?).join(".local/state"));
    let set = env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    set.filter(|path| path.is_absolute()).or_else(below_home)
}

/// Where the events go.
struct Sink<'a> {
    wanted: &'a Events,
    json: bool,
    clock: Clock,
    palette: Palette,
}

impl Sink<'_> {
    fn shows(&self, event: &Value) -> bool {
        let parts = &self.wanted.parts;
        parts.is_empty() || parts.iter().any(|part| event["part"] == part.as_str())
    }

    fn put(&self, events: &[Value]) -> Result<(), Failure> {
        let mut text = String::new();
        for event in events {
            if self.json {
                text.push_str(&format!("{event}\n"));
            } else if let Ok(event) = Event::deserialize(event) {
                // One of a later version that this one cannot read is not shown.
                text.push_str(&line(&event, &self.clock, self.palette));
            }
        }
        output::text(&text)
    }
}

/// An event for a person: when, what, and what was or is to be done.
fn line(event: &Event, clock: &Clock, palette: Palette) -> String {
    let (faint, style) = (palette.faint, style(event, palette));
    let time = clock.log_time(timestamp(event.at));
    let mut line = format!("{faint}{time}{faint:#} {style}{:<10}{style:#} ", event.kind);
    if event.kind == EventKind::Whole(Occurrence::Raised)
        && let Some(code) = &event.code
    {
        line.push_str(&format!("{}: ", printable(code)));
    }
    line.push_str(&printable(&event.text));
    // A replacement's text has it.
    let took = event.took.filter(|_| event.kind != EventKind::Part(IncidentKind::Replaced));
    if let Some(took) = took {
        line.push_str(&format!(", after {}", duration(std::time::Duration::from_micros(took))));
    }
    if let Some(action) = &event.action {
        line.push_str(&format!(" {faint}[{}]{faint:#}", printable(action)));
    }
    line.push('\n');
    line
}

fn style(event: &Event, palette: Palette) -> Style {
    match event.kind {
        EventKind::Whole(Occurrence::Died) | EventKind::Part(IncidentKind::Missing) => palette.bad,
        EventKind::Whole(Occurrence::State) => match event.state {
            State::Failed => palette.bad,
            State::Degraded | State::Backoff => palette.warning,
            State::Running => palette.good,
            _ => palette.strong,
        },
        EventKind::Whole(Occurrence::Raised) | EventKind::Part(IncidentKind::Lost) => {
            palette.warning
        }
        EventKind::Whole(Occurrence::Cleared) | EventKind::Part(IncidentKind::Replaced) => {
            palette.good
        }
        _ => palette.strong,
    }
}

#[cfg(test)]
mod tests {
    use rootlessd_api::{Part, samples};

    use super::*;
    use crate::samples::clock;

    #[test]
    fn an_event_is_a_line() {
        let blank = Event {
            at: 1_764_025_540_410_000,
            from: None,
            code: None,
            cause: None,
            action: None,
            took: None,
            ..samples::event()
        };
        let whole = EventKind::Whole;
        for (event, text) in [
            (
                Event { took: Some(410_000), ..blank.clone() },
                "replaced   dockerd was replaced after 0.41 s",
            ),
            (
                Event {
                    kind: whole(Occurrence::Raised),
                    part: Some(Part::Host),
                    code: Some("subuid-missing".into()),
                    text: "no\x1b ids".into(),
                    action: Some("sudo usermod".into()),
                    ..blank.clone()
                },
                "raised     subuid-missing: no\\u{1b} ids [sudo usermod]",
            ),
            (
                Event {
                    kind: whole(Occurrence::State),
                    state: State::Running,
                    text: "the engine is running".into(),
                    took: Some(3_200_000),
                    ..blank
                },
                "state      the engine is running, after 3.2 s",
            ),
        ] {
            let expected = format!("2025-11-24 23:05:40.410 {text}\n");
            assert_eq!(line(&event, &clock(), Palette::PLAIN), expected);
            let coloured = line(&event, &clock(), Palette::COLOUR);
            assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), expected);
        }
    }
}
