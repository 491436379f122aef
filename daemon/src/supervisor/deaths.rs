//! What is said of a death beyond what the engine itself wrote down.

use rootlessd_api::{Death, Part, Reason};

use crate::engine::{driver::Facts, shim};

/// What else is lost with an engine of which this was known.
pub(super) fn casualties(facts: Option<&Facts>) -> String {
    match facts.map_or(0, |facts| facts.info.containers_running) {
        0 => String::new(),
        1 => "; the container that ran ended with it".to_owned(),
        count => format!("; the {count} containers that ran ended with it"),
    }
}

/// Log why the engine cannot be started.
pub(super) fn log_refusals(reasons: &[Reason]) {
    for Reason { code, part, text, .. } in reasons {
        tracing::error!(rootlessd_part = part.as_str(), "cannot start ({code}): {text}");
    }
}

/// Log what the machine is short of, unless that was so the last time.
pub(super) fn log_shortages(before: &[Reason], now: &[Reason]) {
    let codes = |reasons: &[Reason]| -> Vec<_> {
        reasons.iter().map(|reason| reason.code.clone()).collect()
    };
    if codes(before) != codes(now) {
        for Reason { code, part, text, .. } in now {
            tracing::warn!(rootlessd_part = part.as_str(), "cannot start for now ({code}): {text}");
        }
    }
}

pub(super) fn unseen_death() -> Death {
    let text = "it died while no rootlessd was there to see it".to_owned();
    shim::death(Part::Shim, None, text, vec![])
}

pub(super) fn stranger_stop() -> Death {
    let text = "it was stopped in order, and not through rootlessd".to_owned();
    shim::death(Part::Rootlesskit, None, text, vec![])
}
