//! Attacks 1 to 11 of the list: who may, and who decides.

use std::{process::Command, time::Instant};

use rootlessd_tests::{
    attacks::{
        client::METHODS,
        target::{AT_ONCE, LEDGER, MALLORY, Rule, Target},
    },
    bed::Suite,
    command::{Spawned, wait_for},
    install::project,
    machine::{SOON, on_both},
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");
const START: [&str; 4] = ["call", "SetUnprivilegedPortStart", "q", "80"];
/// What a user reads who may not: names of D-Bus errors.
const REFUSALS: [&str; 3] = [
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    "org.rootlessd.Error.NoSuchGrant",
];

fn boot(rule: Rule) -> Target {
    Target::boot(Suite::Trixie, ATTACKER, rule)
}

/// Which methods succeeded in the attacker's `each`.
fn succeeded(lines: &str) -> Vec<&str> {
    assert_eq!(lines.lines().count(), METHODS.len(), "{lines}");
    lines.lines().filter_map(|line| line.strip_suffix(" ok")).collect()
}

#[test]
fn attack_01_nobody_has_nothing_and_no_file_is_touched() {
    on_both(|suite| {
        // Even where the administrator's rule says yes.
        let target = Target::boot(suite, ATTACKER, Rule::Yes);
        target.with_controllers();
        let pid = target.helper();
        target.attack(["call", "ListGrants", ""]).ok();
        let before = target.snapshot();
        let calls =
            "%file,ftruncate,write,fsetxattr,fremovexattr,fchmod,fchown,bpf,clone,clone3,execve";
        let trace = ["strace", "-f", "-p", &pid, "-o", "/run/trace", "-e", calls];
        let mut strace = target.spawn_root([
            "sh".to_owned(),
            "-c".to_owned(),
            format!("exec {} 2>&1", trace.join(" ")),
        ]);
        strace.wait_line(SOON, |line| line.contains("attached"));
        let answers = target.attack_as(65534, ["each"]).ok();
        drop(strace);

        // There is nothing of nobody's to list.
        assert_eq!(succeeded(&answers), ["ListAllGrants"], "{answers}");
        for line in answers.lines().filter(|line| !line.ends_with(" ok")) {
            assert!(REFUSALS.iter().any(|refusal| line.contains(refusal)), "{line}");
        }
        assert_eq!(target.snapshot().changes(&before), [].into());
        assert_eq!(target.ledger().len(), 0);
        // All that is ever opened for writing is the ledger's lock, and nothing is written there.
        let trace = target.root(["cat", "/run/trace"]).ok();
        assert!(trace.contains("ledger.json"), "{trace}");
        let writes = [
            "O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "rename", "unlink", "link", "xattr",
            "chmod", "chown", "truncate", "bpf(", "clone", "execve", "mkdir",
        ];
        for line in trace.lines().filter(|line| writes.iter().any(|word| line.contains(word))) {
            let known = line.contains("\"lock\", O_RDWR|O_CREAT")
                // The directory, which is there.
                || line.contains("mkdirat(") && line.contains("EEXIST");
            assert!(known, "{line}");
        }
        target.assert_well();
    });
}

#[test]
fn attack_03_who_becomes_another_program_is_still_who_asked() {
    let target = boot(Rule::Ask);
    target.attack(["call", "ListGrants", ""]).ok();
    // polkit runs, and is held until the caller is a setuid program.
    target
        .user(["pkcheck", "--process", "1", "--action-id", "org.rootlessd.helper1.revoke"])
        .fails();
    for _ in 0..5 {
        target.root_sh("pkill -STOP -x polkitd").ok();
        let su = "exec rootlessd-attacker become su root -c true 2>/dev/null";
        let mut caller = target.spawn_user(["sh", "-c", su]);
        let uid = "pid=$(pgrep -x su) && awk '/^Uid:/ { exit $3 != 0 }' /proc/$pid/status";
        wait_for("su", SOON, || target.root_sh(uid).status.success().then_some(()));
        target.root_sh("pkill -CONT -x polkitd").ok();
        // It is over when the helper has nothing under way for that user any more.
        assert!(target.answer(["SetUnprivilegedPortStart", "q", "80"]).starts_with(REFUSALS[1]));
        caller.send("\n");
        drop(caller);
        assert_eq!(target.port_start(), "1024");
    }
    assert_eq!(target.ledger().len(), 0);
    target.assert_well();
}

#[test]
fn attack_04_a_thousand_callers_go_before_they_are_answered() {
    // A polkit that took one who has gone for root would say yes: CVE-2021-3560.
    let target = boot(Rule::Ask);
    let before = target.snapshot();
    let seed = target.attack(["vanish", "1000", "4000"]).ok();
    assert!(target.answer(["SetUnprivilegedPortStart", "q", "80"]).starts_with(REFUSALS[1]));
    assert_eq!(target.port_start(), "1024", "{seed}");
    assert_eq!(target.ledger().len(), 0, "{seed}");
    assert_eq!(target.snapshot().changes(&before), [].into(), "{seed}");

    // Where everybody may, one who has gone when polkit answers still gets nothing.
    target.set_rule(Rule::Yes);
    for _ in 0..20 {
        target.root_sh("pkill -STOP -x polkitd").ok();
        target.attack(["vanish", "1", "1"]).ok();
        target.root_sh("pkill -CONT -x polkitd").ok();
        target.attack(["call", "ListGrants", ""]).ok();
        assert_eq!(target.port_start(), "1024");
    }
    assert_eq!(target.ledger().len(), 0);
    target.assert_well();
}

#[test]
fn attack_05_a_yes_is_for_one_question() {
    let target = boot(Rule::Ask);
    target.root_sh("echo root:secret | chpasswd").ok();
    // One connection, for which an agent runs, asks twice; the agent is told a password once.
    // The prompt ends no line: a colon does.
    let script = "exec 5<&0; coproc rootlessd-attacker ask-twice 80 22
                  exec 3<&${COPROC[0]} 4>&${COPROC[1]}
                  socat - EXEC:\"pkttyagent --process $COPROC_PID\",pty,setsid,ctty,stderr <&5 | stdbuf -o0 tr : '\\n' &
                  echo begin >&4; cat <&3";
    let mut terminal = target.spawn_user(["bash", "-c", script]);
    // What is typed before the agent has turned the echo off is lost.
    let typed_now = |terminal: &mut Spawned| {
        terminal.wait_line(SOON, |line| line.contains("Password"));
        let quiet =
            "stty -a -F $(readlink /proc/$(pgrep -x pkttyagent)/fd/0) | grep -q -- '-echo '";
        wait_for("no echo", SOON, || target.root_sh(quiet).status.success().then_some(()));
    };
    typed_now(&mut terminal);
    terminal.send("secret\n");
    let first = terminal.wait_line(SOON, |line| line.contains("80: "));
    assert!(first.ends_with("80: ok"), "{first}");
    typed_now(&mut terminal);
    assert_eq!(target.port_start(), "80");
    terminal.send("wrong\n");
    let second = terminal.wait_line(SOON, |line| line.contains("22: "));
    assert!(REFUSALS.iter().any(|refusal| second.contains(refusal)), "{second}");
    assert_eq!(target.port_start(), "80");
    assert_eq!(target.ledger().len(), 1);
}

#[test]
fn attack_06_without_an_answer_it_is_no() {
    on_both(|suite| {
        let target = Target::boot(suite, ATTACKER, Rule::Yes);
        target.attack(["call", "ListGrants", ""]).ok();
        let before = target.snapshot();
        let refused = |how: &str| {
            for verb in ["call", "ask"] {
                let begin = Instant::now();
                let answer = target.attack([verb, "SetUnprivilegedPortStart", "q", "80"]).ok();
                let took = begin.elapsed();
                assert!(!answer.starts_with("ok"), "{how}");
                assert!(took < AT_ONCE, "{how}: {took:?}: {answer}");
                eprintln!("{how}: {took:?}: {answer}");
            }
            assert_eq!(target.port_start(), "1024", "{how}");
        };
        // systemd 257 takes it for started before it has its name.
        let owned = "busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus NameHasOwner s \
                     org.freedesktop.PolicyKit1 | grep -q true";
        let stands = format!(
            "systemctl restart polkit && until {owned}; do sleep 0.02; done && pkill -STOP -x polkitd"
        );
        target.root_sh(&stands).ok();
        refused("polkit stands still");
        target
            .root_sh(
                "pkill -KILL -x polkitd; systemctl stop polkit; systemctl mask -q --runtime polkit",
            )
            .ok();
        refused("polkit is masked");
        target.root_sh("systemctl unmask -q --runtime polkit").ok();
        target.set_rule(Rule::Throws);
        refused("a rule throws");
        target.set_rule(Rule::No);
        refused("a rule says no");
        let syntax = "echo 'polkit.addRule(function (' >/etc/polkit-1/rules.d/10-attack.rules; systemctl restart polkit";
        target.root_sh(syntax).ok();
        refused("a rule is none");
        assert_eq!(target.ledger().len(), 0);
        let changes = target.snapshot().changes(&before);
        assert_eq!(
            changes,
            [
                "/etc/polkit-1/rules.d/10-attack.rules".to_owned(),
                "meta /etc/polkit-1/rules.d/10-attack.rules".to_owned()
            ]
            .into()
        );
        // And with a polkit that answers, it is yes.
        target.set_rule(Rule::Yes);
        assert_eq!(target.answer(["SetUnprivilegedPortStart", "q", "80"]), "ok");
        target.assert_well();
    });
}

#[test]
fn attack_07_with_nobody_to_ask_the_answer_comes_at_once() {
    let target = boot(Rule::Ask);
    target.attack(["call", "ListGrants", ""]).ok();
    for (verb, count) in [("call", 1), ("ask", 5)] {
        for _ in 0..count {
            let begin = Instant::now();
            let answer = target.attack([verb, START[1], START[2], START[3]]).ok();
            assert!(begin.elapsed() < AT_ONCE, "{verb}: {:?}", begin.elapsed());
            assert!(answer.starts_with(REFUSALS[1]), "{verb}: {answer}");
        }
    }
    assert_eq!(target.port_start(), "1024");
}

#[test]
fn attack_08_yes_to_all_is_yes_to_what_is_written_down() {
    let target = boot(Rule::Yes);
    target.with_controllers();
    target.attack(["call", "ListGrants", ""]).ok();
    let before = target.snapshot();
    let answers = target.attack_as(MALLORY, ["each"]).ok();
    assert_eq!(succeeded(&answers).len(), METHODS.len() - 1, "{answers}");
    let after = target.snapshot();
    let allowed = [
        "/etc/sysctl.d/60-rootlessd.conf",
        "/etc/systemd/system/user@.service.d",
        "/etc/systemd/system/paths.target.wants",
        "/etc/systemd/system/multi-user.target.wants",
        "/etc/sub",
        "/etc/.pwd.lock",
        // Where a file is a lower layer's, the directories above it are copied with it.
        "/usr/bin/rootlesskit",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
    ];
    for change in after.changes(&before) {
        let change = ["meta ", "changed ", "caps ", "sysctl "]
            .iter()
            .find_map(|kind| change.strip_prefix(kind))
            .unwrap_or(&change);
        let known = allowed.iter().any(|start| change.starts_with(start));
        let above = ["/usr", "/usr/bin", "/etc", "/etc/sysctl.d", "/etc/systemd/system"];
        assert!(known || above.contains(&change), "{change}");
    }
    // Of other users, nothing but what is everybody's.
    let others = target.root_sh("grep -hv ^mallory: /etc/subuid /etc/subgid").ok();
    assert_eq!(others, "tester:100000:65536\ntester:100000:65536");
    let ledger = target.ledger();
    assert!(ledger.iter().all(|entry| entry["uid"] == MALLORY), "{ledger:?}");
    let file = target.root(["stat", "-c", "%a %U", LEDGER]).ok();
    assert_eq!(file, "600 root");
    for entry in ledger {
        let id = entry["id"].as_str().expect("an id");
        assert_eq!(target.attack_as(MALLORY, ["call", "Revoke", "s", id]).ok(), "ok");
    }
    let left: Vec<_> = after_all(target.snapshot().lasting(&before));
    assert_eq!(left, [""; 0]);
    assert_eq!(target.ledger().len(), 0);
    target.assert_well();
}

/// usermod keeps its backups, and systemd a directory that has become empty.
fn after_all(changes: std::collections::BTreeSet<String>) -> Vec<String> {
    let known = |change: &String| {
        let path = change.strip_prefix("meta ").unwrap_or(change);
        path.starts_with("/etc/subuid-")
            || path.starts_with("/etc/subgid-")
            || path == "/etc"
            || path.starts_with("/etc/.pwd.lock")
            || path.starts_with("/etc/systemd/system/paths.target.wants")
            || path == "/etc/systemd/system"
    };
    changes.into_iter().filter(|change| !known(change)).collect()
}

#[test]
fn attack_09_no_feature_of_the_build_turns_it_off() {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--format-version=1", "--no-deps", "--locked", "--offline"]);
    let output = metadata.current_dir(project()).output().expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let helper = packages.iter().find(|it| it["name"] == "rootlessd-helper").expect("the helper");
    assert_eq!(helper["features"], serde_json::json!({}));
    let dependencies = helper["dependencies"].as_array().expect("dependencies");
    let polkit = dependencies.iter().find(|it| it["name"] == "zbus_polkit").expect("polkit");
    assert_eq!((&polkit["optional"], &polkit["kind"]), (&false.into(), &serde_json::Value::Null));
    // And nothing that is compiled only sometimes is in front of it.
    let gate = std::fs::read_to_string(project().join("helper/src/gate.rs")).expect("the gate");
    let service = std::fs::read_to_string(project().join("helper/src/service.rs")).expect("it");
    assert!(!gate.contains("cfg") && !service.contains("cfg"));
}

#[test]
fn attack_10_who_is_no_person_gets_nothing() {
    let target = boot(Rule::Yes);
    target.with_controllers();
    target.add_user("gone", 4250);
    target.root(["userdel", "gone"]).ok();
    target.attack(["call", "ListGrants", ""]).ok();
    let before = target.snapshot();
    for uid in [0, 65534, 4250, 0x8000_0000, u32::MAX - 1] {
        let output = target.attack_as(uid, ["each"]);
        if output.status.success() {
            assert_eq!(succeeded(&output.stdout), ["ListAllGrants"], "{uid}");
        } else {
            // The bus lets in nobody whom it cannot look up.
            assert!(uid == 4250 || uid > 0x7fff_ffff, "{output}");
        }
        eprintln!("{uid}: {}", output.stdout.lines().next().unwrap_or_default());
    }
    // Nobody can be -1: who wants to stays who they are.
    let answers = target.attack_as(u32::MAX, ["each"]).ok();
    assert_eq!(succeeded(&answers), ["ListAllGrants"]);
    assert_eq!(target.snapshot().changes(&before), [].into());
    assert_eq!(target.ledger().len(), 0);
}

#[test]
fn attack_11_root_asks_for_nobody_but_itself() {
    let target = boot(Rule::Yes);
    let answers = target.attack_as_root(["each"]).ok();
    assert_eq!(succeeded(&answers), ["ListAllGrants"]);
    // Whoever a message says that it is from, the bus says whose it is.
    target.set_rule(Rule::Ask);
    for sender in [":1.0", ":1.1", "org.freedesktop.DBus", "org.freedesktop.systemd1"] {
        let answer = target.attack(["call-as", sender, START[1], START[2], START[3]]);
        assert!(!answer.stdout.starts_with("ok"), "{sender}: {answer}");
    }
    // No argument says whom it is for: helper/src/introspection.rs.
    assert_eq!(target.port_start(), "1024");
    assert_eq!(target.ledger().len(), 0);
}
