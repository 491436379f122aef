//! The supervisor of one user's rootless Docker.

pub mod config;
pub mod dirs;
pub mod docker_config;
pub mod plan;
pub mod preflight;
pub mod reasons;
pub mod rootlesskit;
pub mod supervisor;
pub mod varlink;
