//! The machine's network changes while containers run, as with a VPN or another Wi-Fi: what they ask
//! for names is what the machine asks, and nothing is started anew but what does not see it.

use rootlessd_tests::{
    bed::Suite,
    command::wait_for,
    machine::{Machine, SOON, pids, word},
    name_servers,
};
use serde_json::Value;

#[test]
fn containers_ask_the_machines_name_server() {
    for (suite, driver) in
        [(Suite::Trixie, "slirp4netns"), (Suite::Trixie, "pasta"), (Suite::Bookworm, "slirp4netns")]
    {
        let config = format!("[engine.network]\ndriver = \"{driver}\"\n");
        let machine = Machine::running_with(suite, &config);
        machine.serve();
        let _servers = name_servers::serve(&machine);
        let (container, before) = (machine.web_pid(), pids(&machine.status()));
        wait_for_answer(&machine, "192.0.2.1");

        for (change, answer) in [
            ("echo nameserver 198.51.100.2 >/etc/resolv.conf", "192.0.2.2"),
            ("echo nameserver 198.51.100.1 >/etc/new; mv /etc/new /etc/resolv.conf", "192.0.2.1"),
            (
                "mkdir /run/vpn; echo nameserver 198.51.100.2 >/run/vpn/resolv.conf; \
                 ln -sfn ../run/vpn/resolv.conf /etc/resolv.conf",
                "192.0.2.2",
            ),
            (
                "echo nameserver 198.51.100.1 >/run/vpn/new; mv /run/vpn/new /run/vpn/resolv.conf",
                "192.0.2.1",
            ),
        ] {
            let told = told(&machine).len();
            machine.root_sh(change).ok();
            wait_for_answer(&machine, answer);
            machine.wait_status(|status| texts(status, "changed").len() > told);
            machine.wait_state("running");
        }
        let last = told(&machine).pop().expect("one at least");
        assert!(
            last.starts_with(
                "the machine's name servers are 198.51.100.1 now (before: 198.51.100.2); "
            ),
            "{last}"
        );

        // The way is the kernel's to find.
        for (link, peer) in [("wifi", "air"), ("vpn", "far")] {
            let link =
                format!("ip link add {link} type veth peer name {peer}; ip link set {link} up");
            machine.root_sh(&format!("{link}; ip link set {peer} up")).ok();
        }
        for (change, way) in [
            ("ip route replace default dev wifi", "wifi now (before: eth0)"),
            // As WireGuard's wg-quick has it: a table of its own, before all of the main one but its networks.
            (
                "ip route add default dev vpn table 77 && ip rule add table 77 &&
                 ip rule add table main suppress_prefixlength 0",
                "vpn now (before: wifi)",
            ),
            ("ip rule del table 77", "wifi now (before: vpn)"),
            // As OpenVPN has it: two halves of the world.
            (
                "ip route add 0.0.0.0/1 dev vpn && ip route add 128.0.0.0/1 dev vpn",
                "vpn now (before: wifi)",
            ),
        ] {
            let count = told(&machine).len();
            machine.root_sh(change).ok();
            machine.wait_status(|status| texts(status, "changed").len() > count);
            let last = told(&machine).pop().expect("one at least");
            assert_eq!(last, format!("the machine's way out is {way}; {driver} goes by it"));
            wait_for_answer(&machine, "192.0.2.1");
        }

        let (status, after) = (machine.status(), pids(&machine.status()));
        let is_pasta = driver == "pasta";
        assert_eq!(before["network"] != after["network"], is_pasta, "{suite}");
        assert_eq!(texts(&status, "lost").len(), if is_pasta { 4 } else { 0 }, "{suite}");
        assert_eq!((machine.web_pid(), &before["dockerd"]), (container, &after["dockerd"]));
        machine.ctl(["stop"]);
        assert_eq!(machine.leftovers(), "");
    }
}

/// Waits until the container `web` finds this address for a name.
fn wait_for_answer(machine: &Machine, answer: &str) {
    wait_for(answer, SOON, || {
        let ask = ["docker", "exec", "web", "timeout", "1", "nslookup", "-type=a", "world.example"];
        machine.user(ask).stdout.contains(answer).then_some(())
    });
}

/// What was told of changes.
fn told(machine: &Machine) -> Vec<String> {
    texts(&machine.status(), "changed")
}

fn texts(status: &Value, kind: &str) -> Vec<String> {
    let incidents = status["incidents"].as_array().expect("a list");
    let of_kind = incidents.iter().filter(|it| it["kind"] == kind);
    of_kind.map(|it| word(&it["text"])).collect()
}
