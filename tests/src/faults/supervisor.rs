//! rootlessd itself is killed, cut off, flooded or starved: rows 7, 8, 17, 22, 23, 25 and 26.

use std::{cell::Cell, time::Duration};

use serde_json::Value;

use super::{
    Kept, Promise, Row, Trial, ms,
    trial::{
        CONFIG, alive, compare, page, provoke_after, provoke_unseen, settled, timed_by_user,
        unit_with, zombies,
    },
    well_within, within,
};
use crate::{
    load::Measured,
    machine::{Machine, RUNTIME, SOON, pids, victims, word},
};

/// How long a status may take under load.
const P99: Duration = Duration::from_millis(50);
/// How many signals a second there are to be at least.
const HANGUPS: u32 = 10_000;
/// What rootlessd may take more under load.
const GROWTH: u64 = 10 << 20;

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            number: "7a",
            fault: "rootlessd killed while running",
            promise: well_within(1000),
            ours: |machine, _| supervisor_killed(machine),
            stock: None,
        },
        Row {
            number: "7b",
            fault: "rootlessd killed while it restarts the engine",
            promise: well_within(5000).anew(),
            ours: supervisor_killed_on_the_way,
            stock: None,
        },
        Row {
            number: "7c",
            fault: "rootlessd killed while the engine is stopped",
            promise: well_within(1000).anew(),
            ours: |machine, _| supervisor_killed_at_rest(machine),
            stock: None,
        },
        Row {
            number: "7d",
            fault: "rootlessd killed in a back-off",
            // The delay is 2 s, and counts from the death.
            promise: well_within(5000).anew(),
            ours: |machine, _| supervisor_killed_in_a_backoff(machine),
            stock: None,
        },
        Row {
            number: "8a",
            fault: "rootlesskit killed while it starts",
            promise: within(20_000, 5000).anew(),
            ours: killed_at_start,
            stock: None,
        },
        Row {
            number: "8b",
            fault: "a start called off",
            promise: Promise { detected: ms(5000), recovered: None, containers: Kept::StartedAnew },
            ours: called_off,
            stock: None,
        },
        Row {
            number: "17a",
            fault: "the session bus killed",
            promise: well_within(2000),
            ours: |machine, _| {
                name_lost(machine, "systemctl --user kill -s KILL dbus.service; rootlessctl status")
            },
            stock: None,
        },
        Row {
            number: "17b",
            fault: "no session bus",
            promise: well_within(2000),
            ours: |machine, _| without_bus(machine),
            stock: None,
        },
        Row {
            number: "22",
            fault: "1,000 calls at once, 200 watchers, one deaf",
            promise: Promise { recovered: Some(P99), ..Promise::NONE },
            ours: |machine, _| loaded(machine, 200, 1000, 0),
            stock: None,
        },
        Row {
            number: "23a",
            fault: "10,000 SIGHUP a second, 200 calls at once",
            promise: Promise { recovered: Some(P99), ..Promise::NONE },
            ours: |machine, _| loaded(machine, 10, 200, HANGUPS),
            stock: None,
        },
        Row {
            number: "23b",
            fault: "SIGCHLD without end, for all that has children",
            promise: well_within(2000),
            ours: |machine, _| flooded_with_ends(machine),
            stock: None,
        },
        Row {
            number: "25",
            fault: "the engine's pid is another process's",
            promise: Promise {
                detected: None,
                recovered: ms(20_000),
                containers: Kept::StartedAnew,
            },
            ours: |machine, _| strangers_pid(machine),
            stock: None,
        },
        Row {
            number: "26a",
            fault: "64 open files, and clients for all of them",
            promise: well_within(2000),
            ours: |machine, _| few_files(machine),
            stock: None,
        },
    ]
}

fn supervisor_killed(machine: &Machine) -> Trial {
    let before = machine.wait_known();
    let pid = word(&before["supervisor"]["pid"]);
    let answers = another_says(&pid, "supervisor");
    let fault = format!("kill -KILL {pid}");
    let alive_before = alive(machine);
    let mut trial = away(machine, &fault, &answers);
    trial.containers = Some(compare(&alive_before, &alive(machine)));
    let now = machine.wait_known();
    for part in ["shim", "rootlesskit", "network", "init", "containerd", "dockerd"] {
        trial.check(pids(&before)[part] == pids(&now)[part], || format!("{part} is another"));
    }
    trial
}

/// Whether another rootlessd than this one has such a word in its status, as a command of a shell.
fn another_says(pid: &str, word: &str) -> String {
    format!(
        "rootlessctl status --json | tr -d ' \\n' | grep -v '\"pid\":{pid}[,}}]' | grep -q '\"{word}\"'"
    )
}

