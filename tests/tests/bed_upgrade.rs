//! An upgrade under a running engine: the rootlessd of another release takes it over, and can do
//! everything with it; and back.

use std::path::Path;

use rootlessd_tests::{
    changed,
    command::wait_for,
    install,
    machine::{Machine, SOON, lasting, on_both, pids, word},
};
use serde_json::Value;

const INSTALLED: &str = "/usr/local/bin/rootlessd";

#[test]
fn another_release_takes_over() {
    let this = install::programs().join("rootlessd");
    let other = changed::rootlessd();
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.serve();
        let ways = [other, &this, other, &this];
        for (program, end) in ways.into_iter().zip(["restart", "death", "death", "restart"]) {
            take_over(&machine, program);
            // What follows is of the new release alone.
            if end == "restart" {
                machine.ctl(["restart"]);
            } else {
                let mut watch = machine.watch();
                let container = machine.web_pid();
                machine.kill(&pids(&machine.status())["dockerd"][0]);
                watch.until(&["degraded"]);
                assert_eq!(watch.until(&["running"])["deaths"], Value::Array(vec![]));
                machine.ctl(["restart", "--keep-containers"]);
                assert_eq!(machine.web_pid(), container);
                machine.kill(&pids(&machine.status())["init"][0]);
                let death = &watch.until(&["backoff"])["deaths"][0];
                assert_eq!(word(&death["part"]), "init");
                watch.until(&["running"]);
                machine.ctl(["reset-failed"]);
            }
            machine.wait_page();
        }
        take_over(&machine, other);
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}

/// Installs another rootlessd as a package does, beside the running one and then in its place, and
/// restarts the unit. The engine stays the one of the release before.
fn take_over(machine: &Machine, program: &Path) {
    let before = machine.wait_known();
    let container = machine.web_pid();
    install(machine, program);
    machine.user(["systemctl", "--user", "restart", "rootlessd"]).ok();
    let after = machine.wait_known();
    let is_changed = program == changed::rootlessd();
    assert_eq!(word(&after["supervisor"]["version"]) == changed::VERSION, is_changed);
    assert_ne!(after["supervisor"]["version"], before["supervisor"]["version"]);
    assert_eq!(lasting(&after), lasting(&before));
    machine.page().expect("the page, without a gap");
    assert_eq!(machine.web_pid(), container);
    assert_eq!(protocol(machine), if is_changed { 4 } else { 5 });

    machine.write("/home/tester/.config/docker/daemon.json", r#"{"labels":["taken=over"]}"#);
    machine.ctl(["reload"]);
    let label = ["docker", "info", "-f", "{{.Labels}}"];
    wait_for("dockerd reads its configuration", SOON, || {
        (machine.user(label).ok() == "[taken=over]").then_some(())
    });
    machine.user(["rm", ".config/docker/daemon.json"]).ok();
    machine.ctl(["reload"]);
}

fn install(machine: &Machine, program: &Path) {
    machine.copy_in(program, &format!("{INSTALLED}.new"));
    machine.root(["mv", &format!("{INSTALLED}.new"), INSTALLED]).ok();
}

/// The version of the protocol that the engine's init speaks.
fn protocol(machine: &Machine) -> u64 {
    let follow = r#"{"method":"org.rootlessd.EngineInit.Follow","parameters":{},"more":true}"#;
    let mut client = machine.raw_client("/run/user/4242/rootlessd/engine/init.sock", follow);
    let reply = client.next_line(SOON).expect("a reply");
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    reply["parameters"]["status"]["protocol"].as_u64().expect("a number")
}
