//! Ports below 1024 for one user's containers: refused, granted by an administrator's password, and
//! taken back, on a real machine with a real polkit.

use std::time::Duration;

use rootlessd_tests::{
    bed::TESTER,
    grants::{ADMINISTRATOR, Caller, Outcome, Terminal},
    machine::{Machine, on_both, victims, word},
};

const GRANTED: &str = "hello from a container";
const PORT_80: [&str; 4] = ["a(sq)", "1", "tcp", "80"];
/// The helper's own 30 s, and what it takes to go.
const IDLE: Duration = Duration::from_secs(45);

#[test]
fn a_port_that_was_granted_works_at_once_and_no_other_does() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.load();
        machine.appoint();
        let refusal = machine.refused("80:80");
        assert!(refusal.contains("rootlessctl ports allow 80/tcp"), "{refusal}");
        let reason = ("port-privileged".to_owned(), "rootlessctl ports allow 80/tcp".to_owned());
        assert_eq!(machine.reasons(), std::slice::from_ref(&reason));
        let engine = victims(&machine.status());

        // A wrong password changes nothing.
        let request = ["rootlessctl", "ports", "allow", "80"];
        let mut terminal = Terminal::run(&machine, &request);
        terminal.wait_question();
        terminal.answer("a guess");
        let (granted, said) = terminal.end();
        assert!(!granted && said.contains("AUTHENTICATION FAILED"), "{said}");
        assert_eq!(machine.grants().len(), 0);

        let mut terminal = Terminal::run(&machine, &request);
        let question = terminal.wait_question();
        assert_eq!(
            question,
            "Authentication is required to let tester's containers listen on TCP port 80"
        );
        terminal.answer(ADMINISTRATOR.1);
        let (granted, said) = terminal.end();
        assert!(granted && !said.contains(ADMINISTRATOR.1), "{said}");

        // Without a restart of anything.
        assert_eq!(word(&machine.status()["grantedPorts"]), r#"[{"port":80,"protocol":"tcp"}]"#);
        machine.publish("web", &["80:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        assert_eq!(machine.fetch("http://198.51.100.1/"), GRANTED);
        assert_eq!(machine.fetch("http://[::1]/"), GRANTED);
        assert_eq!(victims(&machine.status()), engine);
        assert_eq!(machine.reasons(), []);
        assert_eq!(machine.ports(), ["80/tcp 0.0.0.0 grant", "80/tcp :: grant"]);
        assert_eq!(machine.pinned(), "./4242 ./4242/inet4 ./4242/inet6");

        nothing_else_is_granted(&machine);
    });
}

fn nothing_else_is_granted(machine: &Machine) {
    for (port, name) in [("81:80", "81/tcp"), ("80:80/udp", "80/udp"), ("[::1]:81:80", "81/tcp")] {
        let refusal = machine.refused(port);
        assert!(refusal.contains(&format!("rootlessctl ports allow {name}")), "{refusal}");
    }
    // Of both ports of one container, neither is published.
    machine.remove("web");
    let refusal = machine.publish("web", &["80:80", "81:80"]).fails();
    assert!(refusal.contains("rootlessctl ports allow 81/tcp"), "{refusal}");
    machine.remove("web");

    // The user's other programs, in the session and in the user's systemd.
    let serve = ["busybox", "httpd", "-f", "-p", "80"];
    for refusal in [machine.user(serve).fails(), machine.user_unit(serve).fails()] {
        assert!(refusal.contains("bind: Permission denied"), "{refusal}");
    }
    // Who has the cgroup may put a program into it: the grant is to the user, as the manual says.
    let inside = format!(
        "echo $$ >/sys/fs/cgroup/user.slice/user-{TESTER}.slice/user@{TESTER}.service/\
         rootlessd.slice/rootlessd-engine.scope/cgroup.procs
         busybox httpd -f -p 81
         busybox httpd -f -p 80 &
         until curl -s -o /dev/null http://127.0.0.1/; do kill -0 $! || exit 1; done
         kill $!"
    );
    let inside = machine.user_unit(["sh", "-c", &inside]);
    assert!(inside.status.success(), "{inside}");
    assert_eq!(inside.stderr.trim(), "httpd: bind: Permission denied");

    // A container with the "host's" network has RootlessKit's, where it is root and has every port,
    // granted or not; the machine's port 80 stays free.
    let host = ["docker", "run", "-d", "--name", "host", "--net=host", "rootlessd/tiny"];
    machine.user(host).ok();
    let inside = "until wget -qO- http://127.0.0.1/; do :; done";
    assert_eq!(machine.user(["docker", "exec", "host", "sh", "-c", inside]).ok(), GRANTED);
    let outside = machine.user(["curl", "-s", "http://127.0.0.1/"]);
    assert_eq!(outside.status.code(), Some(7), "{outside}");
    machine.user(["docker", "exec", "host", "httpd", "-p", "81"]).ok();
    machine.remove("host");
    machine.publish("web", &["80:80"]).ok();
}

