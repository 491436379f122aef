//! Where the kernel lets nobody make user namespaces: the engine says so and what to do, the helper
//! allows it, and takes it back.

use rootlessd_tests::{
    machine::word,
    virtual_machine::{SOON, Vm},
};
use serde_json::json;

const FILE: &str = "/etc/sysctl.d/60-rootlessd.conf";

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn user_namespaces_are_allowed_and_forbidden_again() {
    let vm = Vm::running();
    vm.agree_to("allow-user-namespaces");
    vm.agree_to("revoke");
    let usual = |key: &str| vm.root(["sysctl", "-n", key]).ok();
    let cases = [
        ("kernel.unprivileged_userns_clone", "userns-disabled", "1"),
        ("user.max_user_namespaces", "userns-limit", "28633"),
    ];
    for (key, code, allowed) in cases {
        vm.ctl(["stop"]);
        let first = usual(key);
        eprintln!("{key} is {first}");
        let off = format!("{key}=0");
        vm.root(["sysctl", "-qw", &off]).ok();
        let before = vm.tree("/etc/sysctl.d /etc/sysctl.conf");

        vm.user(["unshare", "--map-root-user", "true"]).fails();
        let refusal = vm.try_ctl(["start"]).fails();
        eprintln!("{refusal}");
        let reasons = vm.status()["reasons"].clone();
        let reason =
            reasons.as_array().expect("a list").iter().find(|it| word(&it["code"]) == code);
        let remedy = word(&reason.unwrap_or_else(|| panic!("no {code}: {reasons}"))["remedy"]);

        assert_eq!(remedy, "rootlessctl userns allow");
        eprintln!("{}", vm.user_sh(&remedy).ok());
        let grants = vm.helper("ListGrants", &[]);
        let id = word(&grants[0]["id"]);
        assert_eq!(usual(key), allowed);
        assert!(vm.read(FILE).contains(&format!("\n{key} = {allowed}")), "{}", vm.read(FILE));
        assert_eq!(grants[0]["drift"], json!([]));
        vm.user(["unshare", "--map-root-user", "true"]).ok();
        vm.start();
        vm.docker_run("--rm rootlessd/tiny true").ok();

        assert_eq!(vm.revoke(&id)["notes"], json!([]));
        assert_eq!(usual(key), "0");
        assert_eq!(vm.tree("/etc/sysctl.d /etc/sysctl.conf"), before);
        vm.user(["unshare", "--map-root-user", "true"]).fails();
        vm.root(["sysctl", "-qw", &format!("{key}={first}")]).ok();
    }
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn what_was_allowed_holds_after_a_reboot() {
    let vm = Vm::running();
    vm.agree_to("allow-user-namespaces");
    vm.agree_to("revoke");
    // An administrator's, which sorts before ours.
    let keys = ["kernel.unprivileged_userns_clone", "user.max_user_namespaces"];
    let theirs = "/etc/sysctl.d/10-hardening.conf";
    let script =
        format!("printf '{} = 0\\n{} = 0\\n' >{theirs} && sysctl -qp {theirs}", keys[0], keys[1]);
    vm.root_sh(&script).ok();
    let values = || vm.root(["sysctl", "-n", keys[0], keys[1]]).ok();
    assert_eq!(values(), "0\n0");
    let before = vm.tree("/etc/sysctl.d");

    let (id, _) = vm.grant("AllowUserNamespaces", &[]);
    assert_eq!(values(), "1\n28633");
    vm.reboot();
    assert_eq!(values(), "1\n28633");
    assert_eq!(vm.drift(), json!([]));
    vm.wait_unit("docker.service", "active", SOON);
    vm.docker_run("--rm rootlessd/tiny true").ok();

    vm.revoke(&id);
    assert_eq!(values(), "0\n0");
    assert_eq!(vm.tree("/etc/sysctl.d"), before);
}
