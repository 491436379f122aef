//! A load on the control API, to be run beside rootlessd: so many watchers, one of whom never reads, and so
//! many calls of `GetStatus` at a time. It is as thin as can be, since its own time counts too.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::raw::call;

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

/// Puts the load on the rootlessd that listens on `socket`.
pub fn load(socket: &Path, watchers: usize, calls: usize) -> io::Result<Measured> {
    let status = message(&call("GetStatus", json!({})));
    let pid = supervisor(socket, &status)?;
    let before = memory(pid)?;
    let watch = message(&json!({ "method": "org.rootlessd.Supervisor.Watch", "more": true }));
    let mut deaf = vec![];
    for number in 0..watchers {
        let mut client = UnixStream::connect(socket)?;
        client.write_all(&watch)?;
        match number {
            0 => deaf.push(client),
            // It ends with the process.
            _ => drop(thread::spawn(|| io::copy(&mut { client }, &mut io::sink()))),
        }
    }
    let mut clients = vec![];
    for _ in 0..calls {
        clients.push(UnixStream::connect(socket)?);
    }
    let mut asked = vec![];
    for mut client in clients {
        let begin = Instant::now();
        client.write_all(&status)?;
        asked.push((begin, client));
    }
    let mut answers = vec![];
    for (begin, client) in asked {
        let mut reader = BufReader::with_capacity(1 << 16, client);
        let mut answer = vec![];
        reader.read_until(0, &mut answer)?;
        answers.push((begin.elapsed(), answer, reader));
    }
    let growth = memory(pid)?.saturating_sub(before);
    drop(deaf);
    let mut times = vec![];
    for (took, answer, _) in answers {
        read(&answer)?;
        times.push(took);
    }
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Measured { median: at(0.5), p99: at(0.99), growth })
}

fn message(call: &Value) -> Vec<u8> {
    let mut bytes = call.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// The status that is an answer.
fn read(answer: &[u8]) -> io::Result<Value> {
    let answer: Value = serde_json::from_slice(answer.strip_suffix(&[0]).unwrap_or_default())?;
    let status = answer.pointer("/parameters/status").cloned();
    status.ok_or_else(|| io::Error::other(format!("no status: {answer}")))
}

/// The pid of the rootlessd that answers.
fn supervisor(socket: &Path, status: &[u8]) -> io::Result<u32> {
    let mut client = UnixStream::connect(socket)?;
    client.write_all(status)?;
    let mut answer = vec![];
    BufReader::new(client).read_until(0, &mut answer)?;
    let pid = read(&answer)?.pointer("/supervisor/pid").and_then(Value::as_u64);
    pid.and_then(|pid| pid.try_into().ok()).ok_or_else(|| io::Error::other("no pid"))
}

/// What a process has of its own in memory, in bytes: `RssAnon`, see proc_pid_status(5).
fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no RssAnon"))
}
