//! `rootlessd-helper`: the only part of rootlessd that is ever root. It does the few things that
//! rootless Docker needs root for, for one user, after the machine's owner said yes, and writes down
//! how to undo them.
//!
//! A request travels so: [`service`] reads it from the bus, [`gate`] knows who calls, [`request`]
//! has the arguments checked, [`verbs`] say what would change, [`gate`] asks polkit, and [`helper`]
//! writes the change into the [`ledger`], makes it, and tells the journal. [`root`] is the only way
//! to the file system, [`bpf`] the only one to bpf(2).

pub mod bpf;
pub mod change;
pub mod cli;
pub mod error;
pub mod gate;
pub mod helper;
#[cfg(test)]
mod introspection;
pub mod ledger;
pub mod logging;
pub mod request;
pub mod root;
pub mod service;
pub mod systemd;
#[cfg(test)]
mod tests;
pub mod user;
pub mod verbs;
