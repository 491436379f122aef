//! `logs`, from files and from a journalctl that a test wrote.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
};

use common::{
    Ended, User,
    supervisor::{Answer::Reply, Supervisor},
};
use serde_json::{Value, json};

fn in_directory(user: &User, calls: usize) -> Supervisor {
    let directory = json!({ "directory": user.runtime_dir() });
    let answer = || ("GetLogLocation", vec![Reply(directory.clone())]);
    Supervisor::start(user, (0..calls).map(|_| answer()).collect())
}

fn in_journal(user: &User) -> Supervisor {
    Supervisor::start(user, vec![("GetLogLocation", vec![Reply(json!({}))])])
}

fn append(path: &Path, text: &str) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn files_are_shown_in_one_order() {
    let user = User::new();
    let _supervisor = in_directory(&user, 4);
    let log = |part: &str| user.runtime_dir().join(format!("{part}.log"));
    append(&log("supervisor"), "2026-11-24T23:00:01.5Z INFO start\n2026-11-24T23:00:03Z INFO up\n");
    append(&log("dockerd"), "time=\"2026-11-24T23:00:02+00:00\" level=info msg=\"API\"\n");

    let start = "2026-11-24 23:00:01.500 supervisor: INFO start\n";
    let api = "2026-11-24 23:00:02.000 dockerd: level=info msg=\"API\"\n";
    let up = "2026-11-24 23:00:03.000 supervisor: INFO up\n";
    assert_eq!(user.run(&["logs"]).stdout, [start, api, up].concat());
    assert_eq!(user.run(&["logs", "-n", "2"]).stdout, [api, up].concat());
    assert_eq!(user.run(&["logs", "--part", "dockerd"]).stdout, api);
    let ended = user.run(&["logs", "--json", "-n", "1"]);
    assert_eq!(
        ended.json(),
        json!({ "time": 1_795_561_203_000_000_i64, "part": "supervisor", "message": "INFO up" })
    );
}

#[test]
fn files_are_followed_over_their_rotation() {
    let user = User::new();
    let _supervisor = in_directory(&user, 1);
    let path = user.runtime_dir().join("init.log");
    append(&path, "2026-11-24T23:00:01Z INFO one\n");
    let mut command = user.command(&["logs", "-f", "-n", "1", "--part", "init"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || lines.next().unwrap().unwrap();

    assert_eq!(next(), "2026-11-24 23:00:01.000 init: INFO one");
    append(&path, "2026-11-24T23:00:02Z INFO two\n2026-11-24T23:00:03Z INF");
    assert_eq!(next(), "2026-11-24 23:00:02.000 init: INFO two");
    append(&path, "O three\n");
    fs::rename(&path, user.runtime_dir().join("init.log.1")).unwrap();
    append(&path, "2026-11-24T23:00:04Z INFO four\n");
    assert_eq!(next(), "2026-11-24 23:00:03.000 init: INFO three");
    assert_eq!(next(), "2026-11-24 23:00:04.000 init: INFO four");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Run `logs` with a journalctl of ours.
fn with_journalctl(script: &str, arguments: &[&str]) -> Ended {
    let user = User::new();
    let _supervisor = in_journal(&user);
    let program = user.runtime_dir().join("journalctl");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = user.command(arguments);
    command.env("PATH", format!("{}:/usr/bin:/bin", user.runtime_dir().display()));
    command.output().unwrap().into()
}

#[test]
fn the_journal_is_read_by_journalctl() {
    let entry = |part: &str, message: &str| -> String {
        let entry = json!({ "__REALTIME_TIMESTAMP": "1795561203000000", "ROOTLESSD_PART": part,
                            "MESSAGE": message });
        format!("echo '{entry}'\n")
    };
    let script = entry("supervisor", "up") + &entry("dockerd", "a\\u001b[2Jb");
    let ended = with_journalctl(&script, &["logs"]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (
            Some(0),
            "2026-11-24 23:00:03.000 supervisor: up\n\
             2026-11-24 23:00:03.000 dockerd: a\\u{1b}[2Jb\n"
        )
    );
    let ended = with_journalctl(&script, &["logs", "--json"]);
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["part"], json!("dockerd"));
}

#[test]
fn a_journal_that_cannot_be_read_is_said_plainly() {
    let denied = "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1";
    let ended = with_journalctl(denied, &["logs"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("cannot read the journal of this user"), "{}", ended.stderr);
    assert!(ended.stderr.contains("systemd-journal"), "{}", ended.stderr);

    let ended = with_journalctl(denied, &["logs", "--json"]);
    assert_eq!(ended.json()["error"]["name"], json!("NoLogs"));

    let ended = with_journalctl("exit 0", &["logs"]);
    let note = "note: the journal of this user has no such lines\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), note));
}
