//! The engine dies, at any moment and by any part of it, without systemd.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{ON_DEMAND, SOON, User, exists, page, rounds, signal, wait_gone},
};
use serde_json::Value;

/// Deaths do not add up to a failure here, and are answered at once.
const PATIENT: &str = "engine.restart = { limit = 0, delay = \"10ms\", max_delay = \"10ms\" }\n";

/// `kill -9` of a part, so many ms after a start was asked for: it comes up all the same.
#[test]
fn at_every_moment_of_a_start() {
    let user = User::new();
    user.configure(PATIENT);
    user.daemonize();
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    let mut hits = BTreeMap::new();
    let parts = ["shim", "rootlesskit", "rootlesskit-child", "init", "rootlessd"];
    // With more rounds, every 10 ms: by 300 ms it is up.
    let steps = rounds(5);
    for part in parts {
        for step in 0..steps {
            user.ctl("stop").ok();
            user.assert_clean(false);
            let begun = Instant::now();
            user.ctl("start --no-block").ok();
            let moment = Duration::from_millis(u64::from(step) * 300 / u64::from(steps));
            thread::sleep(moment.saturating_sub(begun.elapsed()));
            let pid = if part == "rootlessd" { Some(user.rootlessd()) } else { user.find(part) };
            if let Some(pid) = pid {
                *hits.entry(part).or_insert(0) += 1;
                signal(pid, Signal::SIGKILL);
                wait_gone(pid);
            }
            if part == "rootlessd" {
                user.daemonize();
            }
            let status = user.wait_state("running");
            for death in status["deaths"].as_array().unwrap() {
                let text = format!("{}: {}", death["part"], death["text"]);
                *told.entry(text).or_default() += 1;
            }
            user.docker("version").ok();
            user.ctl("reset-failed").ok();
        }
    }
    eprintln!("killed {hits:?}, told {told:#?}");
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// RootlessKit waits for what its child was to do, and does not see that it is dead.
#[test]
fn a_child_that_dies_while_the_network_is_connected() {
    let user = User::new();
    let (_, path) = user.script_before(
        "slirp4netns",
        r#"case "$*" in *-help*) exec /usr/bin/slirp4netns "$@";; esac
        [ -e ~/killed ] && exec /usr/bin/slirp4netns "$@"
        touch ~/killed
        for last; do child=$before; before=$last; done
        kill -9 "$child" && printf 1 >&3
        exec sleep 3600"#,
    );
    user.configure(&format!("{ON_DEMAND}{path}engine.network.driver = \"slirp4netns\"\n"));
    user.daemonize();
    let mut watch = user.watch();
    watch.next_status();
    let begun = Instant::now();
    user.ctl("start --no-block").ok();
    let status = watch.until(|status| status["state"] == "backoff");
    let death = &status["deaths"][0];
    eprintln!("noticed after {:?}: {death}", begun.elapsed());
    assert_eq!(death["part"], "rootlesskit", "{death}");
    assert!(death["text"].as_str().unwrap().contains("rootlesskit's child died"), "{death}");
    watch.until(|status| status["state"] == "running");
}

/// `SIGTERM` to rootlessd while the engine starts: it ends, and leaves nothing.
#[test]
fn a_start_that_is_called_off() {
    let user = User::new();
    for round in 0..rounds(5) {
        let moment = [20, 50, 100, 200, 400][round as usize % 5];
        user.daemonize();
        let mut watch = user.watch();
        watch.next_status();
        let rootlessd = user.rootlessd();
        thread::sleep(Duration::from_millis(moment));
        signal(rootlessd, Signal::SIGTERM);
        let begun = Instant::now();
        while watch.next_status().is_some() {}
        wait_gone(rootlessd);
        let states = watch.states();
        eprintln!("after {moment} ms: {states:?}, within {:?}", begun.elapsed());
        assert_eq!(states.last().map(String::as_str), Some("stopped"), "{states:?}");
        assert!(states.iter().all(|state| state != "failed" && state != "backoff"), "{states:?}");
        drop(watch);
        user.assert_clean(true);
    }
}

/// The parent of all dies while containers run: whatever it leaves is ended before the next start.
#[test]
fn with_containers() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    let (container, _) = user.serve_page("--restart unless-stopped");
    for _ in 0..rounds(1) {
        for part in ["shim", "rootlesskit", "rootlesskit-child", "init"] {
            let shims = user.processes();
            let old: Vec<_> = shims.iter().filter(|it| it.part() != "rootlessd").collect();
            let mut watch = user.watch();
            // It is there before the death.
            watch.next_status();
            let begun = Instant::now();
            signal(user.pid(part), Signal::SIGKILL);
            watch.until(|status| status["state"] == "backoff");
            let noticed = begun.elapsed();
            let status = watch.until(|status| status["state"] == "running");
            drop(watch);
            let back = begun.elapsed();
            for process in old {
                assert!(!exists(process.pid), "{part}: {process} lives on");
            }
            wait_for("the page is back", SOON, || page(user.port(&container)));
            let deaths = status["deaths"].as_array().unwrap();
            let death = deaths.last().unwrap();
            // RootlessKit's two processes are one part.
            let told = part.strip_suffix("-child").unwrap_or(part);
            assert_eq!(death["part"], told, "{death}");
            eprintln!(
                "{part} killed: noticed after {noticed:?}, running after {back:?}, page after {:?}: {} {}",
                begun.elapsed(),
                death["part"],
                death["text"]
            );
        }
    }
    let log = user.log("supervisor");
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("last engine")).collect();
    assert_eq!(complaints, [""; 0]);
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// containerd or dockerd dies: it is replaced, and containers go on, also while no rootlessd is there.
#[test]
fn under_containers() {
    let user = User::new();
    let own = "rootlesskit.flags = [\"-p\", \"127.0.0.1:2376:2376/tcp\"]\n";
    user.configure(&format!("{PATIENT}{own}"));
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    let format = "{{.State.Pid}}/{{.State.StartedAt}}/{{.RestartCount}}";
    let same = || user.docker(&format!("inspect -f {format} {container}")).ok();
    let before = same();
    for round in 0..rounds(2) {
        for part in ["dockerd", "containerd"] {
            user.ctl("reset-failed").ok();
            let seen = round % 2 == 0;
            let rootlessd = user.rootlessd();
            if !seen {
                signal(rootlessd, Signal::SIGKILL);
                wait_gone(rootlessd);
            }
            // Somebody is about to write it.
            let config = user.write(".config/docker/daemon.json", "{");
            let old = user.pid(part);
            let begun = Instant::now();
            signal(old, Signal::SIGKILL);
            wait_gone(old);
            wait_for("the page is served", SOON, || page(port));
            let served = begun.elapsed();
            user.docker(&format!("exec {container} true")).ok();
            let back = begun.elapsed();
            assert_eq!(same(), before, "{part}");
            fs::remove_file(config).unwrap();
            if !seen {
                user.daemonize();
            }
            let is_told = |status: &Value| {
                let incidents = status["incidents"].as_array().unwrap();
                let mut told = incidents.iter().filter(|incident| incident["part"] == part);
                told.any(|incident| incident["kind"] == "replaced")
            };
            let status =
                user.watch().until(|status| status["state"] == "running" && is_told(status));
            assert_eq!(status["deaths"], Value::Array(vec![]), "{part}");
            let ports = user.ctl("list-ports").ok();
            assert!(ports.contains("2376") && ports.contains(&port.to_string()), "{ports}");
            eprintln!("{part} killed: page after {served:?}, exec after {back:?}");
        }
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// What ends while containerd is away has ended for Docker, too.
#[test]
fn together_with_a_container() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    for part in ["containerd", "dockerd"] {
        let (container, _) = user.serve_page("");
        let inspect =
            |what: &str| user.docker(&format!("inspect -f {{{{.State.{what}}}}} {container}")).ok();
        let pid = inspect("Pid").parse().unwrap();
        signal(user.pid(part), Signal::SIGKILL);
        signal(pid, Signal::SIGKILL);
        wait_gone(pid);
        wait_for("Docker knows that it ended", SOON, || {
            (inspect("Running") == "false").then_some(())
        });
        user.wait_state("running");
        user.docker(&format!("start {container}")).ok();
        wait_for("the page is served", SOON, || page(user.port(&container)));
        user.docker(&format!("rm -f {container}")).ok();
    }
}

/// The engine is stopped when dockerd has just died: its containers are stopped in order all the same.
#[test]
fn together_with_a_stop() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    for part in ["dockerd", "containerd"] {
        for moment in [0, 20, 100] {
            let (container, _) = user.serve_page("");
            signal(user.pid(part), Signal::SIGKILL);
            thread::sleep(Duration::from_millis(moment));
            let begun = Instant::now();
            user.ctl("stop").ok();
            eprintln!("{part}, {moment} ms later: stopped within {:?}", begun.elapsed());
            user.assert_clean(false);
            user.ctl("start").ok();
            let log = user.docker(&format!("logs {container}")).ok();
            assert!(log.contains("got SIGTERM"), "{part} {moment}: {log}");
            user.docker(&format!("rm -f {container}")).ok();
        }
    }
}

