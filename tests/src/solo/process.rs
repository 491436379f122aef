//! Processes as a test sees them.

use std::{fmt, fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::SOON;
use crate::command::wait_for;

/// A process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Whose it is.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// Its state: `R`, `S`, `Z` …
    pub state: char,
    /// Its arguments; none for a zombie.
    pub arguments: Vec<String>,
}

impl Process {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::of)
    }

    /// One of them.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = cmdline.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        Some(Self {
            pid,
            parent: field("PPid:").parse().ok()?,
            uid: field("Uid:").split_ascii_whitespace().next()?.parse().ok()?,
            name: field("Name:"),
            state: field("State:").chars().next()?,
            arguments: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        })
    }

    /// The part of rootlessd or of the engine that it is: `rootlessd`, `shim`, `init`, `exec`
    /// (before it becomes a part), `rootlesskit`, `rootlesskit-child`, or its name.
    pub fn part(&self) -> &str {
        let word = |index: usize| self.arguments.get(index).map_or("", String::as_str);
        let program = word(0).rsplit('/').next().unwrap_or_default();
        match (program, word(1)) {
            ("rootlessd", "engine-shim") => "shim",
            ("rootlessd", "engine-init") => "init",
            ("rootlessd", "exec") => "exec",
            ("rootlessd", _) => "rootlessd",
            // It is asked what it can before it is started.
            ("rootlesskit", "--help" | "--version") => "probe",
            ("rootlesskit", _) => "rootlesskit",
            ("exe", _) if word(0) == "/proc/self/exe" && word(1).starts_with("--state-dir") => {
                "rootlesskit-child"
            }
            _ => &self.name,
        }
    }

    /// What it takes of memory that is its own, in KiB (`RssAnon`): what a file holds in memory is
    /// the machine's to drop.
    pub fn memory(pid: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        number.unwrap_or_else(|| panic!("process {pid} has no memory"))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, parent, uid, name, state, arguments } = self;
        write!(f, "process {pid} of {parent}, uid {uid}, {state} {name}: {}", arguments.join(" "))
    }
}

/// Send a signal. That nobody is there is no failure.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}

/// Whether a process is there, if only as a zombie.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Wait until a process is gone, or a zombie.
#[track_caller]
pub fn wait_gone(pid: u32) {
    wait_for("the process ends", SOON, || {
        Process::of(pid).is_none_or(|process| process.state == 'Z').then_some(())
    });
}
