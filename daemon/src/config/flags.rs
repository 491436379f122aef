//! More flags for dockerd and RootlessKit: which of them are not the user's to give, since a key
//! says the same or the engine would not be ours any more.

use super::value::{Refused, Value};

/// The flags of dockerd that are ours, in long and short, and what to use instead.
const DOCKERD: &[(&str, Option<char>, &str)] = &[
    ("config-file", None, "rootlessd passes your daemon.json on; edit that"),
    ("containerd", None, "rootlessd starts containerd itself; containerd.path chooses the program"),
    ("host", Some('H'), "use \"hosts\" in daemon.json"),
    ("data-root", None, "use \"data-root\" in daemon.json"),
    ("graph", Some('g'), "use \"data-root\" in daemon.json"),
    ("exec-root", None, "use \"exec-root\" in daemon.json"),
    ("pidfile", Some('p'), "use \"pidfile\" in daemon.json"),
    ("live-restore", None, "use engine.live_restore, or \"live-restore\" in daemon.json"),
    ("cgroup-parent", None, "use \"cgroup-parent\" in daemon.json"),
    ("exec-opt", None, "use \"exec-opts\" in daemon.json"),
    ("group", Some('G'), "the socket is yours alone; there is no group to give it to"),
    ("tls", None, "use \"tls\" in daemon.json"),
    ("tlsverify", None, "use \"tlsverify\" in daemon.json"),
    ("tlscacert", None, "use \"tlscacert\" in daemon.json"),
    ("tlscert", None, "use \"tlscert\" in daemon.json"),
    ("tlskey", None, "use \"tlskey\" in daemon.json"),
    ("rootless", None, "the engine is rootless, always"),
    ("validate", None, "dockerd would end at once"),
    ("version", Some('v'), "dockerd would end at once"),
    ("help", Some('h'), "dockerd would end at once"),
];

/// dockerd's short flags that take a value, so that the rest of the word is no flag.
const DOCKERD_SHORT_WITH_VALUE: &str = "lsb";

/// Refuses flags of dockerd that are ours.
pub fn check_dockerd(flags: &[String]) -> Result<(), Refused> {
    for word in flags {
        let ours = match word.strip_prefix("--") {
            Some(long) => {
                let name = long.split('=').next().unwrap_or_default();
                DOCKERD.iter().find(|(ours, ..)| *ours == name)
            }
            None => word.strip_prefix('-').and_then(|letters| {
                letters
                    .chars()
                    .take_while(|letter| !DOCKERD_SHORT_WITH_VALUE.contains(*letter))
                    .find_map(|letter| DOCKERD.iter().find(|(_, short, _)| *short == Some(letter)))
            }),
        };
        if let Some((name, _, instead)) = ours {
            return Err(format!("must not have --{name}: {instead}"));
        }
    }
    Ok(())
}

/// What becomes of a flag of RootlessKit.
enum Role {
    /// A key says it.
    Key(&'static str),
    /// It is never the user's to give; why.
    Never(&'static str),
    /// It is passed on.
    Free,
}

/// RootlessKit's flags without a value (its `cmd/rootlesskit/main.go`, up to 3.3).
const SWITCHES: &[&str] = &[
    "cgroupns",
    "debug",
    "detach-netns",
    "disable-host-loopback",
    "help",
    "h",
    "ipcns",
    "ipv6",
    "pidns",
    "source-ip-transparent",
    "utsns",
    "version",
    "v",
];

fn role(name: &str) -> Role {
    match name {
        "state-dir" => Role::Key("rootlesskit.state_dir"),
        "net" => Role::Key("engine.network.driver"),
        "mtu" => Role::Key("engine.network.mtu"),
        "port-driver" => Role::Key("engine.network.port_driver"),
        "slirp4netns-sandbox" => Role::Key("engine.network.slirp4netns_sandbox"),
        "slirp4netns-seccomp" => Role::Key("engine.network.slirp4netns_seccomp"),
        "disable-host-loopback" => Role::Key("engine.network.disable_host_loopback"),
        "detach-netns" => Role::Key("engine.network.detach_netns"),
        "ipv6" => Role::Key("engine.network.ipv6"),
        "copy-up-mode" | "propagation" => {
            Role::Never("the engine needs the value that rootlessd gives it")
        }
        "pidns" | "reaper" => Role::Never("rootlessd follows the engine's processes by their pids"),
        "cgroupns" | "evacuate-cgroup2" => Role::Never("the engine has a cgroup of its own"),
        "print-semver" | "help" | "h" | "version" | "v" => {
            Role::Never("RootlessKit would end at once")
        }
        _ => Role::Free,
    }
}

/// The flags of RootlessKit, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RootlesskitFlags {
    /// What a key says as well: the key, and the value.
    pub keys: Vec<(&'static str, Value)>,
    /// What is passed on.
    pub rest: Vec<String>,
}

/// Sorts flags of RootlessKit, and refuses those that cannot be given.
pub fn sort_rootlesskit(flags: &[String]) -> Result<RootlesskitFlags, Refused> {
    let mut sorted = RootlesskitFlags::default();
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        // As Go's flag package has it, one dash is as good as two.
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(format!(
                "must be flags: RootlessKit would take {word:?} for the command to run"
            ));
        };
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let is_switch = SWITCHES.contains(&name);
        let following = match attached {
            None if !is_switch => {
                Some(words.next().ok_or_else(|| format!("must have a value after {word:?}"))?)
            }
            _ => None,
        };
        match role(name) {
            Role::Key(key) => {
                let value = attached.or(following.map(String::as_str)).unwrap_or("true");
                sorted.keys.push((key, Value::Variable(value.to_owned())));
            }
            Role::Never(why) => return Err(format!("must not have --{name}: {why}")),
            Role::Free => {
                sorted.rest.push(word.clone());
                sorted.rest.extend(following.cloned());
            }
        }
    }
    Ok(sorted)
}

