//! `rootlessctl completion`: the script that completes its command line.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, exit::Exit, failure::Failure, output};

/// Print the completion script of a shell.
pub fn run(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "rootlessctl", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// The command line without what is hidden: clap_complete would offer that as well.
fn visible() -> Command {
    let all = Cli::command();
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    Command::new("rootlessctl")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .args(all.get_arguments().cloned())
        .subcommands(verbs)
}
