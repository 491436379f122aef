//! A part of the engine dies or hangs: rows 1 to 6, and 21.

use super::{
    Row, Stock, Trial, containers,
    trial::{CONFIG, again, is, page, provoke, provoke_by_root, reason, signal, told},
    within,
};
use crate::{
    bed::{Bed, Suite},
    machine::{Machine, PAGE, SOON, pids, word},
};

/// A page of the outer world, at an address that is neither a container's nor the machine's loopback's.
const OUTSIDE: &str = "http://198.51.100.1/page";

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            number: "1a",
            fault: "rootlesskit killed, no containers",
            promise: within(100, 1000),
            ours: |machine, _| without_containers(machine, "rootlesskit"),
            stock: None,
        },
        Row {
            number: "1b",
            fault: "rootlesskit killed",
            // The matrix's second is Docker's (1a). Its containers come after that, one by one, before it answers.
            promise: within(100, 2000).anew(),
            ours: |machine, _| namespaces_lost(machine, "KILL", "rootlesskit", &page()),
            stock: Some(|stock| stock.provoke("kill -KILL $(pgrep -xo rootlesskit)", &page())),
        },
        Row {
            number: "2a",
            fault: "rootlesskit's child killed, no containers",
            promise: within(100, 1000),
            ours: |machine, _| without_containers(machine, "rootlesskit's child"),
            stock: None,
        },
        Row {
            number: "2b",
            fault: "rootlesskit's child killed",
            // As 1b, beside 2a.
            promise: within(100, 2000).anew(),
            ours: |machine, _| namespaces_lost(machine, "KILL", "rootlesskit's child", &page()),
            stock: Some(|stock| stock.provoke(&format!("kill -KILL {CHILD}"), &page())),
        },
        Row {
            number: "3",
            fault: "dockerd killed",
            promise: within(100, 600),
            ours: |machine, _| killed(machine, "dockerd", &page()),
            stock: Some(|stock| stock.provoke("kill -KILL $(pidof dockerd)", &page())),
        },
        Row {
            number: "4a",
            fault: "containerd killed: docker exec",
            promise: within(1000, 1300),
            ours: |machine, _| killed(machine, "containerd", "docker exec web true"),
            stock: Some(|stock| containerd(stock, "KILL", "docker exec web true")),
        },
        Row {
            number: "4b",
            fault: "containerd killed: docker run",
            promise: within(1000, 1700),
            ours: |machine, _| killed(machine, "containerd", "docker run --rm rootlessd/tiny true"),
            stock: Some(|stock| containerd(stock, "KILL", "docker run --rm rootlessd/tiny true")),
        },
        Row {
            number: "5a",
            fault: "slirp4netns killed",
            promise: within(1000, 500),
            ours: |machine, _| network(machine, "KILL"),
            stock: Some(|stock| stock_network(stock, "KILL")),
        },
        Row {
            number: "5b",
            fault: "pasta killed",
            // The way out is back as soon as with slirp4netns. The ports are pasta's own here, which looks once a second
            // for those that somebody listens on (PORT_DETECT_INTERVAL of passt's tcp.c).
            promise: within(1000, 1500),
            ours: |machine, _| {
                if machine.suite == Suite::Bookworm {
                    return Trial::absent("its RootlessKit does not know pasta");
                }
                machine.configure(&format!("{CONFIG}[engine.network]\ndriver = \"pasta\"\n"));
                let trial = network(machine, "KILL");
                machine.configure(CONFIG);
                machine.begin_anew();
                trial
            },
            stock: None,
        },
        Row {
            number: "6a",
            fault: "slirp4netns stopped",
            // The 10 s of the matrix are for finding out; to be well takes what it takes of a part that was killed (5, 3, 4).
            promise: within(10_000, 10_500),
            ours: |machine, _| network(machine, "STOP"),
            stock: Some(|stock| stock_network(stock, "STOP")),
        },
        Row {
            number: "6b",
            fault: "dockerd stopped",
            promise: within(10_000, 11_000),
            ours: |machine, _| hangs(machine, "dockerd"),
            stock: Some(|stock| stock.provoke("kill -STOP $(pidof dockerd)", EXEC)),
        },
        Row {
            number: "6c",
            fault: "containerd stopped",
            promise: within(10_000, 11_500),
            ours: |machine, _| hangs(machine, "containerd"),
            stock: Some(|stock| containerd(stock, "STOP", EXEC)),
        },
        Row {
            number: "6d",
            fault: "rootlesskit stopped",
            // To be well takes what 1b takes more.
            promise: within(10_000, 12_000).anew(),
            ours: |machine, _| namespaces_lost(machine, "STOP", "rootlesskit", &page()),
            stock: Some(|stock| stock.provoke("kill -STOP $(pgrep -xo rootlesskit)", &page())),
        },
        Row {
            number: "6e",
            fault: "rootlesskit's child stopped",
            promise: within(10_000, 12_000).anew(),
            ours: |machine, _| namespaces_lost(machine, "STOP", "rootlesskit's child", &page()),
            stock: Some(|stock| stock.provoke(&format!("kill -STOP {CHILD}"), &page())),
        },
        Row {
            number: "21",
            fault: "dies three times too often",
            promise: within(10_000, 30_000).anew(),
            ours: |machine, _| too_often(machine),
            stock: Some(|stock| {
                // After the third, systemd starts it no more (StartLimitBurst=3).
                let fault = "for i in 1 2 3 4; do
                    for wait in $(seq 100); do pidof dockerd && break; sleep 0.05; done
                    kill -KILL $(pidof dockerd); sleep 3
                done";
                stock.provoke(fault, &page())
            }),
        },
    ]
}

