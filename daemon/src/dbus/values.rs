//! The status as D-Bus values: what a property holds, and which properties a change touches.

use std::collections::{BTreeMap, HashMap};

use rootlessd_api::{Death, Error, Process, Reason, Status};
use zbus::Variant;

/// A dictionary `a{sv}`.
pub type Dict = BTreeMap<&'static str, Variant<'static>>;

/// `ContainersRunning` while it is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// An absent word or text is an empty one.
pub fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The shape of `Reasons`.
pub fn reasons(reasons: &[Reason]) -> Vec<Dict> {
    let dict = |reason: &Reason| {
        let mut dict = Dict::from([
            ("code", reason.code.clone().into()),
            ("part", reason.part.as_str().into()),
            ("text", reason.text.clone().into()),
        ]);
        put(&mut dict, "remedy", reason.remedy.clone());
        dict
    };
    reasons.iter().map(dict).collect()
}

/// The shape of `Deaths`.
pub fn deaths(deaths: &[Death]) -> Vec<Dict> {
    let dict = |death: &Death| {
        let mut dict = Dict::from([
            ("at", death.at.into()),
            ("part", death.part.as_str().into()),
            ("text", death.text.clone().into()),
            ("log", death.log.clone().into()),
        ]);
        put(&mut dict, "exit_code", death.exit_code);
        put(&mut dict, "signal", death.signal);
        dict
    };
    deaths.iter().map(dict).collect()
}

/// The shape of `Processes`.
pub fn processes(processes: &[Process]) -> Vec<Dict> {
    let dict = |process: &Process| {
        Dict::from([
            ("part", process.part.as_str().into()),
            ("pid", process.pid.into()),
            ("name", process.name.clone().into()),
            ("memory", process.memory.into()),
        ])
    };
    processes.iter().map(dict).collect()
}

/// The shape of `Versions`.
pub fn versions(status: &Status) -> BTreeMap<&'static str, String> {
    let all = [
        ("containerd", &status.containerd_version),
        ("runc", &status.runc_version),
        ("rootlesskit", &status.rootlesskit_version),
    ];
    all.into_iter().filter_map(|(name, version)| Some((name, version.clone()?))).collect()
}

/// The shape of a job's `Error`.
pub fn error(error: Option<&Error>) -> BTreeMap<&'static str, String> {
    let Some(error) = error else { return BTreeMap::new() };
    let mut dict =
        BTreeMap::from([("name", error.kind.dbus_name()), ("message", error.message.clone())]);
    if let Some(remedy) = &error.remedy {
        dict.insert("remedy", remedy.clone());
    }
    dict
}

fn put<T: Into<Variant<'static>>>(dict: &mut Dict, key: &'static str, value: Option<T>) {
    if let Some(value) = value {
        dict.insert(key, value.into());
    }
}

/// The properties of the engine that are not the same in both, as they are in `new`.
pub fn changes(old: &Status, new: &Status) -> HashMap<&'static str, Variant<'static>> {
    announced(old)
        .into_iter()
        .zip(announced(new))
        .filter_map(|(old, new)| (old != new).then_some(new))
        .collect()
}

/// Every property of the engine whose changes are announced.
fn announced(status: &Status) -> [(&'static str, Variant<'static>); 18] {
    [
        ("State", status.state.as_str().into()),
        ("Phase", text(status.phase).into()),
        ("Reasons", reasons(&status.reasons).into()),
        ("Since", status.since.into()),
        ("NextAttempt", status.next_attempt.unwrap_or(0).into()),
        ("MainPid", status.main_pid.unwrap_or(0).into()),
        ("Version", text(status.version.as_ref()).into()),
        ("Versions", versions(status).into()),
        ("SocketPath", status.socket_path.clone().into()),
        ("DataRoot", text(status.data_root.as_ref()).into()),
        ("StateDir", text(status.state_dir.as_ref()).into()),
        ("NetworkDriver", text(status.network_driver.as_ref()).into()),
        ("PortDriver", text(status.port_driver.as_ref()).into()),
        ("StorageDriver", text(status.storage_driver.as_ref()).into()),
        ("CgroupDriver", text(status.cgroup_driver.as_ref()).into()),
        ("Controllers", status.controllers.clone().into()),
        ("ContainersRunning", status.containers_running.unwrap_or(UNKNOWN).into()),
        ("Deaths", deaths(&status.deaths).into()),
    ]
}
