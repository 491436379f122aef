//! `rootlessctl completion`: the script that completes its command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, exit::Exit, failure::Failure, output};

/// Print the completion script of a shell.
pub fn run(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rootlessctl", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