/// Docker is there again.
const READY: &str = "docker version";

/// Whoever holds the namespaces is killed, or stopped until it is ended for that, and all goes with them. dockerd starts the containers before it answers.
fn namespaces_lost(machine: &Machine, how: &str, victim: &str, check: &str) -> Trial {
    provoke(machine, &signal(machine, how, victim), check, &|status| {
        reason(status, "engine-dying").is_some() || is("backoff")(status)
    })
}

/// The same without containers, whose start takes dockerd longer than all the rest.
fn without_containers(machine: &Machine, victim: &str) -> Trial {
    machine.user_sh("docker rm -f web other").ok();
    let trial = namespaces_lost(machine, "KILL", victim, READY);
    containers(machine);
    trial
}

/// What a hanging part answers no more. It has a limit of its own, since it would wait for ever.
const EXEC: &str = "timeout 2 docker exec web true";

/// RootlessKit's child, as root sees it.
const CHILD: &str =
    "$(pgrep -xP $(pgrep -xo rootlesskit) exe || pgrep -xP $(pgrep -xo rootlesskit) rootlesskit)";

fn killed(machine: &Machine, part: &'static str, check: &str) -> Trial {
    let lost = again(machine, "lost", part);
    provoke(machine, &signal(machine, "KILL", part), check, &lost)
}

fn hangs(machine: &Machine, part: &'static str) -> Trial {
    let lost = again(machine, "lost", part);
    provoke(machine, &signal(machine, "STOP", part), EXEC, &lost)
}

fn containerd(stock: &mut Stock, signal: &str, check: &str) -> Trial {
    stock.provoke(&format!("kill -{signal} $(pidof containerd)"), check)
}

/// A way out of the container `web`, seen from its network namespace, and the way in by its published port.
pub(super) fn in_and_out(machine: &Bed, pid: &str) -> String {
    let serve = "mkdir -p /srv && echo outside >/srv/page
                 pidof busybox || busybox httpd -p 198.51.100.1:80 -h /srv";
    machine.root_sh(serve).ok();
    let out = format!("nsenter --net=/proc/{pid}/ns/net curl -sf -m 0.1 -o /dev/null {OUTSIDE}");
    format!("{out} && curl -sf -m 0.5 -o /dev/null {PAGE}")
}

fn network(machine: &Machine, signal: &str) -> Trial {
    machine.begin_anew();
    let pid = pids(&machine.wait_known())["network"][0].clone();
    let check = in_and_out(machine, &machine.web_pid());
    provoke_by_root(
        machine,
        &format!("kill -{signal} {pid}"),
        &check,
        &again(machine, "lost", "network"),
    )
}

fn stock_network(stock: &mut Stock, signal: &str) -> Trial {
    let bed = stock.revived();
    let pid = bed.user(["docker", "inspect", "-f", "{{.State.Pid}}", "web"]).ok();
    let check = in_and_out(bed, &pid);
    stock.provoke_as_root(&format!("kill -{signal} $(pidof slirp4netns)"), &check)
}

/// More deaths than the engine may have: it is given up, says why, and starts when it is asked to.
fn too_often(machine: &Machine) -> Trial {
    // So that a death of dockerd is the engine's, which has something to tell.
    machine.configure("[engine]\nlive_restore = false\n[engine.restart]\nlimit = 3\n");
    machine.begin_anew();
    let fault = r#"
        for death in 1 2 3; do
            # 3: it does not run.
            until rootlessctl status; do sleep 0.02; done
            kill -KILL $(pidof dockerd)
            while rootlessctl status; do :; done
        done
        until rootlessctl status --json | grep -q died-too-often; do sleep 0.02; done
        rootlessctl status --json >/tmp/given-up
        rootlessctl reset-failed
        rootlessctl start
    "#;
    let mut trial = provoke(machine, fault, &page(), &is("failed"));
    let status = serde_json::from_str(&machine.user(["cat", "/tmp/given-up"]).ok()).expect("JSON");
    trial.check(reason(&status, "died-too-often").is_some(), || told(&status));
    let lines = status["deaths"][2]["log"].as_array().map_or(0, Vec::len);
    trial.check(lines > 0, || format!("no log lines of {}", word(&status["deaths"][2]["part"])));
    machine.configure(CONFIG);
    machine.ctl(["restart"]);
    machine.wait_page();
    machine.wait_unit("docker.service", "active", SOON);
    trial
}
