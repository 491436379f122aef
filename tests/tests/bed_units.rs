//! `docker.service` stands for the engine, another one is left alone, and a unit of the system is
//! refused.

use std::time::Duration;

use rootlessd_tests::{
    bed::{IMAGE, wait_for},
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

        // A refusal is told by the unit too.
        machine.configure("[engine]\nstart = \"boot\"\nlive_restor = true\n");
        docker("start").fails();
        assert_eq!(machine.unit_state("docker.service"), "failed");
        assert_eq!(machine.state(), "failed");
        let journal = ["journalctl", "--user", "-q", "-o", "cat", "-u", "docker.service"];
        let journal = machine.user(journal).ok();
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
