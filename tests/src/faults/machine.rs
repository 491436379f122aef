//! The machine is not as it should be, or becomes another: rows 9 to 11, 15, 16, 20, 27 and 28.

use super::{
    Row, Trial,
    trial::{alive, compare, has_reason, page, provoke, provoke_by_root, reason},
    within,
};
use crate::machine::{Machine, word};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            number: "15a",
            fault: "a published port is in use",
            promise: within(30_000, 2000),
            ours: |machine, _| port(machine, "8080:80", &["8080"]),
            stock: None,
        },
        Row {
            number: "15b",
            fault: "a published port needs a privilege",
            promise: within(30_000, 20_000),
            ours: |machine, _| port(machine, "81:80", &["81", "rootlessctl ports allow 81"]),
            stock: None,
        },
        Row {
            number: "20",
            fault: "dockerd's program is replaced by a package",
            promise: within(1000, 3000),
            ours: |machine, _| upgraded(machine),
            stock: None,
        },
        Row {
            number: "28",
            fault: "cgroup controllers are missing",
            promise: within(5000, 5000).anew(),
            ours: |machine, _| controllers_missing(machine),
            stock: None,
        },
    ]
}

/// A container's port cannot be had, and Docker's own words say which, and what to do.
fn port(machine: &Machine, port: &str, words: &[&str]) -> Trial {
    let before = alive(machine);
    let begin = std::time::Instant::now();
    let run = ["docker", "run", "-d", "--name", "refused", "-p", port, "rootlessd/tiny"];
    let told = machine.user(run).fails();
    let mut trial = Trial { detected: Some(begin.elapsed()), ..Trial::default() };
    for word in words {
        trial.check(told.contains(word), || format!("no {word:?} in {told:?}"));
    }
    machine.user(["docker", "rm", "-f", "refused"]).ok();
    trial.recovered = Some(std::time::Duration::ZERO);
    trial.check(machine.page().is_some(), || "no page".into());
    trial.containers = compare(&before, &alive(machine));
    trial
}

fn upgraded(machine: &Machine) -> Trial {
    let fault =
        "path=$(readlink -f $(command -v dockerd)) && cp -p $path $path.new && mv $path.new $path";
    let mut told = provoke_by_root(machine, fault, "true", &has_reason("upgrade-available"));
    let after = provoke(machine, "rootlessctl upgrade", &page(), &|status| {
        reason(status, "upgrade-available").is_none()
    });
    told.recovered = after.recovered;
    told.containers = after.containers;
    told
}

/// systemd keeps controllers to itself: it is told at the start, with the command that mends it.
fn controllers_missing(machine: &Machine) -> Trial {
    // Whatever the machine has: a bed has no more.
    let user = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service";
    let script = format!(
        "echo pids >/run/all; echo >/run/few
         mount --bind /run/all /sys/fs/cgroup/cgroup.controllers
         mount --bind /run/few {user}/cgroup.controllers"
    );
    machine.root_sh(&script).ok();
    let restart = || {
        provoke(machine, "rootlessctl restart", &page(), &|status| {
            reason(status, "controllers-missing")
                .is_some_and(|it| word(&it["remedy"]) == "rootlessctl cgroup delegate")
        })
    };
    let trial = restart();
    machine
        .root_sh(&format!("umount /sys/fs/cgroup/cgroup.controllers {user}/cgroup.controllers"))
        .ok();
    machine.ctl(["restart"]);
    machine.wait_page();
    trial
}
