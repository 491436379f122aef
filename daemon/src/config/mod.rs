//! The configuration: four places, each of which may overrule what the ones before it say.
//!
//! 1. `/etc/rootlessd/config.toml`, the machine owner's,
//! 2. `/etc/rootlessd/config.d/*.toml`, in the order of their names,
//! 3. `$XDG_CONFIG_HOME/rootlessd/config.toml`, the user's,
//! 4. the environment: the variables that Docker's own `dockerd-rootless.sh` knows.
//!
//! `keys` lists every key once, with its default, its range and its variable; `docs/config.md` is
//! the manual.

pub mod engines;
mod file;
mod flags;
mod keys;
mod reader;
mod stock;
mod types;
mod value;

use std::collections::BTreeMap;

use rootlessd_api::{Error, ErrorKind, Reason, Setting};

pub(crate) use file::read_small;
pub use keys::is_ours;
pub use reader::Reader;
pub use types::*;

use crate::dirs::{Dirs, Environment};
use keys::{ENVIRONMENT, KEYS, Key};
use value::{Refused, Value, quote};

/// The effective configuration.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every key with its value and where it comes from, for `GetConfig`.
    pub settings: Vec<Setting>,
    /// What a person should know about the configuration, such as drop-ins that have no effect.
    pub reasons: Vec<Reason>,
}

/// Reads the configuration.
pub fn load(dirs: &Dirs, environment: &Environment) -> Result<Loaded, Error> {
    let mut layers = Layers::default();
    layers.apply_ambient(environment)?;
    for path in file::paths(dirs)? {
        if let Some(text) = file::read(&path)? {
            layers.apply_file(&path.display().to_string(), &text)?;
        }
    }
    layers.apply_variables(environment)?;
    let mut loaded = layers.finish()?;
    loaded.reasons = stock::look(dirs, environment, &loaded.settings);
    Ok(loaded)
}

impl Config {
    /// Every key with its value in TOML, in the order of the manual.
    fn values(&self) -> impl Iterator<Item = (String, String)> {
        let variable =
            |(name, value): (&String, &String)| (format!("{ENVIRONMENT}.{name}"), quote(value));
        let keys = KEYS.iter().map(|key| (key.name.to_owned(), (key.show)(self)));
        keys.chain(self.environment.iter().map(variable))
    }
}

/// The configuration while one layer after the other is put on it.
#[derive(Default)]
struct Layers {
    config: Config,
    /// Where a key's value is from; by default if the key is not in here.
    sources: BTreeMap<String, String>,
}

impl Layers {
    fn apply_ambient(&mut self, environment: &Environment) -> Result<(), Error> {
        for key in KEYS {
            let set = key.ambient.iter().find_map(|name| Some((name, environment.get(name)?)));
            if let Some((name, text)) = set {
                self.apply_variable(key, name, &Value::Variable(text.to_owned()))?;
            }
        }
        Ok(())
    }

    fn apply_file(&mut self, path: &str, text: &str) -> Result<(), Error> {
        for entry in file::entries(path, text)? {
            let place = format!("{path}:{}", entry.line);
            self.set(&entry.name, &entry.value)
                .map_err(|refused| mistake(format!("{place}: {} {refused}", entry.name), path))?;
            self.sources.insert(entry.name, place);
        }
        Ok(())
    }

    fn apply_variables(&mut self, environment: &Environment) -> Result<(), Error> {
        for key in KEYS {
            let Some((name, text)) = key.variable.and_then(|n| Some((n, environment.get(n)?)))
            else {
                continue;
            };
            let value = Value::Variable(text.to_owned());
            if name == keys::ROOTLESSKIT_FLAGS {
                self.apply_rootlesskit_flags(key, &value)?;
            } else {
                self.apply_variable(key, name, &value)?;
            }
        }
        Ok(())
    }

    /// dockerd-rootless.sh passes these last, so they overrule what the other variables say.
    fn apply_rootlesskit_flags(&mut self, key: &Key, value: &Value) -> Result<(), Error> {
        let name = keys::ROOTLESSKIT_FLAGS;
        let sorted = value::list(value)
            .and_then(|words| flags::sort_rootlesskit(&words))
            .map_err(|refused| mistaken_variable(name, &refused))?;
        for (other, value) in sorted.keys {
            if let Some(other) = keys::find(other) {
                self.apply_variable(other, name, &value)?;
            }
        }
        self.apply_variable(key, name, &Value::List(sorted.rest))
    }

    fn apply_variable(&mut self, key: &Key, name: &str, value: &Value) -> Result<(), Error> {
        (key.set)(&mut self.config, value).map_err(|refused| mistaken_variable(name, &refused))?;
        self.sources.insert(key.name.to_owned(), format!("environment: {name}"));
        Ok(())
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Refused> {
        if let Some(key) = keys::find(name) {
            return (key.set)(&mut self.config, value);
        }
        if let Some(variable) = name.strip_prefix(ENVIRONMENT).and_then(|r| r.strip_prefix('.')) {
            return keys::set_variable(&mut self.config, variable, value);
        }
        if keys::is_table(name) {
            return Err(format!("is a table: write [{name}] and its keys below it"));
        }
        Err(match keys::nearest(name) {
            Some(nearest) => format!("is no key; did you mean {nearest}?"),
            None => "is no key".into(),
        })
    }

    fn finish(self) -> Result<Loaded, Error> {
        let restart = &self.config.engine.restart;
        let source = |name: &str| self.sources.get(name).cloned().unwrap_or("default".into());
        if restart.delay > restart.max_delay {
            let (delay, max) = ("engine.restart.delay", "engine.restart.max_delay");
            return Err(Error::new(
                ErrorKind::Config,
                format!("{delay} ({}) is more than {max} ({})", source(delay), source(max)),
            ));
        }
        let setting = |(key, value): (String, _)| Setting { source: source(&key), key, value };
        let settings = self.config.values().map(setting).collect();
        Ok(Loaded { config: self.config, settings, reasons: Vec::new() })
    }
}

fn mistake(message: String, path: &str) -> Error {
    Error::new(ErrorKind::Config, message).with_remedy(format!("edit {path}"))
}

fn mistaken_variable(name: &str, refused: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the environment variable {name} {refused}"))
        .with_remedy(format!(
            "systemctl --user unset-environment {name}; systemctl --user restart rootlessd; without \
             systemd: unset {name}; rootlessd --replace --daemonize"
        ))
}

#[cfg(test)]
mod tests;
