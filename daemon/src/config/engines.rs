//! What of the configuration the engine reads at its start, and goes by until its end.

use std::collections::BTreeMap;

use super::{Config, keys::ENVIRONMENT};

/// Keys with their values in TOML.
pub type Values = BTreeMap<String, String>;

/// The one of them that a running engine can follow.
pub const LIVE_RESTORE: &str = "engine.live_restore";

/// What the supervisor itself goes by, and follows at once.
const SUPERVISORS: [&str; 10] = [
    "engine.client_wait",
    "engine.idle_ignore",
    "engine.idle_timeout",
    "engine.restart.delay",
    "engine.restart.limit",
    "engine.restart.max_delay",
    "engine.restart.window",
    "engine.start",
    "engine.start_timeout",
    "engine.stop_timeout",
];

impl Config {
    /// What an engine that starts now goes by.
    pub fn engines(&self) -> Values {
        self.values().filter(|(key, _)| !SUPERVISORS.contains(&key.as_str())).collect()
    }
}

/// Whether an engine that goes by `old` has to start anew to go by `new`. A key that is in one of
/// them only says nothing: another version of rootlessd wrote the plan. But a variable is unset.
pub fn differ(old: &Values, new: &Values) -> bool {
    let is_variable = |key: &str| key.strip_prefix(ENVIRONMENT).is_some_and(|r| r.starts_with('.'));
    let changed = |(key, value): (&String, &String), other: &Values| match other.get(key) {
        Some(other) => other != value,
        None => is_variable(key),
    };
    old.iter().any(|entry| changed(entry, new)) || new.iter().any(|entry| changed(entry, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{self, KEYS};

    #[test]
    fn what_is_the_supervisors_is_a_key() {
        let engines = Config::default().engines();
        for name in SUPERVISORS {
            assert!(keys::find(name).is_some() && !engines.contains_key(name), "{name}");
        }
        assert!(engines.contains_key(LIVE_RESTORE));
        assert_eq!(engines.len() + SUPERVISORS.len(), KEYS.len());
    }

    #[test]
    fn a_missing_key_is_unknown_and_a_missing_variable_is_unset() {
        let values = |pairs: &[(&str, &str)]| -> Values {
            pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
        };
        let one = values(&[("a", "1")]);
        for (other, expected) in [
            (values(&[("a", "1")]), false),
            (values(&[("a", "2")]), true),
            (values(&[]), false),
            (values(&[("a", "1"), ("b", "1")]), false),
            (values(&[("a", "1"), ("environment.A", "1")]), true),
        ] {
            assert_eq!(differ(&one, &other), expected, "{other:?}");
            assert_eq!(differ(&other, &one), expected, "{other:?}");
        }
    }
}
