//! containerd or dockerd dies, or is to be replaced, under a running engine: its containers go on.

use std::{collections::BTreeMap, time::Duration};

use rootlessd_tests::{
    bed::Suite,
    command::Spawned,
    machine::{Machine, PAGE, SOON, on_both, pids, rounds, victims, word},
};
use serde_json::Value;

/// There are many deaths here, and none is one too many.
const PATIENT: &str = "[engine.restart]\nlimit = 0\n";

/// Kills a process and tries something until it works: the µs that it took.
const MEASURE: &str = r#"
now() { echo "${EPOCHREALTIME/./}"; }
t=$(now)
kill -9 "$0"
while kill -0 "$0" 2>/dev/null; do :; done
until eval "$1" >/dev/null 2>&1; do sleep 0.005; done
echo $(($(now) - t))
"#;

#[test]
fn a_part_is_killed() {
    for suite in [Suite::Trixie, Suite::Bookworm, Suite::Forky] {
        let machine = Machine::running_with(suite, PATIENT);
        machine.serve();
        let container = container(&machine);
        let page = format!("curl -sf -m 5 {PAGE}");
        let checks = [
            ("dockerd", page.as_str()),
            ("dockerd", "docker version"),
            ("containerd", "docker exec web true"),
            ("containerd", "docker run --rm rootlessd/tiny true"),
        ];
        let mut times = BTreeMap::<_, Vec<_>>::new();
        for _ in 0..rounds(2) {
            for (part, check) in checks {
                times.entry((part, check)).or_default().push(kill(&machine, part, check));
                assert_eq!(self::container(&machine), container, "{suite}: {part}");
                machine.user(["docker", "exec", "web", "true"]).ok();
                assert!(machine.page().is_some(), "{suite}: {part}");
            }
        }
        for ((part, check), mut times) in times {
            times.sort();
            let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
            eprintln!(
                "{suite}: {} × {part}: {check} after {middle:?} (median), {longest:?} (most)",
                times.len()
            );
        }

        // What followed the container before follows it again.
        let mut log = machine.spawn_user(["docker", "logs", "-f", "web"]);
        log.wait_line(SOON, |line| line == "serving");
        let mut attached = attach(&machine);
        kill(&machine, "dockerd", &page);
        let mut log_again = machine.spawn_user(["docker", "logs", "-f", "web"]);
        log_again.wait_line(SOON, |line| line == "serving");
        assert_eq!(attached.next_line(SOON), None, "it ends with the dockerd that it spoke to");
        let mut attached = attach(&machine);
        machine.user(["docker", "stop", "web"]).ok();
        log_again.wait_line(SOON, |line| line == "got SIGTERM");
        attached.wait_line(SOON, |line| line == "got SIGTERM");

        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    }
}

/// Kills a part, and returns how long it took until `check` succeeded.
fn kill(machine: &Machine, part: &str, check: &str) -> Duration {
    machine.ctl(["reset-failed"]);
    let before = machine.wait_known();
    let mut watch = machine.watch();
    let pid = &victims(&before)[part];
    let micros = machine.user(["bash", "-c", MEASURE, pid, check]).ok();

    // A probe may have lost its answer before it was known why.
    let is_told = |status: Value| {
        let reason = &status["reasons"][0];
        (word(&reason["code"]), word(&reason["part"]))
            == ("part-being-replaced".into(), part.into())
    };
    while !is_told(watch.until(&["degraded"])) {}
    let after = watch.until(&["running"]);
    assert_eq!(watch.states(), "running degraded running", "{part}");
    assert_eq!(after["deaths"], Value::Array(vec![]));
    let incidents: Vec<_> = after["incidents"].as_array().expect("a list").iter().collect();
    let count =
        |kind: &str| incidents.iter().filter(|it| it["kind"] == kind && it["part"] == part).count();
    assert_eq!((count("lost"), count("replaced")), (1, 1), "{incidents:#?}");
    assert!(word(&incidents[0]["text"]).contains("killed by SIGKILL"), "{incidents:#?}");

    let (before, after) = (pids(&before), pids(&machine.status()));
    for same in ["supervisor", "shim", "rootlesskit", "network", "init", "container"] {
        assert_eq!(before[same], after[same], "{part}: {same}");
    }
    assert_ne!(before[part][0], after[part][0], "{part}");
    Duration::from_micros(micros.trim().parse().expect("µs"))
}

