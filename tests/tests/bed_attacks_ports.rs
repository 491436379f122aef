//! Attack 32 of the list: which sockets a grant of ports is for, and which it is not.

use rootlessd_tests::{
    attacks::target::{MALLORY, Rule, Target},
    bed::{IMAGE, Suite},
    command::Spawned,
    machine::on_both,
};

const ATTACKER: &str = env!("CARGO_BIN_EXE_rootlessd-attacker");
const USER: &str = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service";
const SCOPE: &str = "rootlessd.slice/rootlessd-engine.scope";
const PORTS: [&str; 9] = [
    "tcp4/80",
    "tcp6/80",
    "udp4/80",
    "udp6/80",
    "tcp4/443",
    "udp4/443",
    "udp6/443",
    "tcp4/81",
    "tcp4/8080",
];

/// What a process of this uid in this cgroup may bind.
fn may(target: &Target, cgroup: &str, uid: u32) -> Vec<String> {
    let join = format!(
        "echo $$ >{cgroup}/cgroup.procs && exec setpriv --reuid {uid} --regid {uid} --clear-groups \
         rootlessd-attacker bind {}",
        PORTS.join(" ")
    );
    let said = target.root_sh(&join).ok();
    assert_eq!(said.lines().count(), PORTS.len(), "{said}");
    said.lines().filter_map(|line| line.strip_suffix(" ok")).map(str::to_owned).collect()
}

fn scope(target: &Target) -> Spawned {
    target.engine_scope("-p Delegate=yes")
}

#[test]
fn attack_32_a_grant_is_for_one_cgroup_one_protocol_and_one_port() {
    on_both(|suite| {
        let target = Target::boot(suite, ATTACKER, Rule::Yes);
        let _scope = scope(&target);
        let inside = format!("{USER}/{SCOPE}");
        let nested = format!("{inside}/nested");
        target.root(["mkdir", &nested]).ok();
        let free = ["tcp4/8080"];
        assert_eq!(may(&target, &inside, 4242), free);
        target.grant(["GrantPorts", "a(sq)", "tcp/80", "udp/443"]);
        let granted = ["tcp4/80", "tcp6/80", "udp4/443", "udp6/443", "tcp4/8080"];
        assert_eq!(may(&target, &inside, 4242), granted, "{suite}");
        assert_eq!(may(&target, &nested, 4242), granted, "{suite}");
        // It is the cgroup's, whoever is in it: only its user, and root, can put a process there.
        assert_eq!(may(&target, &inside, MALLORY), granted, "{suite}");
        let join = format!("echo 1 >{inside}/cgroup.procs");
        target
            .root([
                "setpriv",
                "--reuid",
                "4243",
                "--regid",
                "4243",
                "--clear-groups",
                "sh",
                "-c",
                &join,
            ])
            .fails();
        // Beside and above it there is nothing.
        for other in [
            format!("{USER}/app.slice"),
            format!("{USER}/init.scope"),
            "/sys/fs/cgroup/user.slice/user-4242.slice/bed".into(),
            "/sys/fs/cgroup/user.slice/user-0.slice/bed".into(),
        ] {
            if target.root(["test", "-e", &format!("{other}/cgroup.procs")]).status.success() {
                let uid = if other.contains("user-0") { MALLORY } else { 4242 };
                assert_eq!(may(&target, &other, uid), free, "{suite}: {other}");
            }
        }
        // A scope that is new has nothing until it is given.
        target.user_sh("systemctl --user stop rootlessd-engine.scope").ok();
        let _scope = scope(&target);
        assert_eq!(may(&target, &inside, 4242), free, "{suite}");
        assert_eq!(target.answer(["AttachGrants", ""]), "ok");
        assert_eq!(may(&target, &inside, 4242), granted, "{suite}");
        // One that calls itself so elsewhere gets nothing.
        let false_scope = format!("{USER}/app.slice/rootlessd-engine.scope");
        target.root(["mkdir", "-p", &false_scope]).ok();
        assert_eq!(target.answer(["AttachGrants", ""]), "ok");
        assert_eq!(may(&target, &false_scope, 4242), free, "{suite}");
        // Another user's call neither gives nor takes anything.
        assert_eq!(target.attack_as(MALLORY, ["call", "AttachGrants", ""]).ok(), "ok");
        assert_eq!(may(&target, &inside, 4242), granted, "{suite}");
        target.assert_well();
    });
}

#[test]
fn attack_32_a_container_with_the_hosts_network_does_not_have_the_hosts_port() {
    let target = Target::boot(Suite::Trixie, ATTACKER, Rule::Yes);
    target.enable();
    target.user(["docker", "load", "-qi", IMAGE]).ok();
    target.grant(["GrantPorts", "a(sq)", "tcp/80"]);
    let page = |address: &str| target.root(["curl", "-s", "-m", "3", address]).stdout;
    // It listens on port 80 of RootlessKit's network, which it may anyway, and not on the machine's.
    target.user(["docker", "run", "-d", "--name", "net", "--net", "host", "rootlessd/tiny"]).ok();
    assert_eq!(page("http://127.0.0.1:80/"), "");
    target.user(["docker", "rm", "-f", "net"]).ok();
    // Published it is the machine's.
    target.user(["docker", "run", "-d", "--name", "web", "-p", "80:80", "rootlessd/tiny"]).ok();
    assert_eq!(target.fetch("http://127.0.0.1:80/"), "hello from a container");
    // A process in a container may not be in the scope, wherever its network is.
    let scope = target
        .root_sh(&format!(
            "cat {USER}/{SCOPE}/cgroup.procs {USER}/{SCOPE}/*/cgroup.procs 2>/dev/null; true"
        ))
        .ok();
    let inside = target.web_pid();
    assert!(!scope.lines().any(|pid| pid == inside), "{inside}: {scope}");
    target.user(["docker", "rm", "-f", "web"]).ok();
    // Another one is asked for when it is needed, and here the answer is no then.
    target.set_rule(Rule::No);
    let refused =
        target.user(["docker", "run", "--rm", "-p", "81:80", "rootlessd/tiny", "true"]).fails();
    assert!(refused.contains("81"), "{refused}");
    target.assert_well();
}
