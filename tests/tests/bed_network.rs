//! What connects the containers to the network dies while they run, with each RootlessKit and each
//! way of connecting.

use std::time::Duration;

use rootlessd_tests::{
    bed::{IMAGE, Suite},
    command::wait_for,
    machine::{Machine, PAGE, SOON, pids, rounds},
};

/// How many ms containers may be without a way out.
const BLIND: u64 = 500;

/// How long one that hangs may go unnoticed.
const UNNOTICED: Duration = Duration::from_secs(10);

/// Kills the process `$0`, and prints how many ms it took until there was a way out of the network
/// namespace `$1`.
const KILL: &str = r#"
    begin=$(date +%s%3N)
    kill -KILL "$0"
    while ! nsenter --net="$1" curl -sf -m 0.05 -o /dev/null http://198.51.100.1/page; do :; done
    echo $(($(date +%s%3N) - begin))
"#;

#[test]
fn the_network_helper_is_killed() {
    for (suite, config) in
        [(Suite::Trixie, ""), (Suite::Trixie, "driver = \"pasta\""), (Suite::Bookworm, "")]
    {
        let machine = Machine::running_with(suite, &format!("[engine.network]\n{config}\n"));
        machine.serve();
        serve_outside(&machine);
        fetch(&machine);
        let (before, container) = (pids(&machine.status()), machine.web_pid());
        let netns = format!("/proc/{container}/ns/net");
        let mut blind = vec![];
        for _ in 0..rounds(3) {
            blind.push(kill(&machine, &netns));
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
        hang(&machine);
        fetch(&machine);
        eprintln!("{suite} {config}: egress after {blind:?} ms");
        assert!(blind.iter().all(|&ms| ms <= BLIND), "{blind:?}");
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
        assert!(machine.user(["curl", "-sf", PAGE]).status.code() == Some(7));
    }
}

/// dockerd stays in the machine's network namespace, which Debian's can without a bridge.
#[test]
fn the_helper_of_a_detached_namespace_is_killed() {
    let machine = Machine::boot(Suite::Trixie);
    machine.configure("engine.network.detach_netns = true\n");
    let daemon =
        r#"{"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false}"#;
    machine.write("/home/tester/.config/docker/daemon.json", daemon);
    machine.enable();
    machine.user(["docker", "load", "-qi", IMAGE]).ok();
    machine.user(["docker", "run", "-d", "--net=none", "rootlessd/tiny"]).ok();
    serve_outside(&machine);
    let state_dir = "/run/user/4242/dockerd-rootless";
    let child = machine.root(["cat", &format!("{state_dir}/child_pid")]).ok();
    let netns = format!("/proc/{child}/root{state_dir}/netns");
    let blind: Vec<_> = (0..rounds(3)).map(|_| kill(&machine, &netns)).collect();
    eprintln!("detached: egress after {blind:?} ms");
    assert!(blind.iter().all(|&ms| ms <= BLIND), "{blind:?}");
    hang(&machine);
    machine.ctl(["stop"]);
    assert_eq!(machine.leftovers(), "");
}

/// Kills the helper: how many ms it took until there was a way out again.
fn kill(machine: &Machine, netns: &str) -> u64 {
    let (lost, replaced) = (incidents(machine, "lost"), incidents(machine, "replaced"));
    let killed = machine.root(["sh", "-c", KILL, &helper(machine), netns]);
    wait_for("it is written down", SOON, || {
        (incidents(machine, "replaced") == replaced + 1).then_some(())
    });
    assert_eq!(incidents(machine, "lost"), lost + 1);
    killed.ok().parse().expect("ms")
}

/// Stops the helper, and waits until it was replaced.
fn hang(machine: &Machine) {
    let replaced = incidents(machine, "replaced");
    machine.root(["kill", "-STOP", &helper(machine)]).ok();
    wait_for("the one that hangs is found and replaced", UNNOTICED, || {
        (incidents(machine, "replaced") > replaced).then_some(())
    });
}

fn helper(machine: &Machine) -> String {
    pids(&machine.status())["network"][0].clone()
}

/// How often something happened to single parts of the engine.
fn incidents(machine: &Machine, what: &str) -> usize {
    let all = machine.root_sh("cat /run/user/4242/rootlessd/engine/incidents.jsonl || :").ok();
    all.matches(&format!("{{\"{what}\":")).count()
}

/// Serves a page on an address that is neither a container's nor the machine's loopback's.
fn serve_outside(machine: &Machine) {
    machine.root_sh("echo outside >/srv/page; busybox httpd -p 198.51.100.1:80 -h /srv").ok();
}

/// Fetches it from inside the container `web`.
fn fetch(machine: &Machine) {
    let get = ["docker", "exec", "web", "timeout", "5", "wget", "-qO-", "http://198.51.100.1/page"];
    assert_eq!(machine.user(get).ok(), "outside");
}
