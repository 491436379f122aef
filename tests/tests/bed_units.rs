//! `docker.service` stands for the engine, another one is left alone, and a unit of the system is
//! refused. What is installed for the helper is there, and as tight as it is meant to be.

use std::time::Duration;

use rootlessd_api::helper::{Action, BUS_NAME, OBJECT_PATH};
use rootlessd_tests::{
    bed::IMAGE,
    command::wait_for,
    machine::{Machine, PAGE, SOON, on_both, word},
};

/// How soon the unit follows the engine.
const FOLLOWS: Duration = Duration::from_secs(5);

#[test]
fn docker_service_stands_for_the_engine() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        let docker = |verb: &str| machine.user(["systemctl", "--user", verb, "docker"]);
        let line =
            || machine.user(["systemctl", "--user", "show", "-P", "StatusText", "docker"]).ok();

        // Nothing else was started before.
        docker("start").ok();
        let first = machine.status();
        assert_eq!(word(&first["state"]), "running");
        assert_eq!(machine.unit_state("rootlessd.service"), "active");
        assert!(line().starts_with("running: Docker "), "{}", line());
        assert!(docker("status").ok().contains("Active: active (running)"));
        machine.serve();

        // What the user says to dockerd is read again.
        let label = || machine.user(["docker", "info", "-f", "{{.Labels}}"]).ok();
        machine.write("/home/tester/.config/docker/daemon.json", r#"{"labels":["a=b"]}"#);
        assert_eq!(label(), "[]");
        docker("reload").ok();
        // SIGHUP is not answered.
        wait_for("dockerd reads it", FOLLOWS, || (label() == "[a=b]").then_some(()));

        docker("restart").ok();
        machine.wait_page();
        let second = machine.status();
        assert_ne!(second["mainPid"], first["mainPid"]);
        assert_eq!(second["supervisor"], first["supervisor"]);

        docker("stop").ok();
        assert_eq!(machine.state(), "stopped");
        assert_eq!(machine.unit_state("docker.service"), "inactive");
        assert_eq!(machine.unit_state("rootlessd.service"), "active");
        assert_eq!(machine.leftovers(), "");

        // It follows, whoever starts and stops the engine, and however often.
        for _ in 0..6 {
            machine.ctl(["start"]);
            machine.wait_unit("docker.service", "active", FOLLOWS);
            machine.ctl(["stop"]);
            machine.wait_unit("docker.service", "inactive", FOLLOWS);
        }

        // A stop that comes while systemd still starts the unit is not taken back by it.
        for _ in 0..10 {
            machine.ctl(["start"]);
            machine.ctl(["stop"]);
            assert_eq!(machine.state(), "stopped");
        }
        machine.wait_unit("docker.service", "inactive", FOLLOWS);

        // A refusal is told by the unit too.
        machine.configure("[engine]\nstart = \"boot\"\nlive_restor = true\n");
        docker("start").fails();
        assert_eq!(machine.unit_state("docker.service"), "failed");
        assert_eq!(machine.state(), "failed");
        // By the journal's own protocol: a line on standard error of a process that has ended is of no unit.
        let journal = "journalctl --user -q -o cat -u docker.service _TRANSPORT=journal";
        let journal = machine.user_sh(journal).ok();
        assert!(journal.contains("live_restor") && journal.contains("config.toml:3"), "{journal}");
        machine.configure("");
        docker("start").ok();
        machine.wait_page();
    });
}

