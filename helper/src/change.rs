//! One change of the machine, as the ledger keeps it: enough to undo it, and to tell whether it stands.

use std::{collections::BTreeSet, fmt};

use rootlessd_api::{
    Port,
    helper::{Controller, Verb},
};
use serde::{Deserialize, Serialize};

use crate::verbs::{capability::FileCapability, delegation, subids::SubIds, sysctl::Setting};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Change {
    /// A port of the user's engine.
    GrantPorts {
        /// Which.
        #[serde(flatten)]
        port: Port,
    },
    /// The file capability of RootlessKit's programs.
    GrantBindCapability {
        /// Which, and what they had.
        files: Vec<FileCapability>,
    },
    /// Kernel settings.
    SetUnprivilegedPortStart {
        /// Which, and what they were.
        settings: Vec<Setting>,
    },
    /// Kernel settings.
    SetPingRange {
        /// Which, and what they were.
        settings: Vec<Setting>,
    },
    /// Controllers for the systemd of every user.
    DelegateControllers {
        /// Which.
        controllers: BTreeSet<Controller>,
    },
    /// Subordinate ids.
    #[serde(rename = "allocate-subids")]
    AllocateSubIds(SubIds),
    /// Kernel settings.
    AllowUserNamespaces {
        /// Which, and what they were.
        settings: Vec<Setting>,
    },
}

impl Change {
    /// What was asked for.
    pub const fn verb(&self) -> Verb {
        match self {
            Self::GrantPorts { .. } => Verb::GrantPorts,
            Self::GrantBindCapability { .. } => Verb::GrantBindCapability,
            Self::SetUnprivilegedPortStart { .. } => Verb::SetUnprivilegedPortStart,
            Self::SetPingRange { .. } => Verb::SetPingRange,
            Self::DelegateControllers { .. } => Verb::DelegateControllers,
            Self::AllocateSubIds(_) => Verb::AllocateSubIds,
            Self::AllowUserNamespaces { .. } => Verb::AllowUserNamespaces,
        }
    }

    /// The port, if it is about one.
    pub const fn port(&self) -> Option<Port> {
        match self {
            Self::GrantPorts { port } => Some(*port),
            _ => None,
        }
    }

    /// What polkit's question names, beside what the question itself says in each language: the
    /// policy's header has them all.
    pub fn object(&self) -> String {
        match self {
            Self::SetUnprivilegedPortStart { settings } => {
                settings.iter().map(|setting| setting.value.clone()).collect()
            }
            Self::SetPingRange { settings } => {
                settings.iter().map(|setting| setting.value.replace(' ', "-")).collect()
            }
            Self::AllowUserNamespaces { settings } => {
                settings.iter().map(|setting| setting.key.as_str()).collect::<Vec<_>>().join(", ")
            }
            Self::AllocateSubIds(ids) => ids.count.to_string(),
            _ => self.to_string(),
        }
    }

    /// The kernel settings that it is about.
    pub fn settings(&self) -> &[Setting] {
        match self {
            Self::SetUnprivilegedPortStart { settings }
            | Self::SetPingRange { settings }
            | Self::AllowUserNamespaces { settings } => settings,
            _ => &[],
        }
    }

    /// The same, to be changed.
    pub fn settings_mut(&mut self) -> &mut [Setting] {
        match self {
            Self::SetUnprivilegedPortStart { settings }
            | Self::SetPingRange { settings }
            | Self::AllowUserNamespaces { settings } => settings,
            _ => &mut [],
        }
    }

    /// Whether it affects nobody but the user who had it granted, so that giving it back is the
    /// user's own affair.
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::GrantPorts { .. })
    }

    /// File by file, what it changes and how that is undone.
    pub fn describe(&self) -> Vec<String> {
        match self {
            Self::GrantPorts { port } => vec![format!(
                "a BPF program on rootlessd-engine.scope lets the engine listen on {}; undone by \
                 taking it off",
                port_text(*port)
            )],
            Self::GrantBindCapability { files } => files.iter().map(ToString::to_string).collect(),
            Self::AllocateSubIds(ids) => ids.describe(),
            Self::DelegateControllers { controllers } => vec![format!(
                "{}: Delegate={}; undone by taking it out",
                delegation::FILE,
                delegation::words(controllers)
            )],
            _ => self.settings().iter().map(ToString::to_string).collect(),
        }
    }
}

/// What it is about, as a person says it.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GrantPorts { port } => f.write_str(&port_text(*port)),
            Self::GrantBindCapability { files } => {
                let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
                f.write_str(&paths.join(", "))
            }
            Self::DelegateControllers { controllers } => {
                f.write_str(&delegation::words(controllers).replace(' ', ", "))
            }
            Self::AllocateSubIds(ids) => write!(f, "{ids}"),
            _ => {
                let settings: Vec<_> = self
                    .settings()
                    .iter()
                    .map(|setting| format!("{} = {}", setting.key, setting.value))
                    .collect();
                f.write_str(&settings.join(", "))
            }
        }
    }
}

fn port_text(port: Port) -> String {
    format!("{} port {}", port.protocol.as_str().to_uppercase(), port.number)
}
