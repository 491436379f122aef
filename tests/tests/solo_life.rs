//! An engine's life on this machine, without systemd: from its start to its end, and what tells of it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::Stdio,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};
use rootlessd_tests::{
    command::wait_for,
    solo::{SOON, User, exists, page, signal, text, wait_gone},
};

/// RootlessKit's own client, as Debian packages it.
const ROOTLESSKITS: &str = "/usr/bin/rootlessctl";

#[test]
fn in_the_background() {
    let user = User::new();
    let begun = std::time::Instant::now();
    user.daemonize();
    let ready = begun.elapsed();
    // READY means that the sockets are there.
    assert!(user.varlink_socket().exists() && user.docker_socket().exists());
    for socket in [user.varlink_socket(), user.docker_socket()] {
        assert_eq!(socket.metadata().unwrap().mode() & 0o777, 0o600, "{}", socket.display());
    }
    let mut watch = user.watch();
    let status = watch.until(|status| status["state"] == "running");
    drop(watch);
    eprintln!("ready after {ready:?}, running after {:?}", begun.elapsed());
    assert_eq!(status["supervisor"]["systemd"], false);

    user.load_image();
    let (id, _) = user.serve_page("--name page");
    user.docker("rm -f page").ok();
    let (container, port) = user.serve_page("--restart unless-stopped -v data:/data");
    assert_ne!(id, container);

    // The status, for people and for programs.
    let status = user.status();
    let shown = user.ctl("status").ok();
    for word in ["running", "slirp4netns", "builtin", &text(&status["version"])] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
    assert_eq!(status["state"], "running");
    assert_eq!(status["mainPid"], user.pid("rootlesskit"));
    assert_eq!(status["socketPath"], user.docker_socket().to_str().unwrap());
    let mut parts: Vec<_> = status["processes"].as_array().unwrap().iter().collect();
    parts.retain(|process| process["memory"].as_u64().unwrap() > 0);
    let mut parts: Vec<_> = parts.iter().map(|process| text(&process["part"])).collect();
    parts.sort();
    parts.dedup();
    assert_eq!(
        parts,
        [
            "container",
            "containerd",
            "dockerd",
            "init",
            "network",
            "rootlesskit",
            "shim",
            "supervisor"
        ]
    );

    // The environment, the configuration, the logs.
    let env = user.sh("unset DOCKER_HOST; eval \"$(rootlessctl env)\" && docker ps -q --no-trunc");
    assert_eq!(env.ok(), container);
    let config = user.ctl("config").ok();
    assert!(config.contains("engine.stop_timeout"), "{config}");
    let version = user.ctl("version").ok();
    assert!(version.contains(&text(&status["rootlesskitVersion"])), "{version}");
    for (part, words) in [
        ("dockerd", "API listen on"),
        ("containerd", "containerd successfully booted"),
        ("supervisor", "rootlessd"),
    ] {
        let lines = user.ctl(&format!("logs -n all --part {part}")).ok();
        assert!(lines.contains(words), "{part}: {lines}");
        let file = user.home.join(format!(".local/state/rootlessd/log/{part}.log"));
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    }

    rootlesskits_verbs(&user, port);

    // Stopped by hand it stays so, and comes back with what is to come back.
    user.ctl("stop").ok();
    assert_eq!(user.state(), "stopped");
    user.assert_clean(false);
    user.ctl("start").ok();
    wait_for("the page is back", SOON, || page(user.port(&container)));
    user.ctl("restart").ok();
    wait_for("the page is back", SOON, || page(user.port(&container)));

    let rootlessd = user.rootlessd();
    signal(rootlessd, Signal::SIGTERM);
    wait_gone(rootlessd);
    user.assert_clean(true);
    let seen = user.home.join(".local/share/docker/volumes/data/_data/signals");
    let seen = std::fs::read_to_string(seen).unwrap();
    assert_eq!(seen, "got SIGTERM\n".repeat(3), "the container's own stop, each time");
}

/// RootlessKit's own verbs do and print what its own client does and prints.
fn rootlesskits_verbs(user: &User, port: u16) {
    let state_dir = text(&user.status()["stateDir"]);
    let both = |arguments: &str| {
        let run = |program: &str| {
            let mut command = user.command(program);
            command.args(arguments.split_ascii_whitespace());
            User::run_command(command.env("ROOTLESSKIT_STATE_DIR", &state_dir))
        };
        (run("rootlessctl"), run(ROOTLESSKITS))
    };
    let same = |arguments: &str| {
        let (ours, theirs) = both(arguments);
        // RootlessKit tells its ports in no order, and in another one each time.
        assert_eq!(sorted(&ours.stdout), sorted(&theirs.stdout), "{arguments}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{arguments}");
        ours.stdout
    };
    assert!(same("list-ports").contains(&port.to_string()));
    same("list-ports --json");
    assert!(same("info").contains("slirp4netns"));
    same("info --json");

    let added = user.ctl("add-ports 127.0.0.1:48123:80/tcp").ok();
    assert!(same("list-ports").contains("48123"));
    user.ctl(&format!("remove-ports {added}")).ok();
    assert!(!same("list-ports --json").contains("48123"));
    let (ours, theirs) = both("remove-ports 4242");
    assert_eq!(ours.status.code(), theirs.status.code());
    assert_eq!(without_time(&ours.stderr), without_time(&theirs.stderr));
    // Without that variable, ours finds the supervised engine by itself.
    let (ours, _) = both("list-ports");
    assert_eq!(sorted(&user.ctl("list-ports").stdout), sorted(&ours.stdout));
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.trim_end_matches('\n').split('\n').collect();
    lines.sort_unstable();
    lines
}

