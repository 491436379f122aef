//! pkttyagent(1): asks for a password on this terminal what polkit wants to know.
//!
//! polkit asks by the agent that the calling process or its session has. A desktop has one; over ssh
//! there is none but ours.

use std::{
    io::{self, IsTerminal as _},
    process::Stdio,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::{
    process::{Pid, Signal, getpid, kill_process},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::{Child, Command},
    time::timeout,
};

/// Where polkit's packages have it. Never looked for in `PATH`: it reads passwords.
const PROGRAM: &str = "/usr/bin/pkttyagent";
/// How long it may take until polkit knows it. polkit may have to be started first.
const REGISTERED: Duration = Duration::from_secs(5);
/// How long it may take to end.
const ENDED: Duration = Duration::from_secs(2);
/// The descriptor that it closes when polkit knows it.
const NOTIFY_FD: i32 = 3;

/// Which of several agents polkit asks by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// That of the session, a desktop's own; ours if there is none.
    Fallback,
    /// Ours.
    First,
}

/// An agent that is at work.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    /// What the terminal was like: a password is typed without echo.
    terminal: Option<Termios>,
}

impl Agent {
    /// Starts one for this process and waits until polkit knows it; if there is a terminal. That
    /// there is none is no failure: another agent may be there, or nobody may have to be asked.
    pub async fn start(rank: Rank) -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let terminal = tcgetattr(&stdin).ok();
        let (mut registered, process) = spawn(rank).ok()?;
        let agent = Self { process, terminal };
        // It says nothing but that it is over: registered, or ended itself.
        let _ = timeout(REGISTERED, registered.read(&mut [0])).await;
        Some(agent)
    }

    /// Ends it, and leaves the terminal as it was.
    pub async fn stop(mut self) {
        if let Some(pid) = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(ENDED, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
        if let Some(terminal) = &self.terminal {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, terminal);
        }
    }
}

fn spawn(rank: Rank) -> io::Result<(pipe::Receiver, Child)> {
    let (sender, receiver) = pipe::pipe()?;
    let mut command = Command::new(PROGRAM);
    command
        .arg("--process")
        .arg(own_process()?)
        .arg("--notify-fd")
        .arg(NOTIFY_FD.to_string())
        .args((rank == Rank::Fallback).then_some("--fallback"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mapping = FdMapping { parent_fd: sender.into_blocking_fd()?, child_fd: NOTIFY_FD };
    command.fd_mappings(vec![mapping]).map_err(io::Error::other)?;
    // With the command goes our end of what it closes.
    Ok((receiver, command.spawn()?))
}

/// This process, as `PID,STARTTIME`: a number alone could be another's by the time it is looked up.
fn own_process() -> io::Result<String> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let start = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("{},{start}", getpid()))
}

/// The 22nd field of proc_pid_stat(5). The second one is a name, which may have anything in it.
fn start_time(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99887 1 2 3";
        assert_eq!(start_time(stat), Some("99887"));
        let own = own_process().unwrap();
        let (pid, start) = own.split_once(',').unwrap();
        assert_eq!(pid, std::process::id().to_string());
        assert!(start.parse::<u64>().unwrap() > 0);
    }
}
