//! What the installed RootlessKit can. It is asked, not guessed from the version: a build may leave
//! drivers out (RootlessKit's `docs/BUILDING.md`).

use std::collections::BTreeSet;

use crate::preflight::version::{Version, version_in};

/// What an installed RootlessKit can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The version as it prints it.
    pub version: Option<String>,
    /// The names of its flags, without dashes.
    pub flags: BTreeSet<String>,
    /// Its network drivers.
    pub network_drivers: BTreeSet<String>,
    /// Its port drivers.
    pub port_drivers: BTreeSet<String>,
}

impl Capabilities {
    /// Reads what `rootlesskit --help` says.
    pub fn parse(help: &str) -> Self {
        let mut found = Self { version: version_after_heading(help), ..Self::default() };
        for line in help.lines().map(str::trim).filter(|line| line.starts_with('-')) {
            // Two spaces part the flag from what it does.
            let (flag, does) = line.split_once("  ").unwrap_or((line, ""));
            let names = flag
                .split([' ', ','])
                .filter(|word| word.starts_with('-'))
                .map(|word| word.trim_start_matches('-').to_owned());
            found.flags.extend(names);
            match flag.split(' ').next() {
                Some("--net") => found.network_drivers = choices(does),
                Some("--port-driver") => found.port_drivers = choices(does),
                _ => {}
            }
        }
        found
    }

    /// Whether it has a flag, named without dashes.
    pub fn has_flag(&self, name: &str) -> bool {
        self.flags.contains(name)
    }

    /// The version, to compare.
    pub fn number(&self) -> Option<Version> {
        self.version.as_deref().and_then(Version::parse)
    }
}

/// The words in the brackets of `network driver [host, pasta(experimental), …]`.
fn choices(text: &str) -> BTreeSet<String> {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = inside.unwrap_or_default();
    list.split(',')
        .map(|choice| choice.split('(').next().unwrap_or_default().trim().to_owned())
        .filter(|choice| !choice.is_empty())
        .collect()
}

fn version_after_heading(help: &str) -> Option<String> {
    let (_, rest) = help.split_once("VERSION:")?;
    version_in(rest.lines().find(|line| !line.trim().is_empty())?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A RootlessKit of Debian 12, of Debian 13, and one with everything that 3.0 has.
    pub fn generation(version: &str) -> Capabilities {
        Capabilities::parse(match version {
            "1.1.0" => include_str!("../../tests/rootlesskit/1.1.0.txt"),
            "2.0.2" => include_str!("../../tests/rootlesskit/2.0.2.txt"),
            "3.0.1" => include_str!("../../tests/rootlesskit/3.0.1.txt"),
            other => panic!("no help text of {other}"),
        })
    }

    #[test]
    fn each_generation_is_read() {
        for (version, networks, ports, detach) in [
            ("1.1.0", "host lxc-user-nic slirp4netns vpnkit", "builtin none slirp4netns", false),
            (
                "2.0.2",
                "host lxc-user-nic pasta slirp4netns vpnkit",
                "builtin implicit none slirp4netns",
                true,
            ),
            (
                "3.0.1",
                "gvisor-tap-vsock host lxc-user-nic none pasta slirp4netns vpnkit",
                "builtin gvisor-tap-vsock implicit none slirp4netns",
                true,
            ),
        ] {
            let found = generation(version);
            let joined = |set: &BTreeSet<String>| {
                set.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(found.version.as_deref(), Some(version));
            assert_eq!(joined(&found.network_drivers), networks, "{version}");
            assert_eq!(joined(&found.port_drivers), ports, "{version}");
            assert_eq!(found.has_flag("detach-netns"), detach, "{version}");
            for flag in ["state-dir", "copy-up", "p", "publish", "h", "slirp4netns-sandbox"] {
                assert!(found.has_flag(flag), "{version} {flag}");
            }
            assert!(!found.has_flag("value"));
        }
    }

    #[test]
    fn something_else_has_nothing() {
        assert_eq!(Capabilities::parse("usage: none of that"), Capabilities::default());
    }
}
