//! `rootlessd exec`: becomes a part of the engine. What a process must do to itself before it
//! becomes another program is done here, in safe code after exec(2), instead of after fork(2).

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;
use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use rustix::process::{Resource, getrlimit};

/// The first number of a file that systemd hands over (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// Become a part of the engine (internal).
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// The pid that is to be the parent: its death is to be this process's.
    #[arg(long)]
    parent: i32,
    /// Say that file 3 is a listening socket, as systemd does.
    #[arg(long)]
    listen: bool,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Become the program; returns only why it could not.
pub fn run(args: &ExecArgs) -> io::Error {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    // It may have died before it could take us along.
    if getppid().as_raw() != args.parent {
        return io::Error::other("the parent is gone");
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if args.listen {
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    }
    command.exec()
}

/// A command that becomes `program` through `rootlessd exec`, and dies with this process.
pub fn command(program: &Path, listener: Option<std::os::fd::OwnedFd>) -> io::Result<Command> {
    let mut command = Command::new(own_program()?);
    command.arg("exec").arg("--parent").arg(std::process::id().to_string());
    command.stdin(Stdio::null());
    if let Some(listener) = listener {
        command.arg("--listen");
        pass(&mut command, listener, LISTEN_FDS_START)?;
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// Hand a file to a command under a number.
pub fn pass(command: &mut Command, file: std::os::fd::OwnedFd, number: i32) -> io::Result<()> {
    // What fails in the child between fork(2) and exec(2) cannot be told well.
    let limit = getrlimit(Resource::Nofile).current;
    if limit.is_some_and(|limit| limit <= u64::from(number.unsigned_abs())) {
        let text =
            format!("no more than {} open files are allowed (ulimit -n)", limit.unwrap_or(0));
        return Err(io::Error::other(text));
    }
    command
        .fd_mappings(vec![FdMapping { parent_fd: file, child_fd: number }])
        .map_err(io::Error::other)?;
    Ok(())
}

/// The path of this program. After an upgrade it is the new one: an engine's later processes may
/// be of another version than its first.
pub fn own_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(replaced) => PathBuf::from(replaced),
        None => path,
    })
}
