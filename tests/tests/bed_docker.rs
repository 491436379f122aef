//! What a person does with Docker, on a machine where rootlessd was enabled and nothing else done.

use std::time::Duration;

use rootlessd_tests::{
    command::wait_for,
    machine::{Machine, on_both},
};

/// Sends a datagram from a process that is not the engine's own.
const SPEAK: &str =
    "printf 'READY=1\\nSTOPPING=1\\nMAINPID=1\\nSTATUS=mine' | socat -u - UNIX-SENDTO:";

#[test]
fn docker_works() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        // Nothing but what the manual says: the first client waits for the engine.
        machine.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        machine.user(["docker", "version"]).ok();
        machine.serve();
        machine.root_sh("echo outside >/srv/page; busybox httpd -p 198.51.100.1:80 -h /srv").ok();
        let fetched = "docker run --rm rootlessd/tiny wget -qO- http://198.51.100.1/page";
        assert_eq!(machine.user_sh(fetched).ok(), "outside");

        let group = machine.root(["cat", &format!("/proc/{}/cgroup", machine.web_pid())]).ok();
        let group = group.lines().find(|line| line.starts_with("0::")).expect("a cgroup");
        assert!(group.contains("/rootlessd.slice/rootlessd-containers.slice/docker-"), "{group}");

        build_and_compose(&machine);
        containers_do_not_see_the_notify_socket(&machine);
        nobody_else_speaks_for_the_engine(&machine);
        the_client_tells_all(&machine);
        swarm(&machine);
    });
}

fn build_and_compose(machine: &Machine) {
    let dockerfile = "FROM rootlessd/tiny\nRUN echo built here >/www/index.html\n";
    machine.write("/home/tester/build/Dockerfile", dockerfile);
    machine.user(["docker", "build", "-t", "built", "build"]).ok();
    let compose = r#"version: "3"
services:
  web:
    image: built
    ports: ["8081:80"]
  reader:
    image: rootlessd/tiny
    command: sh -c "until wget -qO- http://web/; do sleep 0.1; done"
    depends_on: [web]
"#;
    machine.write("/home/tester/two/docker-compose.yml", compose);
    machine.user_sh("cd two && docker-compose up -d").ok();
    let page = "curl -sf --retry 100 --retry-delay 0 --retry-all-errors http://127.0.0.1:8081/";
    assert_eq!(machine.user_sh(page).ok(), "built here");
    // By name, over a network of their own.
    let wait = "docker wait $(docker-compose ps -aq reader || docker-compose ps -q reader)";
    machine.user_sh(&format!("cd two && {wait}")).ok();
    let read = machine.user_sh("cd two && docker-compose logs reader").ok();
    assert!(read.contains("built here"), "{read}");
    machine.user_sh("cd two && docker-compose down -t 1").ok();
}

/// containerd is started with `NOTIFY_SOCKET`, and what it starts inherits it; runc would mount the
/// socket into the container.
fn containers_do_not_see_the_notify_socket(machine: &Machine) {
    let inside = "env; cat /proc/self/mountinfo; find / -xdev -name '*notify*'";
    let run = machine.user(["docker", "run", "--rm", "rootlessd/tiny", "sh", "-c", inside]).ok();
    let exec = machine.user(["docker", "exec", "web", "sh", "-c", inside]).ok();
    for seen in [run, exec] {
        assert!(seen.contains("PATH=/bin") && !seen.to_lowercase().contains("notify"), "{seen}");
    }
}

