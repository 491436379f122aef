//! Files of the dead, of others, and half-written ones: rows 12 to 14, and 24.

use super::{
    Kept, Promise, Row, Trial, elsewhere, ms,
    trial::{
        AS_USER, CONFIG, alive, compare, has_reason, page, provoke, provoke_unseen, settled,
        timed_by_user,
    },
};
use crate::machine::{Machine, RUNTIME};

pub(super) fn rows() -> Vec<Row> {
    let start = Promise { detected: None, recovered: ms(3000), containers: Kept::StartedAnew };
    let refused =
        Promise { detected: ms(2000), recovered: ms(8000), containers: Kept::StartedAnew };
    vec![
        Row {
            number: "12",
            fault: "docker.pid names another process",
            promise: start,
            ours: |machine, _| stale(machine, "docker.pid", STRANGER),
            stock: Some(|stock| stock.provoke(&stale_stock("docker.pid", STRANGER), &page())),
        },
        Row {
            number: "13",
            fault: "containerd.pid is rubbish",
            promise: start,
            ours: |machine, _| stale(machine, "docker/containerd/containerd.pid", "4242\n"),
            stock: Some(|stock| {
                stock.provoke(&stale_stock("docker/containerd/containerd.pid", "4242\n"), &page())
            }),
        },
        Row {
            number: "14a",
            fault: "another RootlessKit has the state directory",
            promise: refused,
            ours: |machine, _| locked(machine, "dockerd-rootless", "state-dir-locked"),
            stock: None,
        },
        Row {
            number: "14b",
            fault: "rootless containerd runs",
            promise: refused,
            ours: |machine, _| locked(machine, "containerd-rootless", "containerd-rootless"),
            stock: None,
        },
        Row {
            number: "24a",
            fault: "the configuration is replaced all the time",
            promise: Promise { recovered: ms(30_000), ..Promise::NONE },
            ours: |machine, _| replaced(machine),
            stock: None,
        },
        elsewhere("24b", "the power is cut"),
    ]
}

/// The pid of a process that has nothing to do with it, in a shell's words.
const STRANGER: &str = "$(sleep 60 >/dev/null 2>&1 & echo $!)";

/// A file that a dead engine could have left.
fn stale(machine: &Machine, file: &str, content: &str) -> Trial {
    let before = alive(machine);
    machine.ctl(["stop"]);
    let fault = format!(
        "mkdir -p $(dirname {RUNTIME}/{file}); echo \"{content}\" >{RUNTIME}/{file}; rootlessctl start"
    );
    let mut trial = timed_by_user(machine, &fault, &page());
    machine.wait_state("running");
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

fn stale_stock(file: &str, content: &str) -> String {
    format!(
        "{AS_USER} systemctl --user stop docker
         {AS_USER} sh -c 'mkdir -p $(dirname {RUNTIME}/{file}); echo \"{content}\" >{RUNTIME}/{file}'
         {AS_USER} systemctl --user start docker"
    )
}

/// The start is refused by name for as long as the lock of a RootlessKit is held, and works when it is not.
fn locked(machine: &Machine, state: &str, code: &'static str) -> Trial {
    let directory = format!("{RUNTIME}/{state}");
    let fault = format!(
        "rootlessctl stop; mkdir -p {directory}; flock {directory}/lock sleep 3 &
         while flock -n {directory}/lock true; do :; done
         rootlessctl start; wait; rootlessctl start"
    );
    let trial = provoke(machine, &fault, &page(), &has_reason(code));
    if state != "dockerd-rootless" {
        machine.user(["rm", "-r", &directory]).ok();
    }
    trial
}

/// Read at any moment, it is one of the two that were ever written.
fn replaced(machine: &Machine) -> Trial {
    let file = "/home/tester/.config/rootlessd/config.toml";
    let fault = format!(
        r#"printf '{config}' >/tmp/a; cp /tmp/a /tmp/b
        echo '[engine]' >>/tmp/a; echo 'stop_timeout = "31s"' >>/tmp/a
        echo '[engine]' >>/tmp/b; echo 'stop_timeout = "32s"' >>/tmp/b
        cp /tmp/a {file}
        while [ ! -e /tmp/enough ]; do for it in a b; do cp /tmp/$it {file}.new; mv {file}.new {file}; done; done &
        for i in $(seq 50); do
            rootlessctl reload || echo refused >>/tmp/half
            rootlessctl config --json | grep -Eq '3[12]s|3[12]000000' || echo half >>/tmp/half
        done
        touch /tmp/enough; wait; rm -f /tmp/enough"#,
        config = CONFIG.replace('\n', "\\n"),
    );
    let mut trial = provoke_unseen(machine, &fault, "rootlessctl reload");
    let half = machine.user_sh("cat /tmp/half; rm -f /tmp/half").stdout;
    trial.check(half.is_empty(), || format!("read: {half}"));
    machine.configure(CONFIG);
    machine.ctl(["reload"]);
    trial
}
