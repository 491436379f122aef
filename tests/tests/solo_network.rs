//! What connects the containers to the network dies while they run, without systemd.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use rootlessd_tests::{
    command::wait_for,
    solo::{ON_DEMAND, Process, SOON, User, enter, page, rounds, signal, wait_gone},
};
use serde_json::Value;

/// How long containers may be without a way out.
const BLIND: Duration = Duration::from_millis(500);

/// Long enough for three questions whether it is alive.
const FLOOD: Duration = Duration::from_secs(10);

/// Held by whoever uses all processors, and by whoever measures times.
static PROCESSORS: Mutex<()> = Mutex::new(());

/// The helper of the engine that runs: the one that is no zombie, nor the process by which
/// slirp4netns gets its device.
fn helper(user: &User) -> Option<Process> {
    let engine = [user.pid("shim"), user.pid("rootlesskit")];
    user.processes().into_iter().find(|process| {
        process.name == "slirp4netns" && process.state != 'Z' && engine.contains(&process.parent)
    })
}

/// What happened to single parts of the engine.
fn incidents(user: &User) -> Vec<Value> {
    let text = fs::read_to_string(user.engine_directory().join("incidents.jsonl"));
    let text = text.unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Wait for the next incident after so many.
fn incident(user: &User, seen: usize) -> Value {
    wait_for("an incident", SOON, || incidents(user).get(seen).cloned())
}

/// A server on an address of this machine that is neither its loopback's nor the engine's.
fn outside() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        enter();
        let add = ["address", "add", "198.51.100.1/32", "dev", "lo"];
        assert!(Command::new("ip").args(add).status().unwrap().success());
        let listener = TcpListener::bind("198.51.100.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\noutside");
            }
        });
        address
    })
}

/// Whether something can be fetched from outside within so long, from inside the network of a
/// container.
fn fetches(user: &User, container: &str, within: Duration) -> bool {
    let pid = first_process(user, container);
    let inside = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let address = outside();
    let fetching = thread::spawn(move || {
        setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if fetch(address).is_ok_and(|answer| answer.ends_with("outside")) {
                return true;
            }
        }
        false
    });
    fetching.join().unwrap()
}

fn fetch(address: SocketAddr) -> io::Result<String> {
    // A packet that is lost is not sent again for a second.
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(10))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A running container's first process.
fn first_process(user: &User, container: &str) -> u32 {
    user.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}")).ok().parse().unwrap()
}

/// Killed five times in a row: each time another one is there, and nothing else has changed.
#[test]
fn killed() {
    let user = User::new();
    let mut blind = vec![];
    user.start();
    user.load_image();
    let _quiet = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..rounds(1) {
        let (container, port) = user.serve_page("");
        assert!(fetches(&user, &container, SOON));
        let first = first_process(&user, &container);
        let (rootlesskit, shim) = (user.pid("rootlesskit"), user.pid("shim"));
        for round in 0..5 {
            let victim = helper(&user).unwrap().pid;
            let begun = Instant::now();
            signal(victim, Signal::SIGKILL);
            wait_gone(victim);
            assert!(fetches(&user, &container, SOON));
            blind.push(begun.elapsed());
            assert_eq!(page(port).as_deref(), Some("hello from a container\n"));
            assert_eq!(incident(&user, 2 * round)["lost"]["signal"], 9);
            assert_eq!(incident(&user, 2 * round + 1)["replaced"]["part"], "network");
            assert_eq!(helper(&user).unwrap().parent, shim);
        }
        assert!(fetches(&user, &container, SOON));
        assert_eq!(first_process(&user, &container), first);
        assert_eq!((user.pid("rootlesskit"), user.pid("shim")), (rootlesskit, shim));
        let status = user.status();
        let processes = status["processes"].as_array().unwrap();
        let is_network = |process: &&Value| process["part"] == "network";
        assert_eq!(processes.iter().filter(is_network).count(), 1, "{status}");
        user.ctl("stop").ok();
        user.assert_clean(false);
        user.ctl("start").ok();
        // At a stop, RootlessKit ends it, which is no loss.
        let lost = user.log("network").matches("rootlessd_event=\"lost\"").count();
        assert_eq!(lost, blind.len());
    }
    blind.sort();
    let (median, longest) = (blind[blind.len() / 2], blind[blind.len() - 1]);
    eprintln!("{} kills, egress after {median:?} (median), {longest:?} (most)", blind.len());
    assert!(longest <= BLIND, "{blind:?}");
}

