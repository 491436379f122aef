//! What lies in rootlessd's way: files of the dead, files of others, a runtime directory that is full,
//! read-only or gone, and mistakes in the configuration.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::net::{UnixDatagram, UnixListener},
    path::Path,
    process::Stdio,
};

use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};
use rootlessd_tests::{
    command::wait_for,
    solo::{SOON, User, exists, mount_tmpfs, page, signal, text, wait_gone},
};
use serde_json::json;

/// Whatever a dead engine, or somebody else, left in the runtime directory.
#[test]
fn leftovers_of_the_dead() {
    let user = User::new();
    let mut stranger = user.command("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let runtime = user.runtime.display().to_string();
    let engine = format!("{runtime}/rootlessd/engine");
    let pid = stranger.id();
    let identity = json!({ "shim": { "pid": pid, "start_time": 1 } }).to_string();
    // A pid file with a newline stops containerd; one that names any live process, dockerd.
    let cases: &[&[(&str, &str)]] = &[
        &[("docker.pid", &pid.to_string())],
        &[("docker/containerd/containerd.pid", "4242\n")],
        &[("docker.pid", "rubbish"), ("docker/containerd/daemon/io.containerd.grpc.v1.x/y", "")],
        &[("rootlessd/state.json", "{\"machine\":")],
        &[("rootlessd/state.json", "{}"), ("rootlessd/engine/engine.json", "[]")],
        &[("rootlessd/engine/engine.json", "rubbish"), ("rootlessd/engine/plan.json", "{}")],
        &[("rootlessd/engine/engine.json", &identity), ("rootlessd/engine/plan.json", "rubbish")],
        &[("rootlessd/engine/death.json", "rubbish"), ("rootlessd/engine/init.sock", "no socket")],
        &[("rootlessd/lock", &format!("{pid}\n")), ("rootlessd/engine.lock", "")],
        &[("dockerd-rootless/lock", ""), ("dockerd-rootless/child_pid", &pid.to_string())],
        &[("rootlessd/engine.json.new", "half"), ("rootlessd/state.json.new", "half")],
    ];
    for files in cases {
        for (path, content) in *files {
            user.write(user.runtime.join(path), content);
        }
        for path in ["docker.sock", "rootlessd/org.rootlessd.Supervisor"] {
            user.make_directory(&user.runtime.join("rootlessd"));
            user.act(|| drop(UnixListener::bind(format!("{runtime}/{path}"))));
        }
        user.act(|| drop(UnixDatagram::bind(format!("{engine}/notify.sock"))));
        user.daemonize();
        let status = user.status();
        match status["state"].as_str().unwrap() {
            "stopped" => drop(user.ctl("start").ok()),
            _ => drop(user.wait_state("running")),
        }
        assert_eq!(user.status()["deaths"], json!([]), "{files:?}");
        user.docker("version").ok();
        let rootlessd = user.rootlessd();
        signal(rootlessd, Signal::SIGTERM);
        wait_gone(rootlessd);
        assert!(exists(pid), "{files:?}: the stranger was ended");
        let left = user.leftovers(true);
        let others: Vec<_> = left
            .iter()
            .filter(|it| !it.contains("sleep 600") && !it.ends_with(".json.new"))
            .collect();
        assert_eq!(others, [""; 0], "{files:?}");
        for name in ["engine.json.new", "state.json.new"] {
            let _ = fs::remove_file(user.runtime.join("rootlessd").join(name));
        }
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// It would say that there is a network helper already, when RootlessKit only asks one what it can.
#[test]
fn a_child_pid_of_the_dead() {
    let user = User::new();
    let slow = "[ \"$1\" != --help ] || sleep 0.5\nexec /usr/bin/slirp4netns \"$@\"";
    let (_, path) = user.script_before("slirp4netns", slow);
    user.configure(&path);
    user.write(user.runtime.join("dockerd-rootless/child_pid"), "1");
    user.start();
    let status = user.status();
    assert_eq!((&status["state"], &status["incidents"]), (&json!("running"), &json!([])));
}

/// What an exec is to run lies in the runtime directory until runc has read it: with its environment.
#[test]
fn an_exec_of_the_dead() {
    let user = User::new();
    let slow = "case \" $* \" in *' exec '*) sleep 600;; esac\nexec /usr/sbin/runc \"$@\"";
    let (_, path) = user.script_before("runc", slow);
    user.configure(&path);
    user.start();
    user.load_image();
    user.docker("run -d --name web --restart unless-stopped rootlessd/tiny").ok();
    let ends: [fn(&User); 2] = [
        |user| {
            let mut watch = user.watch();
            watch.next_status();
            signal(user.pid("shim"), Signal::SIGKILL);
            watch.until(|status| status["state"] == "backoff");
            watch.until(|status| status["state"] == "running");
        },
        |user| drop(user.ctl("stop").ok()),
    ];
    for end in ends {
        let _exec = user.spawn(["docker", "exec", "-t", "web", "true"]);
        // The terminal's is a directory.
        for (prefix, what) in
            [("runc-process", Path::is_file as fn(&Path) -> bool), ("pty", Path::is_dir)]
        {
            wait_for(prefix, SOON, || {
                let entries = fs::read_dir(&user.runtime).unwrap().flatten();
                let named =
                    entries.filter(|it| it.file_name().to_string_lossy().starts_with(prefix));
                named.map(|it| it.path()).find(|it| what(it))
            });
        }
        end(&user);
        let left = user.leftovers(false);
        let is_an_execs = |it: &&String| it.contains("/runc-process") || it.contains("/pty");
        assert_eq!(left.iter().find(is_an_execs), None);
    }
}

/// A socket that somebody serves is not taken from them.
#[test]
fn a_socket_of_the_living() {
    let user = User::new();
    let listener = user.act(|| UnixListener::bind(user.docker_socket()).unwrap());
    let told = user.run(["rootlessd", "--daemonize"]).fails();
    assert!(told.contains(&user.docker_socket().display().to_string()), "{told}");
    assert!(told.contains(&std::process::id().to_string()), "{told}");
    assert!(user.docker_socket().exists());
    drop(listener);
    user.start();
}

#[test]
fn a_second_rootlessd() {
    let user = User::new();
    user.start();
    let pid = user.rootlessd();
    for arguments in [&["rootlessd"][..], &["rootlessd", "--daemonize"]] {
        let told = user.run(arguments).fails();
        assert!(told.contains(&format!("process {pid}")) && told.contains("--replace"), "{told}");
    }
    assert_eq!((user.rootlessd(), user.state()), (pid, "running".to_owned()));
}

#[test]
fn a_full_runtime_directory() {
    let user = User::new();
    mount_tmpfs(&user.runtime, &format!("size=256k,mode=700,uid={0},gid={0}", user.uid));
    let full = user.runtime.join("full");
    let fill = || {
        use std::io::Write;
        let mut file = fs::File::create(&full).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
    };
    // While it runs, nothing happens to it.
    user.start();
    user.load_image();
    fill();
    assert_eq!(user.state(), "running");
    user.docker("ps").ok();
    user.ctl("reload").fails();
    let stopped = user.ctl("stop");
    assert_eq!((stopped.status.code(), user.state()), (Some(0), "stopped".to_owned()), "{stopped}");
    // It cannot start now, and says why; the supervisor stays.
    fill();
    let told = user.ctl("start").fails();
    assert!(told.contains("No space left on device") || told.contains("is full"), "{told}");
    eprintln!("{told}");
    fs::remove_file(&full).unwrap();
    user.wait_state("running");
    let rootlessd = user.rootlessd();
    fill();
    signal(rootlessd, Signal::SIGTERM);
    wait_gone(rootlessd);
    fs::remove_file(&full).unwrap();
    user.assert_clean(true);

    // There is hardly a way to be a supervisor without it.
    fill();
    let daemonized = user.run(["rootlessd", "--daemonize"]);
    eprintln!("{daemonized}");
    fs::remove_file(&full).unwrap();
    if !daemonized.status.success() {
        assert!(daemonized.stderr.contains("No space left on device"), "{daemonized}");
        user.daemonize();
    }
    user.wait_state("running");
}

#[test]
fn a_read_only_runtime_directory() {
    let user = User::new();
    mount_tmpfs(&user.runtime, &format!("mode=700,uid={0},gid={0}", user.uid));
    let remount = |read_only: MsFlags| {
        let flags = MsFlags::MS_REMOUNT | read_only;
        let owner = format!("mode=700,uid={0},gid={0}", user.uid);
        mount(None::<&str>, &user.runtime, None::<&str>, flags, Some(owner.as_str())).unwrap();
    };
    remount(MsFlags::MS_RDONLY);
    let told = user.run(["rootlessd", "--daemonize"]).fails();
    assert!(told.contains(user.runtime.to_str().unwrap()), "{told}");
    assert!(told.contains("Read-only file system"), "{told}");
    remount(MsFlags::empty());
    user.start();
}

/// As at a logout without lingering: everything in it is unlinked.
#[test]
fn a_runtime_directory_that_disappears() {
    let user = User::new();
    user.start();
    user.load_image();
    user.serve_page("");
    let rootlessd = user.rootlessd();
    let mut watch = user.watch();
    watch.until(|status| status["state"] == "running");
    // rootlessd may put its socket back in between.
    wait_for("it is gone", SOON, || fs::remove_dir_all(&user.runtime).ok());
    let status = watch.until(|status| status["reasons"][0]["code"] == "runtime-dir-gone");
    assert!(text(&status["reasons"][0]["text"]).contains("was removed"), "{status}");
    // There is no place to begin anew.
    wait_gone(rootlessd);
    drop(watch);
    let processes: Vec<_> = user.processes().iter().map(ToString::to_string).collect();
    assert_eq!(processes, [""; 0]);
    user.make_directory(&user.runtime);
    user.start();
    user.docker("ps").ok();
}

/// What is rootlessd's is removed or covered, but there is place to begin anew.
#[test]
fn rootlessd_begins_anew_where_its_files_are_gone() {
    let user = User::new();
    user.start();
    user.load_image();
    let (container, _) = user.serve_page("--restart=always");
    let rootlessd = user.rootlessd();
    let remove = || fs::remove_dir_all(user.runtime.join("rootlessd")).unwrap();
    let options = format!("mode=700,uid={0},gid={0}", user.uid);
    let cover = || mount_tmpfs(&user.runtime, &options);
    let losses: [(&str, &dyn Fn()); 2] = [("removed", &remove), ("covered", &cover)];
    for (how, lose) in losses {
        let shim = user.pid("shim");
        lose();
        wait_gone(shim);
        wait_for("it listens", SOON, || {
            user.ctl("status --json").stdout.contains("state").then_some(())
        });
        user.wait_state("running");
        assert_eq!(user.rootlessd(), rootlessd, "{how}");
        user.docker(&format!("exec {container} true")).ok();
        wait_for("the page", SOON, || page(user.port(&container)));
    }
    user.ctl("stop").ok();
}

#[test]
fn a_mistake_in_the_configuration() {
    let user = User::new();
    user.configure("[engine]\nstop_timeot = \"1m\"\n");
    user.daemonize();
    let status = user.wait_state("failed");
    let reason = &status["reasons"][0];
    let told = text(&reason["text"]);
    let file = user.home.join(".config/rootlessd/config.toml").display().to_string();
    assert_eq!(reason["code"], "config-invalid");
    for word in [&format!("{file}:2"), "stop_timeot", "stop_timeout"] {
        assert!(format!("{told} {}", reason["remedy"]).contains(word), "no {word} in {reason}");
    }
    let shown = user.ctl("status");
    assert_eq!(shown.status.code(), Some(3));
    assert!(shown.stdout.contains("stop_timeout"), "{shown}");
    let refused = user.ctl("start");
    assert!(refused.stderr.contains(&format!("{file}:2")), "{refused}");
    assert_eq!(refused.status.code(), Some(8), "{refused}");
    eprintln!("{refused}");
    assert!(user.docker("version").fails().contains("stop_timeot"));
    user.configure("[engine]\nstop_timeout = \"1m\"\n");
    user.ctl("start").ok();
    assert_eq!(user.state(), "running");
    let config = user.ctl("config").ok();
    assert!(config.contains(&format!("{file}:2")), "{config}");
    // A mistake that comes later does not touch what runs.
    user.configure("[engine]\nstop_timeot = \"1m\"\n");
    let reload = user.ctl("reload");
    assert_eq!(reload.status.code(), Some(8), "{reload}");
    assert_eq!(user.state(), "running");
}
