use super::{super::capabilities::tests::generation, *};

fn tools(names: &str) -> Tools {
    let tool = |name: &str| {
        names.split(' ').any(|word| word == name).then(|| PathBuf::from(format!("/bin/{name}")))
    };
    Tools {
        slirp4netns: tool("slirp4netns"),
        pasta: tool("pasta"),
        vpnkit: tool("vpnkit"),
        lxc_user_nic: tool("lxc-user-nic"),
    }
}

fn launch_with(
    rootlesskit: &str,
    dockerd: (u32, u32),
    installed: &str,
    flags: &str,
    change: impl Fn(&mut NetworkConfig),
) -> Result<Launch, Reason> {
    let mut network = NetworkConfig::default();
    change(&mut network);
    let flags: Vec<_> = flags.split_ascii_whitespace().map(str::to_owned).collect();
    let wanted = Wanted {
        network: &network,
        state_dir: Path::new("/run/user/1000/dockerd-rootless"),
        flags: &flags,
        dockerd: Some(Version(dockerd.0, dockerd.1)),
    };
    launch(wanted, &generation(rootlesskit), &tools(installed))
}

/// What every launch begins and ends with, around what differs.
fn line(net: &str, mtu: u32, binary: &str, rest: &str) -> String {
    let binary =
        if binary.is_empty() { String::new() } else { format!(" --{net}-binary={binary}") };
    format!(
        "--state-dir=/run/user/1000/dockerd-rootless --net={net} --mtu={mtu} \
         --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto{binary} {rest}"
    )
}

const MOUNTS: &str = "--copy-up=/etc --copy-up=/run --propagation=rslave";

#[test]
fn what_the_script_of_each_generation_passes() {
    let slirp = "/bin/slirp4netns";
    let plain = |port: &str| format!("--disable-host-loopback --port-driver={port} {MOUNTS}");
    let rows = [
        ("1.1.0", (20, 10), "slirp4netns", line("slirp4netns", 65520, slirp, &plain("builtin"))),
        // pasta is not for 1.1.0, although it is there.
        ("1.1.0", (20, 10), "pasta vpnkit", line("vpnkit", 1500, "/bin/vpnkit", &plain("builtin"))),
        (
            "2.0.2",
            (26, 1),
            "slirp4netns pasta",
            line("slirp4netns", 65520, slirp, &plain("builtin")),
        ),
        ("2.0.2", (26, 1), "pasta", line("pasta", 65520, "/bin/pasta", &plain("implicit"))),
        ("2.0.2", (29, 4), "slirp4netns", line("slirp4netns", 65520, slirp, &plain("builtin"))),
        (
            "2.0.2",
            (29, 5),
            "slirp4netns",
            line("slirp4netns", 65520, slirp, &format!("{} --detach-netns", plain("builtin"))),
        ),
        (
            "3.0.1",
            (29, 7),
            "",
            line("gvisor-tap-vsock", 65520, "", &format!("{} --detach-netns", plain("builtin"))),
        ),
    ];
    for (rootlesskit, dockerd, installed, expected) in rows {
        let launch =
            launch_with(rootlesskit, dockerd, installed, "", |_| {}).expect("it should launch");
        assert_eq!(launch.arguments.join(" "), expected, "{rootlesskit} {dockerd:?} {installed}");
        let gvisor = launch.network_driver == NetworkDriver::GvisorTapVsock;
        assert_eq!(launch.notes.len(), usize::from(gvisor), "{:?}", launch.notes);
        assert_eq!(launch.helper.is_none(), gvisor);
    }
}

