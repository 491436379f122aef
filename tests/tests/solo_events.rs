//! What happened to a real engine, as it is recorded while its parts and rootlessd are killed;
//! without systemd.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd::events::history::FILE_BYTES;
use rootlessd_tests::{
    command::{Spawned, wait_for},
    solo::{Process, SOON, User, mount_tmpfs, rounds, signal, text, wait_gone},
};
use serde_json::Value;

/// No death is one too many here.
const PATIENT: &str = "engine.restart = { limit = 0, delay = \"10ms\", max_delay = \"10ms\" }\n";

/// How many KiB of its own rootlessd takes at most.
const MOST: u64 = 4 << 10;

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// `rootlessctl events --json`, with more arguments.
fn events(user: &User, more: &str) -> Vec<Value> {
    let output = user.ctl(&format!("events --json {more}")).ok();
    output.lines().map(parsed).collect()
}

/// The next event of a kind.
fn next(follower: &mut Spawned, kind: &str, part: &str) -> Value {
    let is_it = |event: &Value| event["kind"] == kind && event["part"] == part;
    parsed(&follower.wait_line(SOON, |line| is_it(&parsed(line))))
}

fn state(follower: &mut Spawned, state: &str) -> Value {
    let is_it = |event: &Value| event["kind"] == "state" && event["state"] == state;
    parsed(&follower.wait_line(SOON, |line| is_it(&parsed(line))))
}

fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
    wait_gone(pid);
}

/// The network helper that is no zombie.
fn helper(user: &User) -> Option<Process> {
    let parents = [user.pid("shim"), user.pid("rootlesskit")];
    user.processes().into_iter().find(|process| {
        ["slirp4netns", "pasta"].contains(&process.name.as_str())
            && process.state != 'Z'
            && parents.contains(&process.parent)
    })
}

/// Nothing is told twice, and numbers are left out only where a rootlessd followed one that was
/// killed.
fn assert_numbered(events: &[Value]) {
    for pair in events.windows(2) {
        let [before, after] = [0, 1].map(|index| pair[index]["seq"].as_u64().unwrap());
        let is_new = ["taken_over", "began"].contains(&text(&pair[1]["kind"]).as_str());
        assert!(after == before + 1 || is_new && after > before, "{pair:#?}");
    }
}

#[test]
fn what_dies_is_told_with_what_became_of_it() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    user.load_image();
    user.serve_page("");
    // Once it answers, whatever happens is told.
    let mut follower = user.spawn(["rootlessctl", "events", "-f", "-n", "1", "--json"]);
    follower.next_line(SOON).unwrap();

    kill(user.pid("dockerd"));
    let lost = next(&mut follower, "lost", "dockerd");
    assert!(text(&lost["cause"]).contains("killed by SIGKILL"), "{lost}");
    let replaced = next(&mut follower, "replaced", "dockerd");
    assert_eq!(replaced["cause"], lost["cause"]);
    let took = Duration::from_micros(replaced["took"].as_u64().unwrap());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let running = state(&mut follower, "running");
    assert_eq!(running["from"], "degraded");
    assert!(running["took"].as_u64().unwrap() > 0);

    let victim = helper(&user).unwrap();
    signal(victim.pid, Signal::SIGKILL);
    let lost = next(&mut follower, "lost", "network");
    assert!(text(&lost["text"]).contains(&victim.name), "{lost}");
    let replaced = next(&mut follower, "replaced", "network");
    assert!(replaced["took"].as_u64().unwrap() > 0);
    state(&mut follower, "running");

    // Whoever asks has everything recorded first; else the next rootlessd would record it.
    let known = events(&user, "");
    // Who follows is told until the connection ends.
    kill(user.rootlessd());
    assert_eq!(follower.wait().code(), Some(4));
    // While no rootlessd is there to see it.
    let dockerd = user.pid("dockerd");
    kill(dockerd);
    wait_for("another dockerd", SOON, || user.find("dockerd").filter(|&pid| pid != dockerd));
    let gone = events(&user, "");
    assert_eq!(gone, known, "it is read without it, and nothing is new");
    user.daemonize();
    wait_for("it is known", SOON, || {
        let events = events(&user, "--part dockerd");
        (events.iter().filter(|event| event["kind"] == "replaced").count() == 2).then_some(())
    });
    let all = events(&user, "-n all");
    assert_numbered(&all);
    assert_eq!(all[..gone.len()], gone);
    let kinds: Vec<_> = all[gone.len()..].iter().map(|event| text(&event["kind"])).collect();
    let others: Vec<_> = kinds.iter().filter(|kind| *kind != "state").collect();
    assert_eq!(others, ["taken_over", "lost", "replaced"]);
    assert_eq!(kinds[0], "taken_over");

    user.wait_state("running");
    user.ctl("stop").ok();
    let people = user.ctl("events -n all").ok();
    assert!(people.lines().last().unwrap().contains("the engine is stopped, after"), "{people}");
    user.assert_clean(false);
}

