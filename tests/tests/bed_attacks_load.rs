//! Attacks 26 to 29 of the list: too much, too long, too often, and all of it at random.

use std::time::Duration;

use rootlessd_tests::{
    attacks::target::{MALLORY, Rule, Target},
    bed::Suite,
    machine::{SOON, on_both},
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");
const SUPERVISOR: &str = "org.rootlessd.Supervisor1";
/// In kB: of the 64 MB that its unit gives it.
const MEMORY: usize = 60_000;
/// How many calls each method gets in a `make test`; `make attacks` says more.
const FEW: u32 = 40;

fn boot(rule: Rule) -> Target {
    Target::boot(Suite::Trixie, ATTACKER, rule)
}

fn calls() -> String {
    let asked = std::env::var("ROOTLESSD_FUZZ_CALLS").ok();
    asked.unwrap_or_else(|| FEW.to_string())
}

#[test]
fn attack_26_long_and_strange_words_are_refused_and_shown_as_what_they_are() {
    let target = boot(Rule::Yes);
    target.grant(["ListGrants", ""]);
    let last = target.root_sh("journalctl -q -n1 -o json | jq -r .__CURSOR").ok();
    let strange = "x\n\u{1b}[31mNov 25 00:00:00 host sshd[1]: Accepted\u{7}\u{202e}";
    for method in ["SetPingRange", "Revoke"] {
        let answer = target.answer([method, "s", strange]);
        assert!(answer.contains("InvalidArgs: ") || answer.contains("NoSuchGrant: "), "{answer}");
        for size in ["@65", "@50000", "@4000000", "@30000000"] {
            let answer = target.answer([method, "s", size]);
            assert!(answer.contains("InvalidArgs: ") && answer.len() < 300, "{answer}");
        }
    }
    let answer = target.answer(["DelegateControllers", "as", "@4000000"]);
    assert!(answer.contains("InvalidArgs: ") && answer.len() < 300, "{answer}");
    let many = "rootlessd-attacker call GrantPorts 'a(sq)' $(yes tcp/80 | head -n 100000)";
    let answer = target.user_sh(many).ok();
    assert!(answer.contains("InvalidArgs: ") && answer.len() < 300, "{answer}");
    // The bus itself lets nothing through that is not UTF-8, or more than its own limit.
    for word in ["$(printf 'own\\377\\376')", "@40000000"] {
        target
            .user_sh(&format!("rootlessd-attacker call SetPingRange s \"{word}\""))
            .ok_or_disconnected();
    }
    // One entry for each that reached it, in one line, with nothing in it that a terminal obeys.
    let about =
        ["journalctl", "-q", "-o", "cat", "-a", "--after-cursor", &last, "_COMM=rootlessd-helpe"];
    let about = target.root(about).ok();
    let entries = target
        .root(["journalctl", "-q", "-o", "json", "--after-cursor", &last, "_COMM=rootlessd-helpe"])
        .ok();
    assert_eq!(entries.lines().count(), about.lines().count(), "{about}");
    assert_eq!(about.lines().filter(|line| line.contains("Accepted")).count(), 2, "{about}");
    assert!(about.len() < 8000, "{}", about.len());
    assert!(!about.contains(['\u{1b}', '\u{7}']) && about.contains("\\u{1b}"), "{about}");
    let (_, memory) = target.helper_has();
    assert!(memory < MEMORY, "{memory} kB");
    target.assert_well();
}

/// The bus ends the connection, or answers with an error.
trait Refused {
    fn ok_or_disconnected(self);
}

impl Refused for rootlessd_tests::command::Output {
    fn ok_or_disconnected(self) {
        let refused = self.stdout.starts_with("failed: ") || self.stdout.contains("Error");
        assert!(refused && !self.stdout.starts_with("ok"), "{self}");
    }
}

#[test]
fn attack_27_ten_thousand_calls_a_second_hold_nobody_up() {
    let target = boot(Rule::Yes);
    let ids = target.grant(["GrantPorts", "a(sq)", "tcp/80", "tcp/443"]);
    target.attack_as(MALLORY, ["call", "ListGrants", ""]).ok();
    for (rate, size) in [("10000", "0"), ("100000", "0"), ("100", "4000000")] {
        let mut flood = target.spawn_attack(["flood", "4", rate, size]);
        flood.wait_line(SOON, |line| line == "ready");
        // Another one, who asks now and then.
        let other = target.attack_as(MALLORY, ["latency", "2"]).ok();
        let sent = flood.wait_line(SOON, |line| line.contains(" calls in "));
        let (files, memory) = target.helper_has();
        eprintln!(
            "{rate}/s of {size} bytes: {sent}; another's: {other}; {memory} kB, {files} files"
        );
        assert!(memory < MEMORY, "{memory} kB");
        let words: Vec<_> = other.lines().last().unwrap_or_default().split(' ').collect();
        let number = |name: &str| {
            let at = words.iter().position(|word| *word == name).map(|at| words[at + 1]);
            at.and_then(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{other}"))
        };
        if rate == "10000" {
            assert!(number("p99") < 100_000, "{other}");
        }
        assert!(number("max") < 1_500_000 && !other.contains("AccessDenied"), "{other}");
    }
    // It is one's own calls that are refused, and soon they are heard again.
    rootlessd_tests::command::wait_for("a second", SOON, || {
        (target.answer(["ListGrants", ""]) == "ok").then_some(())
    });
    assert_eq!(target.ledger().len(), ids.len());
    target.assert_well();
}

#[test]
fn attack_27_a_thousand_questions_hold_nobody_up() {
    let target = boot(Rule::Ask);
    target.grant(["ListGrants", ""]);
    // Questions that nobody answers: an agent that does nothing but be there.
    target.root_sh("echo root:secret | chpasswd").ok();
    let script = "rootlessd-attacker pending 120 & pid=$!
                  socat PTY,link=/tmp/pty,wait-slave EXEC:\"pkttyagent --process $pid\",pty,setsid,ctty,stderr & wait $pid";
    let mut pending = target.spawn_user(["bash", "-c", script]);
    let line = pending.wait_line(SOON, |line| line.starts_with("refused "));
    eprintln!("{line}");
    let other = target.attack_as(MALLORY, ["latency", "1"]).ok();
    eprintln!("{other}");
    assert!(!other.contains("Error"), "{other}");
    drop(pending);
    assert_eq!(target.port_start(), "1024");
    target.assert_well();
}

#[test]
fn attack_28_systemd_is_not_kept_from_its_work_by_reloads() {
    let target = boot(Rule::Yes);
    target.with_controllers();
    target.grant(["ListGrants", ""]);
    let before = target.snapshot();
    let reloads = "journalctl -q -o cat _PID=1 | grep -c '^Reloading requested from\\|^Reloading\\.\\.\\.\\|Reload requested from'; true";
    let count = || target.root_sh(reloads).ok().parse::<usize>().expect("a number");
    let first = count();
    let said = target.attack(["reloads", "1000"]).ok();
    let made = count() - first;
    eprintln!("{said}\n{made} lines of reloads");
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |line| line.trim().parse::<usize>().expect("a number"))
    };
    assert!(number("org.freedesktop.DBus.Error.LimitsExceeded") > 900, "{said}");
    let periods = number("ms") / 10_000 + 1;
    // Each may write two lines.
    assert!(number("ok") <= 10 * periods && made <= 20 * periods, "{said}: {made}");
    // What was refused was not done by half.
    for entry in target.ledger() {
        let id = entry["id"].as_str().expect("an id");
        rootlessd_tests::command::wait_for("the limit to pass", Duration::from_secs(20), || {
            (target.answer(["Revoke", "s", id]) == "ok").then_some(())
        });
    }
    let kept = ["meta /etc/systemd/system", "meta /etc"];
    let left: Vec<_> = target
        .snapshot()
        .lasting(&before)
        .into_iter()
        .filter(|it| !kept.contains(&it.as_str()))
        .collect();
    assert_eq!(left, [""; 0]);
    target.assert_well();
}

