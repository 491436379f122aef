//! The supervisor's end of the events.

use std::path::PathBuf;

use rootlessd_api::{Event, EventKind, Occurrence, Part, Status};

use super::{Events, Told, history::WAITING, log, news::news};
use crate::{
    supervisor::{Shutdown, machine},
    sys::clock,
};

/// What makes events of statuses, and records them.
#[derive(Debug)]
pub struct Recorder {
    told: Told,
    events: Events,
}

impl Recorder {
    /// Go on with the history in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        let mut told = match rootlessd_api::history::read(&directory) {
            Ok(events) => Told::of(events),
            Err(error) => {
                tracing::warn!("the history in {} cannot be read: {error}", directory.display());
                Told::default()
            }
        };
        // One that was killed may have told of events and given them numbers that it did not record:
        // nobody who knows one of these is to take another event for it.
        if told.last > 0 && !told.is_ended {
            told.last += WAITING;
        }
        let events = Events::new(directory, told.last);
        Self { told, events }
    }

    /// The events, for those who follow.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// rootlessd begins; or takes an engine over.
    pub fn begin(&mut self, status: &Status, takes_over: bool) {
        let (kind, what) = match takes_over {
            true => (Occurrence::TakenOver, "takes over an engine"),
            false => (Occurrence::Began, "begins"),
        };
        let text = format!("rootlessd {} {what}", status.supervisor.version);
        self.record(of_rootlessd(kind, status.supervisor.since, status, text));
    }

    /// Record what is new in a status.
    pub fn take(&mut self, status: &Status, why: Option<machine::Event>) {
        for event in news(&self.told, status, why, clock::now_realtime()) {
            self.record(event);
        }
    }

    /// rootlessd ends.
    pub fn end(&mut self, status: &Status, how: &Shutdown) {
        let text = match how {
            Shutdown::LeaveEngine => "rootlessd ends, for the next one to take over",
            Shutdown::StopEngine => "rootlessd ends",
            Shutdown::BeginAnew(_) => "rootlessd ends, and begins anew",
        };
        let now = clock::now_realtime();
        self.record(of_rootlessd(Occurrence::Ended, now, status, text.to_owned()));
    }

    fn record(&mut self, event: Event) {
        let event = Event { seq: self.told.last + 1, ..event };
        self.told.take(&event);
        log::log(&event);
        self.events.tell(event);
    }
}

fn of_rootlessd(kind: Occurrence, at: u64, status: &Status, text: String) -> Event {
    Event {
        seq: 0,
        at,
        kind: EventKind::Whole(kind),
        part: Some(Part::Supervisor),
        state: status.state,
        from: None,
        text,
        code: None,
        cause: None,
        action: None,
        took: None,
    }
}