/// What happened to parts is recorded once each, however often rootlessd is killed meanwhile.
#[test]
fn whoever_is_killed_the_history_is_whole() {
    let user = User::new();
    user.configure(PATIENT);
    user.start();
    let incidents = || {
        let path = user.engine_directory().join("incidents.jsonl");
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(parsed).collect::<Vec<_>>()
    };
    let rounds = rounds(4);
    for round in 0..rounds {
        let dockerd = user.pid("dockerd");
        if round % 2 == 0 {
            signal(dockerd, Signal::SIGKILL);
        }
        kill(user.rootlessd());
        // It can be read at any time, also without a rootlessd.
        assert_numbered(&events(&user, "-n all"));
        if round % 2 == 1 {
            signal(dockerd, Signal::SIGKILL);
        }
        user.daemonize();
        wait_for("another dockerd", SOON, || user.find("dockerd").filter(|&pid| pid != dockerd));
        user.wait_state("running");
    }
    let is_part = |event: &Value| event["kind"] == "lost" || event["kind"] == "replaced";
    let told: Vec<u64> = wait_for("all of it is told", SOON, || {
        let all = events(&user, "-n all");
        assert_numbered(&all);
        let parts = all.iter().filter(|event| is_part(event));
        let told: Vec<u64> = parts.map(|event| event["at"].as_u64().unwrap()).collect();
        (told.len() >= incidents().len()).then_some(told)
    });
    let at =
        |incident: &Value| incident.as_object().unwrap().values().next().unwrap()["at"].as_u64();
    let happened: Vec<u64> = incidents().iter().filter_map(at).collect();
    assert!(happened.len() as u32 >= 2 * rounds, "{happened:?}");
    assert_eq!(told.len(), happened.len(), "each once");
    let set = |times: Vec<u64>| times.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(set(told), set(happened));
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// A history as long as it gets costs no memory, also when it was read.
#[test]
fn a_full_history() {
    let user = User::new();
    user.configure("engine.start = \"demand\"\n");
    let line = |seq: u64| {
        let text = "slirp4netns was killed by SIGKILL";
        let event = serde_json::json!({
            "seq": seq, "at": seq, "kind": "lost", "part": "network", "state": "degraded",
            "text": text, "cause": text, "action": "it is being replaced",
        });
        format!("{event}\n")
    };
    let count = FILE_BYTES / line(1000).len() as u64;
    // There is room for what happens here.
    let last = 2 * count - 20;
    let lines = |seqs: std::ops::Range<u64>| seqs.map(line).collect::<String>();
    user.write(".local/state/rootlessd/events.jsonl.1", lines(1..count));
    user.write(".local/state/rootlessd/events.jsonl", lines(count..last));
    let begun = Instant::now();
    user.daemonize();
    let (took, fresh) = (begun.elapsed(), Process::memory(user.rootlessd()));
    for _ in 0..5 {
        let told = events(&user, "-n all");
        assert_eq!(told.len() as u64, last + 1, "all of it, and that it began");
        assert_numbered(&told);
    }
    let read = Process::memory(user.rootlessd());
    eprintln!("{} events: there after {took:?}, {fresh} KiB, once read {read} KiB", last);
    assert!(read <= MOST, "{read} KiB");
}

/// A disk that is full keeps nobody from being told, and what was not written is, once there is room.
#[test]
fn a_full_disk() {
    let user = User::new();
    user.configure(PATIENT);
    let log = user.write(".local/state/rootlessd/log", "");
    let directory = log.parent().unwrap();
    mount_tmpfs(directory, &format!("size=64k,mode=700,uid={0},gid={0}", user.uid));
    let logs = user.home.join("log");
    user.sh(&format!("rootlessd --daemonize --log-directory {}", logs.display())).ok();
    user.wait_state("running");
    let before = events(&user, "-n all");
    user.sh("head -c 1M /dev/zero >.local/state/rootlessd/filler").fails();

    let mut follower = user.spawn(["rootlessctl", "events", "-f", "-n", "1", "--json"]);
    follower.next_line(SOON).unwrap();
    // More than there is room for in what is left of a page.
    for _ in 0..8 {
        kill(user.pid("dockerd"));
        next(&mut follower, "replaced", "dockerd");
        state(&mut follower, "running");
    }
    let log = fs::read_to_string(logs.join("supervisor.log")).unwrap();
    assert_eq!(
        log.matches("cannot be written, which changes nothing else").count(),
        1,
        "told once"
    );
    let full = events(&user, "-n all");
    assert_numbered(&full);
    fs::remove_file(directory.join("filler")).unwrap();
    kill(user.pid("dockerd"));
    let last = state(&mut follower, "running");
    let told = wait_for("it is recorded again", SOON, || {
        let told = events(&user, "-n all");
        (told.last() == Some(&last)).then_some(told)
    });
    assert_numbered(&told);
    assert_eq!(told[..before.len()], before);
    assert_eq!(told.iter().filter(|event| event["kind"] == "replaced").count(), 9);
    user.ctl("stop").ok();
}
