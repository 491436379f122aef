//! The environment of the engine's processes: what they are known to need, and nothing else.

use std::collections::BTreeMap;

use super::programs::SearchPath;
use crate::{
    config::{Config, is_ours},
    dirs::{Dirs, Environment},
};

/// Variables that are passed on.
const NAMES: &[&str] = &[
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "ALL_PROXY",
    "all_proxy",
    // What dockerd reads (moby's daemon/ and cmd/dockerd/).
    "DOCKER_BUILDKIT_RUNC_COMMAND",
    "DOCKER_CERT_PATH",
    "DOCKER_DRIVER",
    "DOCKER_FIREWALL_BACKEND",
    "DOCKER_IGNORE_BR_NETFILTER_ERROR",
    "DOCKER_INSECURE_NO_IPTABLES_RAW",
    "DOCKER_KEEP_DEPRECATED_LEGACY_LINKS_ENV_VARS",
    "DOCKER_MIGRATE_SNAPSHOTTER_THRESHOLD",
    "DOCKER_MIN_API_VERSION",
    "DOCKER_RAMDISK",
    "DOCKER_SERVICE_PREFER_OFFLINE_IMAGE",
    "DOCKER_TLS_VERIFY",
    "DOCKER_TMPDIR",
];

/// What variables begin with that are passed on.
const PREFIXES: &[&str] = &["XDG_", "LC_", "DOCKERD_ROOTLESS_"];

/// The whole environment of the engine's processes.
pub fn engine_environment(
    dirs: &Dirs,
    environment: &Environment,
    config: &Config,
    path: &SearchPath,
) -> BTreeMap<String, String> {
    let mut engine: BTreeMap<_, _> = environment
        .iter()
        .filter(|(name, _)| is_passed_on(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for name in ["USER", "LOGNAME"] {
        engine.entry(name.into()).or_insert_with(|| dirs.user.clone());
    }
    // runc asks the user's systemd for a container's cgroup; sessions of su lack the address.
    let bus = dirs.runtime.join("bus");
    if bus.exists() {
        let address = format!("unix:path={}", bus.display());
        engine.entry("DBUS_SESSION_BUS_ADDRESS".into()).or_insert(address);
    }
    let proxy = &config.proxy;
    for (name, value) in
        [("HTTP_PROXY", &proxy.http), ("HTTPS_PROXY", &proxy.https), ("NO_PROXY", &proxy.no)]
    {
        if let Some(value) = value {
            engine.insert(name.into(), value.clone());
            engine.insert(name.to_lowercase(), value.clone());
        }
    }
    engine.extend(config.environment.clone());
    engine.insert("HOME".into(), dirs.home.display().to_string());
    engine.insert("XDG_RUNTIME_DIR".into(), dirs.runtime.display().to_string());
    engine.insert("PATH".into(), path.joined());
    engine
}

fn is_passed_on(name: &str) -> bool {
    let listed = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    listed && !is_ours(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Machine;

    #[test]
    fn nothing_comes_through_that_is_not_listed() {
        let machine = Machine::bare();
        machine.directory("/usr/bin");
        let bus = machine.write(&format!("/run/user/{}/bus", machine.uid()), "");
        let session = [
            ("LANG", "C.UTF-8"),
            ("LC_TIME", "de_DE"),
            ("XDG_DATA_HOME", "/data"),
            ("XDG_RUNTIME_DIR", "/elsewhere"),
            ("HOME", "/elsewhere"),
            ("HTTP_PROXY", "http://session"),
            ("DOCKER_TMPDIR", "/var/tmp"),
            ("DOCKER_HOST", "tcp://elsewhere"),
            ("DOCKERD", "/tmp/evil"),
            ("LD_PRELOAD", "/tmp/evil.so"),
            ("LISTEN_FDS", "1"),
            ("NOTIFY_SOCKET", "/run/notify"),
            ("WATCHDOG_USEC", "1"),
            ("ROOTLESSKIT_STATE_DIR", "/x"),
            ("_DOCKERD_ROOTLESS_CHILD", "1"),
            ("BASH_FUNC_x%%", "() { :; }"),
            ("SECRET", "x"),
        ];
        let mut config = Config::default();
        config.proxy.http = Some("http://proxy:3128".into());
        config.environment.insert("GODEBUG".into(), "x=1".into());
        let dirs = machine.dirs();
        let (path, _) = SearchPath::new(&dirs, Some("/usr/bin"));
        let found = engine_environment(&dirs, &Environment::from_iter(session), &config, &path);
        let expected = [
            ("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", bus.display())),
            ("DOCKER_TMPDIR", "/var/tmp".into()),
            ("GODEBUG", "x=1".into()),
            ("HOME", dirs.home.display().to_string()),
            ("HTTP_PROXY", "http://proxy:3128".into()),
            ("LANG", "C.UTF-8".into()),
            ("LC_TIME", "de_DE".into()),
            ("LOGNAME", "alice".into()),
            ("PATH", machine.path("/usr/bin").display().to_string()),
            ("USER", "alice".into()),
            ("XDG_DATA_HOME", "/data".into()),
            ("XDG_RUNTIME_DIR", dirs.runtime.display().to_string()),
            ("http_proxy", "http://proxy:3128".into()),
        ];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(found, expected);
    }
}
