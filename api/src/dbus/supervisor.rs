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
    /// Replace containerd and dockerd under the containers, if there are newer ones.
    fn upgrade(&self, options: HashMap<&str, Variant<'_>>) -> zbus::Result<OwnedObjectPath>;
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
    /// When the next start is tried.
    #[zbus(property)]
    fn next_attempt(&self) -> zbus::Result<u64>;
    /// The pid of RootlessKit's first process.
    #[zbus(property)]
    fn main_pid(&self) -> zbus::Result<u32>;
    /// dockerd's version.
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    /// The versions of `containerd`, `runc` and `rootlesskit`.
    #[zbus(property)]
    fn versions(&self) -> zbus::Result<HashMap<String, String>>;
    /// The socket of Docker's API.
    #[zbus(property)]
    fn socket_path(&self) -> zbus::Result<String>;
    /// The directory of images, volumes and containers.
    #[zbus(property)]
    fn data_root(&self) -> zbus::Result<String>;
    /// RootlessKit's state directory.
    #[zbus(property)]
    fn state_dir(&self) -> zbus::Result<String>;
    /// The network driver.
    #[zbus(property)]
    fn network_driver(&self) -> zbus::Result<String>;
    /// The port driver.
    #[zbus(property)]
    fn port_driver(&self) -> zbus::Result<String>;
    /// dockerd's storage driver.
    #[zbus(property)]
    fn storage_driver(&self) -> zbus::Result<String>;
    /// dockerd's cgroup driver.
    #[zbus(property)]
    fn cgroup_driver(&self) -> zbus::Result<String>;
    /// The cgroup controllers that the user may use.
    #[zbus(property)]
    fn controllers(&self) -> zbus::Result<Vec<String>>;
    /// How many containers run; [`u32::MAX`] while that is not known.
    #[zbus(property)]
    fn containers_running(&self) -> zbus::Result<u32>;
    /// How often a client of Docker's socket has started the engine.
    #[zbus(property)]
    fn demand_starts(&self) -> zbus::Result<u32>;
    /// When a client has started the engine last.
    #[zbus(property)]
    fn last_demand_start(&self) -> zbus::Result<u64>;
    /// The engine's deaths, the newest last.
    #[zbus(property)]
    fn deaths(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// What happened to single parts, the newest last.
    #[zbus(property)]
    fn incidents(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// The engine's processes, looked up at every call.
    #[zbus(property(emits_changed_signal = "false"))]
    fn processes(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// rootlessd's version.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_version(&self) -> zbus::Result<String>;
    /// rootlessd's pid.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_pid(&self) -> zbus::Result<u32>;
    /// When rootlessd started.
    #[zbus(property(emits_changed_signal = "const"))]
    fn supervisor_since(&self) -> zbus::Result<u64>;
    /// Whether the engine runs in a scope of the user's systemd.
    #[zbus(property(emits_changed_signal = "const"))]
    fn systemd(&self) -> zbus::Result<bool>;
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

/// Published ports, and those that are granted.
#[proxy(
    interface = "org.rootlessd.Supervisor1.Ports",
    default_service = "org.rootlessd.Supervisor1",
    default_path = "/org/rootlessd/Supervisor1"
)]
pub trait Ports {
    /// The ports that containers publish.
    fn list(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// Have the user granted ports, by the helper.
    #[zbus(allow_interactive_auth)]
    fn request(&self, ports: &[(&str, u16)]) -> zbus::Result<HashMap<String, OwnedVariant>>;
    /// Look again at what is granted.
    fn refresh(&self) -> zbus::Result<()>;
    /// The ports that the user was granted.
    #[zbus(property)]
    fn granted(&self) -> zbus::Result<Vec<(String, u16)>>;
}

/// What happened and happens.
#[proxy(
    interface = "org.rootlessd.Supervisor1.Events",
    default_service = "org.rootlessd.Supervisor1",
    default_path = "/org/rootlessd/Supervisor1"
)]
pub trait Events {
    /// What happened, the oldest first.
    fn list(
        &self,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    /// Something happened: its [`EventKind`](crate::EventKind), its part or nothing, and all of it.
    #[zbus(signal)]
    fn happened(
        &self,
        kind: &str,
        part: &str,
        event: HashMap<String, OwnedVariant>,
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
    /// Why it failed: `name`, `message` and, if there is one, `remedy`; empty if it did not.
    #[zbus(property)]
    fn error(&self) -> zbus::Result<HashMap<String, String>>;
}
