//! Privileged ports by BPF, with the distribution's own kernel; and how tight the helper is there.

use rootlessd_tests::{
    command::wait_for,
    virtual_machine::{SOON, Vm},
};
use serde_json::json;

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn a_granted_port_is_a_containers_after_a_reboot_too() {
    let vm = Vm::running();
    eprintln!("{}", vm.root(["uname", "-r"]).ok());
    assert_eq!(vm.read("/sys/module/apparmor/parameters/enabled"), "Y");
    let refused = vm.docker_run("--rm -dp80:80 rootlessd/tiny").fails();
    // polkit has been started for this very question.
    assert!(refused.contains("rootlessctl ports allow 80/tcp"), "{refused}");
    assert!(refused.contains("nobody to ask"), "{refused}");

    vm.agree_to("grant-ports");
    let (id, needs) = vm.grant("GrantPorts", &["a(sq)", "1", "tcp", "80"]);
    assert_eq!(needs, json!([]));
    // It is the engine's, and nobody else's.
    let outside = vm.user(["busybox", "httpd", "-p", "80"]).fails();
    assert!(outside.contains("Permission denied"), "{outside}");
    vm.root(["rm", "/etc/polkit-1/rules.d/10-test.rules"]).ok();
    vm.docker_run("-d --name web --restart unless-stopped -p 80:80 rootlessd/tiny").ok();
    vm.wait_page_on(80);
    vm.docker_run("--rm -dp81:80 rootlessd/tiny").fails();

    vm.reboot();
    vm.wait_page_on(80);
    assert_eq!(vm.drift(), json!([]));
    vm.docker_run("--rm -dp81:80 rootlessd/tiny").fails();
    vm.user(["docker", "rm", "-f", "web"]).ok();
    vm.docker_run("--rm -d --name again -p 80:80 rootlessd/tiny").ok();
    vm.wait_page_on(80);
    vm.user(["docker", "rm", "-f", "again"]).ok();

    vm.revoke(&id);
    vm.docker_run("--rm -dp80:80 rootlessd/tiny").fails();
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn the_helper_has_little_and_leaves() {
    let vm = Vm::boot();
    vm.helper("ListGrants", &[]);
    let pid = vm.root(["systemctl", "show", "-P", "MainPID", "rootlessd-helper"]).ok();
    let status = vm.read(&format!("/proc/{pid}/status"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().to_owned()
    };
    let capabilities = vm.root(["capsh", &format!("--decode={}", field("CapEff:"))]).ok();
    eprintln!("{capabilities}");
    assert!(
        capabilities.ends_with("=cap_net_admin,cap_sys_resource,cap_setfcap,cap_bpf"),
        "{capabilities}"
    );
    assert_eq!(field("CapBnd:"), field("CapEff:"));
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));

    for (unit, most) in [("rootlessd-helper.service", 20), ("rootlessd-setcap.service", 12)] {
        let threshold = format!("--threshold={most}");
        let security = ["systemd-analyze", "security", "--no-pager", &threshold, unit];
        let report = vm.root(security).ok();
        eprintln!("{}", report.lines().last().expect("a verdict"));
    }
    // After 30 s without work.
    wait_for("the helper leaves", SOON, || {
        (vm.root(["pgrep", "rootlessd-helper"]).status.code() == Some(1)).then_some(())
    });
}
