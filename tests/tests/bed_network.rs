//! What connects the containers to the network dies while they run, with each RootlessKit and each
//! way of connecting.

use std::time::Duration;

use rootlessd_tests::{
    bed::{Suite, wait_for},
    machine::{Machine, PAGE, SOON, pids, rounds, word},
};

/// Kills the process `$0`, and prints how many ms it took until the container `web` had a way out.
const KILL: &str = r#"
    begin=$(date +%s%3N)
    kill -KILL "$0"
    network=/proc/$(docker inspect -f '{{.State.Pid}}' web)/ns/net
    while ! nsenter --net="$network" curl -sf -m 0.05 -o /dev/null http://198.51.100.1/page; do :; done
    echo $(($(date +%s%3N) - begin))
"#;

#[test]
fn the_network_helper_is_killed() {
    let rows = [(Suite::Trixie, ""), (Suite::Trixie, "driver = \"pasta\""), (Suite::Bookworm, "")];
    for (suite, config) in rows {
        let machine = Machine::running_with(suite, &format!("[engine.network]\n{config}\n"));
        machine.serve();
        machine.root_sh("echo outside >/srv/page; busybox httpd -p 198.51.100.1:80 -h /srv").ok();
        fetch(&machine);
        let (before, container) = (pids(&machine.status()), machine.web_pid());
        let mut blind = vec![];
        for _ in 0..rounds(3) {
            let victim = word(&pids(&machine.status())["network"][0].clone().into());
            let killed = machine.root([
                "env",
                "DOCKER_HOST=unix:///run/user/4242/docker.sock",
                "sh",
                "-c",
                KILL,
                &victim,
            ]);
            blind.push(killed.ok().parse::<u64>().expect("ms"));
            fetch(&machine);
            // pasta looks now and then which ports are listened on.
            wait_for("the page is served", SOON, || machine.page());
        }
        let after = pids(&machine.status());
        for part in ["shim", "rootlesskit", "init", "containerd", "dockerd"] {
            assert_eq!(before[part], after[part], "{suite} {config}: {part}");
        }
        assert_eq!(after["network"].len(), 1);
        assert_eq!(machine.web_pid(), container);
        for kind in ["lost", "replaced"] {
            let count = incidents(&machine).matches(&format!("{{\"{kind}\":")).count();
            assert_eq!(count, blind.len(), "{suite} {config}: {}", incidents(&machine));
        }
        let victim = word(&pids(&machine.status())["network"][0].clone().into());
        machine.root(["kill", "-STOP", &victim]).ok();
        wait_for("the one that hangs is found", Duration::from_secs(10), || {
            incidents(&machine).contains("did not answer").then_some(())
        });
        fetch(&machine);
        blind.sort_unstable();
        eprintln!("{suite} {config}: egress after {blind:?} ms");
        assert!(Duration::from_millis(blind[blind.len() - 1]) <= Duration::from_millis(500));
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
        assert!(machine.user(["curl", "-sf", PAGE]).status.code() == Some(7));
    }
}

/// What happened to single parts of the engine.
fn incidents(machine: &Machine) -> String {
    machine.root(["cat", "/run/user/4242/rootlessd/engine/incidents.jsonl"]).ok()
}

/// Fetches a page of another machine from inside the container `web`.
fn fetch(machine: &Machine) {
    let get = ["docker", "exec", "web", "timeout", "5", "wget", "-qO-", "http://198.51.100.1/page"];
    assert_eq!(machine.user(get).ok(), "outside");
}
