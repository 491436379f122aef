//! What is said of a death beyond what the engine itself wrote down.

use rootlessd_api::{Death, Part};

use crate::engine::{driver::Facts, shim};

/// What else is lost with an engine of which this was known.
pub(super) fn casualties(facts: Option<&Facts>) -> String {
    match facts.map_or(0, |facts| facts.info.containers_running) {
        0 => String::new(),
        1 => "; the container that ran ended with it".to_owned(),
        count => format!("; the {count} containers that ran ended with it"),
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