/// While there is no bus, it is asked and told what to do by varlink; it has its name again when there is one.
fn without_bus(machine: &Machine) -> Trial {
    let fault = "systemctl --user stop dbus.socket dbus.service
        {
            busctl --user list >/dev/null && echo 'BAD: there is a bus'
            for it in 'rootlessctl status --json' 'rootlessctl reload' 'rootlessctl events' 'docker version'; do
                timeout 5 $it || echo BAD: $it
            done
        } >/tmp/without
        systemctl --user start dbus.socket; begin=$(now)";
    let mut trial = name_lost(machine, fault);
    let told = machine.user_sh("cat /tmp/without; rm -f /tmp/without").ok();
    trial.check(told.contains("\"running\"") && !told.contains("BAD: "), || told);
    trial
}

/// Whatever becomes of the bus, rootlessd has its name again, and its engine goes on.
fn name_lost(machine: &Machine, fault: &str) -> Trial {
    let engine = machine.status()["mainPid"].clone();
    // systemd starts nothing more than five times within 10 s (StartLimitBurst= of systemd.unit(5)).
    machine.user(["systemctl", "--user", "reset-failed"]).ok();
    let check = "busctl --user status org.rootlessd.Supervisor1";
    let mut trial = provoke_unseen(machine, fault, check);
    trial.check(machine.status()["mainPid"] == engine, || "the engine is another".into());
    trial
}

/// A fault of rootlessd's own, which nobody can be told of meanwhile.
fn away(machine: &Machine, fault: &str, check: &str) -> Trial {
    machine.ctl(["reset-failed"]);
    timed_by_user(machine, fault, check)
}

