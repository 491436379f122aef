//! A load on the control API, to be run beside rootlessd: so many watchers, one of whom never reads, and so
//! many calls of `GetStatus` at a time, perhaps while signals rain on it. It is as thin as can be, since its own time counts
//! too.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
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
    /// How many SIGHUPs it got a second.
    pub hangups: u32,
}

impl Measured {
    /// As a line: µs, µs, bytes, signals.
    pub fn line(&self) -> String {
        let Self { median, p99, growth, hangups } = self;
        format!("{} {} {growth} {hangups}", median.as_micros(), p99.as_micros())
    }

    /// Of a line.
    pub fn of(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let (median, p99) = (Duration::from_micros(next()?), Duration::from_micros(next()?));
        Some(Self { median, p99, growth: next()?, hangups: next()?.try_into().ok()? })
    }
}

/// How long signals come before anything else.
const EARLIER: Duration = Duration::from_millis(500);

/// How long a sender of signals sleeps at least: each wakes whoever gets it, so they are not to come in heaps.
const PAUSE: Duration = Duration::from_micros(50);

/// Puts the load on the rootlessd that listens on `socket`, which gets some more than `hangups` signals a second.
pub fn load(socket: &Path, watchers: usize, calls: usize, hangups: u32) -> io::Result<Measured> {
    let status = message(&call("GetStatus", json!({})));
    let pid = supervisor(socket, &status)?;
    let before = memory(pid)?;
    let rain = (hangups > 0).then(|| Rain::begin(pid, hangups + hangups / 5));
    if rain.is_some() {
        thread::sleep(EARLIER);
    }
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
    let hangups = rain.map_or(Ok(0), Rain::end)?;
    let growth = memory(pid)?.saturating_sub(before);
    drop(deaf);
    let mut times = vec![];
    for (took, answer, _) in answers {
        read(&answer)?;
        times.push(took);
    }
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Measured { median: at(0.5), p99: at(0.99), growth, hangups })
}

/// SIGHUPs for a process, by a thread of their own.
#[derive(Debug)]
struct Rain {
    enough: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<u32>>,
}

impl Rain {
    /// So many a second.
    fn begin(pid: u32, rate: u32) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = Arc::clone(&enough);
        Self { enough, sender: thread::spawn(move || rain(pid, rate, &is_enough)) }
    }

    /// How many there were a second.
    fn end(self) -> io::Result<u32> {
        self.enough.store(true, Ordering::Relaxed);
        self.sender.join().expect("it does not panic")
    }
}

/// Sends what is due by the clock, so that a long sleep is made up for; how many that were a second.
fn rain(pid: u32, rate: u32, enough: &AtomicBool) -> io::Result<u32> {
    let pid = Pid::from_raw(pid.try_into().map_err(io::Error::other)?);
    let (begin, mut sent, mut took) = (Instant::now(), 0, 0.0);
    while !enough.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while sent < due {
            kill(pid, Signal::SIGHUP)?;
            sent += 1;
        }
        took = begin.elapsed().as_secs_f64();
    }
    Ok((f64::from(sent) / took) as u32)
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_rains_as_much_as_is_said() {
        let mut process = Command::new("sh")
            .args(["-c", "trap '' HUP; echo ready; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let rain = Rain::begin(process.id(), 12_000);
        thread::sleep(Duration::from_millis(300));
        let rate = rain.end().expect("it is there");
        assert!((11_000..=12_000).contains(&rate), "{rate}");

        let rain = Rain::begin(process.id(), 12_000);
        process.kill().expect("it is there");
        process.wait().expect("a child");
        thread::sleep(Duration::from_millis(100));
        assert!(rain.end().is_err(), "there is nobody any more");
    }
}
