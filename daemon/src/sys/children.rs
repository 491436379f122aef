//! Children: our own, and the orphans that the kernel hands to their nearest reaper.

use std::{io, process::Command, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, getpid},
};
use serde::{Deserialize, Serialize};
use tokio::{signal::unix::SignalKind, time::sleep};

use super::process::{self, Stat};

/// How often to look whether a child stands still.
const STOP_INTERVAL: Duration = Duration::from_micros(500);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its pid.
    pub pid: i32,
    /// Its exit status, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

impl Exit {
    /// How it ended, in words: `exited with status 1`, `was killed by SIGSEGV`.
    pub fn describe(&self) -> String {
        match (self.code, self.signal.map(Signal::try_from)) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(Ok(signal))) => format!("was killed by {signal}"),
            (None, _) => "ended".to_owned(),
        }
    }

    /// The status with which to exit oneself, as a shell does it.
    pub fn shell_code(&self) -> u8 {
        let code = self.code.or_else(|| self.signal.map(|signal| 128 + signal)).unwrap_or(1);
        u8::try_from(code).unwrap_or(1)
    }
}

/// The children of this process, its adopted orphans included. There must be only one such value,
/// and no other way of waiting for children beside it.
#[derive(Debug)]
pub struct Children {
    died: tokio::signal::unix::Signal,
}

impl Children {
    /// Become the reaper of every orphan below this process (PR_SET_CHILD_SUBREAPER).
    pub fn adopt_orphans() -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        Ok(Self { died: tokio::signal::unix::signal(SignalKind::child())? })
    }

    /// Start a process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Pid> {
        let child = command.spawn()?;
        // Not waited for through this value: `next` reaps whatever dies.
        i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
    }

    /// Wait until a child has died, and reap it.
    pub async fn next(&mut self) -> Exit {
        loop {
            if let Some(exit) = reap() {
                return exit;
            }
            self.died.recv().await;
        }
    }

    /// End every child and every orphan that comes of it, and reap them all.
    pub async fn end_all(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) => {
                    let own = getpid().as_raw().unsigned_abs();
                    process::all()
                        .filter(|&pid| Stat::of(pid).is_some_and(|stat| stat.parent == own))
                        .for_each(process::kill);
                    self.died.recv().await;
                }
                _ => {}
            }
        }
    }
}

/// Wait until a child, to which SIGSTOP was sent, stands still: all of its threads.
pub async fn stopped(pid: u32) -> io::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    // What is told of a child that stands still is not its end, for which another waits.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
    while !matches!(waitid(Id::Pid(pid), flags)?, WaitStatus::Stopped(..)) {
        sleep(STOP_INTERVAL).await;
    }
    Ok(())
}

/// Send a signal to a child that was not reaped yet.
pub fn send(pid: Pid, signal: Signal) {
    let _ = signal::kill(pid, signal);
}

fn reap() -> Option<Exit> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => {
            Some(Exit { pid: pid.as_raw(), code: Some(code), signal: None })
        }
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Some(Exit { pid: pid.as_raw(), code: None, signal: Some(signal as i32) })
        }
        _ => None,
    }
}