/// Without live-restore a new dockerd would end the containers and start none of them again: all of
/// the engine is started anew, and with it those that are to run always.
#[test]
fn under_containers_that_do_not_outlive_it() {
    let user = User::new();
    user.configure(&format!("{PATIENT}engine.live_restore = false\n"));
    user.start();
    user.load_image();
    let (container, _) = user.serve_page("--restart unless-stopped");
    let mut watch = user.watch();
    watch.next_status();
    signal(user.pid("dockerd"), Signal::SIGKILL);
    let status = watch.until(|status| status["state"] == "backoff");
    let death = &status["deaths"][0];
    assert_eq!(death["part"], "dockerd");
    assert!(death["text"].as_str().unwrap().contains("live-restore is off"), "{death}");
    watch.until(|status| status["state"] == "running");
    wait_for("the page is back", SOON, || page(user.port(&container)));

    // It outlives containerd.
    signal(user.pid("containerd"), Signal::SIGKILL);
    watch.until(|status| status["state"] == "degraded");
    watch.until(|status| status["state"] == "running");
    assert!(page(user.port(&container)).is_some());
    user.docker(&format!("exec {container} true")).ok();
}

/// A part that does not come again takes the engine along.
#[test]
fn a_part_that_comes_no_more() {
    let user = User::new();
    let dockerd = user.script(
        "bin/dockerd",
        "[ ! -e ~/broken ] || { echo 'level=fatal msg=\"the disk is on fire\"' >&2; exit 3; }\n\
         exec /usr/sbin/dockerd \"$@\"",
    );
    let delay = "engine.restart = { limit = 4, delay = \"50ms\" }\n";
    user.configure(&format!("dockerd.path = {dockerd:?}\n{delay}"));
    user.start();
    let mut watch = user.watch();
    watch.next_status();
    fs::write(user.home.join("broken"), "").unwrap();
    signal(user.pid("dockerd"), Signal::SIGKILL);
    let status = watch.until(|status| status["state"] == "backoff");
    let death = &status["deaths"][0];
    assert_eq!((&death["part"], &death["exitCode"]), (&"dockerd".into(), &3.into()), "{death}");
    let text = death["text"].as_str().unwrap();
    assert!(text.contains("the disk is on fire; parts died 4 times"), "{death}");
    let lost = status["incidents"].as_array().unwrap();
    assert_eq!(lost.iter().map(|it| &it["kind"]).collect::<Vec<_>>(), ["lost"; 3]);
    let mut states = watch.states();
    states.dedup();
    assert_eq!(states, ["running", "degraded", "backoff"]);
    fs::remove_file(user.home.join("broken")).unwrap();
    watch.until(|status| status["state"] == "running");
    drop(watch);

    // It is stopped while it waits for a part.
    user.configure(&format!(
        "dockerd.path = {dockerd:?}\nengine.restart = {{ delay = \"1h\", max_delay = \"1h\" }}\n"
    ));
    user.ctl("restart").ok();
    fs::write(user.home.join("broken"), "").unwrap();
    signal(user.pid("dockerd"), Signal::SIGKILL);
    user.watch().until(|status| status["incidents"].as_array().unwrap().len() >= 5);
    let begun = Instant::now();
    user.ctl("stop").ok();
    eprintln!("stopped within {:?}", begun.elapsed());
    user.assert_clean(false);
}

