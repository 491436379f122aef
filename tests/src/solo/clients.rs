//! Clients of what runs: of its API, of Docker's, of its containers.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::SOON;
use crate::command::{Output, Spawned};

/// The status as it changes.
#[derive(Debug)]
pub struct Watch(pub(super) Spawned);

impl Watch {
    /// The next status; `None` when the supervisor ends the connection.
    pub fn next_status(&mut self) -> Option<Value> {
        let line = self.0.next_line(SOON)?;
        let status: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        status["error"].is_null().then_some(status)
    }

    /// Wait for a status.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = vec![];
        // Each may come in time, and never the one.
        let deadline = Instant::now() + SOON * 4;
        while let Some(status) = self.next_status() {
            if wanted(&status) {
                return status;
            }
            if Instant::now() > deadline {
                break;
            }
            seen.push(format!("{} {}", status["state"], status["phase"]));
        }
        panic!("not the status waited for: {seen:?}")
    }

    /// All states that have been seen so far, with their phases: `starting/network`.
    pub fn states(&self) -> Vec<String> {
        let name = |line: &String| -> Option<String> {
            let status: Value = serde_json::from_str(line).expect("JSON");
            let state = status["state"].as_str()?;
            Some(match status["phase"].as_str() {
                Some(phase) => format!("{state}/{phase}"),
                None => state.to_owned(),
            })
        };
        self.0.seen().iter().filter_map(name).collect()
    }
}

/// The page that a container serves on a port of this machine, if it does.
pub fn page(port: u16) -> Option<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let mut curl = Command::new("curl");
    let output = Output::of(curl.args(["-sS", "--max-time", "5", "--noproxy", "*", &url]));
    (output.status.success() && output.stdout == "hello from a container\n")
        .then_some(output.stdout)
}

/// The inode of the socket that listens on a path.
pub fn listening_inode(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let path = format!(" {}", path.display());
    let row = table.lines().find(|row| row.ends_with(&path) && row.contains(" 00010000 "))?;
    row.split_ascii_whitespace().nth(6).map(str::to_owned)
}

/// A client that connects to a socket again and again, until it is asked how that went.
#[derive(Debug)]
pub struct Knocker {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u32, Vec<String>)>,
}

impl Knocker {
    /// Begin. Each connection is closed at once.
    pub fn at(socket: &Path) -> Self {
        let (stop, socket) = (Arc::new(AtomicBool::new(false)), socket.to_owned());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut count, mut refusals) = (0, vec![]);
            while !stopped.load(Ordering::Relaxed) {
                match UnixStream::connect(&socket) {
                    Ok(_) => count += 1,
                    Err(error) => refusals.push(error.to_string()),
                }
                thread::sleep(Duration::from_micros(500));
            }
            (count, refusals)
        });
        Self { stop, thread }
    }

    /// Stop: how often it connected. Panics if it was ever refused.
    #[track_caller]
    pub fn never_refused(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let (count, refusals) = self.thread.join().expect("it does not panic");
        assert_eq!(refusals, [""; 0], "refused, {count} times not");
        count
    }
}

/// Ask Docker's API: the status and the body of what it answers, or what the system says.
pub fn get(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON * 2))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))?;
    Ok((status, body.to_owned()))
}
