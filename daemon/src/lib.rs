//! The supervisor of one user's rootless Docker.

pub mod cli;
pub mod config;
pub mod dbus;
pub mod dirs;
pub mod docker_config;
pub mod doorman;
pub mod engine;
pub mod events;
pub mod follower;
pub mod helper;
pub mod lock;
pub mod logging;
#[cfg(test)]
mod model;
pub mod pid1;
pub mod place;
pub mod plan;
pub mod preflight;
pub mod readiness;
pub mod reasons;
pub mod restart_policy;
pub mod rootlesskit;
pub mod run;
pub mod signals;
pub mod sockets;
pub mod spare_name;
pub mod supervisor;
pub mod sys;
pub mod systemd;
#[cfg(test)]
mod testing;
pub mod varlink;
