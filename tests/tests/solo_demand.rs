//! The engine on demand, without systemd: its first clients start it, and it ends when nobody needs it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    rounds,
    solo::{IMAGE, Process, SOON, User, get, signal, text, wait_gone},
};
use serde_json::Value;

/// On demand, and stopped soon.
const SHORT: &str =
    "engine.start = \"auto\"\nengine.idle_timeout = \"1s\"\nlog.level = \"debug\"\n";

/// What rootlessd may take of memory while it waits for a client, in KiB.
const MOST: u64 = 8 << 10;

/// A user with a rootlessd that waits for a client.
fn listening(config: &str) -> User {
    let user = User::new();
    user.configure(config);
    user.daemonize();
    assert_eq!(user.state(), "listening");
    user
}

fn starts(user: &User) -> Value {
    user.status()["demandStarts"].clone()
}

/// How often rootlessd has written something.
fn told(user: &User, words: &str) -> usize {
    user.log("supervisor").matches(words).count()
}

/// Wait until it is written once more.
fn wait_told(user: &User, words: &str) {
    let before = told(user, words);
    wait_for(words, SOON, || (told(user, words) > before).then_some(()));
}

/// Its proportional set size in KiB.
fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// So many clients at once: the status code that each is answered with.
fn ask_together(user: &User, count: usize) -> Vec<String> {
    let socket = user.docker_socket();
    let mut clients: Vec<_> = (0..count).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for client in &mut clients {
        client.set_read_timeout(Some(SOON * 2)).unwrap();
        client.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
    }
    let answer = |mut client: UnixStream| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer.split_ascii_whitespace().nth(1).unwrap_or("nothing").to_owned()
    };
    clients.into_iter().map(answer).collect()
}

#[test]
fn a_thousand_clients_start_one_engine() {
    let user = listening("engine.start = \"demand\"\n");
    user.assert_clean(false);
    let memory = pss(user.rootlessd());
    eprintln!("listening, rootlessd takes {memory} KiB");
    assert!(memory <= MOST, "{memory} KiB");

    let mut watch = user.watch();
    let begun = Instant::now();
    let answers = ask_together(&user, 1000);
    eprintln!("1000 clients are answered after {:?}", begun.elapsed());
    assert_eq!(answers, vec!["200"; 1000]);
    let status = watch.until(|status| status["state"] == "running");
    assert_eq!(status["demandStarts"], 1);
    assert!(status["lastDemandStart"].as_u64() >= status["supervisor"]["since"].as_u64());
    assert_eq!(status["deaths"].as_array().map(Vec::len), Some(0));
    assert!(!watch.states().iter().any(|state| state.starts_with("stopping")));
    assert_eq!(told(&user, "a client connects"), 1);
    assert!(user.ctl("status").ok().contains("started once, last "));
}

#[test]
fn a_client_that_gives_up_leaves_no_mark() {
    let user = listening("engine.start = \"demand\"\n");
    let mut watch = user.watch();
    drop(UnixStream::connect(user.docker_socket()).unwrap());
    watch.until(|status| status["state"] == "running");
    // One that asked, and one that asked by half.
    user.ctl("restart --no-block").ok();
    for question in ["GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n", "GET /_pi"] {
        let mut client = UnixStream::connect(user.docker_socket()).unwrap();
        client.write_all(question.as_bytes()).unwrap();
    }
    user.docker("version").ok();
    let status = user.wait_state("running");
    assert_eq!(status["deaths"].as_array().map(Vec::len), Some(0));
    assert_eq!(starts(&user), 1);
    assert!(!user.log("supervisor").contains("ERROR"), "{}", user.log("supervisor"));
}