/// Attack 34: a container that somebody gave the user's runtime directory.
fn nobody_else_speaks_for_the_engine(machine: &Machine) {
    let before = machine.status();
    let mut watch = machine.watch();
    for socket in ["rootlessd/engine/notify.sock", "systemd/notify"] {
        let speak = format!("{SPEAK}/run/user/4242/{socket}");
        let attack =
            ["docker", "run", "--rm", "-v", "/:/host", "rootlessd/tiny", "chroot", "/host"];
        machine.user(attack.into_iter().chain(["sh", "-c", &speak])).ok();
    }
    let after = machine.status();
    for field in ["state", "since", "mainPid", "supervisor", "deaths"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    while let Some(status) = watch.try_next(Duration::ZERO) {
        assert_eq!(status["state"], "running");
    }
    let own = machine.user(["systemctl", "--user", "show", "-P", "StatusText", "rootlessd"]).ok();
    assert!(own.ends_with(" runs"), "{own}");

    // During a start, READY from anybody else is not dockerd's.
    let spam = format!(
        "while {SPEAK}/run/user/4242/rootlessd/engine/notify.sock 2>/dev/null || :; do :; done"
    );
    let spammer = machine.spawn_user(["sh", "-c", &spam]);
    machine.ctl(["restart"]);
    drop(spammer);
    let journal = machine.user(["journalctl", "--user", "-q", "-o", "cat", "-n", "400"]).ok();
    let last = |line: &str| journal.rfind(line).unwrap_or_else(|| panic!("{line}:\n{journal}"));
    assert!(
        last("Daemon has completed initialization") < last("starting: containers"),
        "{journal}"
    );
    machine.wait_page();
}

fn the_client_tells_all(machine: &Machine) {
    let status = machine.ctl(["status"]);
    let docker = machine.user(["docker", "version", "-f", "{{.Server.Version}}"]).ok();
    for text in [
        "Docker is running",
        &format!("Docker {docker}"),
        "under systemd",
        "/run/user/4242/docker.sock",
        "/home/tester/.local/share/docker",
        "systemd driver",
        "1 running",
        "slirp4netns",
    ] {
        assert!(status.contains(text), "{text:?} in\n{status}");
    }
    assert_eq!(machine.state(), "running");

    let dockerd = machine.ctl(["logs", "-n", "all", "--part", "dockerd"]);
    assert!(dockerd.contains("API listen on") && !dockerd.contains("starting: containers"));
    let all = machine.ctl(["logs", "-n", "all"]);
    for text in ["starting: containers", "API listen on", "containerd successfully booted"] {
        assert!(all.contains(text), "{text:?} in\n{all}");
    }

    assert_eq!(
        machine.user_sh("unset DOCKER_HOST; eval $(rootlessctl env); docker ps -q | wc -l").ok(),
        "1"
    );
    let version = machine.ctl(["version", "--json"]);
    assert!(version.contains(&docker), "{version}");

    machine.configure("[engine]\nstop_timeout = \"20s\"\nlive_restor = false\n");
    let error = machine.try_ctl(["reload"]).fails();
    for text in ["config.toml:3", "live_restor", "live_restore"] {
        assert!(error.contains(text), "{text:?} in\n{error}");
    }
    assert_eq!(machine.state(), "running");
}

/// dockerd refuses one of the two, and says which.
fn swarm(machine: &Machine) {
    let refusal = machine.user(["docker", "swarm", "init"]).fails();
    assert!(
        refusal.contains("--live-restore daemon configuration is incompatible with swarm mode"),
        "{refusal}"
    );
    machine.configure("[engine]\nstop_timeout = \"20s\"\nlive_restore = false\n");
    machine.ctl(["reload"]);
    let config = machine.ctl(["config"]);
    let line = config.lines().find(|line| line.contains("engine.live_restore")).expect("a line");
    assert!(line.contains("false") && line.contains("config.toml:3"), "{line}");
    // dockerd turns it while it runs; SIGHUP is not answered.
    wait_for("dockerd turns it", Duration::from_secs(5), || {
        machine.user(["docker", "swarm", "init"]).status.success().then_some(())
    });
    assert_eq!(machine.state(), "running");
    assert!(machine.user(["docker", "node", "ls"]).ok().contains("Leader"));
    machine.user(["docker", "swarm", "leave", "--force"]).ok();
    machine.ctl(["stop"]);
    assert_eq!(machine.leftovers(), "");
}
