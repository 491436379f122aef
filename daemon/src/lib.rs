//! The supervisor of one user's rootless Docker.

pub mod dbus;
pub mod plan;
pub mod supervisor;
pub mod varlink;
