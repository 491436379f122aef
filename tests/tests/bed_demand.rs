//! The engine on demand, under a real systemd: the default.

use std::{thread, time::Duration};

use rootlessd_tests::{
    command::wait_for,
    machine::{Machine, SOON, on_both, word},
};

/// How soon the unit follows the engine.
const FOLLOWS: Duration = Duration::from_secs(5);

/// What rootlessd may take of memory while it waits for a client, in KiB.
const MOST: u64 = 8 << 10;

/// For how long it sleeps at least: a timer that is shorter wakes it in each such time.
const ASLEEP: Duration = Duration::from_secs(5);

#[test]
fn it_starts_with_its_first_client_and_follows_the_containers_over_a_boot() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.configure("engine.idle_timeout = \"1s\"\n");
        machine.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        alone(&machine, "");
        sleeps(&machine);

        // A client starts it, the unit follows, and both end when nobody is left.
        let mut watch = machine.watch();
        let events = machine.spawn_user(["docker", "events"]);
        watch.until(&["running"]);
        machine.wait_unit("docker.service", "active", FOLLOWS);
        assert!(machine.user(["docker", "version"]).ok().contains("Server:"));
        drop(events);
        watch.until(&["listening"]);
        machine.wait_unit("docker.service", "inactive", FOLLOWS);
        drop(watch);
        alone(&machine, "1");
        // So does the unit, and it ends with it.
        let mut watch = machine.watch();
        machine.user(["systemctl", "--user", "start", "docker"]).ok();
        watch.until(&["running"]);
        watch.until(&["listening"]);
        machine.wait_unit("docker.service", "inactive", FOLLOWS);
        drop(watch);
        alone(&machine, "1");

        // A container keeps it up, and has it up after a boot without anybody who connects.
        machine.configure("");
        machine.ctl(["reload"]);
        machine.serve();
        machine.reboot();
        machine.wait_page();
        let status = machine.wait_known();
        assert_eq!(word(&status["demandStarts"]), "", "nobody connected");
        machine.wait_unit("docker.service", "active", FOLLOWS);

        // One that was stopped does not.
        machine.user(["docker", "stop", "-t", "1", "web"]).ok();
        machine.reboot();
        alone(&machine, "");
        machine.user(["docker", "start", "web"]).ok();
        machine.wait_page();
    });
}

/// Nothing is there but rootlessd, which waits, and has started the engine for clients so often.
fn alone(machine: &Machine, demand_starts: &str) {
    machine.wait_unit("rootlessd.service", "active", SOON);
    let status = machine.status();
    assert_eq!(word(&status["state"]), "listening");
    assert_eq!(word(&status["demandStarts"]), demand_starts);
    assert_eq!(machine.unit_state("docker.service"), "inactive");
    assert_eq!(machine.leftovers(), "");
    let pid = word(&status["supervisor"]["pid"]);
    let threads = machine.root(["ls", &format!("/proc/{pid}/task")]).ok().lines().count();
    let rollup = machine.root(["grep", "^Pss:", &format!("/proc/{pid}/smaps_rollup")]).ok();
    let pss = rollup.split_ascii_whitespace().nth(1).and_then(|pss| pss.parse::<u64>().ok());
    let pss = pss.expect("a size");
    eprintln!("{}: rootlessd waits with {pss} KiB, {threads} threads", machine.suite);
    assert!(pss <= MOST, "{pss} KiB");
}

/// Waits until rootlessd, which waits for a client, is not woken for a while: what is left of its start passes, and the
/// watchdog is fed once a minute. The kernel counts each time that a thread goes to sleep.
fn sleeps(machine: &Machine) {
    let pid = word(&machine.status()["supervisor"]["pid"]);
    // A thread may end meanwhile.
    let count = format!("cat /proc/{pid}/task/*/status 2>/dev/null | grep ^voluntary_ctxt");
    wait_for("rootlessd sleeps", SOON, || {
        let before = machine.root_sh(&count).ok();
        thread::sleep(ASLEEP);
        (machine.root_sh(&count).ok() == before).then_some(())
    });
}