/// One that hangs is found while containers run, ended and replaced.
#[test]
fn stopped() {
    let user = User::new();
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    for round in 0..rounds(1) as usize {
        let victim = helper(&user).unwrap().pid;
        let begun = Instant::now();
        signal(victim, Signal::SIGSTOP);
        let lost = incident(&user, 2 * round);
        let noticed = begun.elapsed();
        let text = lost["lost"]["text"].as_str().unwrap();
        let expected =
            "slirp4netns did not answer for 3.0 s, while it was stopped by SIGSTOP, and was ended";
        assert_eq!(text, expected);
        assert_eq!(incident(&user, 2 * round + 1)["replaced"]["part"], "network");
        assert!(fetches(&user, &container, SOON));
        eprintln!("stopped: noticed after {noticed:?}, egress after {:?}", begun.elapsed());
        assert!(noticed < Duration::from_secs(10), "{noticed:?}");
        assert!(page(port).is_some());
    }
}

/// One that has more to do than it can is left alone.
#[test]
fn flooded() {
    let user = User::new();
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    let pid = first_process(&user, &container);
    let inside = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let sink = UdpSocket::bind((outside().ip(), 0)).unwrap();
    let address = sink.local_addr().unwrap();
    let _quiet = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let flooding = (0..4).map(|_| {
        let inside = inside.try_clone().unwrap();
        thread::spawn(move || {
            setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let deadline = Instant::now() + FLOOD;
            while Instant::now() < deadline {
                let _ = socket.send_to(&[0; 64], address);
            }
        })
    });
    let flooding: Vec<_> = flooding.collect();
    flooding.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(fetches(&user, &container, SOON));
    assert!(page(port).is_some());
    assert_eq!(incidents(&user), [Value::Null; 0]);
}

/// Nobody but the shim has to be there.
#[test]
fn unseen() {
    let user = User::new();
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    let rootlessd = user.rootlessd();
    signal(rootlessd, Signal::SIGKILL);
    wait_gone(rootlessd);
    signal(helper(&user).unwrap().pid, Signal::SIGKILL);
    assert!(fetches(&user, &container, SOON));
    assert!(page(port).is_some());
    assert_eq!(incident(&user, 1)["replaced"]["part"], "network");
    user.start();
    assert!(page(port).is_some());
}

