//! The fault matrix: each row so often, on each Debian, beside stock rootless Docker; prints a table each, and fails if a
//! row is worse than its promise. `ROOTLESSD_ROUNDS` (5), `ROOTLESSD_SUITES` (all) and `ROOTLESSD_ROWS` (all) say how
//! often, where and what.

use std::{env, process::ExitCode};

use rootlessd_tests::{
    bed::Suite,
    faults::{self, Harness, Stock},
    rounds,
};

fn main() -> ExitCode {
    let load = env::current_exe().expect("our own program").with_file_name("rootlessd-load");
    let asked = env::var("ROOTLESSD_SUITES").ok();
    let suites = [Suite::Trixie, Suite::Bookworm, Suite::Forky];
    let suites = suites.into_iter().filter(|suite| {
        asked.as_ref().is_none_or(|names| names.split(',').any(|name| name == suite.name()))
    });
    let mut broken = vec![];
    for suite in suites {
        let mut stock = Stock::boot(suite);
        for (name, rows) in faults::groups() {
            if rows.is_empty() {
                continue;
            }
            let harness = Harness { suite, load: &load, rounds: rounds(5), slack: 1 };
            let table = harness.run(&rows, Some(&mut stock));
            println!("\n{suite}, {name}, {} times each\n{table}", rounds(5));
            for line in table.broken() {
                println!("BROKEN {line}");
                broken.push(format!("{suite}: {line}"));
            }
        }
    }
    for line in &broken {
        println!("BROKEN {line}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