/// The flags of RootlessKit in a file: what a key says has to be said there.
pub fn check_rootlesskit(flags: &[String]) -> Result<(), Refused> {
    match sort_rootlesskit(flags)?.keys.first() {
        Some((key, _)) => Err(format!("must not have what {key} says; use that")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn flags_of_dockerd() {
        for (flags, ours) in [
            ("--debug --log-level=debug", None),
            ("-D -l debug", None),
            ("--iptables=false", None),
            ("--config-file=/etc/docker/daemon.json", Some("config-file")),
            ("--config-file /etc/docker/daemon.json", Some("config-file")),
            ("--containerd=/run/containerd.sock", Some("containerd")),
            ("--containerd-namespace=x", None),
            ("-H tcp://0.0.0.0:2375", Some("host")),
            ("-Htcp://0.0.0.0:2375", Some("host")),
            ("-DH fd://", Some("host")),
            ("-lH", None),
            ("--host=fd://", Some("host")),
            ("--data-root /x", Some("data-root")),
            ("--exec-root=/x", Some("exec-root")),
            ("-p /x", Some("pidfile")),
            ("--live-restore", Some("live-restore")),
            ("--group=docker", Some("group")),
            ("-Gdocker", Some("group")),
            ("--tlsverify", Some("tlsverify")),
            ("--validate", Some("validate")),
        ] {
            let refused = check_dockerd(&words(flags)).err();
            match (ours, refused) {
                (None, None) => {}
                (Some(name), Some(refused)) => {
                    assert!(refused.contains(&format!("--{name}:")), "{flags}: {refused}");
                }
                (_, refused) => panic!("{flags}: {refused:?}"),
            }
        }
    }

    #[test]
    fn flags_of_rootlesskit() {
        type Keys = &'static [(&'static str, &'static str)];
        let rows: &[(&str, Keys, &str)] = &[
            ("", &[], ""),
            ("--debug", &[], "--debug"),
            ("-p 0.0.0.0:2376:2376/tcp", &[], "-p 0.0.0.0:2376:2376/tcp"),
            ("--ipv6", &[("engine.network.ipv6", "true")], ""),
            ("--ipv6=false --debug", &[("engine.network.ipv6", "false")], "--debug"),
            ("-mtu 1500", &[("engine.network.mtu", "1500")], ""),
            ("--net=pasta", &[("engine.network.driver", "pasta")], ""),
            (
                "--disable-host-loopback=false --cidr 10.1.0.0/24",
                &[("engine.network.disable_host_loopback", "false")],
                "--cidr 10.1.0.0/24",
            ),
            ("--copy-up=/opt", &[], "--copy-up=/opt"),
        ];
        for (flags, keys, rest) in rows {
            let sorted = sort_rootlesskit(&words(flags)).expect(flags);
            let keys: Vec<_> =
                keys.iter().map(|(key, text)| (*key, Value::Variable((*text).into()))).collect();
            assert_eq!(sorted, RootlesskitFlags { keys, rest: words(rest) }, "{flags}");
        }
    }

    #[test]
    fn flags_of_rootlesskit_that_cannot_be_given() {
        for flags in
            ["--pidns", "--propagation=rshared", "--version", "sh -c x", "--", "--debug sh", "-p"]
        {
            assert!(sort_rootlesskit(&words(flags)).is_err(), "{flags}");
        }
        let refused = check_rootlesskit(&words("--mtu=1500")).expect_err("a key says it");
        assert!(refused.contains("engine.network.mtu"), "{refused}");
    }
}
