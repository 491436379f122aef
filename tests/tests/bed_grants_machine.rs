//! What is granted to a user by changing the machine for all: the capability of RootlessKit, kernel
//! settings. Each is there, does what it is for, lasts, and is undone to the last byte.

use rootlessd_tests::{
    bed::Suite,
    grants::{Caller, Outcome, REINSTALL, ROOTLESSKIT},
    machine::{Machine, SOON, on_both, victims},
};

const PAGE: &str = "hello from a container";
const WATCH: &str = "rootlessd-setcap@rootlesskit.path";
const REPAIR: &str = "rootlessd-setcap.service";
const SYSCTLS: &str = "/etc/sysctl.d/60-rootlessd.conf";

/// A machine where an administrator has agreed to this, and to nothing else.
fn machine(suite: Suite, actions: &[&str]) -> Machine {
    let machine = Machine::running(suite);
    machine.load();
    let yes = actions.iter().map(|&action| (action, "yes"));
    machine.decide(&yes.chain([("grant-ports", "no")]).collect::<Vec<_>>());
    machine
}

fn capability(machine: &Machine) -> String {
    machine.root(["getcap", ROOTLESSKIT]).ok()
}

#[test]
fn the_capability_is_given_kept_through_upgrades_and_taken_off() {
    on_both(|suite| {
        let machine = machine(suite, &["grant-bind-capability", "revoke"]);
        let file = || {
            machine
                .root_sh(&format!("stat -c '%a %U %G %h' {ROOTLESSKIT}; sha256sum {ROOTLESSKIT}"))
                .ok()
        };
        let before = file();
        let engine = victims(&machine.status());
        assert_eq!(capability(&machine), "");

        let outcome = machine.grant("GrantBindCapability", &[]);
        assert_eq!((outcome.grants.len(), outcome.notes.len()), (1, 0), "{outcome:?}");
        assert_eq!(outcome.needs, ["engine-restart"]);
        let given = format!("{ROOTLESSKIT} cap_net_bind_service=ep");
        assert_eq!(capability(&machine), given);
        assert_eq!(machine.system_unit("UnitFileState", WATCH), "enabled");
        assert_eq!(machine.system_unit("ActiveState", WATCH), "active");
        // The restart is offered, not forced.
        assert_eq!(victims(&machine.status()), engine);
        assert!(machine.refused("81:80").contains("rootlessctl ports allow 81/tcp"));
        machine.ctl(["restart"]);
        machine.publish("web", &["81:80", "53:53/udp"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        assert!(machine.ports().contains(&"81/tcp 0.0.0.0 capability".to_owned()));
        // Whoever asks for it again gets nothing more, and nobody is asked.
        machine.decide(&[("revoke", "yes"), ("grant-ports", "no")]);
        let nothing = Outcome { grants: vec![], needs: vec![], notes: vec![] };
        assert_eq!(machine.grant("GrantBindCapability", &[]), nothing);

        upgrades(&machine, &given);
        machine.reboot();
        assert_eq!(capability(&machine), given);
        assert_eq!(machine.system_unit("ActiveState", WATCH), "active");
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);

        let [outcome] = &machine.revoke_all()[..] else { panic!("one grant") };
        assert_eq!(
            (&outcome.needs[..], &outcome.notes[..]),
            (&["engine-restart".into()][..], &[][..])
        );
        assert_eq!(capability(&machine), "");
        assert_eq!(file(), before);
        assert_eq!(machine.system_unit("UnitFileState", WATCH), "disabled");
        assert_eq!(machine.system_unit("ActiveState", WATCH), "inactive");
        let wants = "find /etc/systemd/system -name 'rootlessd-setcap*'";
        assert_eq!(machine.root_sh(wants).ok(), "");
        machine.remove("web");
        machine.ctl(["restart"]);
        assert!(machine.refused("81:80").contains("rootlessctl ports allow 81/tcp"));
        // An upgrade now brings nothing back.
        machine.root(["sh", "-ec", REINSTALL]).ok();
        machine.root(["systemctl", "start", REPAIR]).ok();
        assert_eq!(capability(&machine), "");
    });
}

/// The package's own tool puts a new file there, without the capability.
fn upgrades(machine: &Machine, given: &str) {
    let drift = || machine.grants()[0]["drift"]["data"].clone();
    assert_eq!(drift(), serde_json::json!([]));
    // Unwatched, it is seen to be lost, and what a boot starts gives it again.
    machine.root(["systemctl", "stop", WATCH]).ok();
    machine.root(["sh", "-ec", REINSTALL]).ok();
    assert_eq!(capability(machine), "");
    let lost = format!("{ROOTLESSKIT} does not have the capability any more");
    assert_eq!(drift(), serde_json::json!([lost]));
    machine.root(["systemctl", "start", REPAIR, WATCH]).ok();
    assert_eq!(capability(machine), given);
    assert_eq!(drift(), serde_json::json!([]));
    // The same with the watch, several times in a row.
    for _ in 0..3 {
        let mut repair = machine.follow_unit(REPAIR);
        machine.root(["sh", "-ec", REINSTALL]).ok();
        repair.wait_line(SOON, |line| line.ends_with(": repaired"));
        repair.wait_line(SOON, |line| line.starts_with("Finished "));
        assert_eq!(capability(machine), given);
    }
    assert_eq!(drift(), serde_json::json!([]));
}

#[test]
fn kernel_settings_are_set_now_and_at_every_boot_and_set_back() {
    on_both(|suite| {
        let actions = ["set-unprivileged-port-start", "set-ping-range", "revoke"];
        let machine = machine(suite, &actions);
        // Values, and all files that sysctl(8) reads, with their modes and contents.
        let state = || {
            let state = "sysctl net.ipv4.ip_unprivileged_port_start net.ipv4.ping_group_range
                         cd /etc/sysctl.d && stat -c '%n %a %U %F' . * && grep -r . . | sort";
            machine.root_sh(state).ok()
        };
        let ping = || {
            let ping = ["ping", "-c", "1", "-W", "5", "198.51.100.1"];
            machine.user(["docker", "run", "--rm", "rootlessd/tiny"].iter().chain(&ping))
        };
        let engine = victims(&machine.status());
        let before = state();
        assert!(
            before.contains("port_start = 1024") && before.contains("range = 1\t0"),
            "{before}"
        );
        assert!(!ping().status.success());

        // Ports of everybody, and of every program.
        let outcome = machine.grant("SetUnprivilegedPortStart", &["q", "81"]);
        assert_eq!((outcome.grants.len(), outcome.needs.len(), outcome.notes.len()), (1, 0, 0));
        let head = "# Written by rootlessd-helper from its ledger: \"rootlessctl privileges\" shows why, and undoes it.\n";
        let start = "net.ipv4.ip_unprivileged_port_start = 81\n";
        let file = || machine.root(["cat", SYSCTLS]).stdout;
        assert_eq!(file(), format!("{head}{start}"));
        let first = state();
        assert!(
            first.contains("port_start = 81") && first.contains("60-rootlessd.conf 644 root"),
            "{first}"
        );
        machine.publish("web", &["81:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        assert_eq!(machine.ports(), ["81/tcp 0.0.0.0 sysctl", "81/tcp :: sysctl"]);
        assert!(machine.refused("80:80").contains("rootlessctl ports allow 80/tcp"));
        // A port that nobody needs a privilege for any more needs no grant, and no yes.
        let nothing = Outcome { grants: vec![], needs: vec![], notes: vec![] };
        assert_eq!(machine.grant("GrantPorts", &["a(sq)", "1", "tcp", "443"]), nothing);

        // Pings out of containers, at once: slirp4netns sends them as the user.
        machine.grant("SetPingRange", &["s", "own"]);
        let range = "net.ipv4.ping_group_range = 4242 4242\n";
        assert_eq!(file(), format!("{head}{start}{range}"));
        ping().ok();
        assert_eq!(victims(&machine.status()), engine);
        let both = state();

        machine.reboot();
        assert_eq!(state(), both);
        assert_eq!(machine.fetch("http://127.0.0.1:81/"), PAGE);
        ping().ok();
        assert!(machine.grants().iter().all(|it| it["drift"]["data"] == serde_json::json!([])));

        // A wider range on top, and all of it back, in the order in which it was given.
        machine.grant("SetPingRange", &["s", "all"]);
        assert_eq!(file(), format!("{head}{start}net.ipv4.ping_group_range = 0 2147483647\n"));
        for outcome in machine.revoke_all() {
            assert_eq!(outcome, nothing);
        }
        assert_eq!(state(), before);
        machine.remove("web");
        assert!(machine.refused("81:80").contains("rootlessctl ports allow 81/tcp"));
        assert!(!ping().status.success());
        machine.reboot();
        assert_eq!(state(), before);
    });
}

#[test]
fn what_the_machine_does_not_have_or_has_already_is_said() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.decide(&[("delegate-controllers", "no"), ("allow-user-namespaces", "no")]);
        let nothing = Outcome { grants: vec![], needs: vec![], notes: vec![] };
        // Whether a bed has controllers is for the machine to say: either there is nothing to hand on, or
        // users have it already. tests/vm_delegation.rs has both.
        let controllers = machine.root(["cat", "/sys/fs/cgroup/cgroup.controllers"]).ok();
        let delegated = machine.call("DelegateControllers", &["as", "1", "memory"]);
        if controllers.split(' ').any(|controller| controller == "memory") {
            assert_eq!(Outcome::of(&delegated.ok()), nothing);
        } else {
            let refusal = delegated.fails();
            assert!(
                refusal.contains("this machine's cgroup v2 has no memory controller"),
                "{refusal}"
            );
            let said = machine.try_ctl(["cgroup", "delegate", "memory"]).fails();
            assert!(said.contains("this machine's cgroup v2 has no memory controller"), "{said}");
        }
        let dropins = "find /etc/systemd/system -name '*rootlessd-delegate*'";
        assert_eq!(machine.root_sh(dropins).ok(), "");
        // The setting is the whole machine's, and no bed's: tests/vm_user_namespaces.rs turns it off.
        assert_eq!(machine.grant("AllowUserNamespaces", &[]), nothing);
        assert_eq!(machine.grants().len(), 0);
        machine.root(["test", "!", "-e", SYSCTLS]).ok();
    });
}
