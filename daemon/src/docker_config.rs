//! dockerd's configuration: the user's `daemon.json`, and what of it is ours.

use std::path::Path;

use rootlessd_api::Reason;
use serde_json::{Map, Value};

use crate::plan::DockerPlan;

/// Reads a `daemon.json`; one that does not exist is empty.
pub fn read(path: &Path) -> Result<Map<String, Value>, Reason> {
    let _ = path;
    unimplemented!("in work")
}

/// Makes the file that dockerd gets as `--config-file`: the user's `daemon.json` (as [`read`]
/// gives it) whole, and what is ours.
///
/// `live_restore` overrules everybody: a full stop passes `Some(false)`, others `None`.
pub fn merge(
    user: &Map<String, Value>,
    plan: &DockerPlan,
    live_restore: Option<bool>,
) -> Result<Value, Reason> {
    let _ = (user, plan, live_restore);
    unimplemented!("in work")
}
