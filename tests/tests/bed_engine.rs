//! The engine dies, whichever of the processes that it cannot do without is the first: it comes back
//! by itself, and nothing is left of the one before. Dead too often, it is given up until somebody asks
//! for it; and so is a part that is replaced too often, with all of the engine.

use std::{collections::BTreeMap, time::Duration};

use rootlessd_tests::machine::{Machine, on_both, rounds, victims, word};
use serde_json::Value;

/// A death does not count for the next, and its delay does not grow: there are many here.
const PATIENT: &str = "[engine.restart]\nlimit = 0\nmax_delay = \"200ms\"\n";

/// Who is killed, and the part that the death is told of.
const VICTIMS: [(&str, &str); 4] = [
    ("rootlesskit", "rootlesskit"),
    ("rootlesskit's child", "rootlesskit"),
    ("init", "init"),
    ("shim", "shim"),
];

#[test]
fn the_engine_is_killed() {
    on_both(|suite| {
        let machine = Machine::running_with(suite, PATIENT);
        machine.serve();
        // What is looked for afterwards is found before.
        let there = machine.leftovers();
        for kind in ["process", "unit", "mount", "file", "port"] {
            assert!(there.lines().any(|line| line.starts_with(kind)), "{kind} in\n{there}");
        }
        let mut times = BTreeMap::<_, Vec<_>>::new();
        for round in 0..rounds(2) {
            for (victim, part) in VICTIMS {
                let time = kill(&machine, victim, part);
                times.entry(victim).or_default().push(time);
            }
            eprintln!("{suite}: round {round} done");
        }
        for (victim, mut times) in times {
            times.sort();
            let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
            eprintln!(
                "{suite}: {} × {victim}: running after {middle:?} (median), {longest:?} (most)",
                times.len()
            );
        }
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}

/// Kills a process of the engine, and returns how long it took until it ran again.
fn kill(machine: &Machine, victim: &str, part: &str) -> Duration {
    machine.wait_page();
    let before = machine.wait_known();
    let old = processes(machine);
    let mut watch = machine.watch();
    machine.kill(&victims(&before)[victim]);

    let dead = watch.until(&["backoff"]);
    let after = watch.until(&["running"]);
    // That it dies may be told before all of it is gone.
    let states = watch.states().replace("degraded ", "");
    assert_eq!(states, "running backoff starting running", "{victim}");
    let death = dead["deaths"].as_array().and_then(|deaths| deaths.last()).expect("a death");
    assert_eq!(word(&death["part"]), part, "{victim}: {death:#}");
    if matches!(victim, "rootlesskit" | "shim") {
        assert_eq!(death["signal"], 9, "{victim}: {death:#}");
    }
    let text = word(&death["text"]);
    assert!(text.contains("the container that ran ended with it"), "{victim}: {death:#}");

    let now = processes(machine);
    for (pid, what) in &old {
        assert!(!now.contains_key(pid), "{victim} died, and this stayed: {pid} {what}");
    }
    machine.wait_page();
    let scopes =
        machine.user_sh("systemctl --user list-units -q --plain '*.scope' | grep -c docker-");
    assert_eq!(scopes.ok(), "1", "the container has one scope");
    assert_eq!(zombies(machine), "", "{victim}");
    let micros = |status: &Value| status["since"].as_u64().expect("µs");
    let died = death["at"].as_u64().expect("µs");
    Duration::from_micros(micros(&after) - died)
}

/// Every process of the engine and of its containers, with what it is.
fn processes(machine: &Machine) -> BTreeMap<String, String> {
    let groups = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service/rootlessd.slice";
    let list = format!(
        "for p in $(find {groups} -name cgroup.procs -exec cat {{}} +); do ps -o pid=,args= -p $p; done; true"
    );
    let list = machine.root_sh(&list).ok();
    list.lines()
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(pid, what)| (pid.to_owned(), what.to_owned()))
        .collect()
}

fn zombies(machine: &Machine) -> String {
    let list = "ps -eo stat=,pid=,ppid=,args= | awk '$1 ~ /^Z/ && $3 != 0'";
    machine.root_sh(list).ok()
}

#[test]
fn it_dies_too_often() {
    on_both(|suite| {
        let machine =
            Machine::running_with(suite, "[engine.restart]\nlimit = 3\ndelay = \"10ms\"\n");
        machine.serve();
        die_until_failed(&machine, 3);
        let status = machine.status();
        let reason = &status["reasons"][0];
        assert_eq!(word(&reason["code"]), "died-too-often");
        assert_eq!(word(&reason["part"]), "dockerd");
        let death = &status["deaths"][2];
        assert_eq!((&death["signal"], word(&death["part"]).as_str()), (&Value::from(9), "dockerd"));
        let lines = death["log"].as_array().expect("lines").len();
        assert!((1..=20).contains(&lines), "{death:#}");
        assert!(
            death["log"].to_string().contains("Daemon has completed initialization"),
            "{death:#}"
        );
        let text = machine.try_ctl(["status"]);
        assert_eq!(text.status.code(), Some(3), "{text}");
        for wanted in
            ["failed", "SIGKILL", "dockerd", "rootlessctl start", "completed initialization"]
        {
            assert!(text.stdout.contains(wanted), "{wanted:?} in {text}");
        }
        assert_eq!(machine.leftovers(), "");
        machine.wait_unit("docker.service", "failed", Duration::from_secs(5));
        assert_eq!(machine.unit_state("rootlessd.service"), "active");

        // Forgotten, it waits for a client; and a start is a start.
        machine.ctl(["reset-failed"]);
        let status = machine.status();
        assert_eq!(
            (word(&status["state"]).as_str(), &status["deaths"]),
            ("listening", &Value::Array(vec![]))
        );
        machine.ctl(["start"]);
        machine.wait_page();

        // Without that, too: somebody asks for it.
        die_until_failed(&machine, 3);
        machine.ctl(["start"]);
        machine.wait_page();
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}

/// Kills dockerd until its engine is given up, and that until it is not started again.
fn die_until_failed(machine: &Machine, limit: usize) {
    for death in 1..=limit {
        for loss in 1..=limit {
            let dockerd = &victims(&machine.wait_known())["dockerd"];
            // Not before: what it was degraded by is over.
            let mut watch = machine.watch();
            machine.kill(dockerd);
            watch.until(match (loss < limit, death < limit) {
                (true, _) => &["degraded"],
                (false, true) => &["backoff"],
                (false, false) => &["failed"],
            });
        }
    }
}
