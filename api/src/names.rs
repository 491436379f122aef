//! The names under which rootlessd is found: on the bus, on varlink, in the runtime directory.

use std::path::{Path, PathBuf};

/// The well-known name on the session bus.
pub const BUS_NAME: &str = "org.rootlessd.Supervisor1";
/// The object that carries [`ENGINE_INTERFACE`].
pub const OBJECT_PATH: &str = "/org/rootlessd/Supervisor1";
/// Below this path each job has an object, named by its id.
pub const JOB_PATH: &str = "/org/rootlessd/Supervisor1/job";
/// The D-Bus interface of the engine.
pub const ENGINE_INTERFACE: &str = "org.rootlessd.Supervisor1.Engine";
/// The D-Bus interface of published and granted ports, on the same object.
pub const PORTS_INTERFACE: &str = "org.rootlessd.Supervisor1.Ports";
/// The D-Bus interface of what happened and happens, on the same object.
pub const EVENTS_INTERFACE: &str = "org.rootlessd.Supervisor1.Events";
/// The D-Bus interface of a job.
pub const JOB_INTERFACE: &str = "org.rootlessd.Supervisor1.Job";
/// What the D-Bus name of each of our errors begins with.
pub const ERROR_PREFIX: &str = "org.rootlessd.Error.";

/// The varlink interface of the supervisor.
pub const VARLINK_INTERFACE: &str = "org.rootlessd.Supervisor";
/// The varlink interface of `rootlessd engine-init`, for rootlessd alone.
pub const INIT_INTERFACE: &str = "org.rootlessd.EngineInit";
/// The text of [`VARLINK_INTERFACE`], as it is installed.
pub const VARLINK_IDL: &str = include_str!("../../units/varlink/org.rootlessd.Supervisor.varlink");

/// The scope that the engine's processes live in, in the user's systemd.
pub const ENGINE_SCOPE: &str = "rootlessd-engine.scope";
/// The slice of the engine and of the containers.
pub const SLICE: &str = "rootlessd.slice";
/// The slice of the containers: dockerd's cgroup-parent, unless `daemon.json` sets one.
pub const CONTAINERS_SLICE: &str = "rootlessd-containers.slice";

/// The journal's field that says which [`Part`](crate::Part) a line is from.
pub const LOG_PART: &str = "ROOTLESSD_PART";

/// The directory of rootlessd below `$XDG_RUNTIME_DIR`.
pub fn runtime_dir(xdg_runtime_dir: &Path) -> PathBuf {
    xdg_runtime_dir.join("rootlessd")
}

/// There while rootlessd has `docker.service` started for an engine that is up: the unit then follows the
/// engine, and does not ask for its start, since somebody may have asked for its stop meanwhile.
pub fn unit_follows(xdg_runtime_dir: &Path) -> PathBuf {
    runtime_dir(xdg_runtime_dir).join("unit-follows")
}

/// The socket of [`VARLINK_INTERFACE`], below `$XDG_RUNTIME_DIR`.
pub fn varlink_socket(xdg_runtime_dir: &Path) -> PathBuf {
    runtime_dir(xdg_runtime_dir).join(VARLINK_INTERFACE)
}

/// The socket of Docker's API, below `$XDG_RUNTIME_DIR`.
pub fn docker_socket(xdg_runtime_dir: &Path) -> PathBuf {
    xdg_runtime_dir.join("docker.sock")
}