#[test]
fn a_stock_engine_is_left_alone() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine.stock_install();
        machine.user(["docker", "load", "-qi", IMAGE]).ok();
        let run = "docker run -d --name web -p 8080:80 --restart unless-stopped rootlessd/tiny";
        machine.user_sh(run).ok();
        machine.wait_page();
        let pid = machine.user(["systemctl", "--user", "show", "-P", "MainPID", "docker"]).ok();

        // Both cannot be. The one that runs goes on, and the other says what to do.
        machine.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        let refusal = machine.try_ctl(["start"]).fails();
        assert!(refusal.contains("systemctl --user disable --now docker.service"), "{refusal}");
        assert_eq!(machine.page().as_deref(), Some("hello from a container\n"), "{PAGE}");
        let status = machine.status();
        assert_eq!(word(&status["state"]), "failed");
        // The older one has no state directory that is known.
        for code in ["dockerd-elsewhere", "stock-unit-present"] {
            assert!(codes(&status).contains(&code.to_owned()), "{status:#}");
        }
        let now = machine.user(["systemctl", "--user", "show", "-P", "MainPID", "docker"]).ok();
        assert_eq!(now, pid);

        // The same images and containers, under rootlessd. The stock dockerd takes what it thinks is
        // its socket along, which rootlessd makes up for.
        machine.user(["systemctl", "--user", "disable", "--now", "docker.service"]).ok();
        machine.ctl(["start"]);
        machine.wait_page();
        machine.user(["docker", "image", "inspect", "rootlessd/tiny"]).ok();
        let status = machine.wait_state("running");
        assert_eq!(codes(&status), ["stock-unit-present", "drop-ins-ignored"]);
        // The unit is another's, so it is not started along.
        assert_eq!(machine.unit_state("docker.service"), "inactive");

        // As the remedy says.
        let stock = "/home/tester/.config/systemd/user/docker.service";
        machine.user_sh(&format!("mv {stock} {stock}.old && systemctl --user daemon-reload")).ok();
        machine.ctl(["restart"]);
        machine.wait_unit("docker.service", "active", FOLLOWS);
        machine.wait_page();
        assert_eq!(machine.status()["reasons"].as_array().map(Vec::len), Some(0));
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    });
}

fn codes(status: &serde_json::Value) -> Vec<String> {
    let reasons = status["reasons"].as_array().expect("a list");
    reasons.iter().map(|reason| word(&reason["code"])).collect()
}

#[test]
fn a_unit_of_the_system_is_refused() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        let by_root = "it keeps an ordinary user's engine";
        let of_system = "rootlessd is a user's service, and this is a unit of the system";
        let run = ["systemd-run", "-q", "--wait", "--pipe"];
        let user = ["-p", "User=tester"];
        let runtime = ["-E", "XDG_RUNTIME_DIR=/run/user/4242"];
        let cases = [
            (vec!["rootlessd"], by_root),
            ([&run[..], &["rootlessd"]].concat(), by_root),
            ([&run[..], &user, &["rootlessd"]].concat(), of_system),
            ([&run[..], &user, &runtime, &["rootlessd"]].concat(), of_system),
        ];
        for (command, reason) in cases {
            let refusal = machine.root(&command).fails();
            assert!(refusal.contains(reason), "{command:?}: {refusal}");
            assert!(refusal.contains("systemctl --user"), "{command:?}: {refusal}");
        }
        assert_eq!(machine.leftovers(), "");
        // The user's own still starts.
        machine.enable();
        let second = machine.user(["rootlessd"]).fails();
        assert!(second.contains("another rootlessd runs"), "{second}");
        machine.wait_unit("docker.service", "active", SOON);
    });
}

