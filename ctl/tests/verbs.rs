//! The verbs against a supervisor that says what the test tells it to.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use common::{
    Ended, User,
    supervisor::{Answer, Supervisor, job, status},
};
use serde_json::{Value, json};

use Answer::{Bytes, Close, Forever, Hang, More, Refuse, Reply};

const PREFLIGHT: &str = "org.rootlessd.Supervisor.Preflight";

fn get_status(fields: Value) -> (&'static str, Vec<Answer>) {
    ("GetStatus", vec![Reply(status(fields))])
}

#[test]
fn status_is_plain_when_piped_and_coloured_when_forced() {
    let user = User::new();
    let _supervisor = Supervisor::start(&user, vec![get_status(json!({})), get_status(json!({}))]);
    let ended = user.run(&["status"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.starts_with("● Docker is running (since Mon 2025-11-24 23:02:40 UTC, "));
    assert!(ended.stdout.contains("  socket      unix:///run/user/1000/docker.sock\n"));
    assert!(!ended.stdout.contains('\x1b'));
    let forced = user.command(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(Ended::from(forced).stdout.starts_with("\x1b["));
}

#[test]
fn status_ends_with_3_when_the_engine_does_not_run() {
    let user = User::new();
    let states = ["stopped", "starting", "stopping", "backoff", "failed", "hibernating"];
    let each = |state: &&str| get_status(json!({ "state": state, "later": 1 }));
    let script = states.iter().flat_map(|state| [each(state), each(state)]);
    let _supervisor = Supervisor::start(&user, script.collect());
    for state in states {
        let ended = user.run(&["status", "--json"]);
        let told = ended.json();
        assert_eq!(ended.code, Some(3), "{state}");
        assert_eq!((&told["state"], &told["later"]), (&json!(state), &json!(1)), "passed through");
        let ended = user.run(&["status"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), ""), "{state}");
    }
}

#[test]
fn without_a_supervisor_every_verb_says_how_to_start_it() {
    let user = User::new();
    for arguments in [
        &["status"][..],
        &["start"],
        &["stop", "--no-block"],
        &["restart"],
        &["reload"],
        &["reset-failed"],
        &["watch"],
        &["config"],
        &["version"],
    ] {
        let ended = user.run(arguments);
        assert_eq!(ended.code, Some(4), "{arguments:?}");
        let error = format!(
            "error: no rootlessd answers on {}: No such file or directory\n  what to do: ",
            user.socket().display()
        );
        assert!(ended.stderr.starts_with(&error), "{}", ended.stderr);
    }
    let ended = user.run(&["status", "--json"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(4), ""));
    let error = &ended.json()["error"];
    assert_eq!(error["name"], json!("NoSupervisor"));
    assert!(error["remedy"].as_str().unwrap().contains("rootless"));
}

#[test]
fn a_socket_that_nobody_listens_on_is_no_supervisor() {
    let user = User::new();
    drop(Supervisor::start(&user, vec![]));
    let ended = user.run(&["status"]);
    assert_eq!(ended.code, Some(4));
    assert!(ended.stderr.contains("Connection refused"), "{}", ended.stderr);
}

#[test]
fn a_refusal_is_told_with_its_remedy() {
    let user = User::new();
    let refusal = json!({ "message": "the user u has no subuids", "remedy": "sudo usermod u" });
    let refuse = || ("Start", vec![Refuse(PREFLIGHT, refusal.clone())]);
    let _supervisor = Supervisor::start(&user, vec![refuse(), refuse()]);
    let ended = user.run(&["start"]);
    assert_eq!(ended.code, Some(7));
    assert_eq!(ended.stderr, "error: the user u has no subuids\n  what to do: sudo usermod u\n");
    let ended = user.run(&["--json", "start"]);
    let error = json!({ "name": "Preflight", "message": "the user u has no subuids",
                        "remedy": "sudo usermod u" });
    assert_eq!((ended.code, ended.json()), (Some(7), json!({ "error": error })));
}

#[test]
fn answers_that_are_no_answers() {
    let rows: [(Vec<Answer>, i32, &str); 6] = [
        (vec![Bytes(b"garbage\0")], 1, "Protocol"),
        (vec![Bytes(b"{}\0")], 1, "Protocol"),
        (vec![Bytes(b"{\"parameters\":{\"status\""), Close], 4, "Closed"),
        (vec![Reply(json!({ "status": 5 }))], 1, "Protocol"),
        (vec![Refuse("com.example.Strange", json!({}))], 1, "Protocol"),
        (vec![Close], 4, "Closed"),
    ];
    for (answers, code, name) in rows {
        let user = User::new();
        let _supervisor =
            Supervisor::start(&user, vec![("Reload", vec![]), ("GetConfig", answers)]);
        let ended = user.run(&["config", "--json"]);
        let error = ended.json();
        assert_eq!((ended.code, &error["error"]["name"]), (Some(code), &json!(name)), "{error}");
    }
    // What a later version says is not guessed at.
    let user = User::new();
    let _supervisor = Supervisor::start(&user, vec![get_status(json!({ "phase": "hibernating" }))]);
    let ended = user.run(&["status"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("rootlessctl version"), "{}", ended.stderr);
}

#[test]
fn a_supervisor_that_hangs_does_not_hang_a_script() {
    for (method, arguments) in [
        ("GetStatus", &["status", "--timeout", "50ms"][..]),
        ("Watch", &["watch", "--timeout", "50ms"]),
        ("Start", &["start", "--timeout", "50ms"]),
        ("Reload", &["reload", "--timeout", "50ms"]),
    ] {
        let user = User::new();
        let _supervisor = Supervisor::start(&user, vec![(method, vec![Hang])]);
        let ended = user.run(arguments);
        assert_eq!(ended.code, Some(5), "{method}");
        assert!(
            ended.stderr.starts_with("error: the answer of rootlessd took longer than 50 ms\n"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn jobs_are_waited_for() {
    for (method, verb, result, code, text) in [
        ("Start", "start", "done", 0, "Docker is running.\n"),
        ("Start", "start", "skipped", 0, "Docker was running already.\n"),
        ("Start", "start", "canceled", 6, ""),
        ("Start", "start", "failed", 1, ""),
        ("Stop", "stop", "done", 0, "Docker is stopped.\n"),
        ("Stop", "stop", "skipped", 0, "Docker was not running.\n"),
        ("Restart", "restart", "done", 0, "Docker is running again.\n"),
        ("Restart", "restart", "timeout", 5, ""),
    ] {
        let user = User::new();
        let supervisor = Supervisor::start(
            &user,
            vec![
                (method, vec![Reply(job(verb, None))]),
                ("WaitJob", vec![Reply(job(verb, Some(result)))]),
            ],
        );
        let ended = user.run(&[verb]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), text), "{verb} {result}");
        assert_eq!(ended.stderr.is_empty(), code == 0, "nothing but errors goes to stderr");
        assert_eq!(supervisor.call(), (method.to_owned(), json!({})));
        assert_eq!(supervisor.call(), ("WaitJob".to_owned(), json!({ "id": 7 })));
    }
}

#[test]
fn a_job_that_is_not_waited_for_is_printed_as_it_is() {
    let user = User::new();
    let start = || ("Start", vec![Reply(job("start", None))]);
    let _supervisor = Supervisor::start(&user, vec![start(), start()]);
    let ended = user.run(&["start", "--no-block"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "The start is under way (job 7).\n"));
    let ended = user.run(&["start", "--no-block", "--json"]);
    assert_eq!(ended.json(), job("start", None)["job"]);
}

#[test]
fn the_time_of_a_job_is_the_supervisor_s_to_keep() {
    let user = User::new();
    let supervisor = Supervisor::start(
        &user,
        vec![
            ("Stop", vec![Reply(job("stop", None))]),
            // It should have said that the time ran out; rootlessctl does not wait for ever.
            ("WaitJob", vec![Hang]),
        ],
    );
    let ended = user.run(&["stop", "--timeout", "20ms"]);
    assert_eq!(supervisor.call(), ("Stop".to_owned(), json!({ "timeout": 20_000 })));
    assert_eq!(ended.code, Some(5));
    assert!(ended.stderr.starts_with("error: the stop took longer than 20 ms\n"));
}

#[test]
fn ctrl_c_ends_the_waiting_not_the_job() {
    let user = User::new();
    let supervisor = Supervisor::start(
        &user,
        vec![("Start", vec![Reply(job("start", None))]), ("WaitJob", vec![Hang])],
    );
    let child = user.command(&["start"]).stderr(Stdio::piped()).spawn().unwrap();
    // Ctrl-C is listened for from the moment that the job is waited for.
    assert_eq!(supervisor.call().0, "Start");
    assert_eq!(supervisor.call().0, "WaitJob");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(130));
    assert_eq!(
        ended.stderr,
        "error: interrupted; the start goes on, and rootlessctl stop ends it\n"
    );
}

#[test]
fn requests_that_are_done_when_they_are_answered() {
    let user = User::new();
    let _supervisor = Supervisor::start(
        &user,
        vec![
            ("Reload", vec![Reply(json!({}))]),
            ("Reload", vec![Refuse("org.rootlessd.Supervisor.Config", json!({ "message": "m" }))]),
            ("ResetFailed", vec![Reply(json!({}))]),
            ("ResetFailed", vec![Reply(json!({}))]),
        ],
    );
    assert_eq!(user.run(&["reload"]).stdout, "The configuration is read again.\n");
    assert_eq!(user.run(&["reload"]).code, Some(8));
    assert_eq!(user.run(&["reset-failed"]).stdout, "The failures are forgotten.\n");
    assert_eq!(user.run(&["reset-failed", "--json"]).json(), json!({}));
}

#[test]
fn watch_prints_a_line_for_every_change_that_shows() {
    let user = User::new();
    let starting = |phase: &str| More(status(json!({ "state": "starting", "phase": phase })));
    let answers = || {
        vec![
            starting("network"),
            starting("dockerd"),
            More(status(json!({ "containersRunning": 0 }))),
            More(status(json!({ "containersRunning": 1 }))),
            Close,
        ]
    };
    let _supervisor = Supervisor::start(&user, vec![("Watch", answers()), ("Watch", answers())]);
    let ended = user.run(&["watch"]);
    assert_eq!(ended.code, Some(4));
    assert!(ended.stderr.starts_with("error: rootlessd ended the connection\n"));
    // A line begins with the time: `2026-11-24 23:05:45.123 `.
    let lines: Vec<&str> = ended.stdout.lines().map(|line| &line[24..]).collect();
    assert_eq!(lines, ["starting: network", "starting: dockerd", "running: Docker 26.1.5"]);

    let ended = user.run(&["watch", "--json"]);
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ended.code, lines.len()), (Some(4), 5));
    assert_eq!(lines[3]["containersRunning"], json!(1));
    assert_eq!(lines[4]["error"]["name"], json!("Closed"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let user = User::new();
    let _supervisor = Supervisor::start(&user, vec![("Watch", vec![Forever(status(json!({})))])]);
    let mut command = user.command(&["watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn config_shows_where_values_come_from() {
    let user = User::new();
    let settings = json!({ "settings": [
        { "key": "engine.start", "value": "\"boot\"", "source": "default" },
        { "key": "network.mtu", "value": "1500", "source": "/etc/rootlessd/config.toml:3" },
    ]});
    let answer = || ("GetConfig", vec![Reply(settings.clone())]);
    let _supervisor = Supervisor::start(&user, vec![answer(), answer()]);
    assert_eq!(
        user.run(&["config"]).stdout,
        "KEY           VALUE   SOURCE\n\
         engine.start  \"boot\"  default\n\
         network.mtu   1500    /etc/rootlessd/config.toml:3\n"
    );
    assert_eq!(user.run(&["config", "--json"]).json(), settings);
}

#[test]
fn env_needs_no_supervisor() {
    let user = User::new();
    let usual = format!("unix://{}/docker.sock", user.runtime_dir().display());
    let ended = user.run(&["env"]);
    assert_eq!((ended.code, ended.stdout), (Some(0), format!("export DOCKER_HOST={usual}\n")));
    assert_eq!(user.run(&["env", "--json"]).json(), json!({ "DOCKER_HOST": usual }));

    let told = json!({ "socketPath": "/srv/it's/docker.sock" });
    let _supervisor = Supervisor::start(&user, vec![get_status(told)]);
    assert_eq!(
        user.run(&["env"]).stdout,
        "export DOCKER_HOST='unix:///srv/it'\\''s/docker.sock'\n"
    );
}

#[test]
fn version_is_told_with_and_without_a_supervisor() {
    let user = User::new();
    let ours = env!("CARGO_PKG_VERSION");
    let ended = user.run(&["version"]);
    assert_eq!((ended.code, ended.stdout), (Some(4), format!("rootlessctl  {ours}\n")));
    let told = user.run(&["version", "--json"]).json();
    assert_eq!(told["client"]["version"], json!(ours));
    assert_eq!(told["error"]["name"], json!("NoSupervisor"));

    let _supervisor = Supervisor::start(&user, vec![get_status(json!({ "state": "later" }))]);
    let ended = user.run(&["version"]);
    let text = format!("rootlessctl  {ours}\nrootlessd    0.1.0\nDocker       26.1.5\n");
    assert_eq!((ended.code, ended.stdout), (Some(0), text));
    let ended = user.run(&["--version"]);
    assert_eq!((ended.code, ended.stdout), (Some(0), format!("rootlessctl {ours}\n")));
}

#[test]
fn completions_know_the_verbs_but_not_the_hidden_one() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = User::new().run(&["completion", shell]);
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.contains("reset-failed"), "{shell}");
        let hidden = ended.stdout.split(|c: char| !c.is_alphanumeric()).any(|word| word == "unit");
        assert!(!hidden, "{shell}");
    }
    assert_eq!(User::new().run(&["completion", "elvish"]).code, Some(2));
}

#[test]
fn the_command_line_is_checked() {
    let user = User::new();
    for arguments in [&["sprint"][..], &["start", "--timeout", "soon"], &["logs", "-n", "few"]] {
        let ended = user.run(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}");
    }
    let ended = user.run(&["--socket", "/s", "status"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("RootlessKit's api.sock"));
    let help = user.run(&[]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("list-ports") && !help.stdout.contains("docker.service"));
}
