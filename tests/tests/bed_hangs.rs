//! containerd or dockerd hangs under a running engine: it is found and replaced, and its containers go on.

use std::time::{Duration, Instant};

use rootlessd_tests::{
    bed::Suite,
    machine::{Machine, pids, victims, word},
};
use serde_json::Value;

/// How long one may hang until Docker answers again.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_part_is_stopped() {
    for suite in [Suite::Trixie, Suite::Bookworm, Suite::Forky] {
        let machine = Machine::running(suite);
        machine.serve();
        let container = || {
            let format = "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
            machine.user(["docker", "inspect", "-f", format, "web"]).ok()
        };
        let first = container();
        for part in ["dockerd", "containerd"] {
            let before = machine.wait_known();
            let mut watch = machine.watch();
            let begun = Instant::now();
            machine.user(["kill", "-STOP", &victims(&before)[part]]).ok();
            let lost = loop {
                let status = watch.until(&["degraded"]);
                if let Some(lost) = incident(&status, part, "lost") {
                    break lost;
                }
            };
            let noticed = begun.elapsed();
            assert_eq!(container(), first, "{suite}: {part}");
            let answered = begun.elapsed();
            eprintln!("{suite}: {part} ended after {noticed:?}, Docker answers after {answered:?}");
            let text = word(&lost["text"]);
            assert!(text.starts_with(&format!("{part} was ended, since it did not")), "{text}");
            assert!(text.ends_with("while it was stopped by SIGSTOP"), "{text}");
            assert!(noticed < PATIENCE, "{suite}: {part} {noticed:?}");
            let after = watch.until(&["running"]);
            assert_eq!(after["deaths"], Value::Array(vec![]));
            assert!(machine.page().is_some(), "{suite}: {part}");
            machine.user(["docker", "exec", "web", "true"]).ok();
            let (before, after) = (pids(&before), pids(&machine.status()));
            for same in ["supervisor", "shim", "rootlesskit", "network", "init", "container"] {
                assert_eq!(before[same], after[same], "{suite}: {part}: {same}");
            }
            machine.ctl(["reset-failed"]);
        }
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    }
}

fn incident(status: &Value, part: &str, kind: &str) -> Option<Value> {
    let incidents = status["incidents"].as_array()?;
    incidents.iter().find(|it| it["part"] == part && it["kind"] == kind).cloned()
}
