//! What keeps an engine from starting on this machine, each for real: that it is told, how, and that
//! it can be mended.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{SOON, User, enter, signal, text, wait_gone},
};
use serde_json::Value;

/// Start rootlessd after root did something to the machine: the reasons for which the engine failed.
fn refused_after(user: &User, script: &str, codes: &[&str]) -> Vec<Value> {
    User::run_command(&mut user.command_after(script, &["rootlessd", "--daemonize"])).ok();
    refused(user, codes)
}

/// The reasons for which the engine failed; these have to be among them, each with what mends it.
fn refused(user: &User, codes: &[&str]) -> Vec<Value> {
    let status = user.wait_state("failed");
    let reasons = status["reasons"].as_array().unwrap().clone();
    for code in codes {
        let reason = reasons.iter().find(|reason| reason["code"] == *code);
        let reason = reason.unwrap_or_else(|| panic!("no {code} in {reasons:?}"));
        eprintln!("{code}: {} | {}", text(&reason["text"]), text(&reason["remedy"]));
    }
    // Everyone is told: who asks for a start, who asks for the status, Docker's clients, the log.
    let first = text(&reasons[0]["text"]);
    let start = user.ctl("start");
    assert_eq!(start.status.code(), Some(7), "{start}");
    assert!(start.stderr.contains(&first), "{start}");
    assert!(user.ctl("status").stdout.contains(&text(&reasons[0]["remedy"])));
    assert!(user.docker("version").fails().contains(&first));
    assert!(user.log("host").contains(&first) || user.log("config").contains(&first));
    assert_eq!(user.ctl("status").status.code(), Some(3));
    user.assert_clean(false);
    reasons
}

fn end(user: &User) {
    let rootlessd = user.rootlessd();
    signal(rootlessd, Signal::SIGTERM);
    wait_gone(rootlessd);
    user.assert_clean(true);
}

#[test]
fn no_subordinate_ids() {
    let user = User::without_subids();
    user.daemonize();
    let reasons = refused(&user, &["subuid-missing", "subgid-missing"]);
    assert_eq!(text(&reasons[0]["remedy"]), "rootlessctl subids allocate");
    // Mended, it starts, without another rootlessd. (The files are mounts here, which usermod(8), and so
    // the remedy, cannot replace: bed_grants has that.)
    for file in ["/etc/subuid", "/etc/subgid"] {
        let line = format!("{}:524288:65536\n", user.name);
        fs::write(file, fs::read_to_string(file).unwrap() + &line).unwrap();
    }
    user.ctl("start").ok();
    end(&user);
}

#[test]
fn no_tap_devices() {
    let user = User::new();
    refused_after(&user, "mount -t tmpfs none /dev/net", &["tun-unusable"]);
    end(&user);
    let script = "mount -t tmpfs none /dev/net; touch /dev/net/tun; chmod 600 /dev/net/tun";
    let reasons = refused_after(&user, script, &["tun-unusable"]);
    assert_eq!(reasons[0]["remedy"], "sudo chmod 0666 /dev/net/tun");
    end(&user);
}

#[test]
fn programs_that_are_not_there_or_cannot_do_their_work() {
    let user = User::new();
    let hide = |programs: &[&str]| {
        let hide = |program: &&str| format!("mount --bind /etc/subuid {program}");
        programs.iter().map(hide).collect::<Vec<_>>().join("\n")
    };
    for programs in [
        &["/usr/sbin/dockerd"][..],
        &["/usr/bin/containerd", "/usr/sbin/runc"],
        &["/usr/bin/rootlesskit"],
        &["/usr/bin/newuidmap", "/usr/bin/newgidmap"],
        &["/usr/sbin/iptables"],
    ] {
        let reasons = refused_after(&user, &hide(programs), &["program-missing"]);
        for program in programs {
            let name = Path::new(program).file_name().unwrap().to_str().unwrap();
            let told = reasons.iter().any(|reason| text(&reason["text"]).starts_with(name));
            assert!(told, "{name}: {reasons:?}");
        }
        assert_eq!(reasons.len(), programs.len(), "{reasons:?}");
        end(&user);
    }
    refused_after(
        &user,
        &hide(&["/usr/bin/slirp4netns", "/usr/bin/pasta"]),
        &["network-driver-missing"],
    );
    end(&user);
    let plain = "cp /usr/bin/newuidmap /run/plain; chmod 755 /run/plain; mount --bind /run/plain /usr/bin/newuidmap";
    refused_after(&user, plain, &["newidmap-unprivileged"]);
    end(&user);
    let mute = "printf '#!/bin/sh\\necho no\\n' >/run/mute; chmod 755 /run/mute; mount --bind /run/mute /usr/bin/rootlesskit";
    refused_after(&user, mute, &["probe-failed"]);
    end(&user);
    user.start();
}

/// A program that is killed when it is asked says nothing of the machine: the next start may succeed.
#[test]
fn a_program_that_is_killed() {
    let user = User::new();
    let path = "bin/rootlesskit";
    let killed = user.script(
        path,
        "[ -e ~/killed ] && exec /usr/bin/rootlesskit \"$@\"\ntouch ~/killed\nkill -9 $$",
    );
    user.configure(&format!("rootlesskit.path = {killed:?}\n"));
    user.daemonize();
    let status = user.wait_state("running");
    let death = &status["deaths"][0];
    assert_eq!(death["part"], "host", "{death}");
    assert!(text(&death["text"]).contains("rootlesskit --help: it was ended"), "{death}");
    end(&user);
}

