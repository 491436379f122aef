//! The control API as the tools of a real system see it, and the units as systemd reads them.

use std::{collections::BTreeSet, fs, time::Duration};

use rootlessd_tests::{
    bed::Suite,
    command::{Spawned, wait_for},
    install,
    machine::{Machine, RUNTIME, SOON, on_both, word},
};
use serde_json::Value;

const NAME: &str = "org.rootlessd.Supervisor1";
const OBJECT: &str = "/org/rootlessd/Supervisor1";
const ENGINE: &str = "org.rootlessd.Supervisor1.Engine";
const PEER: &str = "org.freedesktop.DBus.Peer";
const INTERFACE: &str = "org.rootlessd.Supervisor";
const VARLINK: &str = "/run/user/4242/rootlessd/org.rootlessd.Supervisor";

#[test]
fn the_apis_of_a_real_system() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        systemd_reads_the_units(&machine);
        a_call_starts_rootlessd(&machine);
        introspection_is_the_committed_xml(&machine);
        a_start_and_a_stop_are_told_in_order(&machine);
        match suite {
            Suite::Bookworm => a_raw_varlink_client(&machine),
            _ => systemds_varlink_client(&machine),
        }
        without_the_bus(&machine);
    });
}

fn systemd_reads_the_units(machine: &Machine) {
    let verify = "systemd-analyze --user verify /usr/local/lib/systemd/user/*";
    let output = machine.user_sh(verify);
    assert!(output.status.success() && output.stderr.is_empty(), "{output}");
}

/// Nothing of rootlessd was ever started: the bus knows how to.
fn a_call_starts_rootlessd(machine: &Machine) {
    assert_eq!(machine.unit_state("rootlessd.service"), "inactive");
    let list = machine.user(["busctl", "--user", "list", "--activatable"]).ok();
    assert!(list.contains(NAME), "{list}");
    let get = ["busctl", "--user", "--json=short", "get-property", NAME, OBJECT, ENGINE, "State"];
    let state = machine.user(get).ok();
    assert!(state.contains("listening"), "{state}");
    // With it came the sockets.
    machine.user(["docker", "version"]).ok();
    assert_eq!(machine.unit_state("rootlessd.socket"), "active");
    machine.user(["systemctl", "--user", "stop", "rootlessd"]).ok();
    // Its path is known to Docker's clients, but what was stopped is not revived by them.
    machine.user(["docker", "version"]).fails();
    machine.enable();
}

fn introspection_is_the_committed_xml(machine: &Machine) {
    let seen = |object: &str| {
        let method = ["org.freedesktop.DBus.Introspectable", "Introspect"];
        let call = ["busctl", "--user", "--json=short", "call", NAME, object];
        let reply = machine.user(call.into_iter().chain(method)).ok();
        let reply: Value = serde_json::from_str(&reply).expect("JSON");
        word(&reply["data"][0])
    };
    let tree = machine.user(["busctl", "--user", "tree", "--list", NAME]).ok();
    let job = tree.lines().find(|line| line.contains("/job/")).expect("the job that started it");
    for (object, interface) in [(OBJECT, ENGINE), (job, "org.rootlessd.Supervisor1.Job")] {
        let file = install::project().join(format!("units/dbus-1/interfaces/{interface}.xml"));
        let committed = fs::read_to_string(file).expect("committed");
        assert_eq!(interface_of(&seen(object), interface), interface_of(&committed, interface));
    }
    // And busctl's own reading of it, with all values.
    let table = machine.user(["busctl", "--user", "introspect", NAME, OBJECT]).ok();
    for row in [".Start ", ".State ", ".JobRemoved ", "\"running\""] {
        assert!(table.contains(row), "{row} in\n{table}");
    }
}

/// The lines of an interface, wherever it is indented to.
fn interface_of(xml: &str, name: &str) -> Vec<String> {
    let lines = xml.lines().map(|line| line.trim().to_owned());
    let mut lines = lines.skip_while(|line| *line != format!("<interface name=\"{name}\">"));
    let found: Vec<_> = lines.by_ref().take_while(|line| line != "</interface>").collect();
    assert!(found.len() > 5, "{name} in\n{xml}");
    found
}

/// What `busctl monitor` shows of a stop and a start, one line each: the job before what it brings
/// about, and that before the job's end.
fn a_start_and_a_stop_are_told_in_order(machine: &Machine) {
    let mut monitor = machine.spawn_user(["busctl", "--user", "--json=short", "monitor", NAME]);
    // It says nothing until something happens.
    wait_for("busctl monitors", SOON, || {
        machine.user(["busctl", "--user", "call", NAME, OBJECT, PEER, "Ping"]).ok();
        monitor.next_line(Duration::from_millis(50))
    });
    machine.ctl(["stop"]);
    machine.ctl(["start"]);
    monitor.wait_line(SOON, |line| line.contains("JobRemoved") && line.contains("\"start\""));
    let told: Vec<_> = monitor.seen().iter().filter_map(|line| summary(line)).collect();
    let expected = [
        "JobNew stop",
        "State stopping",
        "State stopped",
        "Job finished",
        "JobRemoved stop done",
        "JobNew start",
        "State starting",
        "State running",
        "Job finished",
        "JobRemoved start done",
    ];
    assert_eq!(told, expected, "{:#?}", monitor.seen());
}