#[test]
fn what_the_helper_needs_is_installed() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        // systemd-analyze complains of what else is in the bed, too.
        let units =
            "rootlessd-helper.service rootlessd-setcap.service rootlessd-setcap@rootlesskit.path";
        let verify = format!("systemd-analyze verify {units} 2>&1 | grep -v 10-bed.conf");
        assert_eq!(machine.root_sh(&verify).stdout, "");
        // In tenths. Without any of the protection it is 9.6.
        for (unit, most) in [("rootlessd-helper.service", 20), ("rootlessd-setcap.service", 12)] {
            let threshold = format!("--threshold={most}");
            let command = ["systemd-analyze", "security", "--no-pager", &threshold, unit];
            machine.root(command).ok();
        }

        // Each action is known, and wants an administrator every time, wherever the caller is.
        let known = machine.user_sh("pkaction | grep org.rootlessd").ok();
        let mut actions: Vec<_> = Action::ALL.iter().map(|action| action.id()).collect();
        actions.sort();
        assert_eq!(known.lines().collect::<Vec<_>>(), actions);
        for action in actions {
            let known = machine.user(["pkaction", "--verbose", "--action-id", &action]).ok();
            let implicit = |line: &&str| line.trim_start().starts_with("implicit ");
            let defaults: Vec<_> = known.lines().filter(implicit).collect();
            assert_eq!(defaults.len(), 3, "{known}");
            assert!(defaults.iter().all(|line| line.ends_with(" auth_admin")), "{known}");
            assert!(known.contains("$(user)"), "{known}");
        }

        // The bus starts it, lets nothing else through, and nobody else take its name.
        let activatable = ["busctl", "list", "--activatable", "--no-pager"];
        assert!(machine.user(activatable).ok().contains(BUS_NAME));
        let call = |interface: &str, method: &str| {
            machine.user(["busctl", "call", BUS_NAME, OBJECT_PATH, interface, method])
        };
        for (interface, method) in [
            ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
            ("org.freedesktop.LogControl1", "Frobnicate"),
            ("org.example.Other", "ListGrants"),
        ] {
            let refusal = call(interface, method).fails();
            assert!(refusal.contains("Access denied"), "{interface}: {refusal}");
        }
        let bus = "org.freedesktop.DBus / org.freedesktop.DBus";
        let own = format!("busctl call {bus} RequestName su {BUS_NAME} 0");
        assert!(machine.user_sh(&own).fails().contains("Access denied"));
        let state = ["systemctl", "show", "-P", "ActiveState", "rootlessd-helper"];
        assert_eq!(machine.user(state).ok(), "inactive");
    });
}

#[test]
fn the_sample_rules_do_what_they_say() {
    on_both(|suite| {
        let machine = Machine::boot(suite);
        machine
            .root_sh(
                "groupadd --system rootless-ports
                 useradd --groups rootless-ports member
                 cp /usr/local/share/doc/rootlessd/polkit-rules/*.rules /etc/polkit-1/rules.d/
                 systemctl restart polkit",
            )
            .ok();
        // As the helper asks: root, about another's process, with details.
        let ask = |user: &str, action: Action, ports: &str| {
            let script = "setpriv --reuid $0 --regid $0 --init-groups sleep infinity & \
                          trap \"kill $!\" EXIT; \
                          until [ $(stat -c %U /proc/$!) = $0 ]; do :; done; \
                          pkcheck --process $! --action-id $1 --detail ports \"$2\"";
            // 0: yes; 1: no; 2: a password would be asked for.
            machine.root(["sh", "-c", script, user, &action.id(), ports]).status.code()
        };
        let cases = [
            ("member", "80/tcp", Some(0)),
            ("member", "80/tcp,443/tcp,443/udp", Some(0)),
            ("member", "22/tcp,80/tcp", Some(2)),
            ("member", "80/udp", Some(2)),
            ("member", "8/tcp", Some(2)),
            ("member", "80/tcp, 443/tcp", Some(2)),
            ("member", "", Some(2)),
            ("tester", "80/tcp", Some(2)),
        ];
        for (user, ports, answer) in cases {
            assert_eq!(ask(user, Action::GrantPorts, ports), answer, "{user} {ports:?}");
        }
        for &action in Action::ALL.iter().filter(|&&action| action != Action::GrantPorts) {
            let answer = if action == Action::SetUnprivilegedPortStart { 1 } else { 2 };
            for user in ["member", "tester"] {
                assert_eq!(ask(user, action, "80/tcp"), Some(answer), "{user} {action}");
            }
        }
    });
}
