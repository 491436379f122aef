//! `rootlessd-helper`: see [`rootlessd_helper::cli`].

use std::process::ExitCode;

use clap::Parser;
use rootlessd_helper::cli::{self, Cli};

// One thread: what it does, it does one after the other.
fn main() -> ExitCode {
    cli::main(Cli::parse())
}
