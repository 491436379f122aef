//! Many clients, clients that talk nonsense, and little to serve them with: the real rootlessd.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use rootlessd_tests::{
    command::wait_for,
    raw::{RawClient, call, method},
    run,
    solo::{Process, SOON, User, get, text},
};
use serde_json::{Value, json};

/// The number below which so many of the times are.
fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * part) as usize]
}

#[test]
fn a_thousand_messages_of_nonsense() {
    let user = User::new();
    user.start();
    let rootlessd = user.rootlessd();
    let before = (Process::memory(rootlessd), files(rootlessd));
    let good = call("GetStatus", json!({})).to_string();
    let bad: Vec<String> = [
        "",
        "null",
        "0",
        "[]",
        "{}",
        "{",
        "\"",
        "{\"method\":null}",
        "{\"method\":\"\"}",
        "{\"method\":\".\"}",
        "{\"method\":\"a.b.C\"}",
        "{\"method\":\"org.rootlessd.Supervisor.\"}",
        "{\"method\":\"org.rootlessd.Supervisor.Halt\"}",
        "{\"method\":\"org.rootlessd.Supervisor.Stop\",\"parameters\":[]}",
        "{\"method\":\"org.rootlessd.Supervisor.Stop\",\"parameters\":{\"timeout\":\"1\"}}",
        "{\"method\":\"org.rootlessd.Supervisor.Stop\",\"parameters\":{\"timeout\":-1}}",
        "{\"method\":\"org.rootlessd.Supervisor.Stop\",\"parameters\":{\"timeout\":1e999}}",
        "{\"method\":\"org.rootlessd.Supervisor.Stop\",\"parameters\":{\"force\":true}}",
        "{\"method\":\"org.rootlessd.Supervisor.WaitJob\",\"parameters\":{\"id\":4294967296}}",
        "{\"method\":\"org.rootlessd.Supervisor.GetStatus\",\"more\":1}",
        "{\"method\":\"org.rootlessd.Supervisor.GetStatus\",\"upgrade\":true}",
        "{\"method\":\"org.varlink.service.GetInterfaceDescription\"}",
        "\u{feff}{}",
        "{\"method\":\"\\ud800\"}",
        "{\"a\":{\"a\":{\"a\":{}}}}",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(["[".repeat(60_000), "{\"a\":".repeat(10_000), "9".repeat(60_000), "x".repeat(200_000)])
    .collect();
    let (mut answered, mut closed, mut seed) = (0, 0, 1u64);
    user.act(|| {
        run(async {
            for number in 0..1000 {
                let mut client = RawClient::connect(&user.varlink_socket()).await.unwrap();
                let mut message = match bad.get(number) {
                    Some(message) => message.clone().into_bytes(),
                    None => good.clone().into_bytes(),
                };
                if number >= bad.len() {
                    // A good message with one byte of it changed, lost or doubled.
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (at, byte) = ((seed >> 33) as usize % message.len(), (seed >> 20) as u8);
                    match seed >> 60 & 3 {
                        0 => drop(message.remove(at)),
                        1 => message.insert(at, byte.max(1)),
                        2 => message.truncate(at),
                        _ => message[at] = byte.max(1),
                    }
                }
                message.push(0);
                // It may have hung up before all of it is there.
                let _ = client.send_bytes(&message).await;
                let _ = client.finish_sending().await;
                match client.receive().await {
                    Some(answer) => {
                        answered += 1;
                        assert!(answer.is_object())
                    }
                    None => closed += 1,
                }
            }
        })
    });
    assert_eq!((user.state(), user.rootlessd()), ("running".to_owned(), rootlessd));
    wait_for("all files are closed", SOON, || (files(rootlessd) <= before.1).then_some(()));
    let after = Process::memory(rootlessd);
    eprintln!("{answered} answered, {closed} hung up on; RssAnon {} → {after} KiB", before.0);
    assert!(after < before.0 + 4096);
    assert!(user.log("supervisor").len() < 10_000, "the log is not theirs to fill");
}

fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn a_thousand_at_once() {
    let user = User::new();
    user.start();
    let rootlessd = user.rootlessd();
    let before = Process::memory(rootlessd);
    let status = call("GetStatus", json!({}));
    // As many as are let in, each of whom asks some times.
    let connected = 200;
    let times: Vec<Duration> = user.act(|| {
        run(async {
            let mut clients = vec![];
            for _ in 0..connected {
                clients.push(RawClient::connect(&user.varlink_socket()).await.unwrap());
            }
            let all = clients.into_iter().map(async |mut client| {
                let mut times = vec![];
                for _ in 0..5 {
                    let begun = Instant::now();
                    let answer = client.call(&status).await;
                    assert_eq!(answer["parameters"]["status"]["state"], "running");
                    times.push(begun.elapsed());
                }
                times
            });
            futures_util::future::join_all(all).await.concat()
        })
    });
    let peak = Process::memory(rootlessd);
    let mut times = times;
    eprintln!(
        "{} calls of {connected} clients: p50 {:?}, p99 {:?}; RssAnon {before} → {peak} KiB",
        times.len(),
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.99)
    );
    assert!(peak < before + 10_240, "memory grows");

    // A thousand connections: who is not let in is told so, and there is nobody who waits in vain.
    let (mut served, mut refused) = (0, 0);
    let answers: Vec<Option<Value>> = user.act(|| {
        run(async {
            let ask = async || {
                let mut client = RawClient::connect(&user.varlink_socket()).await.ok()?;
                let _ = client.send(&status).await;
                client.receive().await
            };
            futures_util::future::join_all((0..1000).map(|_| ask())).await
        })
    });
    for answer in answers {
        match answer {
            Some(answer) if answer["error"] == method("Busy") => refused += 1,
            Some(answer) if answer["parameters"]["status"].is_object() => served += 1,
            other => panic!("{other:?}"),
        }
    }
    eprintln!("1000 connections: {served} served, {refused} told to come later");
    assert!(served >= 256);
    assert_eq!(user.state(), "running");
    // One after the other, each with a connection of its own, as a prompt asks.
    let mut times: Vec<Duration> = user.act(|| {
        run(async {
            let mut times = vec![];
            for _ in 0..200 {
                let begun = Instant::now();
                RawClient::connect(&user.varlink_socket()).await.unwrap().call(&status).await;
                times.push(begun.elapsed());
            }
            times
        })
    });
    eprintln!(
        "one after the other: p50 {:?}, p99 {:?}",
        quantile(&mut times, 0.5),
        quantile(&mut times, 0.99)
    );
}

