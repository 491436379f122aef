//! What happened, on a machine with systemd: in the journal, on the bus, and in the history.

use std::time::Duration;

use rootlessd_tests::{
    bed::Suite,
    command::wait_for,
    machine::{Machine, SOON, pids, victims, word},
};
use serde_json::Value;

const NAME: &str = "org.rootlessd.Supervisor1";
const OBJECT: &str = "/org/rootlessd/Supervisor1";

fn parsed(lines: &str) -> Vec<Value> {
    let parsed = |line| serde_json::from_str(line).expect("JSON");
    lines.lines().map(parsed).collect()
}

fn events(machine: &Machine) -> Vec<Value> {
    parsed(&machine.ctl(["events", "--json", "-n", "all"]))
}

#[test]
fn what_happens_is_told_everywhere_in_the_same_words() {
    let machine = Machine::running(Suite::Trixie);
    let mut bus = machine.spawn_user(["busctl", "--user", "--json=short", "monitor", NAME]);
    // It says nothing until something happens.
    wait_for("busctl monitors", SOON, || {
        let ping = ["busctl", "--user", "call", NAME, OBJECT, "org.freedesktop.DBus.Peer", "Ping"];
        machine.user(ping).ok();
        bus.next_line(Duration::from_millis(50))
    });
    let before = machine.wait_known();
    let mut watch = machine.watch();
    machine.kill(&victims(&before)["dockerd"]);
    watch.until(&["degraded"]);
    watch.until(&["running"]);

    let told = events(&machine);
    let of = |kind: &str| {
        let found: Vec<_> = told.iter().filter(|event| event["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {told:#?}");
        found[0].clone()
    };
    for kind in ["lost", "replaced"] {
        let event = of(kind);
        assert_eq!(event["part"], "dockerd");
        // journald has the same fields, whose values are text there.
        let field = format!("ROOTLESSD_EVENT={kind}");
        let lines = machine.user(["journalctl", "--user", "-o", "json", &field]).ok();
        let lines = parsed(&lines);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        for (name, field) in [
            ("text", "MESSAGE"),
            ("part", "ROOTLESSD_PART"),
            ("state", "ROOTLESSD_STATE"),
            ("cause", "ROOTLESSD_CAUSE"),
            ("action", "ROOTLESSD_ACTION"),
            ("seq", "ROOTLESSD_SEQ"),
            ("at", "ROOTLESSD_AT_USEC"),
        ] {
            let value = event[name].as_str().map_or_else(|| event[name].to_string(), str::to_owned);
            assert_eq!(word(&lines[0][field]), value, "{field}");
        }
        let took = lines[0].get("ROOTLESSD_TOOK_USEC").map(word);
        assert_eq!(took, event.get("took").map(Value::to_string), "{kind}");
        // The same on the bus, of which the first argument is the kind.
        let is_it =
            format!("\"Happened\",\"payload\":{{\"type\":\"ssa{{sv}}\",\"data\":[\"{kind}\",");
        let signal = parsed(&bus.wait_line(SOON, |line| line.contains(&is_it))).remove(0);
        for (name, value) in event.as_object().expect("an object") {
            assert_eq!(&signal["payload"]["data"][2][name]["data"], value, "{signal}");
        }
    }
    let logged = machine.ctl(["logs", "--part", "dockerd", "-n", "all"]);
    assert!(logged.contains("dockerd was killed by SIGKILL"), "{logged}");

    // systemd starts the next one, which goes on with the history.
    let supervisor = pids(&machine.status())["supervisor"][0].clone();
    machine.kill(&supervisor);
    let all = wait_for("the next one tells", SOON, || {
        let events = parsed(&machine.try_ctl(["events", "--json", "-n", "all"]).stdout);
        events.iter().any(|event| event["kind"] == "taken_over").then_some(events)
    });
    assert_eq!(all[..told.len()], told);
    assert_eq!(all[told.len()]["kind"], "taken_over");

    // And one that is stopped says so, with the engine.
    machine.user(["systemctl", "--user", "stop", "rootlessd.service"]).ok();
    let output = machine.try_ctl(["events", "--json", "-n", "1"]);
    assert_eq!(parsed(&output.stdout)[0]["kind"], "ended", "{output}");
    assert!(output.stderr.contains("no rootlessd answers"), "{output}");
    assert_eq!(machine.leftovers(), "");
}