fn without_time(line: &str) -> String {
    let (head, tail) = line.split_once("time=\"").unwrap_or((line, ""));
    format!("{head}{}", tail.split_once('"').map_or(tail, |(_, rest)| rest))
}

#[test]
fn in_the_foreground_until_ctrl_c() {
    let user = User::new();
    // What a terminal does at ctrl-C: it signals the whole group that it runs.
    let mut rootlessd = user.command("rootlessd");
    let mut rootlessd = rootlessd.process_group(0).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the control socket", SOON, || user.varlink_socket().exists().then_some(()));
    user.wait_state("running");
    user.load_image();
    let (id, _) = user.serve_page("-v data:/data");
    let container = user.docker(&format!("inspect -f {{{{.State.Pid}}}} {id}")).ok();
    assert_eq!(container.parse::<u32>().ok().map(exists), Some(true));

    let group = nix::unistd::Pid::from_raw(i32::try_from(rootlessd.id()).unwrap());
    nix::sys::signal::killpg(group, Signal::SIGINT).unwrap();
    let ended = rootlessd.wait().unwrap();
    assert!(ended.success(), "{ended}");
    user.assert_clean(true);
    let seen = user.home.join(".local/share/docker/volumes/data/_data/signals");
    assert_eq!(std::fs::read_to_string(seen).unwrap(), "got SIGTERM\n", "the container's own stop");
    let log = user.log("supervisor");
    assert!(!log.contains("ERROR"), "{log}");
}

/// A stop lets containers end in order, whatever dockerd's file has become since it was read.
#[test]
fn a_stop_does_not_need_the_users_file() {
    let user = User::new();
    user.start();
    user.load_image();
    user.serve_page("-v data:/data");
    user.write(".config/docker/daemon.json", "{");
    user.ctl("stop").ok();
    let seen = user.home.join(".local/share/docker/volumes/data/_data/signals");
    assert_eq!(std::fs::read_to_string(seen).unwrap(), "got SIGTERM\n", "the container's own stop");
    let refused = user.ctl("start").fails();
    assert!(refused.contains("daemon.json"), "{refused}");
    user.assert_clean(false);
}

/// dockerd follows this one key while it runs, and back.
#[test]
fn live_restore_is_turned_by_a_reload() {
    let user = User::new();
    user.start();
    let needs_restart = || user.status()["reasons"].to_string().contains("restart-needed");
    for on in [false, true] {
        user.configure(&format!("engine.live_restore = {on}\n"));
        user.ctl("reload").ok();
        wait_for("dockerd follows", SOON, || {
            let told = user.docker("info -f {{.LiveRestoreEnabled}}").ok();
            (told == on.to_string()).then_some(())
        });
        assert!(!needs_restart(), "{on}");
    }
    user.configure("engine.live_restore = false\nengine.network.mtu = 1500\n");
    user.ctl("reload").ok();
    assert!(needs_restart());
}

/// A signal that comes before rootlessd is there does not kill it: it is obeyed.
#[test]
fn signals_that_come_early() {
    let user = User::new();
    let directory = user.runtime.join("rootlessd");
    user.make_directory(&directory);
    for (early, comes_up) in [(Signal::SIGHUP, true), (Signal::SIGTERM, false)] {
        // It waits for who has this for a moment.
        let path = user.write(directory.join("lock"), "");
        let lock = Flock::lock(File::open(path).unwrap(), FlockArg::LockExclusive).unwrap();
        let mut rootlessd = user.command("rootlessd").spawn().unwrap();
        let pid = rootlessd.id();
        wait_for("it listens to signals", SOON, || catches(pid, early).then_some(()));
        signal(pid, early);
        if comes_up {
            drop(lock);
            wait_for("it runs", SOON, || user.ctl("status").status.success().then_some(()));
            signal(pid, Signal::SIGTERM);
        }
        assert!(rootlessd.wait().unwrap().success(), "{early}");
        user.assert_clean(true);
    }
}

/// Whether a process has a handler for a signal (`SigCgt` of proc_pid_status(5)).
fn catches(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}
