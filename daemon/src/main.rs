//! `rootlessd`: see [`rootlessd::cli`].

use std::process::ExitCode;

use clap::Parser;
use rootlessd::cli::{self, Cli};

// One thread: everything waits for events, nothing computes. It keeps the supervisor small, and
// its children's "parent dies" signals (PR_SET_PDEATHSIG is about the thread) in the right place.
fn main() -> ExitCode {
    cli::main(Cli::parse())
}