/// Attaches to the container; returns when dockerd says so.
fn attach(machine: &Machine) -> Spawned {
    let attached = machine.spawn_user(["docker", "attach", "--no-stdin", "web"]);
    // What dockerd told since its start it tells again.
    let events = ["docker", "events", "--since", "10m", "--filter", "event=attach"];
    machine.spawn_user(events).wait_line(SOON, |line| line.contains("attach"));
    attached
}

/// What of the container is another after its restart.
fn container(machine: &Machine) -> String {
    let format = "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
    machine.user(["docker", "inspect", "-f", format, "web"]).ok()
}

#[test]
fn a_part_is_replaced_on_demand() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.serve();
        let container = container(&machine);
        // It does not hold dockerd up.
        let _events = machine.spawn_user(["docker", "events"]);
        let replaced = |arguments: &[&str], changed: &[&str]| {
            let before = pids(&machine.wait_known());
            let told = machine.user([&["rootlessctl"], arguments].concat()).ok();
            let status = machine.status();
            assert_eq!(status["state"], "running", "{arguments:?}");
            assert_eq!(status["deaths"], Value::Array(vec![]));
            let after = pids(&status);
            for part in ["shim", "rootlesskit", "network", "init", "containerd", "dockerd"] {
                let is_other = before[part][0] != after[part][0];
                assert_eq!(is_other, changed.contains(&part), "{arguments:?}: {part}");
            }
            assert_eq!(self::container(&machine), container);
            assert!(machine.page().is_some(), "{arguments:?}");
            told
        };
        let both = &["containerd", "dockerd"];
        let told = replaced(&["restart", "--keep-containers"], both);
        assert_eq!(told, "Docker is running again, and its containers went on.");
        let told = replaced(&["upgrade"], &[]);
        assert_eq!(told, "There is no newer Docker than the one that runs.");

        for (program, changed) in [("dockerd", &both[1..]), ("containerd", &both[..])] {
            install_anew(&machine, program);
            // It is seen when dockerd is asked how it is.
            machine.user(["docker", "run", "--rm", "rootlessd/tiny", "true"]).ok();
            let status = machine.wait_status(|status| !reasons(status).is_empty());
            assert_eq!(reasons(&status), ["upgrade-available"]);
            assert_eq!(word(&status["reasons"][0]["part"]), program);
            let told = replaced(&["upgrade"], changed);
            assert_eq!(told, "Docker is upgraded, and its containers went on.");
            assert_eq!(reasons(&machine.status()), [""; 0]);
        }
        // Nobody has to see it first.
        install_anew(&machine, "dockerd");
        replaced(&["upgrade", "--timeout", "30s"], &["dockerd"]);

        machine.configure("[engine]\nlive_restore = false\n");
        machine.ctl(["reload"]);
        let refused = machine.try_ctl(["restart", "--keep-containers"]).fails();
        assert!(refused.contains("live-restore is off"), "{refused}");
        assert!(refused.contains("rootlessctl restart"), "{refused}");
        assert_eq!(self::container(&machine), container);
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
        machine.ctl(["restart", "--keep-containers"]);
        assert_eq!(machine.state(), "running");
    });
}

/// Puts another file with the same content in a program's place, as a package does.
fn install_anew(machine: &Machine, program: &str) {
    let script = format!(
        "path=$(readlink -f $(command -v {program})) && cp -p $path $path.new && mv $path.new $path"
    );
    machine.root_sh(&script).ok();
}

fn reasons(status: &Value) -> Vec<String> {
    let reasons = status["reasons"].as_array().expect("a list");
    let advice = ["cgroup-driver-none", "controllers-missing"];
    let codes = reasons.iter().map(|reason| word(&reason["code"]));
    codes.filter(|code| !advice.contains(&code.as_str())).collect()
}
