//! Commands that tests run: those that have ended, and those that go on.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// What a command that has ended left.
#[derive(Clone, Debug)]
#[must_use = "it may have failed"]
pub struct Output {
    /// The command, as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// Its output, without the last newline. Panics with all there is to know if the command failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "failed: {self}");
        trimmed(self.stdout)
    }

    /// What it complained about. Panics with all there is to know if the command did not fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.status.success(), "did not fail: {self}");
        trimmed(self.stderr)
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        Self::of_reading(command, Stdio::null())
    }

    pub(crate) fn of_reading(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        let output = command.stdin(stdin).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            command: typed(command),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.command, self.status)?;
        writeln!(f, "-- stdout\n{}", self.stdout.trim_end())?;
        write!(f, "-- stderr\n{}", self.stderr.trim_end())
    }
}

/// A command that runs in a bed. Dropped, it gets SIGTERM.
#[derive(Debug)]
pub struct Spawned {
    command: String,
    child: Child,
    lines: Receiver<(SystemTime, String)>,
    seen: Vec<String>,
}

impl Spawned {
    pub(crate) fn new(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            forward(stdout, |line| sender.send((SystemTime::now(), line)).is_ok())
        });
        Self { command: typed(command), child, lines, seen: Vec::new() }
    }

    /// The next line of its output; `None` if there is none in time, or no more.
    pub fn next_line(&mut self, timeout: Duration) -> Option<String> {
        self.next_line_at(timeout).map(|(_, line)| line)
    }

    /// The same, with the time when it came.
    pub fn next_line_at(&mut self, timeout: Duration) -> Option<(SystemTime, String)> {
        let (at, line) = self.lines.recv_timeout(timeout).ok()?;
        self.seen.push(line.clone());
        Some((at, line))
    }

    /// The next line that is what is waited for. Panics, with all that came, if it does not come.
    #[track_caller]
    pub fn wait_line(&mut self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + timeout;
        while let Some(line) = self.next_line(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&line) {
                return line;
            }
        }
        let (command, seen) = (&self.command, self.seen.join("\n"));
        panic!("not the line waited for, in {timeout:?}: {command}\n{seen}")
    }

    /// Calls `check` now and after each line, and once a second in case a line told too little, until it gives a value.
    pub fn until<T>(
        &mut self,
        timeout: Duration,
        mut check: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = check() {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if self.next_line(left.min(Duration::from_secs(1))).is_none() && self.ended() {
                return check();
            }
        }
    }

    /// Writes to its input.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// All lines that have been read from it so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Waits until it ends of itself.
    pub fn wait(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("a child of ours")
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !self.ended() {
            let pid = self.child.id().to_string();
            let killed = as_root("kill").args(["-TERM", &pid]).status();
            assert!(killed.is_ok_and(|s| s.success()) || self.ended() || thread::panicking());
            let _ = self.child.wait();
        }
    }
}

/// Calls `check` until it gives a value, with a short pause between. Only for what the system gives no event for: prefer
/// [`Spawned::until`], [`crate::bed::Bed::wait_unit`], [`crate::bed::Bed::wait_path`].
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in {timeout:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn forward(from: impl Read, mut to: impl FnMut(String) -> bool) {
    let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
    for line in lines {
        if !to(String::from_utf8_lossy(&line).into_owned()) {
            break;
        }
    }
}

/// A command of root's, by sudo where we are not root.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if root {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("ROOTLESSD_BED") || name.starts_with("ROOTLESSD_VM")
    };
    for (name, value) in env::vars_os().filter(|(name, _)| ours(name)) {
        let mut assignment = name;
        assignment.push("=");
        assignment.push(value);
        sudo.arg(assignment);
    }
    sudo.arg(program);
    sudo
}

fn trimmed(mut text: String) -> String {
    text.truncate(text.trim_end().len());
    text
}

fn typed(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
