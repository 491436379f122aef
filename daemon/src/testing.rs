//! What tests of several modules need.

use rootlessd_api::{State, Status, Supervisor};

/// A status of a stopped engine.
pub fn status() -> Status {
    Status {
        state: State::Stopped,
        phase: None,
        since: 1,
        reasons: vec![],
        next_attempt: None,
        deaths: vec![],
        incidents: vec![],
        main_pid: None,
        supervisor: Supervisor { version: "0".into(), pid: 1, since: 1, systemd: false },
        version: None,
        containerd_version: None,
        runc_version: None,
        rootlesskit_version: None,
        socket_path: "/run/user/1000/docker.sock".into(),
        data_root: None,
        state_dir: None,
        network_driver: None,
        port_driver: None,
        storage_driver: None,
        cgroup_driver: None,
        controllers: vec![],
        granted_ports: vec![],
        containers_running: None,
        demand_starts: 0,
        last_demand_start: None,
        processes: vec![],
    }
}