/// Runs the fuzzer and prints what it says, which ends well if every call was answered and the helper
/// is the one that it was.
fn fuzz(target: &Target, who: &str, rule: Rule) {
    let arguments =
        ["fuzz", "system", "org.rootlessd.Helper1", "/org/rootlessd/Helper1", &calls(), "0"];
    target.set_rule(rule);
    let pid = target.helper();
    target.attack(["call", "ListGrants", ""]).ok();
    let (before, files) = (target.snapshot(), target.helper_has().0);
    let entries = target.ledger().len();
    let output =
        if who == "root" { target.attack_as_root(arguments) } else { target.attack(arguments) };
    eprintln!("as {who}, polkit says {rule:?}:\n{}", output.stdout);
    let said = output.ok();
    for method in rootlessd_tests::attacks::client::METHODS
        .map(|(name, ..)| name)
        .iter()
        .chain(&["Get", "Set", "GetAll"])
    {
        assert!(said.contains(&format!("\n{method}: ")), "{method}");
    }
    let (files_now, memory) = target.helper_has();
    assert_eq!((target.helper(), files_now), (pid, files), "{memory} kB");
    assert!(memory < MEMORY, "{memory} kB");
    if rule != Rule::Yes {
        assert_eq!(target.snapshot().changes(&before), [].into());
        assert_eq!(target.ledger().len(), entries);
    }
    target.assert_well();
}

