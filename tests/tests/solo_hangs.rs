//! The engine's parts hang, without systemd; and what it costs to find that.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{SOON, User, page, rounds, signal, wait_gone},
};
use serde_json::Value;

/// Deaths do not add up to a failure here, and are answered at once.
const PATIENT: &str = "engine.restart = { limit = 0, delay = \"10ms\", max_delay = \"10ms\" }\n";

/// A part hangs while containers run: it is found, ended and replaced, and containers go on. Nobody
/// but engine-init has to be there.
#[test]
fn under_containers() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    let pid = || user.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}")).ok();
    let before = pid();
    let told = |part: &str, kind: &str| {
        let status = user.watch().until(|status| {
            let incidents = status["incidents"].as_array().unwrap();
            incidents.iter().any(|it| it["part"] == part && it["kind"] == kind)
        });
        let incidents = status["incidents"].as_array().unwrap().clone();
        incidents.into_iter().find(|it| it["part"] == part && it["kind"] == kind).unwrap()
    };
    for _ in 0..rounds(1) {
        for part in ["dockerd", "containerd"] {
            for seen in [true, false] {
                user.ctl("reset-failed").ok();
                if !seen {
                    let rootlessd = user.rootlessd();
                    signal(rootlessd, Signal::SIGKILL);
                    wait_gone(rootlessd);
                }
                let victim = user.pid(part);
                let begun = Instant::now();
                signal(victim, Signal::SIGSTOP);
                wait_gone(victim);
                let noticed = begun.elapsed();
                if !seen {
                    user.daemonize();
                }
                let text = told(part, "lost")["text"].as_str().unwrap().to_owned();
                told(part, "replaced");
                wait_for("Docker answers", SOON, || (pid() == before).then_some(()));
                let answered = begun.elapsed();
                eprintln!("{part}: ended after {noticed:?}, answered after {answered:?}: {text}");
                let start = format!("{part} was ended, since it did not answer for ");
                assert!(text.starts_with(&start), "{text}");
                assert!(text.ends_with(" s, while it was stopped by SIGSTOP"), "{text}");
                assert!(noticed < Duration::from_secs(10), "{part}: {noticed:?} {answered:?}");
                wait_for("the page is served", SOON, || page(port));
                let status = user.wait_state("running");
                assert_eq!(status["deaths"], Value::Array(vec![]));
            }
        }
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// Without containers nothing asks all the time: it is seen when somebody else wants an answer.
#[test]
fn without_containers() {
    let user = User::new();
    user.start();
    signal(user.pid("dockerd"), Signal::SIGSTOP);
    let rootlessd = user.rootlessd();
    signal(rootlessd, Signal::SIGKILL);
    wait_gone(rootlessd);
    user.daemonize();
    let mut watch = user.watch();
    let status = watch.until(|status| status["state"] == "degraded");
    let reason = &status["reasons"][0];
    assert_eq!(reason["code"], "dockerd-not-answering");
    let text = reason["text"].as_str().unwrap();
    assert!(text.ends_with("it is stopped by SIGSTOP"), "{reason}");
    let status = watch.until(|status| status["state"] == "running");
    assert_eq!(status["incidents"][0]["kind"], "lost");
    assert_eq!(status["deaths"], Value::Array(vec![]));
}

/// Whoever waits for an answer need not wait long, where no container runs either.
#[test]
fn without_containers_under_a_client() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    for part in ["containerd", "dockerd"] {
        let victim = user.pid(part);
        signal(victim, Signal::SIGSTOP);
        let begun = Instant::now();
        thread::scope(|scope| {
            // What becomes of it is Docker's to say: the one that was asked may be gone.
            scope.spawn(|| user.docker("run --rm rootlessd/tiny true"));
            wait_gone(victim);
            let noticed = begun.elapsed();
            eprintln!("{part}: ended after {noticed:?}");
            // It is a while until the client is there.
            assert!(noticed < Duration::from_secs(13), "{part}: {noticed:?}");
        });
        let status = user.watch().until(|status| {
            let incidents = status["incidents"].as_array().unwrap();
            status["state"] == "running"
                && incidents.iter().any(|it| it["part"] == part && it["kind"] == "replaced")
        });
        assert_eq!(status["deaths"], Value::Array(vec![]));
    }
}

