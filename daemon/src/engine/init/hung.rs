//! What hangs and is engine-shim's to see die, is ended with a word for engine-shim on why.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    engine::dir::{EngineDir, Hung},
    sys::{
        activity::Activity,
        process::{Identity, Process},
    },
};

/// End `process`, which is called `name`: it did not answer for `lasted`, while it was doing this.
pub(super) fn end(
    dir: &EngineDir,
    name: &str,
    process: Identity,
    activity: &Activity,
    lasted: Duration,
) {
    let Some(found) = Process::find(process) else { return };
    let seconds = lasted.as_secs_f64();
    let text =
        format!("{name} did not answer for {seconds:.1} s, while it was {activity}, and was ended");
    if let Err(error) = dir.write_hung(&Hung { process, text }) {
        tracing::warn!("why {name} is ended cannot be written down: {error}");
    }
    if let Err(error) = found.signal(Signal::SIGKILL) {
        tracing::warn!("{name} hangs and cannot be ended: {error}");
    }
}
