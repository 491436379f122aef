//! A load on the control API, to be run beside rootlessd: so many watchers, one of whom never reads, and so
//! many calls of `GetStatus` at a time.

use std::{fs, io, path::Path, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::raw::{RawClient, call};

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The time in which half of the calls were answered.
    pub median: Duration,
    /// The time in which 99 of 100 calls were.
    pub p99: Duration,
    /// What rootlessd's own memory grew by, in bytes.
    pub growth: u64,
}

impl Measured {
    /// As a line: µs, µs, bytes.
    pub fn line(&self) -> String {
        format!("{} {} {}", self.median.as_micros(), self.p99.as_micros(), self.growth)
    }

    /// Of a line.
    pub fn of(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let (median, p99) = (Duration::from_micros(next()?), Duration::from_micros(next()?));
        Some(Self { median, p99, growth: next()? })
    }
}

/// Puts the load on the rootlessd that listens on `socket` and has this pid.
pub async fn load(socket: &Path, pid: u32, watchers: usize, calls: usize) -> io::Result<Measured> {
    let before = memory(pid)?;
    let watch = json!({ "method": "org.rootlessd.Supervisor.Watch", "more": true });
    let mut silent = vec![];
    for number in 0..watchers {
        let mut client = RawClient::connect(socket).await?;
        client.send(&watch).await?;
        match number {
            0 => silent.push(client),
            _ => drop(tokio::task::spawn_local(async move {
                while client.receive_bytes().await.is_some() {}
            })),
        }
    }
    let mut clients = vec![];
    for _ in 0..calls {
        clients.push(RawClient::connect(socket).await?);
    }
    // Everybody is let in, or is told that there are too many.
    let mut status = call("GetStatus", json!({})).to_string().into_bytes();
    status.push(0);
    let ask = async |mut client: RawClient| {
        let begin = Instant::now();
        client.send_bytes(&status).await.expect("it reads");
        let answer = client.receive_bytes().await.expect("an answer");
        let took = begin.elapsed();
        (took, answer, client)
    };
    let asked = join_all(clients.into_iter().map(ask)).await;
    let growth = memory(pid)?.saturating_sub(before);
    drop(silent);
    // Not meanwhile: reading takes longer than answering.
    let mut times = vec![];
    for (took, answer, _) in asked {
        let answer: Value = serde_json::from_slice(&answer)?;
        assert!(answer["parameters"]["status"].is_object(), "{answer}");
        times.push(took);
    }
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Measured { median: at(0.5), p99: at(0.99), growth })
}

/// What a process has of its own in memory, in bytes: `RssAnon`, see proc_pid_status(5).
fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    let kib = kib.and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no RssAnon"))
}

/// The pid of the rootlessd that answers.
pub async fn supervisor(socket: &Path) -> io::Result<u32> {
    let answer = RawClient::connect(socket).await?.call(&call("GetStatus", json!({}))).await;
    let pid: Option<&Value> = answer.pointer("/parameters/status/supervisor/pid");
    let pid = pid.and_then(Value::as_u64).and_then(|pid| pid.try_into().ok());
    pid.ok_or_else(|| io::Error::other(format!("no pid in {answer}")))
}