fn supervisor_killed_on_the_way(machine: &Machine, round: u32) -> Trial {
    let pid = word(&machine.status()["supervisor"]["pid"]);
    let before = alive(machine);
    let fault =
        format!("rootlessctl restart --no-block; sleep 0.{:03}; kill -KILL {pid}", moment(round));
    let mut trial = away(machine, &fault, &page());
    machine.wait_state("running");
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

/// What was stopped stays so, and starts when it is asked to.
fn supervisor_killed_at_rest(machine: &Machine) -> Trial {
    let before = alive(machine);
    machine.ctl(["stop"]);
    let pid = word(&machine.status()["supervisor"]["pid"]);
    let answers = another_says(&pid, "stopped");
    let mut trial = timed_by_user(machine, &format!("kill -KILL {pid}"), &answers);
    machine.ctl(["start"]);
    machine.wait_page();
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

/// It goes on waiting for as long as was left.
fn supervisor_killed_in_a_backoff(machine: &Machine) -> Trial {
    machine.configure(&format!("{CONFIG}delay = \"2s\"\n"));
    machine.ctl(["reload"]);
    machine.ctl(["reset-failed"]);
    let before = alive(machine);
    let status = machine.wait_known();
    let (pid, kit) = (word(&status["supervisor"]["pid"]), &victims(&status)["rootlesskit"]);
    let fault = format!(
        "kill -KILL {kit}
         until rootlessctl status --json | grep -q '\"backoff\"'; do :; done
         kill -KILL {pid}"
    );
    let mut trial = timed_by_user(machine, &fault, &page());
    let was_early = trial.recovered.is_some_and(|took| took < Duration::from_secs(2));
    trial.check(!was_early, || "the delay was forgotten".into());
    machine.wait_state("running");
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    machine.configure(CONFIG);
    machine.ctl(["reload"]);
    trial
}

/// When something happens on the way, in ms: all over the first 400 of them, one after the other.
fn moment(round: u32) -> u32 {
    10 + round * 70 % 390
}

/// At a moment of its start, from that on at which there is anything to kill. What it dies of is told, and it is started
/// again.
fn killed_at_start(machine: &Machine, round: u32) -> Trial {
    // Not one that is asked for its flags.
    let fault = format!(
        "rootlessctl start --no-block
         until pid=$(pgrep -xof '[^ ]*rootlesskit --state-dir=.*'); do :; done
         sleep 0.{:03}; begin=$(now); kill -KILL $pid",
        moment(round)
    );
    let ran = Cell::new(false);
    let is_told = |status: &Value| {
        ran.set(ran.get() || status["state"] == "running");
        status["state"] == "backoff"
    };
    let stop = || drop(machine.ctl(["stop"]));
    let mut trial = provoke_after(machine, &stop, &fault, &page(), &is_told);
    trial.check(!ran.get(), || "it was no start any more".into());
    trial
}

fn called_off(machine: &Machine, round: u32) -> Trial {
    let before = alive(machine);
    machine.ctl(["stop"]);
    let script =
        format!("rootlessctl start --no-block && sleep 0.{:03} && rootlessctl stop", moment(round));
    let begin = std::time::Instant::now();
    machine.user_sh(&script).ok();
    let mut trial = Trial { detected: Some(begin.elapsed()), ..Trial::default() };
    let state = machine.state();
    trial.check(state == "stopped", || format!("it is {state}"));
    trial.left = machine.leftovers().lines().map(str::to_owned).collect();
    machine.ctl(["start"]);
    machine.wait_page();
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

/// Calls the status under load, while so many SIGHUPs a second come at least.
fn loaded(machine: &Machine, watchers: u32, calls: u32, hangups: u32) -> Trial {
    let alive_before = alive(machine);
    let before = machine.wait_known();
    let socket = format!("{RUNTIME}/rootlessd/org.rootlessd.Supervisor");
    let numbers = [watchers, calls, hangups].map(|number| number.to_string());
    let load = ["rootlessd-load", &socket].into_iter().chain(numbers.iter().map(String::as_str));
    let line = machine.user(load).ok();
    let measured = Measured::of(&line).unwrap_or_else(|| panic!("{line:?}"));
    let mut trial = Trial {
        recovered: Some(measured.p99),
        containers: Some(compare(&alive_before, &alive(machine))),
        left: zombies(machine),
        ..Trial::default()
    };
    trial.check(measured.growth <= GROWTH, || format!("{} bytes more", measured.growth));
    trial.check(measured.hangups >= hangups, || format!("{} SIGHUPs a second", measured.hangups));
    let now = machine.status();
    trial.check(now["supervisor"]["pid"] == before["supervisor"]["pid"], || {
        "rootlessd is another".into()
    });
    trial
}

/// The same without a child that has ended: who looks for one finds none, and goes on.
fn flooded_with_ends(machine: &Machine) -> Trial {
    let pids = pids(&machine.wait_known());
    let victims = ["supervisor", "shim", "init"].map(|part| pids[part][0].as_str()).join(" ");
    let fault = format!("for i in $(seq 10000); do kill -CHLD {victims}; done");
    let check = "timeout 5 docker run --rm rootlessd/tiny true && rootlessctl status";
    let mut trial = provoke_unseen(machine, &fault, check);
    for part in ["supervisor", "shim", "init"] {
        let now = self::pids(&machine.wait_known());
        trial.check(now[part] == pids[part], || format!("{part} is another"));
    }
    trial
}

/// Its files name a process that has nothing to do with it.
fn strangers_pid(machine: &Machine) -> Trial {
    let before = alive(machine);
    machine.user(["systemctl", "--user", "stop", "rootlessd"]).ok();
    let fault = format!(
        r#"sleep 600 >/dev/null 2>&1 & stranger=$!
        mkdir -p {RUNTIME}/rootlessd/engine
        echo "{{\"shim\":{{\"pid\":$stranger,\"start_time\":1}}}}" >{RUNTIME}/rootlessd/engine/engine.json
        systemctl --user start rootlessd"#
    );
    let mut trial = timed_by_user(machine, &fault, &page());
    machine.wait_state("running");
    let ended = machine.user_sh("pgrep -fx 'sleep 600'");
    trial.check(ended.status.success(), || "the other process was ended".into());
    machine.user_sh("kill $(pgrep -fx 'sleep 600')").ok();
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

fn few_files(machine: &Machine) -> Trial {
    unit_with(machine, "LimitNOFILE=64");
    machine.wait_known();
    let before = alive(machine);
    let socket = format!("{RUNTIME}/rootlessd/org.rootlessd.Supervisor");
    let fault = format!(
        "for i in $(seq 100); do (sleep 3 | socat -u - UNIX-CONNECT:{socket}) & done; sleep 0.5"
    );
    // One that is let in waits until somebody else goes.
    let check = "rootlessctl status --timeout 10s --json | grep -q running && docker version";
    let mut trial = timed_by_user(machine, &fault, check);
    // The clients go after three seconds; whoever waits may take as long.
    trial.recovered = trial.recovered.map(|took| took.saturating_sub(Duration::from_secs(3)));
    trial.containers = Some(compare(&before, &alive(machine)));
    unit_with(machine, "");
    machine.wait_unit("rootlessd.service", "active", SOON);
    trial
}