#[test]
fn a_start_that_fails_is_told_to_all_who_wait() {
    let user = User::new();
    let dockerd = "[ $1 = --version ] || sleep 1; echo no luck today >&2; exit 1";
    let dockerd = user.script("bin/dockerd", dockerd);
    user.configure(&format!(
        "engine.start = \"demand\"\nengine.restart.limit = 1\ndockerd.path = {dockerd:?}\n"
    ));
    user.daemonize();
    assert_eq!(user.state(), "listening");
    assert_eq!(ask_together(&user, 100), vec!["503"; 100]);
    // Who comes later starts nothing, and is told at once.
    let (code, body) = get(&user.docker_socket(), "/v1.41/info").unwrap();
    let message = text(&serde_json::from_str::<Value>(&body).unwrap()["message"]);
    assert_eq!(code, 503);
    assert!(message.contains("cannot be started") && message.contains("dockerd"), "{message}");
    let status = user.status();
    assert_eq!((text(&status["state"]).as_str(), &status["demandStarts"]), ("failed", &1.into()));
    assert_eq!(status["deaths"].as_array().map(Vec::len), Some(1));
    user.assert_clean(false);

    // A mistake is as good as a death.
    user.configure("engine.start = \"demand\"\nengine.mtu = 1\n");
    user.ctl("reset-failed").ok();
    assert_eq!(user.state(), "listening");
    let told = user.docker("version").fails();
    assert!(told.contains("engine.mtu is no key"), "{told}");
    assert_eq!(user.state(), "failed");

    // Once it is mended, it listens again.
    user.configure("engine.start = \"demand\"\n");
    user.ctl("reload").ok();
    user.ctl("reset-failed").ok();
    user.docker("version").ok();
    // dockerd answers it a moment before that is known.
    user.wait_state("running");
}

#[test]
fn an_engine_that_nobody_needs_is_stopped() {
    let user = listening(SHORT);
    let rootlessd = user.rootlessd();
    for round in 1..=3 {
        let mut watch = user.watch();
        user.docker("version").ok();
        assert_eq!(starts(&user), round);
        watch.until(|status| status["state"] == "running");
        watch.until(|status| status["state"] == "listening");
        let states = watch.states();
        assert!(states.iter().any(|state| state.starts_with("stopping")), "{states:?}");
        drop(watch);
        user.assert_clean(false);
        let memory = pss(rootlessd);
        eprintln!("listening again, rootlessd takes {memory} KiB");
        assert!(memory <= MOST, "{memory} KiB");
    }
    assert_eq!(user.status()["deaths"].as_array().map(Vec::len), Some(0));

    // It is not forgotten when rootlessd is replaced, and nothing starts.
    user.run(["rootlessd", "--daemonize", "--replace"]).ok();
    assert_ne!(user.rootlessd(), rootlessd);
    assert_eq!((user.state().as_str(), starts(&user)), ("listening", 3.into()));
    // Down by hand it stays down.
    user.ctl("stop").ok();
    assert_eq!(user.state(), "stopped");
    assert!(user.docker("version").fails().contains("rootlessctl start"));
    user.ctl("start").ok();
    user.wait_state("listening");
    // Without systemd no other rootlessd is to come; the next one begins anew.
    let rootlessd = user.rootlessd();
    signal(rootlessd, Signal::SIGTERM);
    wait_gone(rootlessd);
    user.assert_clean(true);
}

#[test]
fn who_keeps_it_up() {
    let user = listening(SHORT);
    let kept = |why: &str| {
        // Twice, so that a whole look lies in between.
        (0..2).for_each(|_| wait_told(&user, why));
        assert_eq!(user.state(), "running", "{why}");
    };
    user.load_image();
    let mut watch = user.watch();

    // A connection, from wherever, if not of a program that does not count.
    let elsewhere = user.spawn(["unshare", "-rn", "docker", "events"]);
    kept("1 clients are connected");
    drop(elsewhere);
    watch.until(|status| status["state"] == "listening");
    user.docker("version").ok();
    watch.until(|status| status["state"] == "running");
    let events = user.spawn(["docker", "events"]);
    kept("1 clients are connected");
    user.configure(&format!("{SHORT}engine.idle_ignore = [\"docker\"]\n"));
    user.ctl("reload").ok();
    watch.until(|status| status["state"] == "listening");
    drop(events);
    user.configure(SHORT);

    // A container that runs, or comes back again and again.
    let run = |options: &str| user.docker(&format!("run -d --init {options} {IMAGE}")).ok();
    let page = run("");
    user.ctl("reload").ok();
    kept("it pulls, builds or runs something");
    user.docker(&format!("rm -f {page}")).ok();
    let again = user.docker(&format!("run -d --restart always {IMAGE} /bin/false")).ok();
    wait_for("it comes back", SOON, || {
        let count = user.docker(&format!("inspect -f {{{{.RestartCount}}}} {again}")).ok();
        (count.parse::<u32>().unwrap() >= 5).then_some(())
    });
    kept("1 containers run");
    // Stopped, it would come back with the engine.
    user.docker(&format!("stop {again}")).ok();
    kept("would be started without a client");
    user.docker(&format!("rm -f {again}")).ok();

    // A stopped one of another policy does not.
    let stopped = run("--restart unless-stopped");
    user.docker(&format!("stop -t 1 {stopped}")).ok();
    watch.until(|status| status["state"] == "listening");
    user.docker("version").ok();
    watch.until(|status| status["state"] == "running");

    // The configuration.
    for config in ["engine.start = \"boot\"", "engine.idle_timeout = \"0s\""] {
        let rest = if config.contains("boot") { "engine.idle_timeout = \"1s\"\n" } else { "" };
        user.configure(&format!("{config}\n{rest}log.level = \"debug\"\n"));
        user.ctl("reload").ok();
        assert!(!user.status()["reasons"].to_string().contains("restart-needed"));
    }
    user.configure(SHORT);
    user.ctl("reload").ok();
    watch.until(|status| status["state"] == "listening");
}

