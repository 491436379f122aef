//! The supervisor may die, be restarted, be replaced: the engine goes on, and the next rootlessd
//! can do everything with it.

use std::time::{Duration, Instant};

use rootlessd_tests::machine::{Machine, lasting, on_both, pids, rounds, word};
use serde_json::Value;

/// How long the engine may be without a supervisor.
const BLIND: Duration = Duration::from_secs(1);

#[test]
fn the_supervisor_is_killed() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.serve();
        let mut blind = killed_while_running(&machine);
        blind.extend(killed_on_the_way(&machine, "restart", "running", 11));
        blind.extend(killed_on_the_way(&machine, "stop", "stopped", 4));
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
        blind.sort();
        let (middle, longest) = (blind[blind.len() / 2], blind[blind.len() - 1]);
        eprintln!(
            "{suite}: {} kills, answers after {middle:?} (median), {longest:?} (most)",
            blind.len()
        );
        assert!(longest <= BLIND, "{blind:?}");
    });
}

/// Kills the process `$0`, and prints how many µs it took until the next one told a status, and
/// that. In the machine, so that the time is that of the kill and the answer alone.
const KILL: &str = r#"
    begin=$(date +%s%6N)
    kill -KILL "$0"
    while status=$(rootlessctl status --json 2>/dev/null); [ -z "${status##*'"error"'*}" ]; do :; done
    echo $(($(date +%s%6N) - begin))
    printf %s "$status"
"#;

/// Kills rootlessd, and returns how long it took until the next one told a status, and that.
fn kill(machine: &Machine, supervisor: &Value) -> (Duration, Value) {
    let output = machine.user(["sh", "-c", KILL, &word(&supervisor["pid"])]).ok();
    killed(&output, supervisor)
}

/// What [`KILL`] printed.
fn killed(output: &str, supervisor: &Value) -> (Duration, Value) {
    let (micros, status) = output.split_once('\n').expect("two lines");
    let status: Value = serde_json::from_str(status).expect("JSON");
    assert_ne!(status["supervisor"]["pid"], supervisor["pid"]);
    (Duration::from_micros(micros.parse().expect("µs")), status)
}

fn killed_while_running(machine: &Machine) -> Vec<Duration> {
    let container = machine.web_pid();
    let before = machine.status();
    let mut now = before.clone();
    let mut blind = vec![];
    for _ in 0..rounds(5) {
        let time;
        (time, now) = kill(machine, &now["supervisor"]);
        blind.push(time);
        machine.page().expect("the page, without a gap");
        assert_eq!(pids_of_engine(&now), pids_of_engine(&before));
    }
    // It knows all that the first one knew.
    assert_eq!(lasting(&machine.wait_known()), lasting(&before));
    assert_eq!(machine.web_pid(), container);
    machine.ctl(["reload"]);
    machine.ctl(["restart"]);
    machine.wait_page();
    blind
}

/// Kills rootlessd at each change of the status on the way of a restart or stop in turn, and waits
/// for what was asked for.
fn killed_on_the_way(machine: &Machine, verb: &str, end: &str, changes: u32) -> Vec<Duration> {
    let mut blind = vec![];
    for round in 0..rounds(5) {
        if machine.state() == "stopped" {
            machine.ctl(["start"]);
        }
        machine.wait_page();
        let supervisor = machine.status()["supervisor"].clone();
        // Not the next one but a few further, so that few rounds see many phases.
        let change = (round * 7 % changes + 1).to_string();
        let watch = r#"
            rootlessctl watch --json | {
                read -r status
                rootlessctl "$1" --no-block >/dev/null
                for _ in $(seq "$2"); do
                    read -r status
                    case $status in '{"state":"'"$3"'"'*) break ;; esac
                done
                echo "$status"
        "#;
        let script = format!("{watch}{KILL}}}");
        let pid = word(&supervisor["pid"]);
        let output = machine.user(["sh", "-c", &script, &pid, verb, &change, end]).ok();
        let (status, output) = output.split_once('\n').expect("a status first");
        let status: Value = serde_json::from_str(status).expect("JSON");
        let (time, found) = killed(output, &supervisor);
        blind.push(time);
        let begin = Instant::now();
        let last = machine.wait_state(end);
        assert_eq!(last["deaths"].as_array().map(Vec::len), Some(0), "{last:#}");
        eprintln!(
            "{verb}: killed while {}, found {}, {end} after {:?}",
            place(&status),
            place(&found),
            begin.elapsed()
        );
        if end == "running" {
            machine.wait_page();
        } else {
            assert_eq!(machine.leftovers(), "");
        }
    }
    blind
}

fn place(status: &Value) -> String {
    format!("{} {}", word(&status["state"]), word(&status["phase"])).trim_end().to_owned()
}

fn pids_of_engine(status: &Value) -> Vec<(String, Vec<String>)> {
    pids(status).into_iter().filter(|(part, _)| part != "supervisor").collect()
}

#[test]
fn the_supervisor_is_restarted_and_stopped() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.serve();
        let before = machine.status();
        let container = machine.web_pid();
        for _ in 0..rounds(5) {
            machine.user(["systemctl", "--user", "restart", "rootlessd"]).ok();
            let now = machine.status();
            assert_ne!(now["supervisor"]["pid"], before["supervisor"]["pid"]);
            assert_eq!(pids_of_engine(&now), pids_of_engine(&before));
            machine.page().expect("the page, without a gap");
        }
        assert_eq!(machine.unit_state("docker.service"), "active");
        assert_eq!(lasting(&machine.wait_known()), lasting(&before));
        assert_eq!(machine.web_pid(), container);

        // A stop is another thing: engine and sockets go, and no client brings them back.
        machine.user(["systemctl", "--user", "stop", "rootlessd"]).ok();
        assert_eq!(machine.leftovers(), "");
        for _ in 0..3 {
            let refused = machine.user(["docker", "version"]).fails();
            assert!(refused.contains("Is the docker daemon running?"), "{refused}");
            let refused = machine.try_ctl(["status"]);
            assert_eq!(refused.status.code(), Some(4), "{refused}");
            assert!(
                refused.stderr.contains("systemctl --user enable --now rootlessd"),
                "{refused}"
            );
        }
        for unit in ["rootlessd.service", "rootlessd.socket", "rootlessd-varlink.socket"] {
            assert_eq!(machine.unit_state(unit), "inactive", "{unit}");
        }
        machine.wait_unit("docker.service", "inactive", BLIND);

        // The container was stopped in order, and comes back with the engine.
        machine.user(["systemctl", "--user", "start", "rootlessd"]).ok();
        machine.wait_page();
        let signals = machine.user(["docker", "exec", "web", "cat", "/data/signals"]).ok();
        assert_eq!(signals, "got SIGTERM");
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}
