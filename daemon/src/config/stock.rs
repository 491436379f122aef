//! What is left of the engine's former supervision.
use crate::dirs::{Dirs, Environment};
use rootlessd_api::{Reason, Setting};
/// x
pub fn look(_: &Dirs, _: &Environment, _: &[Setting]) -> Vec<Reason> {
    Vec::new()
}
