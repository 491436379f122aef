//! A value of every type with every field set, for tests.

use crate::{
    Death, Error, ErrorKind, Incident, IncidentKind, Job, JobKind, JobResult, JobState,
    LogLocation, Part, Phase, Port, PortPrivilege, Process, Protocol, PublishedPort, Reason,
    Setting, State, Status, Supervisor,
};

/// A status in which nothing is absent. No real one is: a phase and a next attempt exclude each
/// other.
pub fn status() -> Status {
    Status {
        state: State::Degraded,
        phase: Some(Phase::Network),
        since: 1_790_000_000_000_001,
        reasons: vec![reason()],
        next_attempt: Some(1_790_000_000_500_000),
        deaths: vec![death()],
        incidents: vec![incident()],
        main_pid: Some(4711),
        supervisor: Supervisor {
            version: "0.1.0".into(),
            pid: 4242,
            since: 1_789_999_999_000_000,
            systemd: true,
        },
        version: Some("26.1.5".into()),
        containerd_version: Some("1.7.24".into()),
        runc_version: Some("1.1.15".into()),
        rootlesskit_version: Some("2.0.2".into()),
        socket_path: "/run/user/1000/docker.sock".into(),
        data_root: Some("/home/somebody/.local/share/docker".into()),
        state_dir: Some("/run/user/1000/rootlessd/rootlesskit".into()),
        network_driver: Some("slirp4netns".into()),
        port_driver: Some("builtin".into()),
        storage_driver: Some("overlay2".into()),
        cgroup_driver: Some("systemd".into()),
        controllers: vec!["cpu".into(), "memory".into(), "pids".into()],
        granted_ports: vec![Port { protocol: Protocol::Tcp, number: 80 }],
        containers_running: Some(3),
        demand_starts: 5,
        last_demand_start: Some(1_790_000_000_000_000),
        processes: vec![process()],
    }
}

/// A reason with a remedy.
pub fn reason() -> Reason {
    Reason {
        code: "subuid-missing".into(),
        part: Part::Host,
        text: "There are no subordinate user ids for somebody.".into(),
        remedy: Some("sudo usermod --add-subuids 100000-165535 somebody".into()),
    }
}

/// A death. No real one has both an exit status and a signal.
pub fn death() -> Death {
    Death {
        at: 1_789_999_999_900_000,
        part: Part::Dockerd,
        exit_code: Some(1),
        signal: Some(9),
        out_of_memory: true,
        text: "dockerd was killed.".into(),
        log: vec!["level=info msg=\"Loading containers: done.\"".into(), "\u{1b}[31m€\0".into()],
    }
}

/// An incident. No real one has a time that it took unless it is a replacement.
pub fn incident() -> Incident {
    Incident {
        at: 1_789_999_999_950_000,
        part: Part::Dockerd,
        kind: IncidentKind::Replaced,
        text: "dockerd was replaced after 0.41 s".into(),
        took: Some(410_000),
    }
}

/// A process.
pub fn process() -> Process {
    Process { part: Part::Containerd, pid: 4720, name: "containerd".into(), memory: 37_300_000 }
}

/// A job that failed.
pub fn job() -> Job {
    Job {
        id: 7,
        kind: JobKind::Start,
        state: JobState::Finished,
        result: Some(JobResult::Failed),
        error: Some(
            Error::new(ErrorKind::EngineDied, "dockerd died while it was being started")
                .with_remedy("rootlessctl logs --part dockerd"),
        ),
    }
}

/// A key of the configuration.
pub fn setting() -> Setting {
    Setting {
        key: "engine.stop_timeout".into(),
        value: "\"30s\"".into(),
        source: "/etc/rootlessd/config.toml:3".into(),
    }
}

/// A log directory.
pub fn log_location() -> LogLocation {
    LogLocation { directory: Some("/home/somebody/.local/state/rootlessd".into()) }
}

/// A published port that needs a privilege.
pub fn published_port() -> PublishedPort {
    PublishedPort {
        port: Port { protocol: Protocol::Tcp, number: 80 },
        address: "0.0.0.0".into(),
        child_port: 8080,
        privileged: true,
        by: Some(PortPrivilege::Grant),
    }
}
