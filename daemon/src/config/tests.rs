use std::time::Duration;

use super::*;
use crate::preflight::testing::Machine;

const ETC: &str = "/etc/rootlessd/config.toml";
const USER: &str = "/home/alice/.config/rootlessd/config.toml";

fn load_with(machine: &Machine, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    let environment = machine.environment();
    let own = environment.iter().chain(variables.iter().copied());
    load(&machine.dirs(), &Environment::from_iter(own))
}

fn source(loaded: &Loaded, key: &str) -> String {
    let setting = loaded.settings.iter().find(|setting| setting.key == key);
    setting.unwrap_or_else(|| panic!("no setting {key}")).source.clone()
}

#[test]
fn without_files_everything_is_default() {
    let loaded = load_with(&Machine::bare(), &[]).expect("it should load");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.settings.len(), KEYS.len());
    assert!(loaded.settings.iter().all(|setting| setting.source == "default"));
    assert_eq!(loaded.reasons, []);
}

#[test]
fn later_places_overrule_earlier_ones() {
    let machine = Machine::bare();
    machine.write(ETC, "engine.stop_timeout = \"10s\"\nengine.start_timeout = \"10s\"\n");
    let early = "/etc/rootlessd/config.d/10-a.toml";
    machine.write(early, "[engine]\nstart_timeout = \"20s\"\nclient_wait = \"20s\"\n");
    machine.write("/etc/rootlessd/config.d/20-b.toml", "engine.client_wait = \"30s\"\n");
    machine.write("/etc/rootlessd/config.d/README", "no TOML");
    machine.write(USER, "[engine]\nnetwork.mtu = 1500\nnetwork.driver = \"pasta\"\n");
    let variables = [("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "9000")];

    let loaded = load_with(&machine, &variables).expect("it should load");
    let engine = &loaded.config.engine;
    assert_eq!(engine.stop_timeout, Duration::from_secs(10));
    assert_eq!(engine.start_timeout, Duration::from_secs(20));
    assert_eq!(engine.client_wait, Duration::from_secs(30));
    assert_eq!(engine.network.mtu, Some(9000));
    assert_eq!(engine.network.driver, NetworkDriver::Pasta);
    let at = |path: &str, line: usize| format!("{}:{line}", machine.path(path).display());
    assert_eq!(source(&loaded, "engine.stop_timeout"), at(ETC, 1));
    assert_eq!(source(&loaded, "engine.start_timeout"), at(early, 2));
    assert_eq!(source(&loaded, "engine.network.driver"), at(USER, 3));
    assert_eq!(
        source(&loaded, "engine.network.mtu"),
        "environment: DOCKERD_ROOTLESS_ROOTLESSKIT_MTU"
    );
}

#[test]
fn every_variable_of_dockerd_rootless_sh_means_the_same() {
    let prefix = |name: &str| match name {
        "DOCKERD" => name.to_owned(),
        name => format!("DOCKERD_ROOTLESS_ROOTLESSKIT_{name}"),
    };
    type Check = fn(&Config) -> bool;
    let rows: &[(&str, &str, Check)] = &[
        ("STATE_DIR", "/run/x", |c| c.rootlesskit.state_dir == Some("/run/x".into())),
        ("NET", "vpnkit", |c| c.engine.network.driver == NetworkDriver::Vpnkit),
        ("NET", "lxc-user-nic", |c| c.engine.network.driver == NetworkDriver::LxcUserNic),
        ("MTU", "1500", |c| c.engine.network.mtu == Some(1500)),
        ("PORT_DRIVER", "slirp4netns", |c| c.engine.network.port_driver == PortDriver::Slirp4netns),
        ("SLIRP4NETNS_SANDBOX", "false", |c| c.engine.network.slirp4netns_sandbox == Switch::Off),
        ("SLIRP4NETNS_SECCOMP", "true", |c| c.engine.network.slirp4netns_seccomp == Switch::On),
        ("DISABLE_HOST_LOOPBACK", "false", |c| !c.engine.network.disable_host_loopback),
        ("DISABLE_HOST_LOOPBACK", "0", |c| c.engine.network.disable_host_loopback),
        ("DETACH_NETNS", "1", |c| c.engine.network.detach_netns == Switch::On),
        ("DETACH_NETNS", "false", |c| c.engine.network.detach_netns == Switch::Off),
        ("FLAGS", "-p 0.0.0.0:2376:2376/tcp", |c| {
            c.rootlesskit.flags == ["-p", "0.0.0.0:2376:2376/tcp"]
        }),
        ("FLAGS", "--ipv6 --debug", |c| {
            c.engine.network.ipv6 && c.rootlesskit.flags == ["--debug"]
        }),
        ("DOCKERD", "/opt/dockerd", |c| c.dockerd.path == Some("/opt/dockerd".into())),
    ];
    let machine = Machine::bare();
    for (name, value, check) in rows {
        let variable = prefix(name);
        let loaded = load_with(&machine, &[(&variable, value)]).expect(&variable);
        assert!(check(&loaded.config), "{variable}={value}: {:?}", loaded.config);
        let place = format!("environment: {variable}");
        assert!(loaded.settings.iter().any(|setting| setting.source == place), "{variable}");
    }
    for (name, value) in [("NET", "host"), ("DETACH_NETNS", "perhaps"), ("FLAGS", "--pidns")] {
        let variable = prefix(name);
        let error = load_with(&machine, &[(&variable, value)]).expect_err(&variable);
        assert_eq!(error.kind, ErrorKind::Config);
        assert!(error.message.contains(&variable), "{}", error.message);
    }
}

#[test]
fn flags_overrule_the_other_variables_and_name_their_source() {
    let variables = [
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "9000"),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--mtu=1500"),
    ];
    let loaded = load_with(&Machine::bare(), &variables).expect("it should load");
    assert_eq!(loaded.config.engine.network.mtu, Some(1500));
    assert!(source(&loaded, "engine.network.mtu").ends_with("_FLAGS"));
}

#[test]
fn a_proxy_of_the_session_gives_way_to_a_file() {
    let machine = Machine::bare();
    let session = [("http_proxy", "http://session:1"), ("NO_PROXY", "localhost")];
    let loaded = load_with(&machine, &session).expect("it should load");
    assert_eq!(loaded.config.proxy.http.as_deref(), Some("http://session:1"));
    assert_eq!(source(&loaded, "proxy.http"), "environment: http_proxy");

    machine.write(USER, "[proxy]\nhttp = \"http://file:1\"\nno = \"\"\n");
    let loaded = load_with(&machine, &session).expect("it should load");
    assert_eq!(loaded.config.proxy.http.as_deref(), Some("http://file:1"));
    assert_eq!(loaded.config.proxy.no, None, "empty: none at all");
}

#[test]
fn mistakes_name_file_line_and_key() {
    for (text, line, said) in [
        (
            "[engine]\nstop_timout = \"1s\"\n",
            2,
            "engine.stop_timout is no key; did you mean engine.stop_timeout?",
        ),
        ("\n\n[engin]\nstart = \"boot\"\n", 3, "engin is no key"),
        ("engine = 3\n", 1, "engine is a table"),
        ("[engine]\nstart = \"never\"\n", 2, "engine.start must be one of auto, boot, demand"),
        ("[engine]\nstop_timeout = 30\n", 2, "engine.stop_timeout must be a time"),
        ("[engine]\nstop_timeout = \"2h\"\n", 2, "from 1s to 1h"),
        ("[engine.restart]\nlimit = -1\n", 2, "engine.restart.limit must be a number from 0"),
        ("[engine.network]\nmtu = 100000\n", 2, "engine.network.mtu must be a number from 576"),
        ("[dockerd]\nflags = \"--debug\"\n", 2, "dockerd.flags must be an array of strings"),
        (
            "[dockerd]\nflags = [\"--data-root=/x\"]\n",
            2,
            "must not have --data-root: use \"data-root\" in daemon.json",
        ),
        (
            "[rootlesskit]\nflags = [\"--net=host\"]\n",
            2,
            "must not have what engine.network.driver says",
        ),
        ("[rootlesskit]\nstate_dir = \"x\"\n", 2, "must be an absolute path"),
        ("[environment]\nLD_PRELOAD = \"/x\"\n", 2, "environment.LD_PRELOAD is not to be set"),
        ("[environment]\nA = 1\n", 2, "environment.A must be a string"),
        ("[engine\n", 1, ""),
    ] {
        let machine = Machine::bare();
        let path = machine.write(USER, text);
        let error = load_with(&machine, &[]).expect_err(text);
        assert_eq!(error.kind, ErrorKind::Config);
        let place = format!("{}:{line}: ", path.display());
        assert!(error.message.starts_with(&place), "{text:?}: {}", error.message);
        assert!(error.message.contains(said), "{text:?}: {}", error.message);
        assert_eq!(error.remedy, Some(format!("edit {}", path.display())));
    }
}

#[test]
fn values_have_to_fit_each_other() {
    let machine = Machine::bare();
    let path = machine.write(USER, "[engine.restart]\ndelay = \"1m\"\n");
    let error = load_with(&machine, &[]).expect_err("delay > max_delay");
    assert!(error.message.contains(&format!("{}:2", path.display())), "{}", error.message);
    assert!(error.message.contains("max_delay (default)"), "{}", error.message);
}

#[test]
fn the_environment_table_is_free() {
    let machine = Machine::bare();
    machine.write(ETC, "[environment]\nGODEBUG = \"x=1\"\nHARMLESS = \"a\"\n");
    machine.write(USER, "environment.HARMLESS = \"b\"\n");
    let loaded = load_with(&machine, &[]).expect("it should load");
    assert_eq!(loaded.config.environment["HARMLESS"], "b");
    assert!(source(&loaded, "environment.GODEBUG").ends_with("config.toml:2"));
}

#[test]
fn what_is_no_file_is_not_read() {
    let machine = Machine::bare();
    machine.directory(USER);
    let error = load_with(&machine, &[]).expect_err("a directory");
    assert!(error.message.contains("no regular file"), "{}", error.message);
}

#[test]
fn drop_ins_are_reported_until_the_configuration_says_the_same() {
    let machine = Machine::bare();
    let base = "/home/alice/.config/systemd/user/docker.service";
    let unit = "[Service]\nExecStart=/usr/bin/dockerd-rootless.sh --debug\nRestart=always\n";
    machine.write(base, unit);
    let proxy = "[Service]\nEnvironment=HTTP_PROXY=http://me:secret@proxy:1\n";
    let drop_in = machine.write(&format!("{base}.d/proxy.conf"), proxy);

    let loaded = load_with(&machine, &[]).expect("it should load");
    let codes: Vec<_> = loaded.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!(codes, ["stock-unit-present", "drop-ins-ignored", "drop-ins-ignored"]);
    let text = &loaded.reasons[2].text;
    let expected = "line 2 (Environment=HTTP_PROXY; proxy.http says the same)";
    assert!(text.contains(expected) && text.contains(&drop_in.display().to_string()), "{text}");
    assert!(!text.contains("secret"), "{text}");

    machine.write(USER, "proxy.http = \"http://proxy:1\"\ndockerd.flags = [\"--debug\"]\n");
    let loaded = load_with(&machine, &[]).expect("it should load");
    assert_eq!(loaded.reasons.len(), 1, "{:?}", loaded.reasons);
}
