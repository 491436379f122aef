//! What others, or parts of the engine that turned bad, may try: without systemd, on a real engine.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, Permissions},
    io::{ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rootlessd_tests::solo::{Process, SOON, User, get, text};
use serde_json::Value;

/// One varlink call; `None` if the connection ends without an answer.
fn call(socket: &Path, method: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let _ = write!(stream, "{{\"method\":\"org.rootlessd.Supervisor.{method}\"}}\0");
    let mut answer = vec![];
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|count| count == 1) && byte[0] != 0 {
        answer.push(byte[0]);
    }
    serde_json::from_slice(&answer).ok()
}

/// 33: another user on the sockets.
#[test]
fn another_user() {
    let (user, other) = (User::new(), User::new());
    user.start();
    let sockets =
        [user.varlink_socket(), user.docker_socket(), user.engine_directory().join("init.sock")];
    for socket in &sockets {
        let error = other.act(|| UnixStream::connect(socket).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", socket.display());
    }
    // Even if the user opens all doors, and even to root.
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    for path in [&user.runtime, &user.runtime.join("rootlessd"), &user.engine_directory()] {
        open(path);
    }
    for socket in [&sockets[0], &sockets[2]] {
        open(socket);
        for answer in [other.act(|| call(socket, "Stop")), call(socket, "Stop")] {
            let error = answer.as_ref().map(|answer| &answer["error"]);
            if let Some(error) = error {
                assert_eq!(error, "org.varlink.service.PermissionDenied");
            }
        }
    }
    for path in [&user.runtime, &user.runtime.join("rootlessd"), &user.engine_directory()] {
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(user.state(), "running");
    assert!(
        user.log("supervisor").contains(&format!("refused a varlink client of user {}", other.uid))
    );
}

/// 34: a process of the user says that it is ready in dockerd's place.
#[test]
fn lies_about_readiness() {
    let user = User::new();
    let go = user.home.join("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    fs::set_permissions(&go, Permissions::from_mode(0o666)).unwrap();
    // dockerd waits for us; a process below it says what it must not, from in there.
    let dockerd = user.script(
        "bin/dockerd",
        &format!(
            "[ \"$1\" != --version ] || exec /usr/sbin/dockerd --version\n\
         python3 -c 'import os, socket\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         s.sendto(b\"READY=1\\nMAINPID=1\\nSTOPPING=1\", os.environ[\"NOTIFY_SOCKET\"])'\n\
         cat {} >/dev/null; exec /usr/sbin/dockerd \"$@\"",
            go.display()
        ),
    );
    user.configure(&format!("dockerd.path = {dockerd:?}\n"));
    user.daemonize();
    user.watch().until(|status| status["phase"] == "dockerd");
    user.act(|| {
        let socket = UnixDatagram::unbound().unwrap();
        let notify = user.engine_directory().join("notify.sock");
        for message in [
            "READY=1",
            "READY=1\nMAINPID=1",
            "STOPPING=1",
            "",
            "\0\0READY=1\n",
            &"x".repeat(60_000),
        ] {
            socket.send_to(message.as_bytes(), &notify).unwrap();
        }
        // A flood, as far as the kernel lets it.
        socket.set_nonblocking(true).unwrap();
        for _ in 0..10_000 {
            let _ = socket.send_to(b"READY=1", &notify);
        }
    });
    // Whatever was said before is dealt with before this is answered.
    thread::sleep(Duration::from_millis(300));
    let status = user.status();
    assert_eq!((&status["state"], &status["phase"]), (&"starting".into(), &"dockerd".into()));
    fs::write(&go, "").unwrap();
    user.wait_state("running");
    user.docker("version").ok();
}

/// 36: programs where others can put them, and variables that would change ours.
#[test]
fn an_environment_of_others() {
    let (user, other) = (User::new(), User::new());
    let open = user.home.join("open");
    user.make_directory(&open);
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&user.home, Permissions::from_mode(0o755)).unwrap();
    for name in [
        "dockerd",
        "rootlesskit",
        "containerd",
        "runc",
        "newuidmap",
        "slirp4netns",
        "ip",
        "iptables",
        "rootlessd",
        "getsubids",
        "docker-rootlesskit",
    ] {
        let evil =
            other.script(open.join(name), &format!("touch {}/pwned; exit 1", other.home.display()));
        fs::copy(&evil, user.home.join(name)).unwrap();
        fs::set_permissions(user.home.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&other.home, Permissions::from_mode(0o777)).unwrap();
    let path = format!(
        "{}:.::{}/../{}/open:/usr/local/bin:/usr/bin:/bin",
        open.display(),
        user.home.display(),
        user.name
    );
    let mut rootlessd = user.command("/usr/local/bin/rootlessd");
    let evil = [
        ("PATH", path.as_str()),
        ("LD_PRELOAD", "/nowhere/evil.so"),
        ("LD_LIBRARY_PATH", open.to_str().unwrap()),
        ("LISTEN_FDS", "3"),
        ("LISTEN_PID", "1"),
        ("NOTIFY_SOCKET", "/run/nowhere"),
        ("WATCHDOG_USEC", "1000"),
        ("WATCHDOG_PID", "1"),
        ("ROOTLESSKIT_STATE_DIR", "/nowhere"),
        ("_DOCKERD_ROOTLESS_CHILD", "1"),
        ("DOCKER_HOST", "tcp://192.0.2.1:1"),
        ("BASH_ENV", "/nowhere"),
        ("MY_SECRET", "x"),
        ("GODEBUG", "x=1"),
    ];
    User::run_command(rootlessd.arg("--daemonize").envs(evil)).ok();
    let status = user.wait_state("running");
    let reasons = status["reasons"].as_array().unwrap();
    let skipped: Vec<_> = reasons.iter().filter(|it| it["code"] == "path-entry-skipped").collect();
    assert_eq!(skipped.len(), 4, "{reasons:?}");
    user.load_image();
    user.serve_page("");
    assert!(!other.home.join("pwned").exists());
    // Not one of the engine's processes has any of it. (PATH is what is left of it.)
    let mut seen = 0;
    for process in user.processes().iter().filter(|it| it.part() != "rootlessd") {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        for variable in String::from_utf8_lossy(&environment).split('\0') {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            let allowed = match name {
                "PATH" => {
                    !value.contains("open")
                        && !value.split(':').any(|it| it == "." || it.is_empty())
                }
                // Ours to say.
                "NOTIFY_SOCKET" => value.ends_with("/notify.sock"),
                "LISTEN_FDS" => value == "1",
                "ROOTLESSKIT_STATE_DIR" => ["/dockerd-rootless", "/rootlessd/engine/rootlesskit"]
                    .iter()
                    .any(|end| value.ends_with(end)),
                "LISTEN_PID" => value != "1",
                _ => !evil.iter().any(|(evil, _)| *evil == name),
            };
            assert!(allowed, "{variable} of {process}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} variables");
}

/// 37: dockerd writes a line of 10 MB, then 100 MB of lines.
#[test]
fn a_flood_of_lines() {
    let user = User::new();
    let dockerd = user.script("bin/dockerd",
        "[ \"$1\" != --version ] || exec /usr/sbin/dockerd --version\n\
         { cat ~/go; head -c 10000000 /dev/zero | tr '\\0' x; echo; \
         yes 'time=\"now\" level=info msg=\"a line of the usual length, and no news in it\"' | head -c 100000000; \
         echo done >~/done; } &\n\
         exec /usr/sbin/dockerd \"$@\"");
    user.configure(&format!("dockerd.path = {dockerd:?}\n"));
    user.sh("mkfifo go done").ok();
    user.start();
    let (rootlessd, init) = (user.rootlessd(), user.pid("init"));
    let before = [rootlessd, init].map(Process::memory);
    let begun = Instant::now();
    user.sh("echo >go").ok();
    // Meanwhile everybody else is served.
    let done = user.home.join("done");
    let waiting = thread::spawn(move || fs::read_to_string(done).unwrap());
    let (mut slowest, mut peak, mut count) = (Duration::ZERO, before, 0);
    while !waiting.is_finished() {
        let asked = Instant::now();
        assert_eq!(get(&user.docker_socket(), "/_ping").unwrap().0, 200);
        assert_eq!(user.state(), "running");
        slowest = slowest.max(asked.elapsed());
        count += 1;
        for (peak, pid) in peak.iter_mut().zip([rootlessd, init]) {
            *peak = Process::memory(pid).max(*peak);
        }
    }
    let took = begun.elapsed();
    let logs = user.home.join(".local/state/rootlessd/log");
    let files = fs::read_dir(logs).unwrap().flatten();
    let sizes: Vec<_> = files
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len()))
        .filter(|(name, _)| name.starts_with("dockerd"))
        .collect();
    eprintln!(
        "110 MB in {took:?}; RssAnon in KiB of rootlessd {} → {}, of engine-init {} → {}; \
         {count} times ping and status, the slowest {slowest:?}; logs {sizes:?}",
        before[0], peak[0], before[1], peak[1]
    );
    assert!(sizes.iter().map(|(_, size)| size).sum::<u64>() < 33 << 20, "{sizes:?}");
    assert!(peak[0] < before[0] + 4096 && peak[1] < before[1] + 4096, "memory grows");
    assert!(slowest < Duration::from_secs(2));
    assert!(user.ctl("logs -n 5 --part dockerd").ok().lines().count() <= 5);
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// 38: a client that asks and asks and does not read is let go, and nobody else notices.
#[test]
fn a_slow_reader() {
    let user = User::new();
    user.start();
    let rootlessd = user.rootlessd();
    let connect = || {
        let client = user.act(|| UnixStream::connect(user.varlink_socket()).unwrap());
        client.set_nonblocking(true).unwrap();
        client
    };
    let mut greedy = connect();
    let asked = "{\"method\":\"org.rootlessd.Supervisor.GetStatus\"}\0".repeat(100_000);
    let _ = greedy.write(asked.as_bytes());
    let mut watcher = connect();
    let watch = b"{\"method\":\"org.rootlessd.Supervisor.Watch\",\"more\":true}\0";
    watcher.write_all(watch).unwrap();
    let (begun, memory) = (Instant::now(), Process::memory(rootlessd));
    let mut slowest = Duration::ZERO;
    // Its requests fill all there is to fill, until there is nobody left to send them to.
    let is_there = |client: &mut UnixStream| match client.write(b" ") {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    while is_there(&mut greedy) {
        let asked = Instant::now();
        let status = user.act(|| call(&user.varlink_socket(), "GetStatus")).unwrap();
        assert_eq!(text(&status["parameters"]["status"]["state"]), "running");
        slowest = slowest.max(asked.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(60), "it stays");
        thread::sleep(Duration::from_millis(50));
    }
    eprintln!(
        "let go after {:?}; the slowest answer to others took {slowest:?}; RssAnon {memory} → {} KiB",
        begun.elapsed(),
        Process::memory(rootlessd)
    );
    assert!(begun.elapsed() > Duration::from_secs(20), "who is slow has his time");
    assert!(slowest < Duration::from_secs(1));
    assert!(Process::memory(rootlessd) < memory + 2048);
    assert!(user.log("supervisor").contains("does not read its replies"));
    // One whom nothing was told that it did not have room for stays.
    watcher.write_all(b" ").unwrap();
}
