//! The journal: each part's lines are told apart.

use rootlessd_tests::machine::{Machine, on_both};
use serde_json::Value;

/// Every part that writes, and whether it has something to say in an engine's ordinary life.
const PARTS: [(&str, bool); 7] = [
    ("supervisor", true),
    ("shim", false),
    ("rootlesskit", false),
    ("network", false),
    ("init", false),
    ("containerd", true),
    ("dockerd", true),
];

#[test]
fn each_part_has_its_own_lines() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.ctl(["stop"]);
        for (part, talks) in PARTS {
            let lines = machine.ctl(["logs", "--json", "-n", "all", "--part", part]);
            let parts: Vec<Value> = lines
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["part"].clone())
                .collect();
            assert!(parts.iter().all(|it| it == part), "{part}:\n{lines}");
            assert!(!talks || !parts.is_empty(), "{part} says nothing");
        }
    });
}