/// slirp4netns itself listens on the ports; RootlessKit and dockerd know them by their numbers.
#[test]
fn with_ports_of_its_own() {
    let user = User::new();
    user.configure("engine.network.port_driver = \"slirp4netns\"\n");
    user.start();
    user.load_image();
    let (gone, _) = user.serve_page("");
    let (container, port) = user.serve_page("");
    user.docker(&format!("rm -f {gone}")).ok();
    signal(helper(&user).unwrap().pid, Signal::SIGKILL);
    incident(&user, 1);
    wait_for("the page is back", SOON, || page(port));
    assert!(fetches(&user, &container, SOON));
    let (other, other_port) = user.serve_page("");
    user.docker(&format!("rm -f {container}")).ok();
    assert!(page(port).is_none());
    assert!(page(other_port).is_some());
    user.docker(&format!("rm -f {other}")).ok();
    assert!(page(other_port).is_none());

    // Somebody else is quicker.
    let (last, last_port) = user.serve_page("");
    let other = thread::spawn(move || {
        let deadline = Instant::now() + SOON;
        loop {
            match TcpListener::bind(("127.0.0.1", last_port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{last_port}: {error}"),
            }
        }
    });
    signal(helper(&user).unwrap().pid, Signal::SIGKILL);
    let other = other.join().unwrap();
    let text = incident(&user, 4)["missing"]["text"].clone();
    let text = text.as_str().unwrap();
    assert!(text.contains("are not any more") && text.contains(&last_port.to_string()), "{text}");
    user.wait_state("degraded");
    drop(other);
    user.docker(&format!("rm -f {last}")).ok();
    user.ctl("stop").ok();
    user.assert_clean(false);
}

/// A program that cannot be started any more: it is said, the engine goes on without it, and tries
/// again.
#[test]
fn that_cannot_be_replaced() {
    let user = User::new();
    let broken = user.home.join("broken");
    let script = format!(
        "[ ! -e {} ] || {{ echo 'the cable is cut' >&2; exit 3; }}\nexec /usr/bin/slirp4netns \"$@\"",
        broken.display()
    );
    let (network, path) = user.script_before("slirp4netns", &script);
    user.configure(&format!("{path}engine.network.driver = \"slirp4netns\"\n"));
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    user.write(&broken, "");
    signal(helper(&user).unwrap().pid, Signal::SIGKILL);
    assert_eq!(incident(&user, 0)["lost"]["part"], "network");
    let missing = incident(&user, 1)["missing"]["text"].clone();
    let missing = missing.as_str().unwrap();
    assert!(missing.contains("cannot be replaced for now"), "{missing}");
    assert!(missing.contains("the cable is cut"), "{missing}");
    // It is there, but no program.
    fs::set_permissions(&network, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let missing = incident(&user, 2)["missing"]["text"].clone();
    assert!(missing.as_str().unwrap().contains("Permission denied"), "{missing}");
    assert!(page(port).is_some());
    assert!(!fetches(&user, &container, Duration::from_millis(200)));
    fs::remove_file(&broken).unwrap();
    fs::set_permissions(&network, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(fetches(&user, &container, SOON));
    // It may serve a moment before that is written down.
    let is_told = || (incidents(&user).last()?["replaced"]["part"] == "network").then_some(());
    wait_for("it is told", SOON, is_told);
    user.watch().until(|status| status["state"] == "running");
}

/// One that is dead before the engine is up is its death, as that of any part is then.
#[test]
fn that_dies_on_the_way_up() {
    let user = User::new();
    let (_, path) = user.script_before(
        "slirp4netns",
        r#"case "$*" in *-help*) exec /usr/bin/slirp4netns "$@";; esac
        [ -e ~/died ] && exec /usr/bin/slirp4netns "$@"
        touch ~/died
        printf 1 >&3
        exit 3"#,
    );
    user.configure(&format!("{ON_DEMAND}{path}engine.network.driver = \"slirp4netns\"\n"));
    user.daemonize();
    let mut watch = user.watch();
    watch.next_status();
    user.ctl("start --no-block").ok();
    let status = watch.until(|status| status["state"] == "backoff");
    let death = &status["deaths"][0];
    assert_eq!((&death["part"], &death["exitCode"]), (&"network".into(), &3.into()), "{death}");
    watch.until(|status| status["state"] == "running");
}

/// What the configuration asks for then.
#[test]
fn that_is_not_tried_again() {
    let user = User::new();
    let broken = user.home.join("broken");
    let script = format!(
        "case \"$*\" in *-version*) ;; *) rm {} 2>/dev/null && {{ echo 'the cable is cut' >&2; exit 3; }};; esac
         exec /usr/bin/slirp4netns \"$@\"",
        broken.display()
    );
    let (_, path) = user.script_before("slirp4netns", &script);
    let configure = |on_loss: &str| {
        user.configure(&format!(
            "{path}engine.restart.delay = \"10ms\"\n\
             engine.network = {{ driver = \"slirp4netns\", on_loss = \"{on_loss}\" }}\n"
        ));
    };
    let lose = || signal(helper(&user).unwrap().pid, Signal::SIGKILL);
    configure("report");
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("--restart unless-stopped");
    // As ever, as long as it can be.
    lose();
    assert_eq!(incident(&user, 1)["replaced"]["part"], "network");
    user.write(&broken, "");
    lose();
    assert_eq!(incident(&user, 2)["lost"]["part"], "network");
    let text = incident(&user, 3)["missing"]["text"].clone();
    let text = text.as_str().unwrap();
    assert!(
        text.starts_with("slirp4netns was killed by SIGKILL, and cannot be replaced"),
        "{text}"
    );
    assert!(text.contains("the cable is cut"), "{text}");
    assert!(!fetches(&user, &container, Duration::from_secs(3)));
    assert!(helper(&user).is_none());
    assert!(page(port).is_some());

    configure("restart");
    user.ctl("restart").ok();
    // Whoever ends RootlessKit ends its helper, and is still told.
    for victim in ["slirp4netns", "rootlesskit"] {
        let mut watch = user.watch();
        watch.until(|status| status["state"] == "running");
        if victim == "slirp4netns" {
            user.write(&broken, "");
            lose();
        } else {
            signal(user.pid(victim), Signal::SIGKILL);
        }
        watch.until(|status| status["state"] == "backoff");
        let status = watch.until(|status| status["state"] == "running");
        let death = status["deaths"].as_array().unwrap().last().unwrap().clone();
        let part = if victim == "slirp4netns" { "network" } else { victim };
        assert_eq!((&death["part"], &death["signal"]), (&part.into(), &9.into()), "{death}");
        wait_for("the page is back", SOON, || page(user.port(&container)));
        assert!(fetches(&user, &container, SOON));
    }
    user.ctl("stop").ok();
    user.assert_clean(false);
}