/// With 64 open files, and somebody who takes them all.
#[test]
fn few_open_files() {
    let user = User::new();
    // A low soft limit is nothing: it is raised.
    user.sh("ulimit -Sn 64; exec rootlessd --daemonize").ok();
    user.wait_state("running");
    user.sh("ulimit -n 64; exec rootlessd --daemonize --replace").ok();
    user.wait_state("running");
    let rootlessd = user.rootlessd();
    user.act(|| {
        run(async {
            let status = call("GetStatus", json!({}));
            let mut first = RawClient::connect(&user.varlink_socket()).await.unwrap();
            first.call(&status).await;
            let mut idle = vec![];
            for _ in 0..100 {
                idle.push(RawClient::connect(&user.varlink_socket()).await.unwrap());
            }
            for _ in 0..20 {
                let answer = first.call(&status).await;
                assert_eq!(answer["parameters"]["status"]["state"], "running", "{answer}");
            }
            eprintln!("{} files are open", files(rootlessd));
            drop(idle);
            let mut last = RawClient::connect(&user.varlink_socket()).await.unwrap();
            assert_eq!(last.call(&status).await["parameters"]["status"]["state"], "running");
        })
    });
    assert_eq!(user.state(), "running");
    user.docker("version").ok();
    user.ctl("stop").ok();
    user.assert_clean(false);
    // With so few there is no engine, and that is told.
    let told = user.ctl("start").fails();
    eprintln!("{told}");
    assert!(told.contains("open files"), "{told}");
}

/// Docker's clients in each state.
#[test]
fn answers_to_dockers_clients() {
    let user = User::new();
    let socket = user.docker_socket();
    let told = |status: u16, words: &str| {
        let begun = Instant::now();
        let (code, body) = get(&socket, "/v1.41/containers/json").unwrap();
        assert_eq!(code, status, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(words.is_empty() || text(&body["message"]).contains(words), "{body}");
        begun.elapsed()
    };
    // Starting: they wait for dockerd.
    user.daemonize();
    assert_ne!(user.state(), "running");
    eprintln!("starting: answered after {:?}", told(200, ""));
    user.ctl("stop").ok();
    eprintln!("stopped: answered after {:?}", told(503, "rootlessctl start"));
    // Back-off: bounded.
    let dockerd = user.script("bin/dockerd", "exit 1");
    let config = |more: &str| {
        user.configure(&format!("dockerd.path = {dockerd:?}\nengine.client_wait = \"1s\"\n{more}"))
    };
    config("engine.restart.delay = \"20s\"\n");
    user.ctl("start").fails();
    assert_eq!(user.state(), "backoff");
    let waited = told(503, "(it is backoff): the engine died: dockerd exited with status 1");
    eprintln!("backoff: answered after {waited:?}");
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_secs(2));
    config("engine.restart.limit = 1\n");
    user.ctl("start").fails();
    assert_eq!(user.state(), "failed");
    eprintln!("failed: answered after {:?}", told(503, "cannot be started"));
    // What is no HTTP gets no answer, and does no harm.
    let clients: Vec<_> =
        (0..200).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
    drop(clients);
    told(503, "");
    // A start that was asked for, by whom it may be, answers who waits.
    user.configure("");
    thread::scope(|scope| {
        user.ctl("start --no-block").ok();
        scope.spawn(|| told(200, ""));
    });
    assert_eq!(user.wait_state("running")["state"], "running");
}

#[test]
fn a_hundred_clients_through_a_restart() {
    let user = User::new();
    user.start();
    let count = 100;
    let barrier = Barrier::new(count + 1);
    let mut waited: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|number| {
                let (user, barrier) = (&user, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    // Spread over the whole of the restart.
                    thread::sleep(Duration::from_millis(number as u64 * 5));
                    let begun = Instant::now();
                    let answer = get(&user.docker_socket(), "/_ping");
                    assert_eq!(
                        answer.as_ref().ok().map(|(code, _)| *code),
                        Some(200),
                        "{number}: {answer:?}"
                    );
                    begun.elapsed()
                })
            })
            .collect();
        barrier.wait();
        user.ctl("restart").ok();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    eprintln!(
        "answered: p50 {:?}, p99 {:?}",
        quantile(&mut waited, 0.5),
        quantile(&mut waited, 0.99)
    );
}