#[test]
fn a_grant_outlives_engine_helper_and_machine() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.load();
        machine.decide(&[("grant-ports", "yes")]);
        machine.grant("GrantPorts", &PORT_80);
        machine.publish("web", &["80:80"]).ok();
        let publishes_anew = || {
            machine.remove("web");
            machine.publish("web", &["80:80"]).ok();
            assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        };

        machine.ctl(["restart"]);
        assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        assert_eq!(word(&machine.status()["grantedPorts"]), r#"[{"port":80,"protocol":"tcp"}]"#);
        publishes_anew();
        assert_eq!(machine.grants()[0]["drift"]["data"], serde_json::json!([]));

        let helper = "rootlessd-helper.service";
        machine.kill(&machine.system_unit("MainPID", helper));
        machine.wait_system_unit(helper, "failed", IDLE);
        publishes_anew();
        // The next call starts it again.
        assert_eq!(machine.grants()[0]["drift"]["data"], serde_json::json!([]));
        assert_eq!(machine.system_unit("ActiveState", helper), "active");

        machine.wait_system_unit(helper, "inactive", IDLE);
        assert_eq!(machine.pinned(), "./4242 ./4242/inet4 ./4242/inet6");
        publishes_anew();
        assert_eq!(machine.system_unit("ActiveState", helper), "inactive");

        // By itself.
        machine.reboot();
        assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        publishes_anew();
        assert_eq!(machine.ports(), ["80/tcp 0.0.0.0 grant", "80/tcp :: grant"]);
        // A reload of the user's systemd, or of the machine's, takes nothing off.
        machine.user(["systemctl", "--user", "daemon-reload"]).ok();
        machine.root(["systemctl", "daemon-reload"]).ok();
        publishes_anew();
    });
}

#[test]
fn what_is_taken_back_is_gone_but_for_what_listens_already() {
    on_both(|suite| {
        let machine = Machine::running(suite);
        machine.load();
        machine.decide(&[("grant-ports", "yes"), ("revoke", "no")]);
        let ports = ["a(sq)", "2", "tcp", "80", "tcp", "443"];
        assert_eq!(machine.grant("GrantPorts", &ports).grants.len(), 2);
        machine.publish("web", &["80:80"]).ok();
        let grants = machine.grants();
        let id = |text: &str| {
            let grant = grants.iter().find(|grant| grant["text"]["data"] == text);
            word(&grant.expect("granted")["id"]["data"])
        };

        // One's own ports are given back without a question. Whatever was bound before stays so until
        // it is closed, as with any privilege: the kernel asks when a socket is bound.
        let nothing = Outcome { grants: vec![], needs: vec![], notes: vec![] };
        assert_eq!(machine.grant("Revoke", &["s", &id("TCP port 80")]), nothing);
        assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        assert_eq!(machine.ports(), ["80/tcp 0.0.0.0 ", "80/tcp :: "]);
        // The other one stays.
        assert_eq!(machine.pinned(), "./4242 ./4242/inet4 ./4242/inet6");
        machine.publish("other", &["443:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1:443/"), GRANTED);
        machine.remove("other");

        // Else it would be granted anew, at the moment of need.
        machine.decide(&[("grant-ports", "no")]);
        let again = machine.user(["docker", "restart", "web"]).fails();
        assert!(again.contains("rootlessctl ports allow 80/tcp"), "{again}");
        machine.remove("web");
        assert!(machine.refused("80:80").contains("rootlessctl ports allow 80/tcp"));
        assert!(machine.reasons().iter().any(|(code, _)| code == "port-privileged"));

        machine.grant("Revoke", &["s", &id("TCP port 443")]);
        assert_eq!(machine.pinned(), "");
        assert!(machine.refused("443:80").contains("rootlessctl ports allow 443/tcp"));
        let gone = machine.call("Revoke", &["s", &id("TCP port 443")]).fails();
        assert!(gone.contains("there is no grant"), "{gone}");

        // With the engine gone, so is what was attached to it; it comes with the next.
        machine.decide(&[("grant-ports", "yes")]);
        machine.grant("GrantPorts", &PORT_80);
        machine.ctl(["stop"]);
        machine.ctl(["start"]);
        machine.publish("web", &["80:80"]).ok();
        assert_eq!(machine.fetch("http://127.0.0.1/"), GRANTED);
        machine.ctl(["stop"]);
        machine.revoke_all();
        assert_eq!(machine.pinned(), "");
        assert_eq!(machine.leftovers(), "");
        machine.decide(&[("grant-ports", "no")]);
        machine.ctl(["start"]);
        assert!(machine.refused("80:80").contains("rootlessctl ports allow 80/tcp"));
    });
}
