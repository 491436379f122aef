//! The command line, and what of `rootlessd` it runs: the supervisor, or a part of the engine.

use std::{future::Future, io, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tokio::task::LocalSet;
use tracing::level_filters::LevelFilter;

use crate::{
    engine::{
        exec::{self, ExecArgs},
        init,
        shim::{self, ShimArgs},
    },
    logging, pid1, run,
};
use rootlessd_api::{ErrorKind, Part};

/// Supervises one user's rootless Docker.
///
/// It is usually started by `systemctl --user enable --now rootlessd`; without systemd,
/// `rootlessd --daemonize` does. `rootlessctl status` tells how it is.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    part: Option<PartOfEngine>,
    #[command(flatten)]
    run: RunArgs,
}

/// How to supervise.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Go to the background once everything listens.
    #[arg(long)]
    pub daemonize: bool,
    /// Take the place of the rootlessd that runs; the engine goes on.
    #[arg(long)]
    pub replace: bool,
    /// Log to a file a part in this directory [default: the journal, or
    /// ~/.local/state/rootlessd/log where there is none].
    #[arg(long, value_name = "DIR")]
    pub log_directory: Option<PathBuf>,
    /// The least grave messages to log: error, warn, info, debug, trace [default: as configured].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LevelFilter>,
    /// This is the background (internal).
    #[arg(long, hide = true)]
    pub background: bool,
}

#[derive(Debug, Subcommand)]
enum PartOfEngine {
    #[command(hide = true)]
    EngineShim(ShimArgs),
    #[command(hide = true)]
    EngineInit(ShimArgs),
    #[command(hide = true)]
    Exec(ExecArgs),
}

/// The exit status of who cannot run before somebody has changed something (`EX_CONFIG` of sysexits.h): its unit does
/// not start it again.
pub const NOT_TO_BE_RETRIED: u8 = 78;

/// Run what the command line says.
pub fn main(cli: Cli) -> ExitCode {
    match cli.part {
        Some(PartOfEngine::Exec(args)) => {
            eprintln!("rootlessd exec: {}", exec::run(&args));
            ExitCode::FAILURE
        }
        // Before anything else: rootlessd may have died, and then there is nothing to do.
        Some(PartOfEngine::EngineShim(_)) if !shim::wait_for_release() => ExitCode::SUCCESS,
        Some(PartOfEngine::EngineShim(args)) => {
            logging::init(&args.log, Part::Shim, false);
            block_on(shim::run(args))
        }
        Some(PartOfEngine::EngineInit(args)) => {
            logging::init(&args.log, Part::Init, false);
            block_on(init::run(args))
        }
        None if std::process::id() == 1 => pid1::main(),
        None => match run::prepare(&cli.run) {
            Ok(run::Prepared::Background) => ExitCode::SUCCESS,
            Ok(run::Prepared::Here(here)) => block_on(run::run(*here)),
            Err(error) => {
                eprintln!("rootlessd: {error}");
                match error.kind {
                    ErrorKind::Internal => ExitCode::FAILURE,
                    _ => ExitCode::from(NOT_TO_BE_RETRIED),
                }
            }
        },
    }
}

/// Run a future, and what it spawns, on this thread.
pub fn block_on<F: Future<Output = ExitCode>>(future: F) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = LocalSet::new().block_on(&runtime, future);
            // Whatever still blocks (a look at a file system that does not answer) is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> ExitCode {
    eprintln!("rootlessd: the kernel refuses what is needed to wait for events: {error}");
    ExitCode::FAILURE
}