#[test]
fn each_key_of_the_network_changes_its_argument() {
    type Change = fn(&mut NetworkConfig);
    let rows: &[(Change, &str)] = &[
        (|n| n.driver = NetworkDriver::Pasta, "--net=pasta"),
        (|n| n.driver = NetworkDriver::LxcUserNic, "--net=lxc-user-nic"),
        (|n| n.driver = NetworkDriver::LxcUserNic, "--lxc-user-nic-binary=/bin/lxc-user-nic"),
        (|n| n.driver = NetworkDriver::LxcUserNic, "--mtu=1500"),
        (|n| n.mtu = Some(9000), "--mtu=9000"),
        (|n| n.port_driver = PortDriver::Slirp4netns, "--port-driver=slirp4netns"),
        (|n| n.port_driver = PortDriver::None, "--port-driver=none"),
        (|n| n.slirp4netns_sandbox = Switch::On, "--slirp4netns-sandbox=true"),
        (|n| n.slirp4netns_seccomp = Switch::Off, "--slirp4netns-seccomp=false"),
        (|n| n.ipv6 = true, "--ipv6"),
        (|n| n.detach_netns = Switch::On, "--detach-netns"),
    ];
    for (change, argument) in rows {
        let launch = launch_with("2.0.2", (26, 1), "slirp4netns pasta lxc-user-nic", "", change)
            .expect(argument);
        assert!(launch.arguments.iter().any(|a| a == argument), "{argument}: {launch:?}");
    }
    let open =
        launch_with("2.0.2", (26, 1), "slirp4netns", "", |n| n.disable_host_loopback = false)
            .expect("it should launch");
    assert!(!open.arguments.iter().any(|a| a.contains("loopback")), "{open:?}");
    let off = launch_with("3.0.1", (29, 7), "slirp4netns", "", |n| n.detach_netns = Switch::Off)
        .expect("it should launch");
    assert!(!off.detach_netns && !off.arguments.iter().any(|a| a == "--detach-netns"));
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    type Row = (&'static str, (u32, u32), &'static str, fn(&mut NetworkConfig), &'static str);
    let rows: &[Row] = &[
        ("1.1.0", (20, 10), "pasta", |_| {}, "network-driver-missing"),
        ("2.0.2", (26, 1), "", |_| {}, "network-driver-missing"),
        (
            "1.1.0",
            (20, 10),
            "pasta",
            |n| n.driver = NetworkDriver::Pasta,
            "network-driver-unusable",
        ),
        (
            "2.0.2",
            (26, 1),
            "",
            |n| n.driver = NetworkDriver::Slirp4netns,
            "network-driver-unusable",
        ),
        (
            "2.0.2",
            (26, 1),
            "",
            |n| n.driver = NetworkDriver::GvisorTapVsock,
            "network-driver-unusable",
        ),
        (
            "2.0.2",
            (26, 1),
            "pasta",
            |n| n.port_driver = PortDriver::Builtin,
            "port-driver-unusable",
        ),
        (
            "2.0.2",
            (26, 1),
            "slirp4netns",
            |n| n.port_driver = PortDriver::Implicit,
            "port-driver-unusable",
        ),
        (
            "2.0.2",
            (26, 1),
            "pasta",
            |n| n.port_driver = PortDriver::Slirp4netns,
            "port-driver-unusable",
        ),
        ("3.0.1", (29, 7), "pasta", |n| n.port_driver = PortDriver::Pesto, "port-driver-unusable"),
        (
            "3.0.1",
            (29, 7),
            "slirp4netns",
            |n| n.port_driver = PortDriver::GvisorTapVsock,
            "port-driver-unusable",
        ),
        (
            "1.1.0",
            (20, 10),
            "slirp4netns",
            |n| n.detach_netns = Switch::On,
            "detach-netns-unusable",
        ),
        (
            "2.0.2",
            (20, 10),
            "slirp4netns",
            |n| n.detach_netns = Switch::On,
            "detach-netns-unusable",
        ),
        (
            "3.0.1",
            (29, 7),
            "slirp4netns",
            |n| n.slirp4netns_sandbox = Switch::On,
            "sandbox-detached",
        ),
        ("3.0.1", (29, 7), "", |n| n.ipv6 = true, "ipv6-unusable"),
        ("2.0.2", (26, 1), "vpnkit", |n| n.ipv6 = true, "ipv6-unusable"),
    ];
    for (rootlesskit, dockerd, installed, change, code) in rows {
        let reason = launch_with(rootlesskit, *dockerd, installed, "", change).expect_err(code);
        assert_eq!(reason.code, *code, "{rootlesskit} {installed}: {}", reason.text);
    }
}

#[test]
fn pesto_is_used_where_rootlesskit_knows_it() {
    let mut can = generation("3.0.1");
    can.port_drivers.insert("pesto".into());
    let port = port_driver(PortDriver::Pesto, NetworkDriver::Pasta, &can);
    assert_eq!(port.ok(), Some(PortDriver::Pesto));
}

#[test]
fn flags_come_last() {
    let launch = launch_with("1.1.0", (20, 10), "slirp4netns", "--debug -p 1:2/tcp", |_| {})
        .expect("it should launch");
    assert!(launch.arguments.join(" ").ends_with(&format!("{MOUNTS} --debug -p 1:2/tcp")));
    let reason =
        launch_with("2.0.2", (26, 1), "slirp4netns", "--source-ip-transparent=false", |_| {})
            .expect_err("2.0.2 does not know it");
    assert_eq!(reason.code, "rootlesskit-flag-unknown");
}

#[test]
fn published_ports_are_left_out_when_dockerd_listens_itself() {
    let flags = "-p 0.0.0.0:2376:2376/tcp --debug --publish=1:2/udp";
    let launch =
        launch_with("3.0.1", (29, 7), "slirp4netns", flags, |_| {}).expect("it should launch");
    assert!(launch.arguments.join(" ").ends_with("--detach-netns --debug"), "{launch:?}");
    assert_eq!(launch.notes.len(), 1);
    let text = &launch.notes[0].text;
    assert!(text.contains("0.0.0.0:2376:2376/tcp, 1:2/udp"), "{text}");
}
