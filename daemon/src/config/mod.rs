//! The configuration: four places, each of which may overrule what the ones before it say.
//!
//! 1. `/etc/rootlessd/config.toml`, the machine owner's,
//! 2. `/etc/rootlessd/config.d/*.toml`, in the order of their names,
//! 3. `$XDG_CONFIG_HOME/rootlessd/config.toml`, the user's,
//! 4. the environment: the variables that Docker's own `dockerd-rootless.sh` knows.
//!
//! [`keys`] lists every key once, with its default, its range and its variable; `docs/config.md`
//! is the manual.

mod types;

pub use types::*;

use rootlessd_api::{Error, Reason, Setting};

use crate::dirs::{Dirs, Environment};

/// The effective configuration.
#[derive(Clone, Debug)]
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
    let _ = (dirs, environment);
    unimplemented!("in work")
}
