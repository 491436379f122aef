//! The helper as it is installed, with the real polkit: an administrator's password is typed on a
//! terminal, and a container has port 80 until the user gives it back.

use rootlessd_tests::{
    bed::IMAGE,
    command::{Spawned, wait_for},
    machine::{Machine, SOON, on_both},
};

const PASSWORD: &str = "tiger-7";

#[test]
fn an_administrator_agrees_on_the_terminal() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.root_sh(&format!("echo root:{PASSWORD} | chpasswd")).ok();
        machine.enable();
        machine.user(["docker", "load", "-qi", IMAGE]).ok();
        let publish = || machine.user(["docker", "run", "--rm", "-dp80:80", "rootlessd/tiny"]);
        publish().fails();

        // In no session, as over `su`, polkit has to be told that ours is the only agent.
        let mut allow = on_terminal(&machine, "rootlessctl ports allow 80");
        type_password(&machine, &mut allow, PASSWORD);
        assert!(allow.wait().success());
        publish().ok();
        let ports = machine.ctl(["ports"]);
        let line = |line: &&str| line.starts_with("80/tcp") && line.ends_with("yes         grant");
        assert!(ports.lines().any(|text| line(&text)), "{ports}");
        assert!(machine.ctl(["privileges"]).contains("grant-ports: TCP port 80\n"));
        // The ledger is root's alone, and yet a user sees what would change.
        let dry = machine.ctl(["ports", "allow", "80", "81/udp", "--dry-run"]);
        assert!(!dry.contains("TCP port 80") && dry.contains("UDP port 81"), "{dry}");

        let mut refused = on_terminal(&machine, "rootlessctl ports allow 81");
        type_password(&machine, &mut refused, "lion-8");
        assert_eq!(refused.wait().code(), Some(9));
        let mut left = on_terminal(&machine, "rootlessctl ports allow 81");
        type_password(&machine, &mut left, "\x03");
        assert_eq!(left.wait().code(), Some(130));

        machine.ctl(["ports", "revoke", "80"]);
        assert_eq!(machine.ctl(["privileges"]), "Nothing was granted to you.");
        assert_eq!(machine.user(["pgrep", "pkttyagent"]).stdout, "");
    });
}

fn on_terminal(machine: &Machine, command: &str) -> Spawned {
    machine.spawn_user(["script", "-qec", command, "/dev/null"])
}

fn type_password(machine: &Machine, terminal: &mut Spawned, password: &str) {
    // The agent forgets what was typed before it turned the echo off.
    let script = "stty -aF /dev/$(ps -o tty= -C pkttyagent) | grep -q -- '-echo '";
    let asked = || machine.root_sh(script).status.success();
    wait_for("the password is asked for", SOON, || asked().then_some(()));
    terminal.send(&format!("{password}\n"));
}