/// What is remembered of containers, by dockerd alone.
#[test]
fn an_engine_with_a_container_that_is_to_run_starts_by_itself() {
    let user = listening("engine.start = \"auto\"\n");
    user.load_image();
    let end = || {
        let rootlessd = user.rootlessd();
        signal(rootlessd, Signal::SIGTERM);
        wait_gone(rootlessd);
    };
    let page = user.docker(&format!("run -d --init --restart unless-stopped {IMAGE}")).ok();
    let runs = || user.docker(&format!("inspect -f {{{{.State.Running}}}} {page}")).ok();
    end();
    user.start();
    assert_eq!(user.status()["demandStarts"], Value::Null);
    wait_for("the container is back", SOON, || (runs() == "true").then_some(()));
    user.docker(&format!("stop -t 1 {page}")).ok();
    end();
    user.daemonize();
    assert_eq!(user.state(), "listening");
    assert_eq!(runs(), "false");
    // As when the machine loses its power: nothing is stopped in order.
    user.docker(&format!("start {page}")).ok();
    user.kill_all();
    for left in ["rootlessd", "docker", "dockerd-rootless"] {
        let _ = fs::remove_dir_all(user.runtime.join(left));
    }
    for socket in ["docker.sock", "docker.pid"] {
        let _ = fs::remove_file(user.runtime.join(socket));
    }
    user.start();
    wait_for("the container is back", SOON, || (runs() == "true").then_some(()));
}

/// A rootlessd that is killed while dockerd stands still leaves no dockerd that does.
#[test]
fn a_rootlessd_that_dies_leaves_an_engine_that_goes_on() {
    let user = listening(SHORT);
    let (mut caught, mut rounds) = (0, rounds(5));
    while rounds > 0 {
        user.docker("version").ok();
        let dockerd = user.pid("dockerd");
        // It stands still for a moment only, so there is no time to pause. A miss is no failure.
        let stands_still = loop {
            match Process::of(dockerd) {
                Some(process) if process.state == 'T' => break true,
                Some(process) if process.state != 'Z' => {}
                _ => break false,
            }
        };
        if stands_still {
            (caught, rounds) = (caught + 1, rounds - 1);
            let rootlessd = user.rootlessd();
            signal(rootlessd, Signal::SIGKILL);
            wait_gone(rootlessd);
            user.daemonize();
        }
    }
    user.docker("version").ok();
    eprintln!("killed {caught} times");
}

/// Asks again and again, and tells how each question ended.
fn knock(socket: &Path, enough: &AtomicBool, pause: Duration) -> (u32, Vec<String>) {
    let (mut answered, mut failures) = (0, vec![]);
    while !enough.load(Ordering::Relaxed) {
        match get(socket, "/_ping") {
            Ok((200, _)) => answered += 1,
            other => failures.push(format!("{other:?}")),
        }
        thread::sleep(pause);
    }
    (answered, failures)
}

/// The race at the end: a client that connects all the time is neither refused nor cut off.
#[test]
fn nobody_is_refused_at_the_end() {
    let user = listening(SHORT);
    let enough = AtomicBool::new(false);
    let stops = rounds(3);
    let (answered, failures) = thread::scope(|scope| {
        let socket = user.docker_socket();
        let client = scope.spawn(|| {
            let socket = socket;
            knock(&socket, &enough, Duration::from_millis(7))
        });
        let mut watch = user.watch();
        for _ in 0..stops {
            watch.until(|status| status["state"] == "stopping");
            watch.until(|status| status["state"] == "running");
        }
        enough.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    eprintln!("{answered} answered over {stops} stops, {} not", failures.len());
    assert_eq!(failures, [""; 0]);
    assert_eq!(starts(&user), stops + 1);
}
