//! Children: our own, and the orphans that the kernel hands to their nearest reaper.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
    rc::Rc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, getpid},
};
use tokio::{signal::unix::SignalKind, time::sleep};

use super::{
    oom::{Oom, OomKills},
    process::{self, Process},
};

/// How often to look whether a child stands still.
const STOP_INTERVAL: Duration = Duration::from_micros(500);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its pid.
    pub pid: i32,
    /// Its exit status, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether that was for want of memory.
    pub oom: Oom,
}

impl Exit {
    fn of(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(pid, code) => {
                Some(Self { pid: pid.as_raw(), code: Some(code), signal: None, oom: Oom::No })
            }
            WaitStatus::Signaled(pid, signal, _) => {
                let signal = Some(signal as i32);
                Some(Self { pid: pid.as_raw(), code: None, signal, oom: Oom::No })
            }
            _ => None,
        }
    }

    /// How a process ended whose parent has not waited for it; `None` if the kernel does not tell.
    pub fn of_zombie(pid: i32) -> Option<Self> {
        // Field 52 of proc(5), as wait(2) has it, and 0 for whom it is none of their business.
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(49)?.parse().ok()?;
        let status = Some(status).filter(|&status| status != 0)?;
        Self::of(WaitStatus::from_raw(Pid::from_raw(pid), status).ok()?)
    }

    /// How a process of the standard library's ended.
    pub fn of_status(pid: u32, status: ExitStatus) -> Self {
        let (code, signal) = (status.code(), status.signal());
        Self { pid: pid.cast_signed(), code, signal, oom: Oom::No }
    }

    /// With the word of `kills` on whether that was for want of memory. To be asked at once.
    pub fn judged_by(self, kills: &OomKills) -> Self {
        let oom = match self.signal {
            // That is how the kernel kills for memory.
            Some(signal) if signal == Signal::SIGKILL as i32 => kills.look(),
            _ => Oom::No,
        };
        Self { oom, ..self }
    }

    /// How it ended, in words: `exited with status 1`, `was killed by SIGSEGV`.
    pub fn describe(&self) -> String {
        match (self.code, self.signal.map(Signal::try_from)) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(Ok(signal))) => format!("was killed by {signal}{}", self.oom.describe()),
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
    oom_kills: Rc<OomKills>,
}

impl Children {
    /// Become the reaper of every orphan below this process (PR_SET_CHILD_SUBREAPER).
    pub fn adopt_orphans() -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let died = tokio::signal::unix::signal(SignalKind::child())?;
        Ok(Self { died, oom_kills: Rc::new(OomKills::from_now()) })
    }

    /// Start a process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Pid> {
        spawn(command)
    }

    /// Wait until a child has died, and reap it.
    pub async fn next(&mut self) -> Exit {
        loop {
            if let Some(exit) = reap() {
                return exit.judged_by(&self.oom_kills);
            }
            tokio::select! {
                _ = self.died.recv() => {}
                never = self.oom_kills.keep_up() => match never {},
            }
        }
    }

    /// What the kernel killed for memory. Where it tells of no changes, who looks at it now and then has
    /// what comes later told more exactly.
    pub fn oom_kills(&self) -> Rc<OomKills> {
        Rc::clone(&self.oom_kills)
    }

    /// End every child and all that comes of it, and reap what becomes ours. All at once: one generation after
    /// another takes as many times what the kernel needs for an end.
    pub async fn end_all(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) => {
                    for identity in process::descendants(getpid().as_raw().unsigned_abs()) {
                        if let Some(process) = Process::find(identity) {
                            // Those of another user in a container end with its first process.
                            let _ = process.signal(Signal::SIGKILL);
                        }
                    }
                    self.died.recv().await;
                }
                _ => {}
            }
        }
    }
}

/// Start a process in a program that has [`Children`].
pub fn spawn(command: &mut Command) -> io::Result<Pid> {
    let child = command.spawn()?;
    // Not waited for through this value: [`Children::next`] reaps whatever dies.
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
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
    Exit::of(waitpid(None, Some(WaitPidFlag::WNOHANG)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Stat;

    #[test]
    fn how_a_zombie_ended() {
        let exit = |code, signal| Some((code, signal));
        for (script, expected) in [
            ("exit 3", exit(Some(3), None)),
            ("kill -KILL $$", exit(None, Some(9))),
            // What the kernel says to whom it tells nothing.
            ("exit 0", None),
        ] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id();
            while Stat::of(pid).unwrap().state != 'Z' {
                std::thread::yield_now();
            }
            let found = Exit::of_zombie(pid.cast_signed());
            assert_eq!(found.map(|exit| (exit.code, exit.signal)), expected, "{script}");
            child.wait().unwrap();
        }
    }
}
