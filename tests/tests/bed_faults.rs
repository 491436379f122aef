//! Each row of the fault matrix once, on Debian 13. `make faults` has them all, often, on each Debian and beside
//! stock rootless Docker.

use std::path::Path;

use rootlessd_tests::{
    bed::Suite,
    faults::{self, Harness},
    machine::rounds,
};

fn group(name: &str) {
    let groups = faults::groups();
    let (_, rows) = groups.into_iter().find(|(it, _)| *it == name).expect("a group");
    let load = Path::new(env!("CARGO_BIN_EXE_rootlessd-load"));
    // How fast it is is looked at by `make faults`, where nothing else runs.
    let harness = Harness { suite: Suite::Trixie, load, rounds: rounds(1), slack: 5 };
    let table = harness.run(&rows, None);
    eprintln!("{table}");
    assert_eq!(table.broken(), [""; 0]);
}

#[test]
fn parts() {
    group("parts");
}

#[test]
fn supervisor() {
    group("supervisor");
}

#[test]
fn machine() {
    group("machine");
}

#[test]
fn helper() {
    group("helper");
}
