//! Preflight: whether the engine can start on this machine, and the [`Plan`] with which it does.

mod environment;
mod packages;
mod programs;
#[cfg(test)]
pub(crate) mod testing;
pub mod version;

use rootlessd_api::Reason;

use crate::{
    config::Loaded,
    dirs::{Dirs, Environment},
    plan::Plan,
};

/// Looks at the machine and makes the plan of an engine. Changes nothing.
///
/// `systemd`: whether the engine runs in a scope of the user's systemd.
///
/// The error has everything that prevents a start, not only the first; the plan has in
/// [`Plan::reasons`] what does not.
pub async fn prepare(
    dirs: &Dirs,
    environment: &Environment,
    loaded: &Loaded,
    systemd: bool,
) -> Result<Plan, Vec<Reason>> {
    let _ = (dirs, environment, loaded, systemd);
    unimplemented!("in work")
}
