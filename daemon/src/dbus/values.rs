//! The status as D-Bus values: what a property holds, and which properties a change touches.

use std::collections::{BTreeMap, HashMap};

use rootlessd_api::{
    Death, Error, Incident, Phase, PortPrivilege, Process, PublishedPort, Reason, Status,
};
use zbus::Variant;

/// A dictionary `a{sv}`.
pub type Dict = BTreeMap<&'static str, Variant<'static>>;

/// `ContainersRunning` while it is not known.
pub const UNKNOWN: u32 = u32::MAX;

/// An absent word or text is an empty one.
pub fn text(value: Option<impl AsRef<str>>) -> String {
    value.map_or_else(String::new, |value| clean(value.as_ref()))
}

/// A string that the bus takes. It takes no NUL, and a daemon can write anything into its log.
pub fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Strings that the bus takes.
pub fn cleaned(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| clean(text)).collect()
}

/// The shape of `Reasons`.
pub fn reasons(reasons: &[Reason]) -> Vec<Dict> {
    let dict = |reason: &Reason| {
        let mut dict = Dict::from([
            ("code", clean(&reason.code).into()),
            ("part", reason.part.as_str().into()),
            ("text", clean(&reason.text).into()),
        ]);
        put(&mut dict, "remedy", reason.remedy.as_deref().map(clean));
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
            ("text", clean(&death.text).into()),
            ("log", cleaned(&death.log).into()),
        ]);
        put(&mut dict, "exit_code", death.exit_code);
        put(&mut dict, "signal", death.signal);
        put(&mut dict, "out_of_memory", death.out_of_memory.then_some(true));
        dict
    };
    deaths.iter().map(dict).collect()
}

/// The shape of `Incidents`.
pub fn incidents(incidents: &[Incident]) -> Vec<Dict> {
    let dict = |incident: &Incident| {
        let mut dict = Dict::from([
            ("at", incident.at.into()),
            ("part", incident.part.as_str().into()),
            ("kind", incident.kind.as_str().into()),
            ("text", clean(&incident.text).into()),
        ]);
        put(&mut dict, "took", incident.took);
        dict
    };
    incidents.iter().map(dict).collect()
}

/// The shape of `Processes`.
pub fn processes(processes: &[Process]) -> Vec<Dict> {
    let dict = |process: &Process| {
        Dict::from([
            ("part", process.part.as_str().into()),
            ("pid", process.pid.into()),
            ("name", clean(&process.name).into()),
            ("memory", process.memory.into()),
        ])
    };
    processes.iter().map(dict).collect()
}

/// The shape of `List`.
pub fn published(ports: &[PublishedPort]) -> Vec<Dict> {
    let dict = |published: &PublishedPort| {
        let mut dict = Dict::from([
            ("protocol", published.port.protocol.as_str().into()),
            ("port", published.port.number.into()),
            ("address", clean(&published.address).into()),
            ("child_port", published.child_port.into()),
            ("privileged", published.privileged.into()),
        ]);
        put(&mut dict, "by", published.by.map(PortPrivilege::as_str));
        dict
    };
    ports.iter().map(dict).collect()
}

/// The shape of `Versions`.
pub fn versions(status: &Status) -> BTreeMap<&'static str, String> {
    let all = [
        ("containerd", &status.containerd_version),
        ("runc", &status.runc_version),
        ("rootlesskit", &status.rootlesskit_version),
    ];
    all.into_iter().filter_map(|(name, version)| Some((name, clean(version.as_deref()?)))).collect()
}

/// The shape of a job's `Error`.
pub fn error(error: Option<&Error>) -> BTreeMap<&'static str, String> {
    let Some(error) = error else { return BTreeMap::new() };
    let mut dict =
        BTreeMap::from([("name", error.kind.dbus_name()), ("message", clean(&error.message))]);
    if let Some(remedy) = &error.remedy {
        dict.insert("remedy", clean(remedy));
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
fn announced(status: &Status) -> [(&'static str, Variant<'static>); 21] {
    [
        ("State", status.state.as_str().into()),
        ("Phase", text(status.phase.map(Phase::as_str)).into()),
        ("Reasons", reasons(&status.reasons).into()),
        ("Since", status.since.into()),
        ("NextAttempt", status.next_attempt.unwrap_or(0).into()),
        ("MainPid", status.main_pid.unwrap_or(0).into()),
        ("Version", text(status.version.as_ref()).into()),
        ("Versions", versions(status).into()),
        ("SocketPath", clean(&status.socket_path).into()),
        ("DataRoot", text(status.data_root.as_ref()).into()),
        ("StateDir", text(status.state_dir.as_ref()).into()),
        ("NetworkDriver", text(status.network_driver.as_ref()).into()),
        ("PortDriver", text(status.port_driver.as_ref()).into()),
        ("StorageDriver", text(status.storage_driver.as_ref()).into()),
        ("CgroupDriver", text(status.cgroup_driver.as_ref()).into()),
        ("Controllers", cleaned(&status.controllers).into()),
        ("ContainersRunning", status.containers_running.unwrap_or(UNKNOWN).into()),
        ("DemandStarts", status.demand_starts.into()),
        ("LastDemandStart", status.last_demand_start.unwrap_or(0).into()),
        ("Deaths", deaths(&status.deaths).into()),
        ("Incidents", incidents(&status.incidents).into()),
    ]
}
