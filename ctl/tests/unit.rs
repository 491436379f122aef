//! `rootlessctl unit`, the main process of docker.service, with a systemd and a rootlessd of ours.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::Read as _,
    os::unix::net::UnixDatagram,
    process::{Child, Stdio},
};

use common::{
    User,
    supervisor::{
        Answer::{self, Await, Close, Hang, More, Reply},
        Supervisor, job, status,
    },
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// The unit at work, and what systemd hears from it.
struct Unit {
    child: Child,
    systemd: UnixDatagram,
}

impl Unit {
    fn start(user: &User) -> Self {
        let path = user.runtime_dir().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let mut command = user.command(&["unit"]);
        let child = command.env("NOTIFY_SOCKET", &path).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, systemd }
    }

    /// The next notification.
    fn told(&self) -> String {
        let mut message = [0; 1024];
        let length = self.systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Its exit status and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (code, error)
    }
}

fn more(fields: Value) -> Answer {
    More(status(fields))
}

fn state(state: &str) -> Value {
    json!({ "state": state })
}

fn get(fields: Value) -> (&'static str, Vec<Answer>) {
    ("GetStatus", vec![Reply(status(fields))])
}

fn wait() -> (Gate, Answer) {
    let (go_on, told) = oneshot::channel();
    (Gate(go_on), Await(told))
}

/// What lets a script go on.
struct Gate(oneshot::Sender<()>);

