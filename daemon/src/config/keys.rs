//! Every key: its name, how its value is read and shown, and the variables that say the same.

use super::{
    flags,
    types::{AskPorts, Config, LogLevel, NetworkDriver, OnLoss, PortDriver, Start, Switch},
    value::{self, Refused, Show, Value},
};

/// A key of the configuration.
pub struct Key {
    /// Its dotted name.
    pub name: &'static str,
    /// The variable that overrules every file.
    pub variable: Option<&'static str>,
    /// Variables that any file overrules, the first that is set counts.
    pub ambient: &'static [&'static str],
    /// Reads a value into its field; a refused one changes nothing.
    pub set: fn(&mut Config, &Value) -> Result<(), Refused>,
    /// The value of the field in TOML.
    pub show: fn(&Config) -> String,
}

macro_rules! key {
    ($name:literal, $($field:ident).+, $read:expr) => {
        key!($name, $($field).+, $read, None, &[])
    };
    ($name:literal, $($field:ident).+, $read:expr, $variable:expr) => {
        key!($name, $($field).+, $read, Some($variable), &[])
    };
    ($name:literal, $($field:ident).+, $read:expr, $variable:expr, $ambient:expr) => {
        Key {
            name: $name,
            variable: $variable,
            ambient: $ambient,
            set: |config, value| {
                let read: fn(&Value) -> Result<_, Refused> = $read;
                config.$($field).+ = read(value)?;
                Ok(())
            },
            show: |config| config.$($field).+.show(),
        }
    };
}

/// What the free keys of `[environment]` begin with.
pub const ENVIRONMENT: &str = "environment";

/// The variable of flags for RootlessKit; what a key says as well is that key's.
pub const ROOTLESSKIT_FLAGS: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS";

/// Every key but those of [`ENVIRONMENT`], in the order of the manual.
pub const KEYS: &[Key] = &[
    key!("engine.start", engine.start, |v| value::word(v, Start::WORDS, Start::from_word)),
    key!("engine.idle_timeout", engine.idle_timeout, |v| value::time(v, 0.0..=604_800.0)),
    key!("engine.idle_ignore", engine.idle_ignore, value::list),
    key!("engine.start_timeout", engine.start_timeout, |v| value::time(v, 1.0..=3600.0)),
    key!("engine.stop_timeout", engine.stop_timeout, |v| value::time(v, 1.0..=3600.0)),
    key!("engine.client_wait", engine.client_wait, |v| value::time(v, 0.0..=3600.0)),
    key!("engine.live_restore", engine.live_restore, value::truth),
    key!("engine.restart.limit", engine.restart.limit, |v| value::number(v, 0..=1000)),
    key!("engine.restart.window", engine.restart.window, |v| value::time(v, 1.0..=86400.0)),
    key!("engine.restart.delay", engine.restart.delay, |v| value::time(v, 0.01..=3600.0)),
    key!("engine.restart.max_delay", engine.restart.max_delay, |v| value::time(v, 0.01..=3600.0)),
    key!(
        "engine.network.driver",
        engine.network.driver,
        |v| value::word(v, NetworkDriver::WORDS, NetworkDriver::from_word),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_NET"
    ),
    key!(
        "engine.network.mtu",
        engine.network.mtu,
        // RootlessKit's upper bound is slirp4netns's; below 576 is no IPv4.
        |v| value::number_or_auto(v, 576..=65521),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU"
    ),
    key!(
        "engine.network.port_driver",
        engine.network.port_driver,
        |v| value::word(v, PortDriver::WORDS, PortDriver::from_word),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER"
    ),
    key!(
        "engine.network.slirp4netns_sandbox",
        engine.network.slirp4netns_sandbox,
        |v| value::word(v, Switch::WORDS, Switch::from_word),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX"
    ),
    key!(
        "engine.network.slirp4netns_seccomp",
        engine.network.slirp4netns_seccomp,
        |v| value::word(v, Switch::WORDS, Switch::from_word),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SECCOMP"
    ),
    key!(
        "engine.network.disable_host_loopback",
        engine.network.disable_host_loopback,
        value::not_false,
        "DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK"
    ),
    key!(
        "engine.network.detach_netns",
        engine.network.detach_netns,
        |v| value::word(v, Switch::WORDS, Switch::from_word),
        "DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS"
    ),
    key!("engine.network.ipv6", engine.network.ipv6, value::truth),
    key!("engine.network.on_loss", engine.network.on_loss, |v| {
        value::word(v, OnLoss::WORDS, OnLoss::from_word)
    }),
    key!("engine.ports.ask", engine.ports.ask, |v| {
        value::word(v, AskPorts::WORDS, AskPorts::from_word)
    }),
    key!("rootlesskit.path", rootlesskit.path, value::program),
    key!(
        "rootlesskit.state_dir",
        rootlesskit.state_dir,
        value::path,
        "DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR"
    ),
    key!(
        "rootlesskit.flags",
        rootlesskit.flags,
        |v| {
            let flags = value::list(v)?;
            flags::check_rootlesskit(&flags)?;
            Ok(flags)
        },
        ROOTLESSKIT_FLAGS
    ),
    key!("dockerd.path", dockerd.path, value::program, "DOCKERD"),
    key!("dockerd.flags", dockerd.flags, |v| {
        let flags = value::list(v)?;
        flags::check_dockerd(&flags)?;
        Ok(flags)
    }),
    key!("containerd.path", containerd.path, value::program),
    key!("proxy.http", proxy.http, value::text, None, &["HTTP_PROXY", "http_proxy"]),
    key!("proxy.https", proxy.https, value::text, None, &["HTTPS_PROXY", "https_proxy"]),
    key!("proxy.no", proxy.no, value::text, None, &["NO_PROXY", "no_proxy"]),
    key!("log.level", log.level, |v| value::word(v, LogLevel::WORDS, LogLevel::from_word)),
];

