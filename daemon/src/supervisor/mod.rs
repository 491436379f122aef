//! The supervisor.

pub mod handle;
