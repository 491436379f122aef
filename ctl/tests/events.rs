//! `events`, of a supervisor that a test plays and of a history that it wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use common::{
    Ended, User,
    supervisor::{
        Answer::{Close, Hang, More},
        Supervisor,
    },
};
use serde_json::{Value, json};

fn event(seq: u64, part: &str) -> Value {
    json!({
        "seq": seq,
        "at": 1_764_025_545_000_000_u64 + seq * 1000,
        "kind": "lost",
        "part": part,
        "state": "running",
        "text": format!("{part} was lost"),
        "new": "of a later version",
    })
}

fn page(seqs: std::ops::RangeInclusive<u64>) -> Value {
    let part = |seq| if seq % 2 == 0 { "network" } else { "dockerd" };
    let events: Vec<Value> = seqs.map(|seq| event(seq, part(seq))).collect();
    json!({ "events": events })
}

fn last(mut page: Value) -> Value {
    page["ready"] = true.into();
    page
}

fn seqs(ended: &Ended) -> Vec<u64> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    ended.stdout.lines().map(seq).collect()
}

#[test]
fn what_happened_comes_in_pages_and_is_shown_as_asked_for() {
    let user = User::new();
    let past = || vec![More(page(1..=3)), More(last(page(4..=5))), Hang];
    let supervisor = Supervisor::start(&user, (0..6).map(|_| ("ListEvents", past())).collect());

    let ended = user.run(&["events"]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[1], "2025-11-24 23:05:45.002 lost       network was lost");
    assert_eq!(supervisor.call(), ("ListEvents".into(), json!({ "since": null, "limit": 100 })));

    let ended = user.run(&["events", "--json"]);
    assert_eq!(seqs(&ended), [1, 2, 3, 4, 5]);
    let first: Value = serde_json::from_str(ended.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first, event(1, "dockerd"), "as it was told");
    supervisor.call();

    // Of some parts only, the newest are to be found among all.
    let ended = user.run(&["events", "--json", "--part", "network", "-n", "1"]);
    assert_eq!(seqs(&ended), [4]);
    assert_eq!(supervisor.call().1, json!({ "since": null }));
    assert_eq!(seqs(&user.run(&["events", "--json", "-n", "2"])), [4, 5]);
    assert_eq!(supervisor.call().1["limit"], 2);
    assert_eq!(seqs(&user.run(&["events", "--json", "-n", "all"])), [1, 2, 3, 4, 5]);
    assert_eq!(supervisor.call().1, json!({ "since": null }));
    user.run(&["events", "--since", "@1764025545"]);
    assert_eq!(supervisor.call().1, json!({ "since": 1_764_025_545_000_000_u64 }));

    let ended = user.run(&["events", "--since", "soon"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("not a moment"), "{}", ended.stderr);
    assert_eq!(user.run(&["events", "--part", "kernel"]).code, Some(2));
}

#[test]
fn what_happens_is_shown_as_it_does() {
    let user = User::new();
    let answers = vec![More(last(page(1..=2))), More(page(3..=3)), More(page(4..=4)), Close];
    let _supervisor = Supervisor::start(&user, vec![("ListEvents", answers)]);
    let mut child = user
        .command(&["events", "-f", "-n", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seqs: Vec<_> = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["seq"].clone())
        .collect();
    // The failure at the end is a line, too.
    assert_eq!(seqs, [json!(2), json!(3), json!(4), Value::Null]);
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

/// A history in a state directory.
fn record(directory: PathBuf, lines: &str) {
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("events.jsonl"), lines).unwrap();
}

#[test]
fn without_a_supervisor_it_is_what_that_recorded() {
    let user = User::new();
    let home = user.runtime_dir().join("home");
    let events = |arguments: &[&str]| -> Command {
        let mut command = user.command(&[&["events", "--json"], arguments].concat());
        command.env("HOME", &home);
        command
    };
    let run = |mut command: Command| Ended::from(command.output().unwrap());
    let ended = run(events(&[]));
    assert_eq!((ended.code, &ended.json()["error"]["name"]), (Some(4), &json!("NoSupervisor")));

    let lines = format!("{}\nrubbish\n{}\n", event(1, "network"), event(2, "dockerd"));
    record(home.join(".local/state/rootlessd"), &lines);
    let ended = run(events(&[]));
    assert_eq!(seqs(&ended), [1, 2]);
    assert!(ended.stderr.contains("no rootlessd answers"), "{}", ended.stderr);
    assert_eq!(seqs(&run(events(&["--part", "dockerd"]))), [2]);
    assert_eq!(seqs(&run(events(&["--since", "1764025545.002"]))), [2]);

    let elsewhere = user.runtime_dir().join("state");
    record(elsewhere.join("rootlessd"), &format!("{}\n", event(9, "init")));
    let mut command = events(&[]);
    command.env("XDG_STATE_HOME", &elsewhere);
    assert_eq!(seqs(&run(command)), [9]);
    // Nobody tells what happens.
    assert_eq!(run(events(&["-f"])).code, Some(4));
}
