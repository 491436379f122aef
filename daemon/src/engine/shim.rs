//! `rootlessd engine-shim`: the parent of RootlessKit, and so of everything that the engine is.
//!
//! It outlives rootlessd, as containerd's shims outlive containerd. It knows how RootlessKit ended,
//! reads what RootlessKit writes, reaps and in the end removes whatever the engine leaves behind,
//! and tells all that by files in the engine's directory. It decides nothing, but replaces the [network
//! helper](network_helper) when it is lost.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Args;
use nix::{
    sys::signal::Signal,
    unistd::{Pid, setsid},
};
use rootlessd_api::{Death, Part};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    dir::EngineDir,
    exec, leaps,
    log::{self, Lines, Tail},
    network_helper, processes,
};
use crate::{
    logging::LogArgs,
    plan::Plan,
    sys::{
        children::{self, Children, Exit},
        clock, fd, files,
        oom::Oom,
        process::Process,
    },
};

/// The number under which the listening socket travels down to engine-init: high, so that neither
/// RootlessKit nor its helpers use it for something else.
pub const LISTEN_FD: i32 = 100;

/// How long the last processes of a dead engine may take to go.
pub const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether a RootlessKit that has not come up lost its child.
const CHILD_INTERVAL: Duration = Duration::from_secs(1);

/// Be the parent of an engine (internal).
#[derive(Args, Clone, Debug)]
pub struct ShimArgs {
    /// The engine's directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// Where to log to.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Wait on standard input until this process is where it belongs: a byte says so. An end of file
/// says that rootlessd died before it could.
pub fn wait_for_release() -> bool {
    // A session of the engine's own: ctrl-C in rootlessd's terminal is for rootlessd, which then
    // stops the engine in order, and the end of the terminal is no end of the engine.
    let _ = setsid();
    matches!(io::stdin().read(&mut [0]), Ok(1))
}

/// Run an engine from its start to its end.
pub async fn run(args: ShimArgs) -> ExitCode {
    match Shim::new(&args) {
        Ok(shim) => ExitCode::from(shim.run(&args).await),
        Err(error) => {
            tracing::error!(
                rootlessd_part = Part::Shim.as_str(),
                "cannot start the engine: {error}"
            );
            let dir = EngineDir::at(args.dir);
            let text = format!("engine-shim could not start the engine: {error}");
            let _ = dir.write_death(&death(Part::Shim, None, text, vec![]));
            ExitCode::FAILURE
        }
    }
}

struct Shim {
    dir: EngineDir,
    plan: Plan,
    children: Children,
    listener: OwnedFd,
    /// Held for as long as anything of the engine is there.
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl Shim {
    fn new(args: &ShimArgs) -> io::Result<Self> {
        let dir = EngineDir::at(args.dir.clone());
        let lock = files::try_lock(&args.dir.with_file_name("engine.lock"))?
            .ok_or_else(|| io::Error::other("another engine has not ended yet"))?;
        let plan = dir.read_plan()?.ok_or_else(|| io::Error::other("there is no plan"))?;
        let listener = fd::take(LISTEN_FD)?;
        if let Err(error) = dir.keep_reserve() {
            tracing::debug!("nothing is kept in reserve for the engine's death: {error}");
        }
        Ok(Self { dir, plan, children: Children::adopt_orphans()?, listener, _lock: lock })
    }

    async fn run(mut self, args: &ShimArgs) -> u8 {
        let (mut lines, rootlesskit) = match self.start(args) {
            Ok(started) => started,
            Err(error) => {
                let text = format!("{} cannot be started: {error}", self.plan.rootlesskit[0]);
                let _ = self.dir.write_death(&death(Part::Rootlesskit, None, text, vec![]));
                return 1;
            }
        };
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return 1 };
        let process = Process::open(rootlesskit.as_raw().unsigned_abs()).map(|it| it.identity());
        tokio::task::spawn_local(leaps::tell(self.dir.clone()));
        let mut tail = Tail::default();
        let oom_kills = self.children.oom_kills();
        let child_lost = child_lost(rootlesskit, self.plan.state_dir.join("child_pid"));
        let (exited, exits) = mpsc::unbounded_channel();
        let network_lost =
            network_helper::guard(&self.dir, &self.plan, rootlesskit, exits, oom_kills.clone());
        tokio::pin!(child_lost, network_lost);
        let (mut given_up, mut stopping) = (false, false);
        let exit = loop {
            tokio::select! {
                exit = self.children.next() => {
                    if exit.pid == rootlesskit.as_raw() {
                        // It may end for what the kernel did to its child.
                        let of_child = exit.signal.is_none().then(|| oom_kills.look());
                        break Exit { oom: of_child.unwrap_or(exit.oom), ..exit };
                    }
                    // Without a helper that can be replaced, nobody wants to know.
                    let _ = exited.send(exit);
                }
                Some(line) = lines.next() => take_line(&mut tail, line),
                _ = terminate.recv() => {
                    stopping = true;
                    children::send(rootlesskit, Signal::SIGTERM);
                }
                () = &mut child_lost, if !given_up => {
                    given_up = true;
                    let text = "rootlesskit's child died while the network was being connected";
                    let death = death(Part::Rootlesskit, None, text.to_owned(), tail.lines());
                    self.give_up(rootlesskit, &death);
                }
                death = &mut network_lost, if !given_up && !stopping => {
                    given_up = true;
                    self.give_up(rootlesskit, &death);
                }
            }
        };
        for line in lines.drain() {
            take_line(&mut tail, line);
        }
        let in_order = exit.code == Some(0);
        // At once: nobody has to wait for the ends of all that goes with it.
        if !in_order {
            let mut death = death_of_rootlesskit(exit, tail.lines());
            if let Some(text) = process.ok().and_then(|process| self.dir.take_why_ended(process)) {
                death.text = text;
            }
            let _ = self.dir.write_death(&death);
        }
        // Whatever is left has lost its namespaces' owner, and would only be in the way.
        if tokio::time::timeout(END_TIMEOUT, self.children.end_all()).await.is_err() {
            tracing::warn!(rootlessd_part = Part::Shim.as_str(), "a process does not end");
        }
        if in_order && let Err(error) = self.dir.remove_record() {
            tracing::warn!(rootlessd_part = Part::Shim.as_str(), "the record stays: {error}");
        }
        exit.shell_code()
    }

