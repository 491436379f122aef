//! Typed proxies of the D-Bus API, for desktops and tests written in Rust.

use std::collections::HashMap;

use zbus::{ObjectPath, OwnedObjectPath, OwnedVariant, Variant, proxy};

/// The engine: what it is doing, and how to make it do something else.
///
/// Enums are strings, as in [`State`](crate::State) and the others; times are µs of CLOCK_REALTIME,
/// 0 for none; what is not known is an empty string.
#[proxy(
    interface = "org.rootlessd.Supervisor1.Engine",
    default_service = "org.rootlessd.Supervisor1",
    default_path = "/org/rootlessd/Supervisor1"
)]
pub trait Engine {
    /// Bring the engine up.
    fn start(&self, options: HashMap<&str, Variant<'_>>) -> zbus::Result<OwnedObjectPath>;
    /// Take the engine down.
    fn stop(&self, options: HashMap<&str, Variant<'_>>) -> zbus::Result<OwnedObjectPath>;
    /// Take the engine down and up again.
    fn restart(&self, options: HashMap<&str, Variant<'_>>) -> zbus::Result<OwnedObjectPath>;
    /// Read the configuration again.
    fn reload(&self) -> zbus::Result<()>;
    /// Forget the deaths.
    fn reset_failed(&self) -> zbus::Result<()>;
    /// The state, a word of [`State`](crate::State).
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    /// The phase, a word of [`Phase`](crate::Phase).
    #[zbus(property)]
    fn phase(&self) -> zbus::Result<String>;
    /// What a person should know.
    #[zbus(property)]
    fn reasons(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// When the state began.
    #[zbus(property)]
    fn since(&self) -> zbus::Result<u64>;
    /// The pid of RootlessKit's first process.
    #[zbus(property)]
    fn main_pid(&self) -> zbus::Result<u32>;
    /// dockerd's version.
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    /// A job began.
    #[zbus(signal)]
    fn job_new(&self, id: u32, job: ObjectPath<'_>, kind: &str) -> zbus::Result<()>;
    /// A job is finished.
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: ObjectPath<'_>,
        kind: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// A job.
#[proxy(interface = "org.rootlessd.Supervisor1.Job", default_service = "org.rootlessd.Supervisor1")]
pub trait Job {
    /// End the job.
    fn cancel(&self) -> zbus::Result<()>;
    /// Its number.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> zbus::Result<u32>;
    /// What it does, a word of [`JobKind`](crate::JobKind).
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> zbus::Result<String>;
    /// How far it is, a word of [`JobState`](crate::JobState).
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    /// How it ended, a word of [`JobResult`](crate::JobResult), or empty.
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    /// The error's name and message, or empty.
    #[zbus(property)]
    fn error(&self) -> zbus::Result<(String, String)>;
}
