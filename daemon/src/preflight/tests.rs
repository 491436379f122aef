use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::{testing::Machine, *};
use crate::config;

const DAEMON_JSON: &str = "/home/alice/.config/docker/daemon.json";
const CONFIG: &str = "/home/alice/.config/rootlessd/config.toml";

async fn prepare_on(machine: &Machine, systemd: bool) -> Result<Plan, Unfit> {
    let (dirs, environment) = (machine.dirs(), machine.environment());
    let loaded = config::load(&dirs, &environment).expect("a configuration");
    prepare(&dirs, &environment, &loaded, systemd, &Known::default()).await
}

async fn plan_on(machine: &Machine) -> Plan {
    prepare_on(machine, true).await.expect("it should start")
}

async fn refused_on(machine: &Machine, systemd: bool) -> Vec<Reason> {
    match prepare_on(machine, systemd).await {
        Err(Unfit::Refused(reasons)) => reasons,
        other => panic!("no refusal: {other:?}"),
    }
}

fn codes(reasons: &[Reason]) -> Vec<&str> {
    reasons.iter().map(|reason| reason.code.as_str()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_complete_machine_gets_its_plan() {
    let machine = Machine::complete();
    let plan = plan_on(&machine).await;
    let path = |path: &str| machine.path(path);
    let runtime = machine.runtime_dir();
    let state_dir = runtime.join("dockerd-rootless");
    let words = [
        path("/usr/bin/rootlesskit").display().to_string(),
        format!("--state-dir={}", state_dir.display()),
        "--net=slirp4netns".into(),
        "--mtu=65520".into(),
        "--slirp4netns-sandbox=auto".into(),
        "--slirp4netns-seccomp=auto".into(),
        format!("--slirp4netns-binary={}", path("/usr/bin/slirp4netns").display()),
        "--disable-host-loopback".into(),
        "--port-driver=builtin".into(),
        "--copy-up=/etc".into(),
        "--copy-up=/run".into(),
        "--propagation=rslave".into(),
    ];
    assert_eq!(plan.rootlesskit, words);
    assert_eq!(plan.reasons, []);
    assert_eq!(plan.environment["HOME"], path("/home/alice").display().to_string());
    assert_eq!(
        Plan { environment: BTreeMap::new(), ..plan },
        Plan {
            rootlesskit: words.to_vec(),
            state_dir,
            environment: BTreeMap::new(),
            network_driver: "slirp4netns".into(),
            port_driver: "builtin".into(),
            network_helper: Some(path("/usr/bin/slirp4netns")),
            network_on_loss: config::OnLoss::Heal,
            detach_netns: false,
            selinux: false,
            containerd: path("/usr/bin/containerd"),
            dockerd: path("/usr/bin/dockerd"),
            dockerd_flags: Vec::new(),
            docker: DockerPlan {
                user_config: path(DAEMON_JSON),
                data_root: path("/home/alice/.local/share/docker"),
                exec_root: runtime.join("docker"),
                pid_file: runtime.join("docker.pid"),
                socket: runtime.join("docker.sock"),
                cgroup_parent: Some("rootlessd-containers.slice".into()),
                live_restore: Some(true),
                cgroup_driver: None,
            },
            ask_ports: true,
            restart: Default::default(),
            start_timeout: Duration::from_secs(90),
            stop_timeout: Duration::from_secs(30),
            config: Some(config::Config::default().engines()),
            versions: Versions {
                rootlesskit: Some("2.0.2".into()),
                dockerd: Some("26.1.5+dfsg1".into()),
                containerd: Some("1.7.24".into()),
                runc: Some("1.1.15+ds1".into()),
            },
            reasons: Vec::new(),
        }
    );
}

/// A plan outlives the rootlessd that made it.
#[tokio::test(flavor = "current_thread")]
async fn a_plan_survives_being_written() {
    let plan = plan_on(&Machine::complete()).await;
    let text = serde_json::to_string(&plan).expect("JSON");
    assert_eq!(serde_json::from_str::<Plan>(&text).expect("a plan"), plan);
}

#[tokio::test(flavor = "current_thread")]
async fn each_obstacle_has_its_name_and_what_mends_it() {
    type Spoil = fn(&Machine);
    let rows: &[(&str, &str, Spoil)] = &[
        ("program-missing", "sudo apt-get install docker.io", |m| m.remove("/usr/bin/dockerd")),
        ("program-missing", "sudo apt-get install containerd", |m| {
            m.remove("/usr/bin/containerd");
        }),
        ("program-missing", "sudo apt-get install runc", |m| m.remove("/usr/sbin/runc")),
        ("program-missing", "sudo apt-get install rootlesskit", |m| {
            m.remove("/usr/bin/rootlesskit");
        }),
        ("program-missing", "sudo apt-get install uidmap", |m| m.remove("/usr/bin/newuidmap")),
        ("program-missing", "sudo apt-get install iptables", |m| m.remove("/usr/sbin/iptables")),
        ("program-missing", "sudo apt-get install iproute2", |m| m.remove("/usr/sbin/ip")),
        ("program-missing", "sudo apt-get install util-linux", |m| {
            m.write(CONFIG, "engine.network.detach_netns = true\n");
        }),
        ("program-missing", "set dockerd.path to a program, or leave it out", |m| {
            m.write(CONFIG, "dockerd.path = \"/nowhere/dockerd\"\n");
        }),
        ("network-driver-missing", "sudo apt-get install slirp4netns", |m| {
            m.remove("/usr/bin/slirp4netns");
        }),
        // Older than 0.4.0.
        ("network-driver-missing", "sudo apt-get install slirp4netns", |m| {
            m.program("/usr/bin/slirp4netns", "echo usage");
        }),
        ("newidmap-unprivileged", "sudo apt-get install --reinstall uidmap", |m| {
            let path = m.path("/usr/bin/newgidmap");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }),
        ("subuid-missing", "rootlessctl subids allocate", |m| {
            m.write("/etc/subuid", "bob:524288:65536\n");
        }),
        ("tun-unusable", "sudo modprobe tun", |m| m.remove("/dev/net/tun")),
        ("userns-disabled", "rootlessctl userns allow", |m| {
            m.write("/proc/sys/kernel/unprivileged_userns_clone", "0\n");
        }),
        ("userns-apparmor", "printf 'abi", |m| {
            m.write("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        }),
        ("data-root-network", "set \"data-root\"", |m| {
            let home = m.path("/home").display().to_string();
            m.write("/proc/self/mountinfo", &format!("1 1 0:1 / {home} rw - nfs4 x rw\n"));
        }),
        ("probe-failed", "run", |m| {
            m.program("/usr/bin/rootlesskit", "exit 1");
        }),
        ("rootlesskit-too-old", "sudo apt-get install rootlesskit", |m| {
            let help = include_str!("../../tests/rootlesskit/1.1.0.txt").replace("1.1.0", "0.13.0");
            m.program("/usr/bin/rootlesskit", &format!("/bin/cat <<'END'\n{help}END"));
        }),
        ("port-driver-unusable", "set engine.network.port_driver", |m| {
            m.write(CONFIG, "engine.network.port_driver = \"pesto\"\n");
        }),
        ("daemon-json-invalid", "edit", |m| {
            m.write(DAEMON_JSON, "{");
        }),
        ("daemon-json-conflict", "take \"containerd\" out", |m| {
            m.write(DAEMON_JSON, r#"{"containerd": "/x"}"#);
        }),
        ("hosts-insecure", "take \"tcp://0.0.0.0:2375\" out", |m| {
            m.write(DAEMON_JSON, r#"{"hosts": ["tcp://0.0.0.0:2375"]}"#);
        }),
        ("dockerd-elsewhere", "kill 77", |m| {
            m.write("/proc/77/comm", "dockerd\n");
            m.write(&format!("/run/user/{}/docker.pid", m.uid()), "77");
        }),
    ];
    for (code, remedy, spoil) in rows {
        let machine = Machine::complete();
        spoil(&machine);
        let fatal = refused_on(&machine, true).await;
        assert_eq!(codes(&fatal), [*code], "{fatal:?}");
        let found = fatal[0].remedy.as_deref().unwrap_or_default();
        assert!(found.starts_with(remedy), "{code}: {found}");
        assert!(fatal[0].text.len() > 20, "{code}: {}", fatal[0].text);
    }
}

/// A person has nothing to mend where a program was killed, so the start is to be tried again.
#[tokio::test(flavor = "current_thread")]
async fn what_could_not_be_asked_is_no_refusal() {
    let rows: &[(&str, bool)] = &[
        ("/usr/bin/rootlesskit", true),
        ("/usr/bin/dockerd", true),
        ("/usr/bin/slirp4netns", true),
        ("/usr/bin/getsubids", true),
        ("/usr/bin/containerd", false),
        ("/usr/sbin/runc", false),
    ];
    for &(program, matters) in rows {
        let machine = Machine::complete();
        machine.write("/etc/subuid", "");
        machine.program("/usr/bin/getsubids", "echo '0: alice 524288 65536'");
        machine.program(program, "kill -KILL $$");
        match prepare_on(&machine, true).await {
            Err(Unfit::Unknown(text)) if matters => assert!(text.contains(program), "{text}"),
            Ok(_) if !matters => {}
            other => panic!("{program}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn all_obstacles_are_told_at_once() {
    let machine = Machine::bare();
    machine.write(DAEMON_JSON, "[]");
    let fatal = refused_on(&machine, false).await;
    let mut found = codes(&fatal);
    found.sort_unstable();
    found.dedup();
    let expected = [
        "daemon-json-invalid",
        "program-missing",
        "subgid-missing",
        "subuid-missing",
        "tun-unusable",
    ];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "current_thread")]
async fn without_the_user_s_systemd_dockerd_is_kept_from_asking_for_it() {
    let machine = Machine::complete();
    let plan = prepare_on(&machine, false).await.expect("it should start");
    assert_eq!(codes(&plan.reasons), ["cgroup-driver-none"]);
    assert_eq!(plan.docker.cgroup_parent, None);
    assert_eq!(plan.docker.cgroup_driver.as_deref(), Some("cgroupfs"));

    machine.remove("/run/systemd/system");
    let plan = prepare_on(&machine, false).await.expect("it should start");
    assert_eq!((plan.docker.cgroup_parent, plan.docker.cgroup_driver), (None, None));
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_user_sets_is_not_ours() {
    let machine = Machine::complete();
    let json = r#"{"live-restore": false, "cgroup-parent": "my.slice", "iptables": false,
        "data-root": "/srv/docker"}"#;
    machine.write(DAEMON_JSON, json);
    machine.remove("/usr/sbin/iptables");
    let plan = plan_on(&machine).await;
    assert_eq!((plan.docker.live_restore, plan.docker.cgroup_parent), (None, None));
    assert_eq!(plan.docker.data_root, Path::new("/srv/docker"));
    machine.write(
        DAEMON_JSON,
        r#"{"exec-opts": ["native.cgroupdriver=cgroupfs"], "iptables": false}"#,
    );
    let plan = plan_on(&machine).await;
    assert_eq!((plan.docker.cgroup_parent, plan.docker.cgroup_driver), (None, None));
}

#[tokio::test(flavor = "current_thread")]
async fn a_swarm_has_no_live_restore() {
    let machine = Machine::complete();
    machine.write("/home/alice/.local/share/docker/swarm/docker-state.json", "{}");
    let plan = plan_on(&machine).await;
    assert_eq!(plan.docker.live_restore, Some(false));
    assert_eq!(codes(&plan.reasons), ["live-restore-off-swarm"]);
    // The user's own `true` would keep dockerd from starting.
    machine.write(DAEMON_JSON, r#"{"live-restore": true}"#);
    assert_eq!(plan_on(&machine).await.docker.live_restore, Some(false));
    // Whoever agrees is not told again.
    machine.write(DAEMON_JSON, "{}");
    machine.write(CONFIG, "engine.live_restore = false\n");
    assert_eq!(plan_on(&machine).await.reasons, []);
}

#[tokio::test(flavor = "current_thread")]
async fn daemon_json_that_turns_live_restore_off_is_told() {
    let machine = Machine::complete();
    machine.write(DAEMON_JSON, r#"{"live-restore": false}"#);
    let plan = plan_on(&machine).await;
    assert_eq!(plan.docker.live_restore, None);
    assert_eq!(codes(&plan.reasons), ["live-restore-off-daemon-json"]);
    // Whoever agrees is not told again, nor whoever says what is so anyway.
    let mut config = config::Config::default();
    config.engine.live_restore = false;
    assert_eq!(plan.following(&config).expect("a change").reasons, []);
    machine.write(CONFIG, "engine.live_restore = false\n");
    assert_eq!(plan_on(&machine).await.reasons, []);
    machine.write(CONFIG, "");
    machine.write(DAEMON_JSON, r#"{"live-restore": true}"#);
    assert_eq!(plan_on(&machine).await.reasons, []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_running_engine_follows_live_restore() {
    let machine = Machine::complete();
    let plan = plan_on(&machine).await;
    let mut config = config::Config::default();
    assert_eq!(plan.following(&config), None);
    config.engine.live_restore = false;
    assert!(plan.is_stale(&config.engines()));
    let off = plan.following(&config).expect("a change");
    assert_eq!((off.docker.live_restore, off.is_stale(&config.engines())), (Some(false), false));
    assert_eq!(off.following(&config), None);
    assert_eq!(off.following(&config::Config::default()), Some(plan));
    // A Swarm has none.
    machine.write("/home/alice/.local/share/docker/swarm/docker-state.json", "{}");
    let in_swarm = off.following(&config::Config::default()).expect("a change");
    assert_eq!(in_swarm.docker.live_restore, Some(false));
    // Where the user says it in `daemon.json`, that counts.
    machine.write(DAEMON_JSON, r#"{"live-restore": false}"#);
    let users = plan_on(&machine).await.following(&config).expect("a change");
    assert_eq!(users.docker.live_restore, None);
}

#[tokio::test(flavor = "current_thread")]
async fn the_search_path_of_the_configuration_counts() {
    let machine = Machine::complete();
    let own = machine.program("/home/alice/bin/dockerd", "echo Docker version 29.5.0,");
    let path = own.parent().expect("a parent").display().to_string();
    let text = format!("environment.PATH = \"{path}:{}\"\n", machine.path("/usr/bin").display());
    machine.write(CONFIG, &text);
    machine.program("/usr/bin/nsenter", "");
    let plan = plan_on(&machine).await;
    assert_eq!(plan.dockerd, own);
    assert!(plan.detach_netns, "dockerd 29.5 detaches by default");
    assert!(plan.environment["PATH"].starts_with(&path));
}

#[tokio::test(flavor = "current_thread")]
async fn few_ids_and_what_the_configuration_noted_prevent_nothing() {
    let machine = Machine::complete();
    machine.write("/etc/subuid", "alice:524288:1000\n");
    let drop_in = "/home/alice/.config/systemd/user/docker.service.d/x.conf";
    machine.write(drop_in, "[Service]\nEnvironment=HTTP_PROXY=http://x\n");
    let plan = plan_on(&machine).await;
    assert_eq!(codes(&plan.reasons), ["drop-ins-ignored", "subuid-small"]);
}

/// The slowest program decides, not the sum of all.
#[tokio::test(flavor = "current_thread")]
async fn programs_are_asked_at_once() {
    let machine = Machine::complete();
    let meet = machine.directory("/meet");
    // Each waits until the others have been started too.
    for (path, name, answer) in [
        ("/usr/bin/dockerd", "a", "Docker version 26.1.5,"),
        ("/usr/bin/containerd", "b", "containerd x 1.7.24"),
        ("/usr/sbin/runc", "c", "runc version 1.1.15"),
    ] {
        let meet = meet.display();
        let script = format!(
            ": > {meet}/{name}\nwhile :; do set -- {meet}/*; [ $# = 3 ] && break; done\n\
             echo '{answer}'"
        );
        machine.program(path, &script);
    }
    fs::set_permissions(&meet, fs::Permissions::from_mode(0o777)).expect("chmod");
    let versions = plan_on(&machine).await.versions;
    assert!(versions.dockerd.is_some() && versions.containerd.is_some() && versions.runc.is_some());
}