/// The key of a name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys begin with `name.`.
pub fn is_table(name: &str) -> bool {
    name.is_empty()
        || name == ENVIRONMENT
        || KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|r| r.starts_with('.')))
}

/// The known key that `name` was most likely meant to be.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().replace('-', "_");
    let likeness = |key: &&'static str| {
        // The right word in the wrong table is as good as a slip of the pen.
        let whole = strsim::jaro_winkler(name, key);
        let word = strsim::normalized_damerau_levenshtein(&last(name), &last(key));
        whole.max(word)
    };
    KEYS.iter()
        .map(|key| (likeness(&key.name), key.name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Sets a variable of `[environment]`.
pub fn set_variable(config: &mut Config, name: &str, value: &Value) -> Result<(), Refused> {
    let shape = |c: char| c == '_' || c.is_ascii_alphanumeric();
    if name.is_empty() || !name.chars().all(shape) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err("is no name of an environment variable".into());
    }
    if is_ours(name) {
        return Err("is not to be set: rootlessd decides it".into());
    }
    let text = value::text(value)?.unwrap_or_default();
    config.environment.insert(name.to_owned(), text);
    Ok(())
}

/// Whether a variable could turn the engine's programs against the user, or is part of how
/// rootlessd, systemd and the engine speak with each other.
pub fn is_ours(name: &str) -> bool {
    let prefixes = ["LD_", "LISTEN_", "ROOTLESSKIT_", "_ROOTLESSKIT_", "_DOCKERD_", "WATCHDOG_"];
    matches!(name, "HOME" | "XDG_RUNTIME_DIR" | "NOTIFY_SOCKET" | "DOCKER_HOST")
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_variables_are_unique() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        let variables: Vec<_> = KEYS.iter().filter_map(|key| key.variable).collect();
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
    }

    /// What is shown can be read again, to the same value.
    #[test]
    fn defaults_survive_being_written() {
        let default = Config::default();
        for key in KEYS {
            let shown = (key.show)(&default);
            let parsed = toml::de::DeValue::parse(&shown).expect(key.name);
            let mut again = default.clone();
            (key.set)(&mut again, &Value::from(parsed.get_ref())).expect(key.name);
            assert_eq!(again, default, "{}", key.name);
        }
    }

    #[test]
    fn slips_of_the_pen_are_guessed() {
        for (slip, meant) in [
            ("engine.stop_timout", Some("engine.stop_timeout")),
            ("engine.stop-timeout", Some("engine.stop_timeout")),
            ("stop_timeout", Some("engine.stop_timeout")),
            ("engine.mtu", Some("engine.network.mtu")),
            ("dockerd.flag", Some("dockerd.flags")),
            ("proxy.htps", Some("proxy.https")),
            ("entirely.different", None),
        ] {
            assert_eq!(nearest(slip), meant, "{slip}");
        }
    }

    #[test]
    fn some_variables_are_not_the_users_to_set() {
        let mut config = Config::default();
        for name in ["LD_PRELOAD", "NOTIFY_SOCKET", "LISTEN_FDS", "HOME", "A B", "", "1A", "É"] {
            let value = Value::Text("x".into());
            assert!(set_variable(&mut config, name, &value).is_err(), "{name}");
        }
        assert_eq!(config, Config::default());
        set_variable(&mut config, "GODEBUG", &Value::Text("x".into())).expect("it may be set");
        assert!(set_variable(&mut config, "GODEBUG", &Value::Integer(1)).is_err());
    }

    /// The manual names every key and variable, with the default.
    #[test]
    fn the_manual_has_every_key() {
        let manual = include_str!("../../../docs/config.md");
        let default = Config::default();
        for key in KEYS {
            let heading = format!("### `{}` = `{}`", key.name, (key.show)(&default));
            assert!(manual.contains(&heading), "missing: {heading}");
            for variable in key.variable.iter().chain(key.ambient) {
                assert!(manual.contains(&format!("`{variable}`")), "missing: {variable}");
            }
        }
        let headings = manual.lines().filter(|line| line.starts_with("### `")).count();
        assert_eq!(headings, KEYS.len() + 1, "the manual has a key that is none");
    }
}
