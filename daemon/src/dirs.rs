//! Where things are: the user's directories, and the machine's as the user sees it.
//!
//! Every path of the program begins at a [`Dirs`] that is passed in; nothing reads an environment
//! variable or a fixed path by itself. So a test lays out a directory and is a machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use rootlessd_api::Reason;

/// The environment variables, as they were when the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out: none that is
    /// asked for can be.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// The value of a variable; an empty one counts as unset, as in the XDG base directory
    /// specification and in dockerd-rootless.sh.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The directories of one user on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// `$HOME`
    pub home: PathBuf,
    /// `$XDG_RUNTIME_DIR`: ours, 0700, and not a symbolic link.
    pub runtime: PathBuf,
    /// `$XDG_CONFIG_HOME`, by default `~/.config`.
    pub config_home: PathBuf,
    /// `$XDG_DATA_HOME`, by default `~/.local/share`.
    pub data_home: PathBuf,
    /// `$XDG_STATE_HOME`, by default `~/.local/state`.
    pub state_home: PathBuf,
    /// What stands for `/` before the machine's paths (`/etc`, `/proc`, `/dev`, `/sys`): `/` but in
    /// tests. The user's directories above are complete and never have it put before them.
    pub system: PathBuf,
    /// The user.
    pub uid: Uid,
    /// The user's name; the uid in digits if it has none.
    pub user: String,
}

impl Dirs {
    /// The directories of the user who runs this process.
    ///
    /// A [`Reason`] converts into an [`Error`](rootlessd_api::Error) of the kind `Preflight`.
    pub fn resolve(environment: &Environment) -> Result<Self, Reason> {
        Self::resolve_on(environment, Path::new("/"), nix::unistd::geteuid())
    }

    /// The directories of `uid` on the machine below `system`.
    pub fn resolve_on(environment: &Environment, system: &Path, uid: Uid) -> Result<Self, Reason> {
        let _ = (environment, system, uid);
        unimplemented!("in work")
    }

    /// A path of the machine, such as `/proc/modules`.
    pub fn on_system(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.system.join(path.strip_prefix("/").unwrap_or(path))
    }
}
