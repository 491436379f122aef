//! Processes, told apart for good: by pid and start time, and held by pidfd.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use rustix::process::{
    PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::fd;

/// A process, named so that no later one is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

/// What `/proc/PID/stat` tells, as far as we care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its name (`comm`).
    pub name: String,
    /// Its state: `R`, `S`, `D`, `T`, `Z` …
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// The processor time that it has used, its children's not included.
    pub used: Duration,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// What of it is resident, in pages.
    pub resident: u64,
}

impl Stat {
    /// Of a process; `None` when there is none (any more).
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Of the text of such a file. The name is in parentheses and may hold some itself (proc(5)).
    pub fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let fields: Vec<_> = tail.split_ascii_whitespace().collect();
        Some(Self {
            name: head.split_once('(')?.1.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            used: ticks(fields.get(11)?)? + ticks(fields.get(12)?)?,
            start_time: fields.get(19)?.parse().ok()?,
            resident: fields.get(21)?.parse().ok()?,
        })
    }
}

/// A time in clock ticks, of which Linux shows 100 a second everywhere (`USER_HZ`).
fn ticks(field: &str) -> Option<Duration> {
    Some(Duration::from_millis(field.parse::<u64>().ok()?.saturating_mul(10)))
}

/// All pids of the machine, or of what we see of it.
pub fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// All processes that come of one, as far as those between them live.
pub fn descendants(ancestor: u32) -> Vec<Identity> {
    let mut children = HashMap::<u32, Vec<Identity>>::new();
    for pid in all() {
        if let Some(Stat { parent, start_time, .. }) = Stat::of(pid) {
            children.entry(parent).or_default().push(Identity { pid, start_time });
        }
    }
    let mut found = children.remove(&ancestor).unwrap_or_default();
    let mut next = 0;
    while let Some(Identity { pid, .. }) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// A process that is there, or was: a signal sent through this reaches it or nobody.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Hold a process that exists and is not yet waited for, by its pid.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pidfd = pidfd_open(rustix_pid(pid)?, PidfdFlags::empty())?;
        let start_time =
            Stat::of(pid).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.start_time;
        Ok(Self { identity: Identity { pid, start_time }, pidfd: fd::watch(pidfd)? })
    }

    /// Find a process again; `None` if it is gone.
    pub fn find(identity: Identity) -> Option<Self> {
        Self::open(identity.pid).ok().filter(|process| process.identity == identity)
    }

    /// Which process this is.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Send it a signal. That it is gone is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal as i32)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match pidfd_send_signal(self.pidfd.get_ref().as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Wait until it is gone, or a zombie: pidfds become readable then (pidfd_open(2)).
    pub async fn gone(&self) {
        // The only errors are those of a runtime that shuts down, after which nothing waits.
        let _ = self.pidfd.readable().await;
    }
}

/// How many files a process has open; `None` if that is not to be seen.
pub fn open_files(pid: u32) -> Option<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    u64::try_from(entries.count()).ok()
}

/// Open as many files as this process may, it and its children: the limit that most are started
/// with is for programs that use select(2).
pub fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// End a process for good, whatever it is doing. That it is gone is no error.
pub fn kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn rustix_pid(pid: u32) -> io::Result<rustix::process::Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_the_name() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 8 9 7";
        let name = "a (b) c".into();
        let used = Duration::from_millis(110);
        let stat = Stat { name, state: 'S', parent: 7, used, start_time: 4242, resident: 9 };
        assert_eq!(Stat::parse(&format!("12 (a (b) c) {rest}")), Some(stat));
        for bad in ["", "12 (x", "12 (x) S", "12 (x) S y"] {
            assert_eq!(Stat::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn who_comes_of_whom() {
        let mut script = std::process::Command::new("sh");
        script.args(["-c", "sh -c 'sleep 60; true' & wait"]);
        let mut child = script.spawn().unwrap();
        let below = |pid| descendants(pid).into_iter().map(|it| it.pid).collect::<Vec<_>>();
        // The first, its child, and the child of that.
        while below(child.id()).len() < 2 {
            std::thread::yield_now();
        }
        let all = below(child.id());
        assert_eq!(below(all[0]), all[1..]);
        assert_eq!(below(all[1]), [0; 0]);
        assert!(below(std::process::id()).contains(&child.id()));
        all.into_iter().for_each(kill);
        child.wait().unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_is_found_by_pid_and_start_time_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let identity = process.identity();
        assert!(Process::find(identity).is_some());
        let other = Identity { start_time: identity.start_time + 1, ..identity };
        assert!(Process::find(other).is_none());
        process.signal(Signal::SIGKILL).unwrap();
        process.gone().await;
        child.wait().unwrap();
        assert!(Process::find(identity).is_none());
        process.signal(Signal::SIGTERM).unwrap();
    }
}
