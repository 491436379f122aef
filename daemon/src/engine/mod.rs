//! The engine: its processes from outside ([`driver`]), and the two of them that are ours,
//! [`shim`] outside of its namespaces and [`init`] inside.

pub mod autostart;
pub mod dir;
pub mod docker;
pub mod driver;
pub mod exec;
pub mod incidents;
pub mod init;
mod leaps;
pub mod log;
mod network_helper;
pub mod processes;
mod scraps;
pub mod shim;
pub mod shortage;
pub mod sweep;
pub mod userland_proxy;
