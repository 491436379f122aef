//! `org.rootlessd.Supervisor` under clients that mean no good, or know no better.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use rootlessd::{supervisor::handle::Handle, varlink::server::Limits};
use rootlessd_api::{JobKind, JobOptions, client::Client};
use rootlessd_tests::{
    engine::{Engine, Setup, memory},
    front::Front,
    open_files,
    raw::{RawClient, call, method},
    run, run_alone, until,
};
use serde_json::{Value, json};

/// A supervisor with an engine that runs, and its front ends.
fn start(limits: Limits) -> (Handle, Engine, Front) {
    let (handle, engine) = Setup::of(memory("running".into())).start();
    let front = Front::start(handle.clone(), limits);
    (handle, engine, front)
}

async fn client(front: &Front) -> RawClient {
    RawClient::connect(&front.varlink()).await.unwrap()
}

#[test]
fn clients_that_go_are_noticed_at_once_and_leave_nothing() {
    run_alone(async {
        let (handle, engine, front) = start(Limits::default());
        let mut first = client(&front).await;
        first.call(&call("Stop", json!({}))).await;
        let before = open_files();

        let mut waiter = client(&front).await;
        waiter.send(&call("WaitJob", json!({ "id": 1 }))).await.unwrap();
        until("somebody waits", || open_files() == before + 2).await;
        // A call later, that one has come to the supervisor too.
        handle.jobs().await.unwrap();
        drop(waiter);
        until("nobody waits", || open_files() == before).await;
        handle.request(JobKind::Start, JobOptions::default()).await.unwrap();

        let mut watchers = Vec::new();
        for number in 0..200_usize {
            let mut watcher = client(&front).await;
            let watch = json!({ "method": method("Watch"), "more": true });
            if number % 2 == 0 {
                watcher.call(&watch).await;
            } else {
                watcher.send(&watch).await.unwrap();
            }
            watchers.push(watcher);
        }
        // In no order, some of them while something is sent to them; nothing is sent in the end.
        let mut seed = 12345_usize;
        while !watchers.is_empty() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let index = (seed >> 33) % watchers.len();
            drop(watchers.swap_remove(index));
            if watchers.len() > 100 && seed & 64 == 0 {
                engine.tell_healthy(watchers.len() as u32).await;
            }
        }
        until("all files are closed", || open_files() <= before).await;
    });
}

#[test]
fn a_slow_reader_is_dropped_and_nobody_else_notices() {
    run_alone(async {
        let limits = Limits { write: Duration::from_millis(1500), ..Limits::default() };
        let (_handle, engine, front) = start(limits);
        let mut others = Vec::new();
        for _ in 0..50 {
            let mut other = client(&front).await;
            other.call(&call("GetStatus", json!({}))).await;
            others.push(other);
        }
        let before = open_files();
        let mut slow = client(&front).await;
        slow.send(&json!({ "method": method("Watch"), "more": true })).await.unwrap();
        let mut greedy = client(&front).await;
        let status = call("GetStatus", json!({})).to_string() + "\0";
        greedy.send_bytes(status.repeat(1000).as_bytes()).await.unwrap();

        let begin = Instant::now();
        let mut longest = Duration::ZERO;
        // Of the slow ones, our ends are left.
        while open_files() > before + 2 {
            engine.tell_unhealthy("x".repeat(50_000)).await;
            engine.tell_healthy(1).await;
            for other in &mut others {
                let begin = Instant::now();
                let answer = other.call(&call("GetStatus", json!({}))).await;
                assert!(answer["parameters"]["status"].is_object());
                longest = longest.max(begin.elapsed());
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "the slow clients stay");
        }
        assert!(longest < Duration::from_secs(1), "somebody waited for {longest:?}");
        drop((slow, greedy));
        assert!(others[0].call(&call("GetStatus", json!({}))).await["parameters"].is_object());
    });
}

