//! A load on the control API, to be run in a bed: `rootlessd-load SOCKET WATCHERS CALLS SIGHUPS`, the last a second; prints
//! what [`rootlessd_tests::load`] measured, as a line.

use std::{path::Path, process::ExitCode};

use rootlessd_tests::load;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, watchers, calls, hangups] = &words[..] else {
        eprintln!("rootlessd-load SOCKET WATCHERS CALLS SIGHUPS");
        return ExitCode::FAILURE;
    };
    let (Ok(watchers), Ok(calls), Ok(hangups)) = (watchers.parse(), calls.parse(), hangups.parse())
    else {
        eprintln!("{watchers}, {calls} and {hangups} are to be numbers");
        return ExitCode::FAILURE;
    };
    match load::load(Path::new(socket), watchers, calls, hangups) {
        Ok(measured) => {
            println!("{}", measured.line());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
