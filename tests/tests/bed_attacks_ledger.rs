//! Attacks 21 to 24, 30 and 31 of the list: what was granted to whom, and its undoing.

use std::collections::BTreeSet;

use rootlessd_tests::{
    attacks::target::{MALLORY, Rule, Target},
    bed::Suite,
    command::wait_for,
    machine::SOON,
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");

fn boot(rule: Rule) -> Target {
    Target::boot(Suite::Trixie, ATTACKER, rule)
}

/// `owner:start:count`, as numbers.
fn ranges(text: &str) -> Vec<(String, u64, u64)> {
    let range = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?.to_owned();
        Some((owner, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().map(|line| range(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

#[test]
fn attack_21_a_thousand_requests_and_each_user_has_a_range_of_its_own() {
    let target = boot(Rule::Yes);
    // Forty users without a range, one whose name is an option, one whose name is a number, and one
    // who has a little.
    target
        .root_sh(
            "for n in $(seq 40); do useradd -u $((5000 + n)) -M user$n; done
             sed -i /^user/d /etc/subuid /etc/subgid
             echo '--add-subuids:x:5100:5100::/:/bin/sh' >>/etc/passwd
             echo '5101:x:5102:5102::/:/bin/sh' >>/etc/passwd
             printf 'user1:700000:10\\nother:4294901760:65535\\nx:y:z\\n' >>/etc/subuid",
        )
        .ok();
    let script = r#"
        for n in $(seq 40); do
            uid=$((5000 + n))
            setpriv --reuid $uid --regid $uid --clear-groups rootlessd-attacker repeat 25 AllocateSubIds "" >/run/said-$n &
        done
        for uid in 5100 5102; do
            setpriv --reuid $uid --regid $uid --clear-groups rootlessd-attacker call AllocateSubIds "" >/run/odd-$uid &
        done
        # Others give out ranges at the same time.
        for n in $(seq 10); do useradd -u $((5200 + n)) -M added$n || echo "useradd failed"; done
        wait
        cat /run/said-* | cut -d: -f1 | sort | uniq -c
        cat /run/odd-*"#;
    let said = target.root(["bash", "-c", script]).ok();
    eprintln!("{said}");
    let again = r#"for n in $(seq 40); do
            uid=$((5000 + n))
            setpriv --reuid $uid --regid $uid --clear-groups rootlessd-attacker call AllocateSubIds "" | head -n 1
        done | sort | uniq -c"#;
    // Who was told to wait, or found the files locked, has it when it asks again.
    let again = target.root(["bash", "-c", again]).ok();
    assert_eq!(again.trim(), "40 ok");
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = target.root_sh(&format!("grep -v '^x:y:z$' {file}")).ok();
        let mut all = ranges(&text);
        for n in 1..=40 {
            let name = format!("user{n}");
            let own = all.iter().filter(|(owner, _, count)| *owner == name && *count == 65536);
            assert_eq!(own.count(), 1, "{file}: {name}: {text}");
        }
        // useradd looks for no range but from 100000 on, and never looks at ours as taken by itself.
        all.sort_by_key(|(_, start, _)| *start);
        for pair in all.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{file}: {pair:?}");
        }
        assert!(all.iter().all(|(_, start, count)| start + count < 1 << 32), "{file}: {text}");
        assert!(!text.contains("5102:"), "{file}: {text}");
    }
    let passwd = target.root_sh("pwck -rq; ls /etc/*.lock 2>/dev/null").stdout;
    assert_eq!(passwd.lines().filter(|line| line.contains(".lock")).count(), 0, "{passwd}");
    target.assert_well();
}

#[test]
fn attack_22_the_drop_in_is_one_file_with_one_section() {
    let target = boot(Rule::Yes);
    target.with_controllers();
    let before = target.snapshot();
    for word in ["../x", "cpu.conf", "/etc/passwd", "cpu\n[Unit]", "", "cpu;memory", "CPU"] {
        let answer = target.answer(["DelegateControllers", "as", word]);
        assert!(answer.starts_with("org.freedesktop.DBus.Error.InvalidArgs:"), "{word}: {answer}");
    }
    assert_eq!(target.snapshot().changes(&before), [].into());
    let id = target.grant(["DelegateControllers", "as", "cpu", "pids", "cpu"]).remove(0);
    let directory = "/etc/systemd/system/user@.service.d";
    let changes: BTreeSet<_> = target.snapshot().lasting(&before);
    let file = format!("{directory}/60-rootlessd-delegate.conf");
    for change in &changes {
        let path = change.trim_start_matches("meta ");
        assert!(path.starts_with(directory) || path == "/etc/systemd/system", "{changes:?}");
    }
    let text = target.root(["grep", "-v", "^#", &file]).ok();
    assert_eq!(text, "[Service]\nDelegate=cpu pids");
    target.grant(["Revoke", "s", &id]);
    target.root(["test", "!", "-e", &file]).ok();
}

#[test]
fn attack_23_there_is_no_way_to_apparmor() {
    let target = boot(Rule::Yes);
    let xml = target
        .user([
            "busctl",
            "introspect",
            "--xml-interface",
            "org.rootlessd.Helper1",
            "/org/rootlessd/Helper1",
        ])
        .ok();
    assert!(!xml.to_lowercase().contains("apparmor") && !xml.contains("path\" type"), "{xml}");
    let pid = target.helper();
    // Nor could it load a profile: CAP_MAC_ADMIN is 33, and CAP_SYS_ADMIN 21.
    let bounding =
        target.root_sh(&format!("sed -n 's/^CapBnd:[^0-9a-f]*//p' /proc/{pid}/status")).ok();
    let bounding = u64::from_str_radix(&bounding, 16).expect("capabilities");
    for capability in [33, 21, 32, 2, 1, 0, 7, 6, 16, 19] {
        assert_eq!(bounding >> capability & 1, 0, "capability {capability}");
    }
    // SETFCAP, NET_ADMIN, SYS_RESOURCE and BPF at most.
    assert_eq!(bounding & !(1 << 31 | 1 << 12 | 1 << 24 | 1 << 39), 0, "{bounding:x}");
    let open = target.root_sh(&format!("grep -ac /sys/kernel/security /proc/{pid}/exe; true")).ok();
    assert_eq!(open, "0");
}

#[test]
fn attack_24_what_is_taken_back_is_as_it_was() {
    let target = boot(Rule::Yes);
    target.with_controllers();
    let _scope = target.engine_scope("");
    target.root_sh("sed -i /^tester:/d /etc/subuid /etc/subgid").ok();
    target.grant(["ListGrants", ""]);
    let before = target.snapshot();
    let mut ids = Vec::new();
    for call in [
        vec!["GrantPorts", "a(sq)", "tcp/80", "udp/443"],
        vec!["GrantBindCapability", ""],
        vec!["SetUnprivilegedPortStart", "q", "443"],
        vec!["SetPingRange", "s", "own"],
        vec!["DelegateControllers", "as", "memory"],
        vec!["AllocateSubIds", ""],
    ] {
        let answer = target.attack(["call"].iter().chain(&call)).ok();
        let mut lines = answer.lines();
        assert_eq!(lines.next(), Some("ok"), "{call:?}: {answer}");
        let granted: Vec<_> = lines.map(str::to_owned).collect();
        assert!(!granted.is_empty(), "{call:?}");
        ids.extend(granted);
    }
    assert!(
        target
            .root_sh("find /sys/fs/bpf/rootlessd -type f | wc -l")
            .ok()
            .parse::<u32>()
            .is_ok_and(|n| n == 2)
    );
    // In any order.
    for id in ids.iter().step_by(2).chain(ids.iter().skip(1).step_by(2)) {
        target.grant(["Revoke", "s", id]);
        let again = target.answer(["Revoke", "s", id]);
        assert!(again.starts_with("org.rootlessd.Error.NoSuchGrant:"), "{again}");
    }
    // usermod keeps what was before, and systemd a directory that is empty.
    let kept = [
        "/etc/subuid-",
        "/etc/subgid-",
        "/etc/.pwd.lock",
        "/etc/systemd/system/paths.target.wants",
    ];
    let changes = target.snapshot().lasting(&before).into_iter();
    let left: Vec<_> =
        changes.filter(|change| !kept.contains(&change.trim_start_matches("meta "))).collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(target.root_sh("grep -c tester /etc/subuid /etc/subgid; getcap -r /usr | grep -c bind; find /sys/fs/bpf/rootlessd -type f").stdout.trim(),
        "/etc/subuid:0\n/etc/subgid:0\n0");
    assert_eq!(target.ledger().len(), 0);
    target.assert_well();
}

#[test]
fn attack_30_no_id_is_guessed_and_none_of_anothers_taken_back() {
    let target = boot(Rule::Yes);
    let first = target.grant(["GrantPorts", "a(sq)", "tcp/80"]).remove(0);
    let second = target.grant(["SetUnprivilegedPortStart", "q", "443"]).remove(0);
    target.set_rule(Rule::Ask);
    let guessed = target.attack_as(MALLORY, ["guess", "2000"]).ok();
    for line in guessed.lines() {
        let known =
            ["org.rootlessd.Error.NoSuchGrant ", "org.freedesktop.DBus.Error.LimitsExceeded "];
        assert!(known.iter().any(|start| line.starts_with(start)), "{guessed}");
    }
    // It counts calls by the second.
    wait_for("the next second", SOON, || {
        let answer = target.attack_as(MALLORY, ["call", "ListGrants", ""]).ok();
        (answer == "ok").then_some(())
    });
    let near = format!("{}{}", &first[..31], if first.ends_with('0') { '1' } else { '0' });
    let half = &first[..16];
    for (id, error) in [
        (&*first, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"),
        (&*second, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"),
        (&*near, "org.rootlessd.Error.NoSuchGrant"),
        (half, "org.rootlessd.Error.NoSuchGrant"),
        (&*first.to_uppercase(), "org.rootlessd.Error.NoSuchGrant"),
        ("", "org.rootlessd.Error.NoSuchGrant"),
        ("*", "org.rootlessd.Error.NoSuchGrant"),
    ] {
        let answer = target.attack_as(MALLORY, ["call", "Revoke", "s", id]).ok();
        let is_number = first.bytes().all(|digit| digit.is_ascii_digit());
        assert!(answer.starts_with(error) || is_number, "{id}: {answer}");
    }
    // They do not see each other's, either.
    assert_eq!(target.attack_as(MALLORY, ["call", "ListGrants", ""]).ok(), "ok");
    assert_eq!(target.ledger().len(), 2);
    // One's own ports are given back over another connection, without a question.
    target.grant(["Revoke", "s", &first]);
    assert_eq!(target.ledger().len(), 1);

    // No two are alike: 128 bits, of which no half comes again.
    target.set_rule(Rule::Yes);
    let mut halves = BTreeSet::new();
    for _ in 0..8 {
        let ports = [
            "GrantPorts",
            "a(sq)",
            "tcp/1",
            "tcp/2",
            "tcp/3",
            "tcp/4",
            "tcp/5",
            "tcp/6",
            "tcp/7",
            "tcp/8",
        ];
        for id in target.grant(ports) {
            assert!(halves.insert(id[..16].to_owned()) && halves.insert(id[16..].to_owned()));
            target.grant(["Revoke", "s", &id]);
        }
    }
    target.assert_well();
}

#[test]
fn attack_31_what_is_taken_back_while_it_is_used_is_not_had_again() {
    let target = boot(Rule::Yes);
    target.user_sh("systemd-run -q --user --scope -u rootlessd-engine.scope --slice=rootlessd.slice sleep infinity >/dev/null 2>&1 &").ok();
    let scope = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service/rootlessd.slice/rootlessd-engine.scope";
    let id = target.grant(["GrantPorts", "a(sq)", "tcp/80"]).remove(0);
    let inside = |command: &str| {
        let join = format!(
            "echo $$ >{scope}/cgroup.procs && exec setpriv --reuid tester --regid tester --clear-groups {command}"
        );
        ["sh".to_owned(), "-c".to_owned(), join]
    };
    let bind = || target.root(inside("rootlessd-attacker bind tcp4/80")).ok();
    let mut holder = target.spawn_root(inside("rootlessd-attacker hold tcp4/80"));
    holder.wait_line(SOON, |line| line == "held");
    target.grant(["Revoke", "s", &id]);
    // Nothing is pinned or attached any more, and whoever holds it holds it for no longer than that.
    assert_eq!(target.root_sh("find /sys/fs/bpf/rootlessd -type f").ok(), "");
    assert_eq!(bind(), "tcp4/80 permission denied");
    holder.send("\n");
    holder.wait();
    assert_eq!(bind(), "tcp4/80 permission denied");
    // No method gives a file or a lease: attack 16. Asked for anew, it is had anew.
    target.grant(["GrantPorts", "a(sq)", "tcp/80"]);
    assert_eq!(bind(), "tcp4/80 ok");
    target.assert_well();
}
