//! `rootlessd engine-shim`: the parent of RootlessKit, and so of everything that the engine is.
//!
//! It outlives rootlessd, as containerd's shims outlive containerd. It knows how RootlessKit ended,
//! reads what RootlessKit writes, reaps and in the end removes whatever the engine leaves behind,
//! and tells all that by files in the engine's directory. It decides nothing.

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
use tokio::signal::unix::{SignalKind, signal};

use super::{
    dir::EngineDir,
    exec,
    log::{self, Lines, Tail},
};
use crate::{
    logging::LogArgs,
    plan::Plan,
    sys::{
        children::{self, Children, Exit},
        clock, fd, files,
    },
};

/// The number under which the listening socket travels down to engine-init: high, so that neither
/// RootlessKit nor its helpers use it for something else.
pub const LISTEN_FD: i32 = 100;

/// How long the last processes of a dead engine may take to go.
const END_TIMEOUT: Duration = Duration::from_secs(10);

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
        let mut tail = Tail::default();
        let exit = loop {
            tokio::select! {
                exit = self.children.next() => if exit.pid == rootlesskit.as_raw() { break exit },
                Some(line) = lines.next() => take_line(&mut tail, line),
                _ = terminate.recv() => children::send(rootlesskit, Signal::SIGTERM),
            }
        };
        for line in lines.drain() {
            take_line(&mut tail, line);
        }
        // Whatever is left has lost its namespaces' owner, and would only be in the way.
        if tokio::time::timeout(END_TIMEOUT, self.children.end_all()).await.is_err() {
            tracing::warn!(rootlessd_part = Part::Shim.as_str(), "a process does not end");
        }
        if exit.code != Some(0) {
            let text = format!("rootlesskit {}", exit.describe());
            let _ = self.dir.write_death(&death(Part::Rootlesskit, Some(exit), text, tail.lines()));
        } else if let Err(error) = self.dir.remove_record() {
            tracing::warn!(rootlessd_part = Part::Shim.as_str(), "the record stays: {error}");
        }
        exit.shell_code()
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
        text,
        log,
    }
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