#[test]
fn attack_29_whatever_it_is_called_with_the_helper_answers() {
    on_both(|suite| {
        let target = Target::boot(suite, ATTACKER, Rule::No);
        target.with_controllers();
        fuzz(&target, "tester", Rule::No);
        fuzz(&target, "root", Rule::No);
        fuzz(&target, "tester", Rule::Ask);
        let before = target.snapshot();
        fuzz(&target, "tester", Rule::Yes);
        fuzz(&target, "root", Rule::Yes);
        // Whatever came of it can be undone.
        for entry in target.ledger() {
            let id = entry["id"].as_str().expect("an id");
            rootlessd_tests::command::wait_for("the limits to pass", SOON, || {
                (target.answer(["Revoke", "s", id]) == "ok").then_some(())
            });
        }
        let kept = ["/etc/polkit-1", "/etc/sysctl.d", "/etc/systemd", "/etc/sub", "/usr", "/etc"];
        for change in target.snapshot().lasting(&before) {
            let path = change.trim_start_matches("meta ");
            assert!(
                change.starts_with("meta ") && kept.iter().any(|kept| path.starts_with(kept))
                    || path.starts_with("/etc/sub")
                    || path.starts_with("/etc/polkit-1"),
                "{change}"
            );
        }
        assert_eq!(target.port_start(), "1024");
        assert_eq!(
            target
                .root_sh("getcap -r /usr | grep -c bind; find /sys/fs/bpf/rootlessd -type f")
                .stdout
                .trim(),
            "0"
        );
    });
}

#[test]
fn attack_29_whatever_it_is_called_with_the_supervisor_answers() {
    let target = boot(Rule::No);
    target.enable();
    let pid = |status: serde_json::Value| status["supervisor"]["pid"].to_string();
    let before = pid(target.status());
    let files = || {
        target
            .root_sh(&format!(
                "ls /proc/{before}/fd | wc -l; sed -n 's/^VmHWM:[^0-9]*//p' /proc/{before}/status"
            ))
            .ok()
    };
    let first = files();
    let object = "/org/rootlessd/Supervisor1";
    let calls = calls();
    let slow = ["Start", "Stop", "Restart", "Reload", "ResetFailed", "Request"];
    let arguments = ["fuzz", "/run/user/4242/bus", SUPERVISOR, object, &calls, "0"];
    let said = target.attack(arguments.iter().chain(&slow)).ok();
    eprintln!("{said}\n{first} → {}", files());
    for method in ["Start", "Stop", "Restart", "List", "Get", "Set", "GetAll"] {
        assert!(said.contains(&format!("\n{method}: ")), "{method}: {said}");
    }
    assert_eq!(pid(target.status()), before);
    assert_eq!(
        target
            .user(["systemctl", "--user", "show", "-P", "NRestarts", "-P", "Result", "rootlessd"])
            .ok(),
        "success\n0"
    );
    assert_eq!(target.state(), "running");
}
