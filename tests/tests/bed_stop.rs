//! Ways down: a start that is called off, a stop within its time, a logout, a reboot.

use std::time::Duration;

use rootlessd_tests::{
    bed::IMAGE,
    command::wait_for,
    machine::{Machine, SOON, on_both, rounds, word},
};

/// When a start is called off, in ms after it began.
const MOMENTS: [u32; 5] = [20, 50, 100, 200, 400];

/// A container whose first process ignores every signal that it may.
const STUBBORN: &str = "docker run -d --name stubborn rootlessd/tiny \
    sh -c 'trap : TERM INT; while :; do sleep 1; done'";

#[test]
fn a_start_is_called_off() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.serve();
        for _ in 0..rounds(1) {
            for moment in MOMENTS {
                machine.ctl(["stop"]);
                let place = called_off(&machine, moment, "rootlessctl stop");
                eprintln!("{suite}: rootlessctl stop after {moment} ms, while {place}");
                assert_eq!(machine.state(), "stopped");
                assert_eq!(machine.leftovers(), "");
            }
            for moment in MOMENTS {
                machine.ctl(["stop"]);
                // To the supervisor itself: engine and sockets end with it.
                let pid = word(&machine.status()["supervisor"]["pid"]);
                let place = called_off(&machine, moment, &format!("kill -TERM {pid}"));
                eprintln!("{suite}: SIGTERM after {moment} ms, while {place}");
                machine.wait_unit("rootlessd.service", "inactive", SOON);
                assert_eq!(machine.leftovers(), "");
                machine.user(["systemctl", "--user", "start", "rootlessd"]).ok();
            }
        }
        machine.ctl(["start"]);
        machine.wait_page();
    });
}

/// Starts the engine, and calls that off after so many ms; says where it was then.
fn called_off(machine: &Machine, moment: u32, how: &str) -> String {
    let mut watch = machine.watch();
    let script = format!("rootlessctl start --no-block && sleep 0.{moment:03} && {how}");
    machine.user_sh(&script).ok();
    let mut place = String::new();
    // The end of the supervisor ends the watch, too.
    while let Some(status) = watch.try_next(SOON) {
        match word(&status["state"]).as_str() {
            "starting" => place = word(&status["phase"]),
            "running" => place = "running".into(),
            "stopped" => break,
            state => assert_eq!(state, "stopping"),
        }
    }
    place
}

#[test]
fn a_stop_keeps_its_time() {
    on_both(|suite| {
        let machine = Machine::running_with(suite, "[engine]\nstop_timeout = \"4s\"\n");
        machine.serve();
        machine.user_sh(STUBBORN).ok();
        let mut watch = machine.watch();
        machine.ctl(["stop"]);
        let begin = watch.until(&["stopping"])["since"].as_u64().expect("µs");
        let end = watch.until(&["stopped"])["since"].as_u64().expect("µs");
        let time = Duration::from_micros(end - begin);
        eprintln!("{suite}: stopped after {time:?} of 4 s");
        assert!(time < Duration::from_secs(5), "{time:?}");
        assert_eq!(machine.leftovers(), "");
        // The other container was not made to suffer for it.
        machine.ctl(["start"]);
        machine.wait_page();
        let signals = machine.user(["docker", "exec", "web", "cat", "/data/signals"]).ok();
        assert_eq!(signals, "got SIGTERM");

        // With time enough, dockerd's own patience ends it: 10 s, or what the container says.
        machine.user(["docker", "rm", "-f", "stubborn"]).ok();
        machine.user_sh(&STUBBORN.replace("run -d", "run -d --stop-timeout 1")).ok();
        let mut watch = machine.watch();
        machine.ctl(["stop"]);
        watch.until(&["stopped"]);
        machine.ctl(["start"]);
        let code = ["docker", "inspect", "-f", "{{.State.ExitCode}}", "stubborn"];
        assert_eq!(machine.user(code).ok(), "137", "killed by dockerd");
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}

#[test]
fn a_logout_and_a_reboot() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        // A signal that nobody sends by mistake.
        machine.user(["docker", "load", "-qi", IMAGE]).ok();
        let run = "docker run -d --name web -p 8080:80 -v data:/data --restart unless-stopped \
                   --stop-signal SIGINT rootlessd/tiny";
        machine.user_sh(run).ok();
        machine.wait_page();

        // The user's manager is told to end, which a machine does at its own end.
        let mut stops = 1;
        machine.root(["systemctl", "stop", "user@4242.service"]).ok();
        assert_eq!(machine.leftovers(), "");
        stopped_in_order(&machine);
        machine.root(["systemctl", "start", "user@4242.service"]).ok();
        back(&machine, stops);

        machine.reboot();
        stops += 1;
        stopped_in_order(&machine);
        back(&machine, stops);

        // A logout without lingering: the last session's end is the manager's, a while later.
        let soon = "mkdir -p /etc/systemd/logind.conf.d && \
                    printf '[Login]\\nUserStopDelaySec=0\\n' >/etc/systemd/logind.conf.d/soon.conf && \
                    systemctl restart systemd-logind";
        machine.root_sh(soon).ok();
        let session = "systemd-run -q -u session -p PAMName=login -p User=tester sleep infinity";
        machine.root_sh(session).ok();
        machine.root(["loginctl", "disable-linger", "tester"]).ok();
        assert_eq!(machine.unit_state("rootlessd.service"), "active", "there is a session");
        machine.root(["systemctl", "stop", "session.service"]).ok();
        stops += 1;
        wait_for("the user's manager ends", SOON, || {
            let state = machine.root(["systemctl", "show", "-P", "ActiveState", "user@4242"]);
            (state.ok() == "inactive").then_some(())
        });
        assert_eq!(machine.leftovers(), "");
        stopped_in_order(&machine);
        machine.root(["loginctl", "enable-linger", "tester"]).ok();
        machine.root(["systemctl", "start", "user@4242.service"]).ok();
        back(&machine, stops);
    });
}

/// The engine's own words about its last end.
fn stopped_in_order(machine: &Machine) {
    let journal = ["journalctl", "-q", "-o", "cat", "-n", "1500"];
    let journal = machine.root(journal).ok();
    let last = |line: &str| journal.rfind(line).unwrap_or_else(|| panic!("{line:?} in\n{journal}"));
    let order = [
        "stopping: containers",
        "Processing signal 'terminated'",
        "Daemon shutdown complete",
        "stopped",
    ];
    for pair in order.windows(2) {
        assert!(last(pair[0]) < last(pair[1]), "{pair:?} in\n{journal}");
    }
}

/// The container is back, and has seen its own stop signal so many times.
fn back(machine: &Machine, stops: usize) {
    machine.wait_page();
    let signals = machine.user(["docker", "exec", "web", "cat", "/data/signals"]).ok();
    assert_eq!(signals.lines().collect::<Vec<_>>(), vec!["got SIGINT"; stops]);
}