impl Gate {
    fn go_on(self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn it_starts_the_engine_and_follows_it_to_its_stop() {
    let user = User::new();
    let (started, until_started) = wait();
    let supervisor = Supervisor::start(
        &user,
        vec![
            get(state("stopped")),
            ("Start", vec![Reply(job("start", None))]),
            ("WaitJob", vec![until_started, Reply(job("start", Some("done")))]),
            (
                "Watch",
                vec![
                    // Not left yet when the start was accepted: not the engine's end.
                    more(state("stopped")),
                    more(json!({ "state": "starting", "phase": "dockerd" })),
                    Hang,
                ],
            ),
            (
                "Watch",
                vec![more(state("running")), more(state("stopping")), more(state("stopped")), Hang],
            ),
        ],
    );
    let unit = Unit::start(&user);
    assert_eq!(unit.told(), "STATUS=stopped\n");
    assert_eq!(unit.told(), "STATUS=starting: dockerd\n");
    for method in ["GetStatus", "Start"] {
        assert_eq!(supervisor.call().0, method);
    }
    started.go_on();
    assert_eq!(unit.told(), "READY=1\nSTATUS=running: Docker 26.1.5\n");
    assert_eq!(unit.told(), "STATUS=stopping\n");
    assert_eq!(unit.told(), "STATUS=stopped\n");
    assert_eq!(unit.end(), (Some(0), String::new()));
}

#[test]
fn an_engine_that_is_up_is_not_started() {
    let user = User::new();
    let failed = json!({ "state": "failed", "reasons": [
        { "code": "died", "part": "dockerd", "text": "dockerd died 5 times", "remedy": "do this" },
    ]});
    let backoff = json!({ "state": "backoff", "deaths": [
        { "at": 1, "part": "dockerd", "signal": 9, "text": "dockerd was killed by SIGKILL" },
    ]});
    let watch = vec![more(state("degraded")), more(backoff), more(failed), Hang];
    let _supervisor = Supervisor::start(&user, vec![get(state("degraded")), ("Watch", watch)]);
    let unit = Unit::start(&user);
    assert_eq!(unit.told(), "READY=1\nSTATUS=degraded\n");
    assert_eq!(unit.told(), "STATUS=backoff: dockerd was killed by SIGKILL\n");
    assert_eq!(unit.told(), "STATUS=failed: dockerd died 5 times\n");
    let error = "error: dockerd died 5 times\n  what to do: do this\n".to_owned();
    assert_eq!(unit.end(), (Some(1), error));
}

#[test]
fn an_engine_that_waits_for_a_client_is_started_and_one_that_does_again_is_left_alone() {
    let user = User::new();
    let supervisor = Supervisor::start(
        &user,
        vec![
            get(state("listening")),
            ("Start", vec![Reply(job("start", None))]),
            ("WaitJob", vec![Reply(job("start", Some("done")))]),
            ("Watch", vec![more(state("listening")), Hang]),
            (
                "Watch",
                vec![
                    more(state("running")),
                    more(json!({ "state": "stopping", "phase": "dockerd" })),
                    more(state("listening")),
                    Hang,
                ],
            ),
        ],
    );
    let unit = Unit::start(&user);
    assert_eq!(unit.end(), (Some(0), String::new()));
    let called: Vec<_> = (0..5).map(|_| supervisor.call().0).collect();
    assert_eq!(called.iter().filter(|method| *method == "Start").count(), 1, "{called:?}");
}

#[test]
fn a_start_that_fails_is_told_with_its_reason() {
    let user = User::new();
    let mut failed = job("start", Some("failed"));
    failed["job"]["error"] = json!({ "name": "Preflight", "message": "no subuids", "remedy": "r" });
    let _supervisor = Supervisor::start(
        &user,
        vec![
            get(state("failed")),
            ("Start", vec![Reply(job("start", None))]),
            ("WaitJob", vec![Reply(failed)]),
            ("Watch", vec![more(state("failed")), Hang]),
            ("Watch", vec![more(state("failed")), Hang]),
        ],
    );
    let unit = Unit::start(&user);
    assert_eq!(unit.end(), (Some(1), "error: no subuids\n  what to do: r\n".to_owned()));
}

#[test]
fn it_lives_through_a_restart_of_rootlessd() {
    let user = User::new();
    let (stop, until_stop) = wait();
    let _supervisor = Supervisor::start(
        &user,
        vec![
            get(state("running")),
            ("Watch", vec![more(state("running")), Close]),
            ("Watch", vec![more(state("running")), until_stop, more(state("stopped")), Hang]),
        ],
    );
    let unit = Unit::start(&user);
    assert_eq!(unit.told(), "READY=1\nSTATUS=running: Docker 26.1.5\n");
    assert_eq!(unit.told(), "STATUS=waiting for rootlessd\n");
    assert_eq!(unit.told(), "STATUS=running: Docker 26.1.5\n");
    stop.go_on();
    assert_eq!(unit.told(), "STATUS=stopped\n");
    assert_eq!(unit.end().0, Some(0));
}

#[test]
fn a_start_that_a_restart_of_rootlessd_lost_is_asked_for_again() {
    let user = User::new();
    let _supervisor = Supervisor::start(
        &user,
        vec![
            get(state("stopped")),
            ("Start", vec![Reply(job("start", None))]),
            ("WaitJob", vec![Close]),
            ("Watch", vec![more(state("starting")), Hang]),
            get(state("stopped")),
            ("Start", vec![Reply(job("start", None))]),
            ("WaitJob", vec![Reply(job("start", Some("done")))]),
            ("Watch", vec![more(state("starting")), Hang]),
            ("Watch", vec![more(state("running")), Hang]),
        ],
    );
    let unit = Unit::start(&user);
    let mut told = String::new();
    while !told.starts_with("READY=1") {
        told = unit.told();
    }
    let mut unit = unit;
    unit.child.kill().unwrap();
    unit.end();
}

#[test]
fn ending_the_unit_stops_the_engine() {
    let mut failed = job("stop", Some("failed"));
    failed["job"]["error"] = json!({ "name": "Internal", "message": "dockerd hangs" });
    for (answer, code, error) in [
        (Reply(job("stop", Some("done"))), 0, ""),
        (Reply(failed), 1, "error: dockerd hangs\n"),
        (Close, 0, ""),
    ] {
        let user = User::new();
        let supervisor = Supervisor::start(
            &user,
            vec![
                get(state("running")),
                ("Watch", vec![more(state("running")), Hang]),
                ("Stop", vec![Reply(job("stop", None))]),
                ("WaitJob", vec![answer]),
            ],
        );
        let unit = Unit::start(&user);
        assert_eq!(unit.told(), "READY=1\nSTATUS=running: Docker 26.1.5\n");
        let pid = rustix::process::Pid::from_child(&unit.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(unit.told(), "STOPPING=1\n");
        for method in ["GetStatus", "Watch", "Stop", "WaitJob"] {
            assert_eq!(supervisor.call().0, method);
        }
        assert_eq!(unit.end(), (Some(code), error.to_owned()));
    }
}

#[test]
fn a_rootlessd_that_stays_away_was_stopped() {
    let user = User::new();
    let supervisor = Supervisor::start(
        &user,
        vec![get(state("running")), ("Watch", vec![more(state("running")), Hang])],
    );
    let unit = Unit::start(&user);
    assert_eq!(unit.told(), "READY=1\nSTATUS=running: Docker 26.1.5\n");
    drop(supervisor);
    assert_eq!(unit.told(), "STATUS=waiting for rootlessd\n");
    assert_eq!(unit.end(), (Some(0), String::new()));
}
