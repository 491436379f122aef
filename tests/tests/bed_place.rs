//! The runtime directory is emptied under a rootlessd of systemd's.

use rootlessd_tests::{
    bed::Suite,
    command::wait_for,
    machine::{Machine, RUNTIME, SOON, on_both, pids},
};
use serde_json::Value;

#[test]
fn rootlessd_begins_anew_where_its_files_are_gone() {
    on_both(|suite: Suite| {
        let machine = Machine::running(suite);
        machine.serve();
        let before = pids(&machine.status());
        machine.root_sh(&format!("rm -rf {RUNTIME}/rootlessd {RUNTIME}/docker.sock")).ok();
        // It ends, and so do its sockets: until there are new ones, nobody can be asked.
        wait_for("it is there again", SOON, || {
            let told = machine.try_ctl(["status", "--json"]).stdout;
            let status: Value = serde_json::from_str(&told).ok()?;
            let pid = status["supervisor"]["pid"].as_u64()?;
            (pid.to_string() != before["supervisor"][0]).then_some(())
        });
        // The container is to run always.
        machine.wait_state("running");
        machine.wait_page();
        let after = pids(&machine.status());
        for part in ["shim", "rootlesskit", "dockerd"] {
            assert_ne!(before[part][0], after[part][0], "{suite}: {part}");
        }
        assert_eq!(after["shim"].len(), 1);
        assert_eq!(machine.unit_state("rootlessd.socket"), "active");
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}