#[test]
fn one_client_too_many_is_told_so() {
    run(async {
        let (_handle, _engine, front) = start(Limits { connections: 8, ..Limits::default() });
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = client(&front).await;
            client.call(&call("GetStatus", json!({}))).await;
            clients.push(client);
        }
        let mut refused = client(&front).await;
        let answer = refused.receive().await.unwrap();
        assert_eq!(answer["error"], method("Busy"));
        assert_eq!(refused.receive().await, None);

        // Those who are in stay in, and there is room again once one leaves.
        assert!(clients[0].call(&call("GetStatus", json!({}))).await["parameters"].is_object());
        drop(clients.pop());
        let room = async {
            loop {
                let mut client = client(&front).await;
                let _ = client.send(&call("GetStatus", json!({}))).await;
                match client.receive().await {
                    Some(answer) if answer["parameters"]["status"].is_object() => return,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(rootlessd_tests::BOUND, room).await.unwrap();
    });
}

#[test]
fn a_thousand_calls_at_a_time_are_answered() {
    run(async {
        let (_handle, _engine, front) = start(Limits::default());
        let mut clients = Vec::new();
        for _ in 0..250 {
            let mut client = client(&front).await;
            for _ in 0..4 {
                client.send(&call("GetStatus", json!({}))).await.unwrap();
            }
            clients.push(client);
        }
        for client in &mut clients {
            for _ in 0..4 {
                let answer = client.receive().await.unwrap();
                assert_eq!(answer["parameters"]["status"]["state"], "running");
            }
        }
    });
}

#[test]
fn malformed_messages_end_their_connection_only() {
    run_alone(async {
        let (handle, _engine, front) = start(Limits::default());
        let mut witness = client(&front).await;
        let good = call("GetStatus", json!({})).to_string().into_bytes();
        let deep = |open: &str, close: &str, depth: usize| {
            let method = method("GetStatus");
            let nested = open.repeat(depth) + &close.repeat(depth);
            format!("{{\"method\":\"{method}\",\"parameters\":{nested}}}").into_bytes()
        };
        let memory = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let mut random = Random(2463534242);
        let mut highest = 0;
        let before = memory();
        for round in 0..1000_usize {
            let message = match round % 10 {
                0 => (0..random.below(300)).map(|_| random.byte()).collect(),
                1 => good[..random.below(good.len())].to_vec(),
                2 => deep("[", "]", 1 + random.below(100_000)),
                3 => deep("{\"a\":", "}", 1 + random.below(100_000)),
                4 => vec![b'x'; random.below(1 << 20)],
                5 => {
                    let long = "y".repeat(random.below(1 << 20));
                    call("GetStatus", json!({ "x": long })).to_string().into_bytes()
                }
                6 => {
                    let mut good = good.clone();
                    let place = random.below(good.len());
                    good[place] = random.byte();
                    good
                }
                7 => b"{\"method\":7}".to_vec(),
                8 => b"{\"method\":\"a.b\",\"more\":\"yes\"}".to_vec(),
                _ => b"[{\"method\":\"org.rootlessd.Supervisor.Stop\"}]".to_vec(),
            };
            let mut client = client(&front).await;
            // Who is thrown out in the middle of it cannot send the rest.
            let _ = client.send_bytes(&message).await;
            if round % 3 > 0 {
                let _ = client.send_bytes(&[0]).await;
            }
            if round % 2 > 0 {
                let _ = client.finish_sending().await;
                while client.receive().await.is_some() {}
            }
            highest = highest.max(memory());
            if round % 50 == 0 {
                let answer = witness.call(&call("GetStatus", json!({}))).await;
                assert!(answer["parameters"]["status"].is_object());
            }
        }
        assert_eq!(handle.jobs().await, Ok(vec![]), "none of that was a request");
        assert!(highest < before + (32 << 20), "grew by {} bytes", highest - before);

        // The longest message that is let in still gets a real answer.
        let long = "z".repeat(60_000);
        let answer = witness.call(&call("GetStatus", json!({ long.clone(): 1 }))).await;
        assert_eq!(answer["parameters"]["parameter"], long);
    });
}

/// Numbers without a pattern, the same in every run (xorshift32).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

#[test]
fn another_user_is_refused() {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    run(async {
        use std::os::unix::process::CommandExt;
        let (handle, _engine, front) = start(Limits::default());
        // The build's directory need not be open to others.
        let helper = front.directory().join("helper");
        std::fs::copy(env!("CARGO_BIN_EXE_rootlessd-test-helper"), &helper).unwrap();
        let mut stop = std::process::Command::new(helper);
        stop.arg("call").arg(front.varlink()).arg(call("Stop", json!({})).to_string());
        stop.uid(65534).gid(65534);
        let output = tokio::task::spawn_blocking(move || stop.output()).await.unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let denied = json!({ "error": "org.varlink.service.PermissionDenied", "parameters": {} });
        assert_eq!(answer, denied, "{output:?}");
        assert_eq!(handle.jobs().await, Ok(vec![]));
        assert!(Client::connect(&front.varlink()).await.unwrap().status().await.is_ok());
    });
}