/// A signal in short; none for what does not tell of a state or job.
fn summary(line: &str) -> Option<String> {
    let message: Value = serde_json::from_str(line).ok()?;
    let data = &message["payload"]["data"];
    match (word(&message["member"]).as_str(), word(&data[0]).as_str()) {
        ("JobNew", _) => Some(format!("JobNew {}", word(&data[2]))),
        ("JobRemoved", _) => Some(format!("JobRemoved {} {}", word(&data[2]), word(&data[3]))),
        ("PropertiesChanged", ENGINE) => {
            let state = &data[1]["State"]["data"];
            state.is_string().then(|| format!("State {}", word(state)))
        }
        ("PropertiesChanged", _) => Some(format!("Job {}", word(&data[1]["State"]["data"]))),
        _ => None,
    }
}

fn systemds_varlink_client(machine: &Machine) {
    // Where systemd's tools look for the services of a user.
    let address = format!("{RUNTIME}/varlink/registry/{INTERFACE}");
    let info = machine.user(["varlinkctl", "info", &address]).ok();
    assert!(info.contains("Product: rootlessd") && info.contains(INTERFACE), "{info}");
    let idl = machine.user(["varlinkctl", "introspect", &address, INTERFACE]).ok();
    assert_eq!(definitions(&idl), definitions(rootlessd_api::names::VARLINK_IDL));
    let call = |method: &str, parameters: &str| {
        let method = format!("{INTERFACE}.{method}");
        machine.user(["varlinkctl", "call", &address, &method, parameters])
    };
    let status: Value = serde_json::from_str(&call("GetStatus", "{}").ok()).expect("JSON");
    assert_eq!(status["status"]["state"], "running");
    assert!(call("Nope", "{}").fails().contains("org.varlink.service.MethodNotFound"));
    let wrong = call("Start", r#"{"soon":true}"#);
    assert!(wrong.fails().contains("org.varlink.service.InvalidParameter"));

    let watch = ["varlinkctl", "--more", "call", &address, "org.rootlessd.Supervisor.Watch", "{}"];
    watched(machine, machine.spawn_user(watch), |line| {
        line.trim_start_matches('\u{1e}').to_owned()
    });
}

/// The definitions of an interface, without comments, in whatever order and layout.
fn definitions(idl: &str) -> BTreeSet<String> {
    let lines = idl.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut found: Vec<String> = vec![];
    for line in lines {
        if line.starts_with(char::is_alphabetic) {
            found.push(String::new());
        }
        let words = line.split_whitespace();
        found.last_mut().expect("the interface's name comes first").extend(words);
    }
    found.into_iter().collect()
}

fn a_raw_varlink_client(machine: &Machine) {
    let send = |messages: &str| {
        let send = "printf \"$0\" | socat -t2 - UNIX-CONNECT:$1 | tr '\\0' '\\n'";
        machine.user(["sh", "-c", send, messages, VARLINK]).ok()
    };
    let call = |method: &str| format!(r#"{{"method":"{method}","parameters":{{}}}}\0"#);
    let answers = send(&format!(
        "{}{}{}",
        call("org.varlink.service.GetInfo"),
        call("org.rootlessd.Supervisor.GetStatus"),
        call("org.rootlessd.Supervisor.Nope"),
    ));
    let answers: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers[0]["parameters"]["product"], "rootlessd");
    assert_eq!(answers[1]["parameters"]["status"]["state"], "running");
    assert_eq!(answers[2]["error"], "org.varlink.service.MethodNotFound");

    let watch = r#"{"method":"org.rootlessd.Supervisor.Watch","parameters":{},"more":true}"#;
    let client = machine.raw_client(VARLINK, watch);
    watched(machine, client, |line| {
        let reply: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(reply["continues"], true);
        reply["parameters"].to_string()
    });
}

/// A client that watches sees the present state first, and then each change.
fn watched(machine: &Machine, mut client: Spawned, parameters: impl Fn(&str) -> String) {
    let mut next = || {
        let line = client.next_line(SOON).expect("a reply");
        let reply: Value = serde_json::from_str(&parameters(&line)).expect("JSON");
        word(&reply["status"]["state"])
    };
    assert_eq!(next(), "running");
    machine.ctl(["restart"]);
    let mut seen = vec![next()];
    while seen.len() < 3 {
        let state = next();
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    assert_eq!(seen, ["stopping", "starting", "running"]);
}

/// The bus can go and come back: varlink works on, and the name is taken again.
fn without_the_bus(machine: &Machine) {
    let engine = machine.status()["mainPid"].clone();
    machine.user(["systemctl", "--user", "kill", "-s", "KILL", "dbus.service"]).ok();
    assert_eq!(machine.state(), "running");
    let get = ["busctl", "--user", "get-property", NAME, OBJECT, ENGINE, "State"];
    let limit = Duration::from_secs(2);
    wait_for("the name", limit, || machine.user(get).status.success().then_some(()));
    let own = machine.user(["busctl", "--user", "status", NAME]).ok();
    let pid = word(&machine.status()["supervisor"]["pid"]);
    assert!(own.lines().any(|line| line == format!("PID={pid}")), "{own}");
    // A container gets its scope over that bus; a stop and a start need it too.
    machine.serve();
    assert_eq!(machine.status()["mainPid"], engine);
    machine.ctl(["restart"]);
    machine.ctl(["stop"]);
    assert_eq!(machine.leftovers(), "");
}
