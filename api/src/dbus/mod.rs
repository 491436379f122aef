//! The D-Bus APIs: typed proxies, for desktops, rootlessctl and tests, and how errors travel.

mod failure;
pub mod helper;
pub mod introspection;
mod supervisor;

pub use failure::Failure;
pub use supervisor::{EngineProxy, EventsProxy, JobProxy, PortsProxy};
