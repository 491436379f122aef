//! Statuses for the tests of this crate, made from the JSON of the interface.

use rootlessd_api::{Status, helper::Grant};
use serde_json::{Value, json};

use crate::human::{Clock, timestamp};

const SECOND: u64 = 1_000_000;
/// Mon 2025-11-24 23:05:45 UTC.
const NOW: u64 = 1_764_025_545 * SECOND;

/// A clock that stands at the moment of the samples.
pub fn clock() -> Clock {
    Clock::at(timestamp(NOW))
}

/// A running engine of which everything is known.
pub fn running() -> Status {
    status(json!({
        "state": "running",
        "mainPid": 4712,
        "version": "26.1.5",
        "containerdVersion": "1.7.24",
        "runcVersion": "1.1.15",
        "rootlesskitVersion": "2.0.2",
        "dataRoot": "/home/u/.local/share/docker",
        "stateDir": "/run/user/1000/dockerd-rootless",
        "networkDriver": "slirp4netns",
        "portDriver": "builtin",
        "storageDriver": "overlay2",
        "cgroupDriver": "systemd",
        "controllers": ["cpu", "memory", "pids"],
        "containersRunning": 2,
        "processes": [
            {"part": "rootlesskit", "pid": 4712, "name": "rootlesskit", "memory": 12_897_485},
            {"part": "network", "pid": 4730, "name": "slirp4netns", "memory": 2_936_012},
            {"part": "dockerd", "pid": 14751, "name": "dockerd", "memory": 68_157_440},
        ],
    }))
}

/// A running engine without network.
pub fn degraded() -> Status {
    status(json!({
        "state": "degraded",
        "version": "26.1.5",
        "cgroupDriver": "none",
        "reasons": [{
            "code": "network-down",
            "part": "network",
            "text": "slirp4netns is being started again.",
        }],
        "deaths": [death()],
        "incidents": [{
            "at": NOW - 5 * SECOND,
            "part": "network",
            "kind": "lost",
            "text": "slirp4netns was killed by SIGKILL",
        }],
    }))
}

/// An engine that nobody started.
pub fn stopped() -> Status {
    status(json!({ "state": "stopped" }))
}

/// An engine that a client started twice, and that waits for the next one.
pub fn listening() -> Status {
    status(json!({
        "state": "listening",
        "demandStarts": 2,
        "lastDemandStart": NOW - 3_600 * SECOND,
    }))
}

/// An engine on its way up.
pub fn starting() -> Status {
    status(json!({ "state": "starting", "phase": "containerd", "since": NOW - 2 * SECOND }))
}

/// An engine on its way down.
pub fn stopping() -> Status {
    status(json!({ "state": "stopping", "phase": "containers" }))
}

/// An engine that died and comes back.
pub fn backoff() -> Status {
    status(json!({
        "state": "backoff",
        "nextAttempt": NOW + 4 * SECOND,
        "deaths": [death()],
    }))
}

/// An engine that waits for a person.
pub fn failed() -> Status {
    status(json!({
        "state": "failed",
        "reasons": [{
            "code": "subuid-missing",
            "part": "host",
            "text": "The user u has no subordinate uids.",
            "remedy": "sudo usermod --add-subuids 100000-165535 u",
        }],
        "deaths": [death()],
    }))
}

/// Two ports, one of which the engine does not have, and all of them for everybody.
pub fn grants() -> Vec<Grant> {
    let port = |id: &str, protocol: &str, port: u16, drift: &[&str]| {
        let text = format!("{} port {port}", protocol.to_uppercase());
        json!({
            "id": id,
            "uid": 1000,
            "user": "u",
            "verb": "grant-ports",
            "text": text,
            "since": NOW - 185 * SECOND,
            "ports": [{"protocol": protocol, "port": port}],
            "changes": [format!(
                "a BPF program lets the engine listen on {text}; undone by taking it off"
            )],
            "drift": drift,
        })
    };
    let all = json!({
        "id": "c0ffee00aaaaaaaaaaaaaaaaaaaaaaaa",
        "uid": 1000,
        "user": "u",
        "verb": "set-unprivileged-port-start",
        "text": "net.ipv4.ip_unprivileged_port_start = 0",
        "since": NOW - 185 * SECOND,
        "changes": ["net.ipv4.ip_unprivileged_port_start: 1024 → 0"],
    });
    let drift = "the running engine does not have it";
    let grants = json!([
        port("3f2a91c0aaaaaaaaaaaaaaaaaaaaaaaa", "tcp", 80, &[drift]),
        port("3f2ab000aaaaaaaaaaaaaaaaaaaaaaaa", "udp", 443, &[]),
        all,
    ]);
    serde_json::from_value(grants).unwrap()
}

fn death() -> Value {
    json!({
        "at": NOW - 60 * SECOND,
        "part": "dockerd",
        "signal": 9,
        "text": "dockerd was killed by SIGKILL",
        "log": ["level=info msg=\"API listen on docker.sock\"", "a\u{1b}[2Jb"],
    })
}

fn status(fields: Value) -> Status {
    let mut status = json!({
        "since": NOW - 185 * SECOND,
        "supervisor": {
            "version": "0.1.0",
            "pid": 4711,
            "since": NOW - 3_600 * SECOND,
            "systemd": true,
        },
        "socketPath": "/run/user/1000/docker.sock",
    });
    let Value::Object(fields) = fields else { unreachable!("samples are objects") };
    status.as_object_mut().unwrap().extend(fields);
    serde_json::from_value(status).unwrap()
}
