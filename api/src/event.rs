//! What happened: the status says how the engine is, events how it came there.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::status::{IncidentKind, Part, State, words};

words! {
    /// What happens to the engine as a whole, or to its supervisor. Later versions may add words.
    Occurrence {
        /// rootlessd began, and there was no engine.
        Began = "began",
        /// rootlessd began, and went on with the engine of an earlier one.
        TakenOver = "taken_over",
        /// rootlessd ended in order. One that was killed says nothing.
        Ended = "ended",
        /// The engine came to another state.
        State = "state",
        /// The engine died.
        Died = "died",
        /// There is a reason in the status that was not there before.
        Raised = "raised",
        /// A reason holds no more.
        Cleared = "cleared",
    }
}

/// What kind of event it is: one word, of the whole or of what happens to parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventKind {
    /// Of the engine as a whole, or of its supervisor.
    Whole(Occurrence),
    /// Of a part, as the status tells it as an [`Incident`](crate::Incident). A word of a later
    /// version is read as [`IncidentKind::Unknown`].
    Part(IncidentKind),
}

impl EventKind {
    /// Every word there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let whole = Occurrence::ALL.iter().copied().map(Self::Whole);
        whole.chain(IncidentKind::ALL.iter().copied().map(Self::Part))
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole(occurrence) => occurrence.as_str(),
            Self::Part(incident) => incident.as_str(),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        word.parse().map(Self::Whole).or_else(|_| word.parse().map(Self::Part))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number: greater than that of the one before, also across restarts of rootlessd, after
    /// which some are left out. It is the order in which events became known.
    pub seq: u64,
    /// When it happened, in µs of CLOCK_REALTIME. Of what happened while no rootlessd was there,
    /// it is earlier than that of the event before.
    pub at: u64,
    /// What.
    pub kind: EventKind,
    /// To which part; absent where it is about the engine as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The state of the engine when it became known.
    pub state: State,
    /// The state before, of a change of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// What happened, in a sentence.
    pub text: String,
    /// The stable name of the cause: the code of a reason, or of a change of the state what brought
    /// it about: `start`, `stop`, `restart`, `client`, `idle`, `retry`, `found`, `died`, `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it came from, in a sentence, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What rootlessd does about it, or the command by which a person mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// How long it took, in µs: from the loss of a part to its replacement, from a reason to its
    /// end, or how long the machine slept; of a change of the state, how long the engine was on its way or unwell before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<u64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    #[test]
    fn a_kind_is_one_word() {
        for kind in EventKind::all() {
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
            assert_eq!(serde_json::from_value::<EventKind>(json!(kind.as_str())).unwrap(), kind);
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let later: EventKind = serde_json::from_value(json!("hibernated")).unwrap();
        assert_eq!(later, EventKind::Part(IncidentKind::Unknown));
        "hibernated".parse::<EventKind>().unwrap_err();
    }

    #[test]
    fn what_is_absent_takes_no_room() {
        let event = Event {
            part: None,
            from: None,
            code: None,
            cause: None,
            action: None,
            took: None,
            ..samples::event()
        };
        let json = serde_json::to_value(&event).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["seq", "at", "kind", "state", "text"]);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