/// What is published goes through RootlessKit, and nobody can replace it: the engine starts anew.
#[test]
fn rootlesskit_under_containers() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    let (container, _) = user.serve_page("--restart unless-stopped");
    for which in [0, 1] {
        let mut watch = user.watch();
        watch.until(|status| status["state"] == "running");
        let status = user.status();
        let processes = status["processes"].as_array().unwrap();
        let mut kits = processes.iter().filter(|it| it["part"] == "rootlesskit");
        let pid = kits.nth(which).unwrap()["pid"].as_u64().unwrap();
        signal(u32::try_from(pid).unwrap(), Signal::SIGSTOP);
        let begun = Instant::now();
        // That it dies may be told before all of it is gone.
        watch.until(|status| status["state"] != "running");
        eprintln!("told after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let status = watch.until(|status| status["state"] == "running");
        let death = status["deaths"].as_array().unwrap().last().unwrap();
        assert_eq!(death["part"], "rootlesskit");
        let text = death["text"].as_str().unwrap();
        assert!(text.starts_with("rootlesskit did not answer for "), "{text}");
        let how = " s, while it was stopped by SIGSTOP, and was ended; the container that ran";
        assert!(text.contains(how), "{text}");
        wait_for("the page is back", SOON, || page(user.port(&container)));
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// Where containers would end with dockerd, one that hangs is told, once, and left; and it may come to itself.
#[test]
fn without_live_restore() {
    let user = User::new();
    user.configure("engine.live_restore = false\n");
    user.start();
    user.load_image();
    let (_, port) = user.serve_page("");
    let dockerd = user.pid("dockerd");
    let incidents = |status: &Value, kind: &str| {
        let incidents = status["incidents"].as_array().unwrap();
        incidents.iter().filter(|it| it["part"] == "dockerd" && it["kind"] == kind).count()
    };
    let mut watch = user.watch();
    watch.next_status();
    let begun = Instant::now();
    signal(dockerd, Signal::SIGSTOP);
    let status = watch.until(|status| incidents(status, "missing") > 0);
    let noticed = begun.elapsed();
    assert!(noticed < Duration::from_secs(10), "{noticed:?}");
    assert_eq!(status["state"], "degraded");
    let reasons = status["reasons"].as_array().unwrap();
    let reason = reasons.iter().find(|reason| reason["code"] == "part-missing").unwrap();
    let text = reason["text"].as_str().unwrap();
    eprintln!("told after {noticed:?}: {text}");
    assert!(text.contains(" s, while it was stopped by SIGSTOP; it is left, since"), "{text}");
    assert_eq!(reason["part"], "dockerd");
    // It is asked on, and there is nothing new to tell.
    thread::sleep(Duration::from_secs(10));
    assert_eq!(incidents(&user.status(), "missing"), 1);
    assert!(page(port).is_some());
    signal(dockerd, Signal::SIGCONT);
    let status =
        watch.until(|status| status["state"] == "running" && incidents(status, "changed") == 1);
    assert!(!status["reasons"].to_string().contains("dockerd"), "{status}");
    assert_eq!(user.pid("dockerd"), dockerd);
    assert!(page(port).is_some());
}

/// What all questions cost together, while containers run. How much of a processor that is depends on the machine, and is
/// printed: a two thousandth of one that is not slow. Wherever it is, who asks takes little beside who is asked.
#[test]
fn what_it_costs_to_ask() {
    let user = User::new();
    user.start();
    user.load_image();
    user.serve_page("");
    let used = |part: &str| {
        let pid = if part == "rootlessd" { user.rootlessd() } else { user.pid(part) };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        let ticks: u64 = [fields[11], fields[12]].iter().map(|it| it.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    };
    let parts = ["rootlessd", "init", "shim", "rootlesskit", "dockerd", "containerd"];
    // What a start has set going comes to rest.
    thread::sleep(Duration::from_secs(5));
    let before = parts.map(used);
    let time = Duration::from_secs(60) * rounds(1);
    thread::sleep(time);
    let spent: Vec<_> = parts.iter().zip(before).map(|(part, it)| used(part) - it).collect();
    for (part, spent) in parts.iter().zip(&spent) {
        let percent = 100.0 * spent.as_secs_f64() / time.as_secs_f64();
        eprintln!("{part}: {spent:?} in {time:?}, {percent:.3} %");
    }
    let (ours, theirs) = spent.split_at(3);
    let (ours, theirs): (Duration, Duration) = (ours.iter().sum(), theirs.iter().sum());
    // The kernel counts in hundredths of a second.
    assert!(ours <= theirs / 4 + Duration::from_millis(10), "{ours:?} beside {theirs:?}");
}
