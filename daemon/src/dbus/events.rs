//! `org.rootlessd.Supervisor1.Events`.

use std::collections::HashMap;

use rootlessd_api::{Event, Part, State, dbus::Failure};
use zbus::{OwnedVariant, Variant, interface, object_server::SignalEmitter};

use super::{
    gate::Gate,
    values::{self, Dict},
};
use crate::events::Wanted;

/// How many events a call is answered at most.
const MOST: u32 = 1000;

/// The interface of what happened and happens, on the engine's object.
#[derive(Debug)]
pub struct Events {
    gate: Gate,
}

impl Events {
    /// The interface, for one connection.
    pub const fn new(gate: Gate) -> Self {
        Self { gate }
    }

    /// Tell of an event.
    pub async fn tell(emitter: &SignalEmitter<'_>, event: &Event) -> zbus::Result<()> {
        let part = values::text(event.part.map(Part::as_str));
        Self::happened(emitter, event.kind.as_str(), &part, dict(event)).await
    }
}

fn wanted(options: HashMap<String, OwnedVariant>) -> Result<(Wanted, u32), Failure> {
    let (mut wanted, mut limit) = (Wanted::default(), MOST);
    for (name, value) in options {
        match (name.as_str(), &*value) {
            ("since", Variant::U64(since)) => wanted.since = Some(*since),
            ("after", Variant::U64(after)) => wanted.after = Some(*after),
            ("limit", Variant::U32(most)) => limit = MOST.min(*most),
            ("since" | "after" | "limit", other) => {
                let (kind, wrong) =
                    (if name == "limit" { "u" } else { "t" }, other.value_signature());
                let text = format!("the option {name} is a {kind}, not a {wrong}");
                return Err(Failure::invalid(text));
            }
            _ => return Err(Failure::invalid(format!("there is no option {name:?}"))),
        }
    }
    Ok((wanted, limit))
}

/// The shape of an event.
fn dict(event: &Event) -> Dict {
    let mut dict = Dict::from([
        ("seq", event.seq.into()),
        ("at", event.at.into()),
        ("kind", event.kind.as_str().into()),
        ("state", event.state.as_str().into()),
        ("text", values::clean(&event.text).into()),
    ]);
    let texts = [("code", &event.code), ("cause", &event.cause), ("action", &event.action)];
    for (name, text) in texts {
        values::put(&mut dict, name, text.as_deref().map(values::clean));
    }
    values::put(&mut dict, "part", event.part.map(Part::as_str));
    values::put(&mut dict, "from", event.from.map(State::as_str));
    values::put(&mut dict, "took", event.took);
    dict
}

#[interface(name = "org.rootlessd.Supervisor1.Events")]
impl Events {
    /// What happened, the oldest first: of all that is recorded, also by earlier rootlessds. What an
    /// event is, the signal Happened says.
    ///
    /// options: "since" (t): what happened then or later, in µs of CLOCK_REALTIME; "after" (t): what
    /// has a greater "seq", as that of the last one that is known; "limit" (u): only the newest so
    /// many, at most 1000, which is also what it is if absent.
    ///
    /// Errors: org.freedesktop.DBus.Error.InvalidArgs for any other option or type,
    /// org.rootlessd.Error.System if the history cannot be read.
    #[zbus(out_args("events"))]
    async fn list(&self, options: HashMap<String, OwnedVariant>) -> Result<Vec<Dict>, Failure> {
        let (wanted, limit) = wanted(options)?;
        let (_permit, supervisor) = self.gate.enter()?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let events = supervisor.events().newest(wanted, limit).await?;
        Ok(events.iter().map(dict).collect())
    }

    /// Something happened. What it brought about is in the properties already.
    ///
    /// kind: "began" (rootlessd did, and there was no engine), "taken_over" (it did, and goes on
    /// with the engine of an earlier one), "ended" (rootlessd did, in order), "state" (of the engine),
    /// "died" (the engine), "raised" and "cleared" (one of the Reasons), or one of Incidents: "lost",
    /// "replaced", "missing", "changed". part: the part that it is about, or empty. Words may be added.
    ///
    /// event: "seq" (t), a number that is greater with each event, also after a restart of
    /// rootlessd, after which some are left out; "at" (t), when, in µs of CLOCK_REALTIME; "kind" (s); "state" (s), of the engine, then;
    /// "text" (s), a sentence. And, each absent where there is none: "part" (s); "from" (s), the state
    /// before; "code" (s), of a reason, or of what changed the state ("start", "stop", "restart",
    /// "client", "idle", "retry", "found", "died", "reset"); "cause" (s), a sentence; "action" (s), what
    /// rootlessd does about it, or the command that mends it; "took" (t), in µs: from a loss to the
    /// replacement, from a reason to its end, or how long the state before lasted, if it was a passing
    /// one. Keys may be added.
    #[zbus(signal)]
    async fn happened(
        emitter: &SignalEmitter<'_>,
        kind: &str,
        part: &str,
        event: Dict,
    ) -> zbus::Result<()>;
}

#[cfg(test)]
mod tests {
    use rootlessd_api::samples;

    use super::*;

    #[test]
    fn an_event_is_all_of_it() {
        let event = samples::event();
        let json = serde_json::to_value(&event).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(dict(&event).into_keys().collect::<Vec<_>>(), names);
    }

    #[test]
    fn options_are_known_and_of_their_type() {
        let one = |name: &str, value: Variant<'_>| {
            let value = value.try_to_owned().unwrap();
            wanted(HashMap::from([(name.to_owned(), value)]))
        };
        let default = Wanted::default();
        for (name, value, good) in [
            ("since", 7_u64.into(), Some((Wanted { since: Some(7), ..default }, MOST))),
            ("after", 7_u64.into(), Some((Wanted { after: Some(7), ..default }, MOST))),
            ("limit", 7_u32.into(), Some((default, 7))),
            ("limit", u32::MAX.into(), Some((default, MOST))),
            ("limit", 7_u64.into(), None),
            ("since", "yesterday".into(), None),
            ("until", 7_u64.into(), None),
        ] {
            assert_eq!(one(name, value).ok(), good, "{name}");
        }
    }
}
