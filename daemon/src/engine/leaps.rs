//! Tells of a running engine that the machine slept, or that its time of day was set: what follows in
//! the logs is explained by it, and rootlessd asks at once how everything is.

use rootlessd_api::Part;

use super::{
    dir::EngineDir,
    incidents::{self, Incident},
};
use crate::sys::{
    clock,
    leaps::{Leap, Leaps},
};

/// Write down each, for ever.
pub async fn tell(dir: EngineDir) {
    let mut leaps = match Leaps::follow() {
        Ok(leaps) => leaps,
        Err(error) => return not_seen(&error),
    };
    loop {
        let Leap { text, slept } = match leaps.next().await {
            Ok(leap) => leap,
            Err(error) => return not_seen(&error),
        };
        tracing::info!(rootlessd_part = Part::Shim.as_str(), "{text}");
        let took = slept.map(clock::micros);
        let at = clock::now_realtime();
        let incident = Incident::Changed { part: Part::Host, at, text, took };
        if let Err(error) = incidents::append(&dir, &incident) {
            tracing::warn!("{} cannot be written: {error}", dir.incidents().display());
        }
    }
}

fn not_seen(error: &std::io::Error) {
    tracing::warn!("it is not seen when the machine sleeps: {error}");
}