/// It dies while no rootlessd is there, and takes its leftovers along at the next start.
#[test]
fn unseen() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    let (container, _) = user.serve_page("--restart unless-stopped");
    for part in ["init", "shim"] {
        let rootlessd = user.rootlessd();
        signal(rootlessd, Signal::SIGKILL);
        wait_gone(rootlessd);
        let (victim, shim) = (user.pid(part), user.pid("shim"));
        signal(victim, Signal::SIGKILL);
        wait_gone(shim);
        let old = user.processes();
        user.daemonize();
        let status = user.wait_state("running");
        for process in old {
            assert!(!exists(process.pid), "{process} lives on");
        }
        wait_for("the page is back", SOON, || page(user.port(&container)));
        let death = status["deaths"].as_array().unwrap().last().unwrap().clone();
        eprintln!("{part}: {death}");
        assert_eq!(death["part"], part, "{death}");
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// One that dies too often is given up, with what is known of it; a person brings it back.
#[test]
fn too_often() {
    let user = User::new();
    let dockerd =
        user.script("bin/dockerd", "echo 'level=fatal msg=\"the disk is on fire\"' >&2; exit 3");
    user.configure(&format!(
        "{ON_DEMAND}dockerd.path = {dockerd:?}\nengine.restart.delay = \"10ms\"\n"
    ));
    user.daemonize();
    let mut watch = user.watch();
    watch.next_status();
    user.ctl("start --no-block").ok();
    let status = watch.until(|status| status["state"] == "failed");
    let deaths = status["deaths"].as_array().unwrap();
    assert_eq!(deaths.len(), 5);
    let death = deaths.last().unwrap();
    assert_eq!((&death["part"], &death["exitCode"]), (&"dockerd".into(), &3.into()), "{death}");
    assert!(death["text"].as_str().unwrap().contains("the disk is on fire"), "{death}");
    assert!(death["log"][0].as_str().unwrap().contains("the disk is on fire"), "{death}");
    assert_eq!(status["reasons"][0]["code"], "died-too-often");
    assert_eq!(watch.states().iter().filter(|state| *state == "backoff").count(), 4);
    drop(watch);
    let told = user.docker("version").fails();
    assert!(told.contains("the disk is on fire") && told.contains("rootlessctl"), "{told}");
    user.assert_clean(false);
    fs::remove_file(&dockerd).unwrap();
    user.configure("");
    assert_eq!(user.ctl("reset-failed").status.code(), Some(0));
    assert_eq!(user.state(), "listening");
    user.ctl("start").ok();
    assert_eq!(user.state(), "running");
}

/// A dockerd that hangs whenever it starts outlasts the time in which deaths count, and is given up all
/// the same: first as a part, then with its engine.
#[test]
fn too_slowly() {
    let user = User::new();
    let dockerd = user.script(
        "bin/dockerd",
        "[ ! -e ~/broken ] || exec sleep 3600\nexec /usr/sbin/dockerd \"$@\"",
    );
    user.configure(&format!(
        "dockerd.path = {dockerd:?}\n[engine]\nstart_timeout = \"5s\"\nclient_wait = \"1s\"\n\
         restart = {{ limit = 3, window = \"1s\", delay = \"10ms\" }}\n"
    ));
    user.start();
    let mut watch = user.watch();
    watch.next_status();
    fs::write(user.home.join("broken"), "").unwrap();
    signal(user.pid("dockerd"), Signal::SIGKILL);
    watch.until(|status| status["state"] == "degraded");
    let told = user.docker("version").fails();
    assert!(told.contains("(it is degraded): dockerd was killed by SIGKILL"), "{told}");
    let status = watch.until(|status| status["state"] == "backoff");
    let text = status["deaths"][0]["text"].as_str().unwrap();
    assert!(text.contains("parts died 3 times"), "{text}");
    let status = watch.until(|status| status["state"] == "failed");
    assert_eq!(status["deaths"].as_array().unwrap().len(), 3);
    drop(watch);
    user.assert_clean(false);
}

/// engine-init, or engine-shim, hangs when it is needed: the engine ends for it, and starts anew.
#[test]
fn while_nobody_can_mend_it() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    for (hangs, dies) in [("init", "dockerd"), ("shim", "rootlesskit")] {
        let (shim, victim) = (user.pid("shim"), user.pid(dies));
        signal(user.pid(hangs), Signal::SIGSTOP);
        signal(victim, Signal::SIGKILL);
        let begun = Instant::now();
        wait_for("the engine is given up", 2 * SOON, || (!exists(shim)).then_some(()));
        eprintln!("{hangs} hangs, {dies} dies: given up after {:?}", begun.elapsed());
        let status = user.wait_state("running");
        let death = status["deaths"].as_array().unwrap().last().unwrap();
        assert_eq!(death["part"], "init", "{hangs}: {death}");
        user.ctl("reset-failed").ok();
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}
