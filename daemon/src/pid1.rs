//! rootlessd as the first process of a container: that one has to reap every orphan and gets no
//! signals but those it handles, so it does just that, and the supervisor is its child.

use std::{
    io,
    process::{Command, ExitCode},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli,
    engine::exec,
    sys::children::{self, Children},
};

/// The signals that mean something to the supervisor.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

/// Be the first process.
pub fn main() -> ExitCode {
    cli::block_on(async {
        match run().await {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("rootlessd: the supervisor cannot be started: {error}");
                ExitCode::FAILURE
            }
        }
    })
}

async fn run() -> io::Result<u8> {
    let mut children = Children::adopt_orphans()?;
    let mut command = Command::new(exec::own_program()?);
    // Its end is that of the container, so it stays in the foreground.
    command.args(std::env::args_os().skip(1).filter(|argument| argument != "--daemonize"));
    let supervisor = children.spawn(&mut command)?;
    for forwarded in FORWARDED {
        tokio::task::spawn_local(forward(forwarded, supervisor));
    }
    loop {
        let exit = children.next().await;
        if exit.pid == supervisor.as_raw() {
            children.end_all().await;
            return Ok(exit.shell_code());
        }
    }
}

async fn forward(forwarded: Signal, to: Pid) {
    if let Ok(mut came) = signal(SignalKind::from_raw(forwarded as i32)) {
        while came.recv().await.is_some() {
            children::send(to, forwarded);
        }
    }
}