#[test]
fn what_daemon_json_must_not_say() {
    let user = User::new();
    let at = ".config/docker/daemon.json";
    let cases = [
        ("{\"debug\": ", "daemon-json-invalid"),
        ("{\"containerd\": \"/run/containerd.sock\"}", "daemon-json-conflict"),
        ("{\"hosts\": [\"tcp://0.0.0.0:2375\"]}", "hosts-insecure"),
    ];
    user.write(at, cases[0].0);
    user.daemonize();
    for (json, code) in cases {
        user.write(at, json);
        user.ctl("start").fails();
        refused(&user, &[code]);
    }
    user.write(at, "{}");
    user.ctl("start").ok();
}

/// Without a home or a runtime directory there is no supervisor: who starts it is told.
#[test]
fn no_place_to_be() {
    let user = User::new();
    let other = User::new();
    let start = |name: &str, value: Option<&Path>| {
        let mut command = user.command("rootlessd");
        command.arg("--daemonize");
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let told = User::run_command(&mut command).fails();
        eprintln!("{told}");
        told
    };
    let with_runtime_dir = |path: &Path| start("XDG_RUNTIME_DIR", Some(path));
    assert!(start("HOME", None).contains("HOME is not set"));
    assert!(start("HOME", Some(Path::new("/nowhere"))).contains("/nowhere"));

    assert!(with_runtime_dir(Path::new("run")).contains("absolute"));
    assert!(with_runtime_dir(Path::new("/nowhere")).contains("/nowhere"));
    let link = user.home.join("link");
    symlink(&user.runtime, &link).unwrap();
    assert!(with_runtime_dir(&link).contains("symbolic link"));
    assert!(with_runtime_dir(&other.runtime).contains("belongs to"));
    let temporary = tempfile::tempdir().unwrap();
    let in_tmp = temporary.path().join("runtime");
    user.make_directory(&in_tmp);
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(with_runtime_dir(&in_tmp).contains("/tmp"));
    fs::set_permissions(&user.runtime, Permissions::from_mode(0o755)).unwrap();
    assert!(with_runtime_dir(&user.runtime).contains("chmod 0700"));
    fs::set_permissions(&user.runtime, Permissions::from_mode(0o700)).unwrap();
    // Unset, as after su: the usual place will do, if it is there.
    let moved = user.runtime.with_extension("moved");
    fs::rename(&user.runtime, &moved).unwrap();
    let told = start("XDG_RUNTIME_DIR", None);
    assert!(told.contains("XDG_RUNTIME_DIR is not set"), "{told}");
    fs::rename(&moved, &user.runtime).unwrap();
    User::run_command(user.command("rootlessd").arg("--daemonize").env_remove("XDG_RUNTIME_DIR"))
        .ok();
    user.wait_state("running");
}

#[test]
fn root_is_none() {
    enter();
    let mut command = Command::new("rootlessd");
    let told = User::run_command(command.env("XDG_RUNTIME_DIR", "/run")).fails();
    eprintln!("{told}");
    assert!(told.contains("started by root"), "{told}");
}

/// Docker's own script runs an engine already.
#[test]
fn another_engine_of_the_same_user() {
    let user = User::new();
    // Debian has it where programs are not looked for.
    let script = "exec /usr/share/docker.io/contrib/dockerd-rootless.sh \"$@\"";
    let start_stock = |host: &Path| {
        let host = format!("unix://{}", host.display());
        let mut stock = user.command("sh");
        stock.args(["-c", script, "sh", "-H", &host]).env("DOCKER_HOST", &host);
        let log = fs::File::create(user.home.join("stock.log")).unwrap();
        let stock = stock.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        wait_for("the stock engine", SOON, || {
            let mut ask = user.command("docker");
            let told = User::run_command(ask.arg("version").env("DOCKER_HOST", &host));
            told.status.success().then_some(())
        });
        stock
    };
    let end_stock = |mut stock: std::process::Child| {
        signal(stock.id(), Signal::SIGTERM);
        stock.wait().unwrap();
        wait_for("all of it ends", SOON, || user.find("rootlesskit").is_none().then_some(()));
    };

    // On the socket that is ours: there cannot even be a supervisor.
    let stock = start_stock(&user.docker_socket());
    let told = user.run(["rootlessd", "--daemonize"]).fails();
    eprintln!("{told}");
    assert!(told.contains("docker.sock") && told.contains("dockerd"), "{told}");
    user.docker("version").ok();
    end_stock(stock);
    user.start();
    end(&user);

    // On another socket, but with the same state.
    let elsewhere = user.runtime.join("elsewhere.sock");
    let stock = start_stock(&elsewhere);
    user.daemonize();
    let status = user.wait_state("failed");
    let reasons = status["reasons"].as_array().unwrap();
    for reason in reasons {
        eprintln!("{} | {}", text(&reason["text"]), reason["remedy"]);
    }
    // (Docker's script of 20.10 has no state directory of a fixed name.)
    let codes: Vec<_> = reasons.iter().map(|reason| text(&reason["code"])).collect();
    assert!(codes.contains(&"dockerd-elsewhere".into()), "{codes:?}");
    // It was left alone.
    let host = format!("unix://{}", elsewhere.display());
    User::run_command(user.command("docker").arg("version").env("DOCKER_HOST", host)).ok();
    end_stock(stock);
    user.ctl("start").ok();
}
