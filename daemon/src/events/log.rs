//! An event as a line of the log, with its fields: `ROOTLESSD_EVENT` and the others in the journal.

use rootlessd_api::{Event, EventKind, IncidentKind, Occurrence, Part, State};

/// Write a line with all that an event says.
pub(super) fn log(event: &Event) {
    // A line is about one part; about the engine as a whole, it is the supervisor's.
    let part = event.part.unwrap_or(Part::Supervisor).as_str();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                rootlessd_event = event.kind.as_str(),
                rootlessd_seq = event.seq,
                rootlessd_at_usec = event.at,
                rootlessd_part = part,
                rootlessd_state = event.state.as_str(),
                rootlessd_from = event.from.map(State::as_str),
                rootlessd_code = event.code.as_deref(),
                rootlessd_cause = event.cause.as_deref(),
                rootlessd_action = event.action.as_deref(),
                rootlessd_took_usec = event.took,
                "{}",
                event.text
            )
        };
    }
    match gravity(event) {
        Gravity::Error => line!(error),
        Gravity::Warning => line!(warn),
        Gravity::Info => line!(info),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Gravity {
    Error,
    Warning,
    Info,
}

fn gravity(event: &Event) -> Gravity {
    match event.kind {
        EventKind::Whole(Occurrence::Died) => Gravity::Error,
        // It cannot start, or not again.
        EventKind::Whole(Occurrence::Raised | Occurrence::State)
            if event.state == State::Failed =>
        {
            Gravity::Error
        }
        EventKind::Whole(Occurrence::Raised) => Gravity::Warning,
        EventKind::Whole(Occurrence::State) if event.state == State::Degraded => Gravity::Warning,
        EventKind::Part(IncidentKind::Replaced) | EventKind::Whole(_) => Gravity::Info,
        EventKind::Part(_) => Gravity::Warning,
    }
}
