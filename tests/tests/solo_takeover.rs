//! rootlessd dies or is replaced, and the engine does not notice: without systemd.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{Knocker, SOON, User, listening_inode, page, rounds, signal, wait_gone},
};
use serde_json::json;

/// The engine's processes: all but rootlessd, its clients, and what comes and goes at their calls.
fn engine(user: &User) -> Vec<(u32, String)> {
    let others = ["rootlessd", "rootlessctl", "docker", "runc", "httpd"];
    let mut found: Vec<_> = user
        .processes()
        .iter()
        .filter(|process| process.state != 'Z' && !others.contains(&process.part()))
        .map(|process| (process.pid, process.part().to_owned()))
        .collect();
    found.sort();
    found
}

fn kill_rootlessd(user: &User) {
    let pid = user.rootlessd();
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
}

#[test]
fn while_it_runs() {
    let user = User::new();
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("--restart unless-stopped");
    let before = engine(&user);
    let status = user.status();
    let inode = listening_inode(&user.docker_socket()).unwrap();
    let knocker = Knocker::at(&user.docker_socket());

    let mut slowest = Duration::ZERO;
    for round in 0..rounds(4) {
        let begun = Instant::now();
        // In turn: it dies and another begins, or another takes its place.
        if round % 2 == 0 {
            kill_rootlessd(&user);
            assert!(page(port).is_some());
            user.docker("version").ok();
            user.daemonize();
        } else {
            let old = user.rootlessd();
            user.run(["rootlessd", "--daemonize", "--replace"]).ok();
            wait_gone(old);
        }
        let mut now = user.wait_state("running");
        slowest = slowest.max(begun.elapsed());
        // dockerd asks its helpers for their versions, which are processes for a moment.
        wait_for("the same engine", SOON, || (engine(&user) == before).then_some(()));
        assert_eq!(listening_inode(&user.docker_socket()).as_deref(), Some(&*inode));
        // Nothing of what was known is lost.
        now = match now["version"].is_null() {
            true => user.watch().until(|status| !status["storageDriver"].is_null()),
            false => now,
        };
        for field in [
            "since",
            "mainPid",
            "version",
            "dataRoot",
            "stateDir",
            "networkDriver",
            "deaths",
            "reasons",
        ] {
            assert_eq!(now[field], status[field], "{field}");
        }
        assert_eq!(now["supervisor"]["pid"], user.rootlessd());
    }
    eprintln!("taken over after at most {slowest:?}");

    // The new one can do what the old one could.
    user.write(".config/docker/daemon.json", r#"{"labels": ["taken=over"]}"#);
    user.ctl("reload").ok();
    let labels = || user.docker("info -f {{.Labels}}").ok();
    wait_for("dockerd read its file again", SOON, || labels().contains("taken=over").then_some(()));
    user.ctl("restart").ok();
    assert!(engine(&user).iter().all(|process| !before.contains(process)));
    wait_for("the page is back", SOON, || page(user.port(&container)));
    let begun = Instant::now();
    user.ctl("stop").ok();
    eprintln!("stopped within {:?}, {} connections", begun.elapsed(), knocker.never_refused());
    user.assert_clean(false);
}

#[test]
fn while_it_starts() {
    let user = User::new();
    user.daemonize();
    user.wait_state("running");
    user.ctl("stop").ok();
    let (mut kept, mut anew) = (0, 0);
    for round in 0..rounds(12) {
        user.ctl("start --no-block").ok();
        thread::sleep(Duration::from_millis(u64::from(round) * 20 % 300));
        let inode = listening_inode(&user.docker_socket());
        kill_rootlessd(&user);
        let before: Vec<_> = engine(&user).into_iter().filter(|(_, part)| part != "exec").collect();
        let had_engine = before.iter().any(|(_, part)| part == "rootlesskit");
        // How it is: a client that comes now waits in the queue of the same socket.
        let knocker = had_engine.then(|| Knocker::at(&user.docker_socket()));
        user.daemonize();
        user.wait_state("running");
        let after = engine(&user);
        if had_engine {
            kept += 1;
            // (What RootlessKit is about to start looks like it for a moment.)
            for part in ["shim", "rootlesskit"] {
                let first = before.iter().find(|(_, name)| name == part).unwrap();
                assert!(after.contains(first), "{first:?} of {before:?} is not in {after:?}");
            }
            assert_eq!(listening_inode(&user.docker_socket()), inode);
        } else {
            anew += 1;
        }
        if let Some(knocker) = knocker {
            knocker.never_refused();
        }
        user.docker("version").ok();
        user.ctl("stop").ok();
        user.assert_clean(false);
    }
    eprintln!("{kept} starts went on, {anew} began anew");
}

#[test]
fn while_it_stops() {
    let user = User::new();
    user.start();
    user.load_image();
    let (mut rest, mut over) = (0, 0);
    for round in 0..rounds(8) {
        user.ctl("start").ok();
        // It takes its time, so that there is one to be killed in.
        user.run([
            "docker",
            "run",
            "-d",
            "--rm",
            "rootlessd/tiny",
            "sh",
            "-c",
            "trap 'sleep 0.3; exit' TERM; while :; do sleep 0.05; done",
        ])
        .ok();
        user.ctl("stop --no-block").ok();
        thread::sleep(Duration::from_millis(u64::from(round) * 70 % 500));
        kill_rootlessd(&user);
        if engine(&user).is_empty() {
            over += 1
        } else {
            rest += 1
        }
        user.daemonize();
        // Whoever asked for a stop gets one, from whichever rootlessd.
        let states = {
            let mut watch = user.watch();
            watch.until(|status| status["state"] == "stopped");
            watch.states()
        };
        assert!(states.iter().all(|state| state.starts_with("stop")), "{states:?}");
        user.assert_clean(false);
    }
    eprintln!("{rest} stops were finished by the next, {over} were over");
}

#[test]
fn another_takes_its_place_at_any_time() {
    let user = User::new();
    user.start();
    for round in 0..rounds(6) {
        // What is asked of the old one is done by the new one, without a detour.
        let (verb, end) = [("restart", "running"), ("stop", "stopped")][round as usize % 2];
        user.ctl("start").ok();
        let mut watch = user.watch();
        user.ctl(&format!("{verb} --no-block")).ok();
        thread::sleep(Duration::from_millis(u64::from(round) * 87 % 400));
        let old = user.rootlessd();
        user.run(["rootlessd", "--daemonize", "--replace"]).ok();
        wait_gone(old);
        assert_ne!(user.rootlessd(), old);
        while watch.next_status().is_some() {}
        let mut after = user.watch();
        after.until(|status| status["state"] == end);
        let states = [watch.states(), after.states()].concat();
        assert!(states.iter().all(|state| state != "backoff" && state != "failed"), "{states:?}");
        assert_eq!(user.status()["deaths"], json!([]), "{states:?}");
    }
}

/// Without an engine nobody holds the socket in between, so there is a moment without; it is short.
#[test]
fn another_takes_its_place_while_nothing_runs() {
    let user = User::new();
    user.start();
    user.ctl("stop").ok();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds(4) {
        let replaced = Instant::now();
        user.run(["rootlessd", "--daemonize", "--replace"]).ok();
        longest = longest.max(replaced.elapsed());
        assert_eq!(user.state(), "stopped");
        assert!(user.docker("version").fails().contains("rootlessctl start"));
    }
    eprintln!("replaced within {longest:?}");
}
