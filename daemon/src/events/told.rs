//! What was told so far: the sum of the events, whoever recorded them.

use std::collections::{BTreeMap, VecDeque};

use rootlessd_api::{Event, EventKind, IncidentKind, Occurrence, Part, Reason, State};

/// How many deaths are remembered, and how many incidents: more than a status ever has.
const REMEMBERED: usize = 64;

/// What was told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The number of the last event.
    pub last: u64,
    /// Whether that was the end of a rootlessd, before which it had everything recorded.
    pub(super) is_ended: bool,
    /// The state, and since when.
    pub(super) state: Option<(State, u64)>,
    /// The reasons that were raised and not cleared.
    pub(super) standing: Vec<Standing>,
    /// The last deaths.
    deaths: VecDeque<Known>,
    /// The last incidents.
    incidents: VecDeque<Known>,
    /// How the parts were lost that were not replaced.
    losses: BTreeMap<Part, String>,
}

/// A death or an incident, as it is told apart from others.
type Known = (EventKind, Option<Part>, u64);

/// A reason that was raised and not cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub code: String,
    pub part: Part,
    pub since: u64,
    /// Whether it was raised while there was an engine: only one that is up again shows that it
    /// holds no more.
    pub with_engine: bool,
}

impl Standing {
    pub fn is(&self, reason: &Reason) -> bool {
        self.code == reason.code && self.part == reason.part
    }
}

/// Whether there is anything of an engine.
pub(super) const fn has_engine(state: State) -> bool {
    matches!(state, State::Starting | State::Running | State::Degraded | State::Stopping)
}

impl Told {
    /// What these events tell.
    pub fn of(events: impl Iterator<Item = Event>) -> Self {
        let mut told = Self::default();
        events.for_each(|event| told.take(&event));
        told
    }

    /// Add an event.
    pub fn take(&mut self, event: &Event) {
        self.last = self.last.max(event.seq);
        self.is_ended = event.kind == EventKind::Whole(Occurrence::Ended);
        match event.kind {
            EventKind::Whole(Occurrence::State) => self.state = Some((event.state, event.at)),
            EventKind::Whole(Occurrence::Raised) => self.raise(event),
            EventKind::Whole(Occurrence::Cleared) => self.clear(event),
            EventKind::Whole(Occurrence::Died) => {
                self.losses.clear();
                self.remember(event);
            }
            EventKind::Part(kind) => {
                match (kind, event.part) {
                    (IncidentKind::Lost, Some(part)) => {
                        let how = event.cause.as_ref().unwrap_or(&event.text);
                        self.losses.insert(part, how.clone());
                    }
                    (IncidentKind::Replaced, Some(part)) => drop(self.losses.remove(&part)),
                    _ => {}
                }
                self.remember(event);
            }
            EventKind::Whole(Occurrence::Began | Occurrence::TakenOver | Occurrence::Ended) => {}
        }
    }

    /// Whether a death or an incident was told.
    pub(super) fn knows(&self, kind: EventKind, part: Part, at: u64) -> bool {
        let known = (kind, Some(part), at);
        self.deaths.contains(&known) || self.incidents.contains(&known)
    }

    /// How a part was lost that is not replaced yet.
    pub(super) fn loss(&self, part: Part) -> Option<&String> {
        self.losses.get(&part)
    }

    fn remember(&mut self, event: &Event) {
        // Many of one kind must not have the other forgotten, which would be told again.
        let known = match event.kind {
            EventKind::Whole(_) => &mut self.deaths,
            EventKind::Part(_) => &mut self.incidents,
        };
        known.push_back((event.kind, event.part, event.at));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
    }

    fn raise(&mut self, event: &Event) {
        self.clear(event);
        if let (Some(code), Some(part)) = (event.code.clone(), event.part) {
            let (since, with_engine) = (event.at, has_engine(event.state));
            self.standing.push(Standing { code, part, since, with_engine });
        }
    }

    fn clear(&mut self, event: &Event) {
        let is_it =
            |it: &Standing| Some(&it.code) == event.code.as_ref() && Some(it.part) == event.part;
        self.standing.retain(|standing| !is_it(standing));
    }
}
