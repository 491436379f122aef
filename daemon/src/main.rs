//! `rootlessd`: see [`rootlessd::cli`].

use std::process::ExitCode;

use clap::Parser;
use rootlessd::{
    cli::{self, Cli},
    engine::userland_proxy,
};

// One thread: everything waits for events, nothing computes. It keeps the supervisor small, and
// its children's "parent dies" signals (PR_SET_PDEATHSIG is about the thread) in the right place.
fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if userland_proxy::is_meant(arguments.next().as_deref()) {
        return userland_proxy::main(arguments.collect());
    }
    cli::main(Cli::parse())
}
