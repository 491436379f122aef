//! The client of rootlessd, and RootlessKit's own `rootlessctl`.
//!
//! It speaks varlink with the supervisor, D-Bus with the helper and HTTP with RootlessKit, and does nothing that they could
//! do themselves: each verb is a call and a way to show its answer.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod completion;
mod config;
mod env;
mod exit;
mod failure;
mod human;
mod job;
mod journal;
mod logs;
mod output;
mod privilege;
mod requests;
mod rootlesskit;
mod runtime_dir;
#[cfg(test)]
mod samples;
mod status;
mod summary;
mod supervisor;
mod unit;
mod version;
mod watch;
mod zone;

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser as _};
use rootlessd_api::JobKind;

use crate::{
    cli::{Cli, Verb},
    failure::Failure,
};

pub use crate::exit::Exit;

/// Do what the command line says, and say how it ended.
pub fn run(arguments: Vec<OsString>) -> Exit {
    let arguments = cli::normalise(arguments);
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let Some(verb) = cli.verb else {
        // As RootlessKit's: without a verb, the help is what was asked for.
        let help = Cli::command().render_help().to_string();
        return finish(output::text(&help).map(|()| Exit::Ok), cli.json);
    };
    // RootlessKit's scripts expect its errors, which are text even with --json.
    let json_errors = cli.json && !verb.is_rootlesskit();
    // One thread: a verb waits for one thing, and starting threads takes longer than asking.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let failure = Failure::Io { action: "start".to_owned(), source };
            return finish(Err(failure), json_errors);
        }
    };
    let result = runtime.block_on(Box::pin(dispatch(verb, cli.json, &cli.rootlesskit)));
    finish(result, json_errors)
}

async fn dispatch(verb: Verb, json: bool, before: &cli::Rootlesskit) -> Result<Exit, Failure> {
    if before.socket.is_some() && !verb.is_rootlesskit() {
        return Err(Failure::Usage(
            "--socket is RootlessKit's api.sock: it goes with list-ports, add-ports, remove-ports \
             and info",
        ));
    }
    match verb {
        Verb::Status(patience) => status::run(patience, json).await,
        Verb::Start(request) => job::run(JobKind::Start, request, json).await,
        Verb::Stop(request) => job::run(JobKind::Stop, request, json).await,
        Verb::Restart(restart) => {
            let keep = restart.keep_containers;
            let kind = if keep { JobKind::Replacement } else { JobKind::Restart };
            job::run(kind, restart.request, json).await
        }
        Verb::Upgrade(request) => job::run(JobKind::Upgrade, request, json).await,
        Verb::Reload(patience) => requests::reload(patience, json).await,
        Verb::ResetFailed(patience) => requests::reset_failed(patience, json).await,
        Verb::Watch(patience) => watch::run(patience, json).await,
        Verb::Logs(wanted) => logs::run(&wanted, json).await,
        Verb::Config(patience) => config::run(patience, json).await,
        Verb::Ports(ports) => privilege::ports(ports, json).await,
        Verb::Privileges(privileges) => privilege::privileges(privileges, json).await,
        Verb::Ping(ping) => privilege::ping(ping, json).await,
        Verb::Cgroup(cgroup) => privilege::cgroup(cgroup, json).await,
        Verb::Subids(subids) => privilege::subids(subids, json).await,
        Verb::Userns(userns) => privilege::userns(userns, json).await,
        Verb::Env => env::run(json).await,
        Verb::Version(patience) => version::run(patience, json).await,
        Verb::Completion { shell } => completion::run(shell),
        Verb::ListPorts { rootlesskit } => {
            rootlesskit::list_ports(&rootlesskit.or(before), json).await
        }
        Verb::AddPorts { rootlesskit, specs } => {
            rootlesskit::add_ports(&rootlesskit.or(before), &specs, json).await
        }
        Verb::RemovePorts { rootlesskit, ids } => {
            rootlesskit::remove_ports(&rootlesskit.or(before), &ids).await
        }
        Verb::Info { rootlesskit } => rootlesskit::info(&rootlesskit.or(before), json).await,
        Verb::Unit => unit::run().await,
    }
}

fn finish(result: Result<Exit, Failure>, json_errors: bool) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(failure) if failure.is_broken_pipe() => Exit::Ok,
        Err(failure) => {
            output::failure(&failure, json_errors);
            failure.exit()
        }
    }
}

/// A command line that is wrong, or asks for help or the version.
fn usage(error: &clap::Error, arguments: &[OsString]) -> Exit {
    // Nothing is left to be done when even this cannot be written.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Ok;
    }
    let verb = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    // RootlessKit's exit status for a wrong option of its own verbs.
    if verb.into_iter().any(Verb::names_rootlesskit) { Exit::Failed } else { Exit::Usage }
}
