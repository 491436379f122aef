//! Attacks 12 to 18, 20 and 25 of the list: what stands in the way of what the helper writes to.

use std::time::{Duration, Instant};

use rootlessd_tests::{
    attacks::target::{CONF, LEDGER, Rule, Target},
    bed::Suite,
    machine::SOON,
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");
/// Whatever it is, it takes no longer. The helper's own start is in it.
const QUICK: Duration = Duration::from_secs(2);

/// A name, what is put in the place of RootlessKit ($P; $O is the real one), and what takes it away.
type Obstacle = (&'static str, &'static str, &'static str);

fn boot(rule: Rule) -> Target {
    Target::boot(Suite::Trixie, ATTACKER, rule)
}

/// With each in its place, the capability is refused, soon, and is nowhere.
fn refused_at(obstacles: &[Obstacle]) {
    let target = boot(Rule::Yes);
    let names = "P=/usr/bin/rootlesskit; O=$P.real;";
    target.root_sh(&format!("{names} mv $P $O")).ok();
    for (name, put, take) in obstacles {
        // What it may write to are mounts, made when it starts.
        target.root_sh(&format!("systemctl stop rootlessd-helper; {names} {put}")).ok();
        let begin = Instant::now();
        let answer = target.answer(["GrantBindCapability", ""]);
        assert!(begin.elapsed() < QUICK, "{name}: {:?}", begin.elapsed());
        eprintln!("{name}: {answer}");
        let kinds = ["org.rootlessd.Error.Conflict: ", "org.rootlessd.Error.System: "];
        let refused = kinds.iter().any(|kind| answer.starts_with(kind));
        assert!(refused && answer.contains("/usr/bin"), "{name}: {answer}");
        target.root_sh(&format!("{names} {take}")).ok();
        let given =
            target.root_sh("getcap -r /usr /home /tmp /run/attack 2>/dev/null | grep bind; true");
        assert_eq!(given.ok(), "", "{name}");
    }
    assert_eq!(target.ledger().len(), 0);
    // With the real one in its place it is granted, and to it.
    target.root_sh(&format!("systemctl stop rootlessd-helper; {names} mv $O $P")).ok();
    assert_eq!(target.answer(["GrantBindCapability", ""]), "ok");
    assert_eq!(
        target.root(["getcap", "/usr/bin/rootlesskit"]).ok(),
        "/usr/bin/rootlesskit cap_net_bind_service=ep"
    );
    target.assert_well();
}

#[test]
fn attack_12_the_capability_is_for_no_other_file() {
    refused_at(&[
        ("a symbolic link", "ln -s $O $P", "rm $P"),
        ("a directory", "mkdir $P", "rmdir $P"),
        ("a hard link to a setuid program", "ln /usr/bin/su $P", "rm $P"),
        (
            "a symbolic link above it",
            "cp $O $P; mv /usr/bin /usr/bin.real; /usr/bin.real/ln -s bin.real /usr/bin",
            "/usr/bin.real/rm /usr/bin; /usr/bin.real/mv /usr/bin.real /usr/bin; rm $P",
        ),
        (
            "nosuid",
            "mkdir /run/attack; mount -t tmpfs -o nosuid,mode=755 a /run/attack; cp $O /run/attack/; \
             touch $P; mount --bind /run/attack/rootlesskit.real $P",
            "umount $P /run/attack; rmdir /run/attack; rm $P",
        ),
        (
            "FUSE",
            "mkdir -p /run/attack/low /run/attack/at; cp $O /run/attack/low/; \
             fuse-overlayfs -o lowerdir=/run/attack/low /run/attack/at; \
             touch $P; mount --bind /run/attack/at/rootlesskit.real $P",
            "umount $P /run/attack/at; rm -r /run/attack $P",
        ),
    ]);
}

#[test]
fn attack_12_a_device_and_a_fifo_are_no_programs() {
    refused_at(&[("a device", "mknod -m 755 $P c 1 5", "rm $P")]);
    refused_at(&[("a FIFO", "mkfifo $P", "rm $P")]);
}

#[test]
fn attack_14_the_capability_is_for_no_file_that_others_can_change() {
    refused_at(&[
        ("its group", "cp $O $P; chmod 775 $P; chown root:tester $P", "rm $P"),
        ("its directory", "cp $O $P; chmod 777 /usr/bin", "chmod 755 /usr/bin; rm $P"),
    ]);
    refused_at(&[("its owner", "cp $O $P; chown tester $P", "rm $P")]);
}

#[test]
fn attack_13_what_is_put_in_its_place_meanwhile_gets_nothing() {
    let target = boot(Rule::Yes);
    let evil = "/usr/bin/evil";
    target.root(["install", "-o", "tester", "/bin/true", evil]).ok();
    // A watch is of a file, whatever its name is then.
    let watch = |path: &str| {
        let script = format!("exec inotifywait -m -e attrib -e modify {path} 2>&1");
        let mut watch = target.spawn_root(["sh", "-c", &script]);
        watch.wait_line(SOON, |line| line.contains("established"));
        watch
    };
    let (mut evil_watch, mut good_watch) = (watch(evil), watch("/usr/bin/rootlesskit"));
    let exchange = ["rootlessd-attacker", "exchange", "/usr/bin/rootlesskit", evil];
    let mut exchange = target.spawn_root(exchange);
    exchange.wait_line(SOON, |_| true);
    // Not in the sandbox, which alone would do.
    let round = "out=$(rootlessd-helper apply grant-bind-capability --for tester 2>&1) && \
                 rootlessd-helper apply revoke ${out#granted: } >&2; echo $out";
    let script = format!("for i in $(seq 150); do {round}; done 2>&1");
    let said = target.root_sh(&script).ok();
    let mut exchanges = 0;
    while exchanges < 100_000 {
        let line = exchange.wait_line(SOON, |_| true);
        exchanges = line.parse().expect("a number");
    }
    drop(exchange);
    let granted = said.lines().filter(|line| line.starts_with("granted")).count();
    let refused =
        said.lines().filter(|line| line.contains("others than root can change it")).count();
    eprintln!("{exchanges} exchanges, {granted} grants, {refused} refusals");
    // Both came to pass, or nothing was tried.
    assert!(granted > 0 && refused > 0, "{said}");
    assert!(good_watch.next_line(SOON).is_some_and(|line| line.contains("ATTRIB")));
    let touched = evil_watch.next_line(Duration::from_millis(200));
    assert_eq!(touched, None);
    // Whichever of the names is its own now.
    let caps = target.root_sh("find /usr/bin -user tester -exec getcap {} +").ok();
    assert_eq!(caps, "");
}

#[test]
fn attack_15_open_files_are_refused_and_do_not_leak() {
    let target = boot(Rule::Yes);
    let pid = target.helper();
    target.attack(["call", "ListGrants", ""]).ok();
    let before = target.helper_has();
    let answers = target.attack(["files", "10000"]).ok();
    assert_eq!(answers, "org.freedesktop.DBus.Error.AccessDenied 10000");
    let after = target.helper_has();
    assert_eq!(after.0, before.0);
    assert_eq!(target.helper(), pid);
    assert_eq!(target.ledger().len(), 0);
    // Without any, the same connection's calls are heard.
    target.grant(["ListGrants", ""]);
    target.assert_well();
}

#[test]
fn attack_16_the_running_helper_says_what_the_file_says() {
    let target = boot(Rule::Yes);
    let name = "org.rootlessd.Helper1";
    let live = target.user(["busctl", "introspect", "--list", name, "/org/rootlessd/Helper1"]).ok();
    let live: Vec<_> = live.lines().filter(|line| line.contains(" method ")).collect();
    let arguments: Vec<_> = live.iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
    for argument in arguments {
        // Get, GetAll and Set are D-Bus's own, and there are no properties.
        let known = ["-", "a(sq)", "q", "s", "as", "ss", "ssv"].contains(&argument);
        assert!(known, "{argument}: {live:#?}");
    }
    let get = [
        "busctl",
        "call",
        name,
        "/org/rootlessd/Helper1",
        "org.freedesktop.DBus.Properties",
        "GetAll",
        "s",
        name,
    ];
    assert_eq!(target.user(get).ok(), "a{sv} 0");
    // And there is no other object.
    let tree = target.user(["busctl", "tree", "--list", name]).ok();
    assert_eq!(tree.lines().last(), Some("/org/rootlessd/Helper1"), "{tree}");
}

#[test]
fn attack_17_no_value_is_a_line_of_its_own() {
    let target = boot(Rule::Yes);
    let inject = "80\nkernel.core_pattern=|/tmp/x";
    let before = target.snapshot();
    let try_all = || {
        for call in [
            ["SetUnprivilegedPortStart", "s", inject],
            ["SetUnprivilegedPortStart", "s", "80 #"],
            ["SetUnprivilegedPortStart", "s", "0x50"],
            ["SetUnprivilegedPortStart", "s", " 80"],
            ["SetUnprivilegedPortStart", "u", "70000"],
            ["SetUnprivilegedPortStart", "i", "-1"],
            ["SetUnprivilegedPortStart", "u", "80"],
            ["SetUnprivilegedPortStart", "q", "1024"],
            ["SetUnprivilegedPortStart", "q", "65535"],
            ["SetPingRange", "s", inject],
            ["SetPingRange", "s", "own\nx"],
            ["SetPingRange", "s", "0 2147483647"],
            ["DelegateControllers", "as", "cpu\n[Install]"],
            ["DelegateControllers", "as", "cpu memory"],
            ["GrantPorts", "a(sq)", "tcp\n/80"],
            ["GrantPorts", "a(sq)", "tcp/0"],
            ["Revoke", "s", inject],
        ] {
            let answer = target.answer(call);
            let kinds =
                ["org.freedesktop.DBus.Error.InvalidArgs:", "org.rootlessd.Error.NoSuchGrant:"];
            assert!(kinds.iter().any(|kind| answer.starts_with(kind)), "{call:?}: {answer}");
        }
    };
    try_all();
    assert_eq!(target.snapshot().changes(&before), [].into());
    // Nor where there is a file already.
    target.grant(["SetUnprivilegedPortStart", "q", "80"]);
    let granted = target.snapshot();
    try_all();
    assert_eq!(target.snapshot().changes(&granted), [].into());
    let lines = target.root(["grep", "-v", "^#", CONF]).ok();
    assert_eq!(lines, "net.ipv4.ip_unprivileged_port_start = 80");
    target.assert_well();
}

#[test]
fn attack_18_what_is_in_its_files_place_stays() {
    let target = boot(Rule::Yes);
    for (name, put, take) in [
        ("a symbolic link", "ln -s /etc/victim $C", "rm $C"),
        ("a dangling link", "ln -s /etc/nothing $C", "rm $C; [ ! -e /etc/nothing ]"),
        ("a directory", "mkdir $C", "rmdir $C"),
        ("a FIFO", "mkfifo $C", "rm $C"),
        ("a hard link", "ln /etc/victim $C", "rm $C"),
        ("another's file", "echo mine >$C", "grep -qx mine $C && rm $C"),
        ("a mount", "touch $C; mount --bind /etc/victim $C", "umount $C; rm $C"),
        ("no directory", "mv $D /etc/away", "mv /etc/away $D"),
        ("another's directory", "chown tester $D", "chown root $D"),
        ("a link for a directory", "mv $D /etc/away; ln -s away $D", "rm $D; mv /etc/away $D"),
    ] {
        let names = format!("D=/etc/sysctl.d; C={CONF}; ");
        target.root_sh(&format!("{names} echo untouched >/etc/victim; {put}")).ok();
        let begin = Instant::now();
        let answer = target.answer(["SetUnprivilegedPortStart", "q", "80"]);
        assert!(begin.elapsed() < QUICK, "{name}: {:?}", begin.elapsed());
        eprintln!("{name}: {answer}");
        assert!(answer.contains("60-rootlessd.conf"), "{name}: {answer}");
        assert_eq!(target.port_start(), "1024", "{name}");
        assert_eq!(target.ledger().len(), 0, "{name}");
        assert_eq!(target.root(["cat", "/etc/victim"]).ok(), "untouched", "{name}");
        target.root_sh(&format!("{names} {take}")).ok();
    }
    target.grant(["SetUnprivilegedPortStart", "q", "80"]);
    target.assert_well();
}

#[test]
fn attack_20_no_place_left_and_it_is_as_it_was() {
    let target = boot(Rule::Yes);
    target.helper();
    let before = target.snapshot();
    let full = "mount -t tmpfs -o size=8k,mode=755 full $0 && ! dd if=/dev/zero of=$0/full bs=4k 2>/dev/null";
    let read_only = "mount -t tmpfs -o ro,mode=755 full $0";
    for (place, how, why) in [
        ("/etc/sysctl.d", full, "No space left"),
        ("/etc/sysctl.d", read_only, "Read-only file system"),
        ("/var/lib/rootlessd", full, "No space left"),
        ("/var/lib/rootlessd", read_only, "Read-only file system"),
    ] {
        target.root(["sh", "-c", how, place]).ok();
        for _ in 0..2 {
            let answer = target.answer(["SetUnprivilegedPortStart", "q", "80"]);
            eprintln!("{place}: {answer}");
            assert!(answer.contains(why) && answer.contains(place), "{place}: {answer}");
            assert_eq!(target.port_start(), "1024", "{place}");
        }
        target.root(["umount", place]).ok();
        assert_eq!(target.ledger().len(), 0);
        assert_eq!(target.snapshot().changes(&before), [].into(), "{place}");
    }
    target.assert_well();
}

#[test]
fn attack_25_the_environment_is_not_the_attackers() {
    let target = boot(Rule::Yes);
    // What the bus starts services with is not the user's to say.
    let update = [
        "busctl",
        "call",
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "UpdateActivationEnvironment",
        "a{ss}",
        "1",
        "LD_PRELOAD",
        "/tmp/evil.so",
    ];
    target.user(update).fails();
    target
        .user([
            "env",
            "LD_PRELOAD=/tmp/evil.so",
            "RUST_LOG=trace",
            "rootlessd-attacker",
            "call",
            "ListGrants",
            "",
        ])
        .ok();
    let pid = target.helper();
    let environment = target.root_sh(&format!("tr '\\0' '\\n' </proc/{pid}/environ; umask")).ok();
    assert!(!environment.contains("LD_") && !environment.contains("RUST_LOG"), "{environment}");

    // Where root's own systemd has a strange one, the same is written, for the same people.
    target.root_sh(
        "systemctl stop rootlessd-helper; systemctl start polkit
         systemctl set-environment LC_ALL=tr_TR.UTF-8 LANG=xx_YY LANGUAGE=de TZ=:/etc/shadow RUST_LOG=trace \
            RUST_BACKTRACE=full TMPDIR=/nonexistent HOME=/nonexistent PATH=/tmp/evil:/usr/bin IFS=/ BASH_ENV=/tmp/evil \
            DBUS_SYSTEM_BUS_ADDRESS=unix:path=/tmp/evil/bus MALLOC_PERTURB_=165 \
            LD_PRELOAD=/tmp/evil/evil.so LD_LIBRARY_PATH=/tmp/evil GLIBC_TUNABLES=glibc.malloc.check=3
         mkdir -p /tmp/evil && printf '#!/bin/sh\\ntouch /tmp/evil/ran\\n' | tee /tmp/evil/usermod >/tmp/evil/mkdir
         chmod 755 /tmp/evil/*",
    ).ok();
    let answers = target.attack_as(rootlessd_tests::attacks::target::MALLORY, ["each"]).ok();
    assert!(
        answers.contains("SetUnprivilegedPortStart ok") && answers.contains("AllocateSubIds ok"),
        "{answers}"
    );
    target
        .root_sh(
            "pid=$(systemctl show -P MainPID rootlessd-helper); if tr '\\0' '\\n' </proc/$pid/environ | grep -E '^(LD_|DBUS|GLIBC)'; then exit 1; fi; \
         systemctl unset-environment LC_ALL LANG LANGUAGE TZ PATH HOME LD_PRELOAD LD_LIBRARY_PATH GLIBC_TUNABLES; [ ! -e /tmp/evil/ran ]",
        )
        .ok();
    let stat = |path: &str| target.root(["stat", "-c", "%a %U:%G", path]).ok();
    assert_eq!(stat(CONF), "644 root:root");
    assert_eq!(stat(LEDGER), "600 root:root");
    // And with root's own command line, whose umask is as it may be.
    let apply = "umask 0; LC_ALL=tr_TR.UTF-8 rootlessd-helper apply set-ping-range all --for tester; \
                 rootlessd-helper apply set-unprivileged-port-start 22 --for tester";
    target.root_sh(apply).ok();
    assert_eq!((stat(CONF), stat(LEDGER)), ("644 root:root".into(), "600 root:root".into()));
    let lines = target.root(["grep", "-v", "^#", CONF]).ok();
    assert_eq!(
        lines,
        "net.ipv4.ip_unprivileged_port_start = 22\nnet.ipv4.ping_group_range = 0 2147483647"
    );
    target.assert_well();
}