    /// End a RootlessKit that does not notice what it lost.
    fn give_up(&self, rootlesskit: Pid, lost: &Death) {
        let _ = self.dir.write_death(lost);
        children::send(rootlesskit, Signal::SIGKILL);
    }

    fn start(&self, args: &ShimArgs) -> io::Result<(Lines, Pid)> {
        let (program, arguments) = self
            .plan
            .rootlesskit
            .split_first()
            .ok_or_else(|| io::Error::other("the plan has no rootlesskit"))?;
        let (lines, stdout, stderr) = Lines::pipe()?;
        let mut command = exec::command(program.as_ref(), None)?;
        command
            .args(arguments)
            .arg(exec::own_program()?)
            .arg("engine-init")
            .arg("--dir")
            .arg(self.dir.path())
            .args(args.log.as_args())
            .env_clear()
            .envs(&self.plan.environment)
            .stdout(stdout)
            .stderr(stderr);
        exec::pass(&mut command, self.listener.try_clone()?, LISTEN_FD)?;
        let pid = self.children.spawn(&mut command)?;
        Ok((lines, pid))
    }
}

/// A death as it is told to rootlessd. Who exits by itself usually says why in its last line.
pub fn death(part: Part, exit: Option<Exit>, mut text: String, log: Vec<String>) -> Death {
    if exit.is_some_and(|exit| exit.code.is_some())
        && let Some(why) = log.iter().rev().find_map(|line| log::complaint(line))
    {
        text = format!("{text}: {why}");
    }
    Death {
        at: clock::now_realtime(),
        part,
        exit_code: exit.and_then(|exit| exit.code),
        signal: exit.and_then(|exit| exit.signal),
        out_of_memory: exit.is_some_and(|exit| exit.oom == Oom::Yes),
        text,
        log,
    }
}

/// Wait until RootlessKit has lost its child and does not notice: it waits for it only once the
/// network and the ports are set up and `child_pid` is written, and before that for what only the
/// child could do (`pkg/parent/parent.go`; seen with 1.1 on its builtin port driver).
///
/// Nothing tells of other processes' children, so they are looked at. An engine is usually further
/// before the first look. A child that RootlessKit is about to reap is gone at the next one.
async fn child_lost(rootlesskit: Pid, child_pid: PathBuf) {
    let rootlesskit = rootlesskit.as_raw().unsigned_abs();
    let mut lost = None;
    while !child_pid.exists() {
        tokio::time::sleep(CHILD_INTERVAL).await;
        let dead = processes::dead_child(rootlesskit);
        if dead.is_some() && dead == lost {
            return;
        }
        lost = dead;
    }
    std::future::pending().await
}

/// RootlessKit ends with whatever it started. Its child says so where that was engine-init, which
/// could not write down its own death if it was killed.
fn death_of_rootlesskit(exit: Exit, lines: Vec<String>) -> Death {
    // Else what the kernel killed was none of its children.
    let killed = lines.iter().any(|line| line.ends_with("signal: killed"));
    let oom = if killed || exit.signal.is_some() { exit.oom } else { Oom::No };
    let exit = Exit { oom, ..exit };
    let mut death = match lines.iter().find_map(|line| end_of_init(line)) {
        Some(how) => death(Part::Init, None, format!("engine-init ended: {how}"), lines),
        None => {
            let text = format!("rootlesskit {}", exit.describe());
            death(Part::Rootlesskit, Some(exit), text, lines)
        }
    };
    if exit.signal.is_none() {
        death.text += oom.describe();
    }
    death.out_of_memory = oom == Oom::Yes;
    death
}

/// How engine-init ended, in a line of RootlessKit's child (`pkg/child/child.go`).
fn end_of_init(line: &str) -> Option<&str> {
    let command = line.strip_prefix("[rootlesskit:child ] error: command [")?;
    Some(command.rsplit_once("] exited: ")?.1)
}

/// RootlessKit marks its lines; the network helper, which shares its output, does not.
fn take_line(tail: &mut Tail, line: String) {
    let ours = line.starts_with("[rootlesskit") || line.starts_with("time=");
    log::forward(if ours { Part::Rootlesskit } else { Part::Network }, &line);
    tail.push(line);
}

/// The command that starts a shim, held back until a byte comes in on its standard input.
pub fn command(args: &ShimArgs, plan: &Plan, listener: OwnedFd) -> io::Result<Command> {
    let mut command = Command::new(exec::own_program()?);
    command
        .arg("engine-shim")
        .arg("--dir")
        .arg(&args.dir)
        .args(args.log.as_args())
        .env_clear()
        .envs(&plan.environment);
    exec::pass(&mut command, listener, LISTEN_FD)?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_died_first_is_told() {
        let exit = Exit { pid: 1, code: Some(255), signal: None, oom: Oom::No };
        let parent = "[rootlesskit:parent] error: child exited: exit status 255";
        let init = "[rootlesskit:child ] error: command [/usr/bin/rootlessd engine-init --dir /x] \
                    exited: signal: killed";
        let rows: &[(&[&str], Part, &str)] = &[
            (&[init, parent], Part::Init, "engine-init ended: signal: killed"),
            (
                &["[rootlesskit:parent] error: child exited: signal: killed"],
                Part::Rootlesskit,
                "rootlesskit exited with status 255: [rootlesskit:parent] error: child exited: \
                 signal: killed",
            ),
            (
                &["[rootlesskit:child ] error: failed to share mount point: /: permission denied"],
                Part::Rootlesskit,
                "rootlesskit exited with status 255",
            ),
            (&[], Part::Rootlesskit, "rootlesskit exited with status 255"),
        ];
        for (lines, part, text) in rows {
            let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
            let death = death_of_rootlesskit(exit, lines.clone());
            assert_eq!((death.part, death.text.as_str()), (*part, *text), "{lines:?}");
            assert_eq!(death.log, lines);
        }
        // Its child, which it saw die, was the kernel's.
        let exit = Exit { oom: Oom::Yes, ..exit };
        for (line, out_of_memory) in [(init, true), ("[rootlesskit:parent] error: no", false)] {
            let death = death_of_rootlesskit(exit, vec![line.to_owned()]);
            assert_eq!(death.out_of_memory, out_of_memory);
            assert_eq!(death.text.ends_with("by the kernel for memory (oom)"), out_of_memory);
        }
    }
}
