//! `rootlessctl`, the client of rootlessd.

use std::process::ExitCode;

fn main() -> ExitCode {
    rootlessctl::run(std::env::args_os().collect()).into()
}
