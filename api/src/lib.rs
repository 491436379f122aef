//! What every part of rootlessd agrees on: names, states, errors, and the types of the control API.
//!
//! The same model goes over both transports. On varlink it is the JSON of these types; on D-Bus the
//! properties of `org.rootlessd.Supervisor1.Engine` are read from the same [`Status`].

pub mod client;
#[cfg(feature = "dbus")]
pub mod dbus;
pub mod error;
pub mod event;
pub mod helper;
pub mod history;
pub mod job;
pub mod names;
pub mod port;
pub mod samples;
pub mod settings;
pub mod status;

pub use error::{Error, ErrorKind};
pub use event::{Event, EventKind, Occurrence};
pub use job::{Job, JobKind, JobOptions, JobResult, JobState};
pub use port::{Port, PortPrivilege, Protocol, PublishedPort};
pub use settings::{LogLocation, Setting};
pub use status::{
    Death, Incident, IncidentKind, Part, Phase, Process, Reason, State, Status, Supervisor,
};
