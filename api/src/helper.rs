//! What `rootlessd-helper` does for a user, and how it answers.

use serde::{Deserialize, Serialize};

use crate::status::words;

/// The well-known name on the system bus.
pub const BUS_NAME: &str = "org.rootlessd.Helper1";
/// Its one object.
pub const OBJECT_PATH: &str = "/org/rootlessd/Helper1";
/// Its one interface.
pub const INTERFACE: &str = "org.rootlessd.Helper1";
/// What the names of the polkit actions begin with; a word of [`Action`] follows.
pub const ACTION_PREFIX: &str = "org.rootlessd.helper1.";
/// The most ports that a request may name, and a user may have been granted.
pub const MOST_PORTS: usize = 64;

/// What `rootlessd-helper apply --dry-run` says where there is nothing to do.
pub const NO_CHANGE: &str = "nothing has to be changed";

words! {
    /// What can be granted.
    Verb {
        /// Some ports below 1024, for one user's engine.
        GrantPorts = "grant-ports",
        /// All of them, for everybody who may run RootlessKit: a file capability of its program.
        GrantBindCapability = "grant-bind-capability",
        /// All from a number on, for everybody: `net.ipv4.ip_unprivileged_port_start`.
        SetUnprivilegedPortStart = "set-unprivileged-port-start",
        /// ping(8) without privilege: `net.ipv4.ping_group_range`.
        SetPingRange = "set-ping-range",
        /// Limits of memory, processors and more: cgroup controllers for every user's systemd.
        DelegateControllers = "delegate-controllers",
        /// Subordinate user and group ids.
        AllocateSubIds = "allocate-subids",
        /// User namespaces, where the machine has them turned off.
        AllowUserNamespaces = "allow-user-namespaces",
    }
}

words! {
    /// What polkit is asked about, after [`ACTION_PREFIX`]. Those of the verbs have the verbs' words.
    Action {
        /// [`Verb::GrantPorts`].
        GrantPorts = "grant-ports",
        /// [`Verb::GrantBindCapability`].
        GrantBindCapability = "grant-bind-capability",
        /// [`Verb::SetUnprivilegedPortStart`].
        SetUnprivilegedPortStart = "set-unprivileged-port-start",
        /// [`Verb::SetPingRange`].
        SetPingRange = "set-ping-range",
        /// [`Verb::DelegateControllers`].
        DelegateControllers = "delegate-controllers",
        /// [`Verb::AllocateSubIds`].
        AllocateSubIds = "allocate-subids",
        /// [`Verb::AllowUserNamespaces`].
        AllowUserNamespaces = "allow-user-namespaces",
        /// To undo what affects more than the user who had it granted.
        Revoke = "revoke",
        /// To undo what was granted to another user.
        RevokeOthers = "revoke-others",
        /// To see what was granted to all users.
        ListAllGrants = "list-all-grants",
    }
}

impl Action {
    /// The action's name, as polkit knows it.
    pub fn id(self) -> String {
        format!("{ACTION_PREFIX}{self}")
    }
}

impl From<Verb> for Action {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::GrantPorts => Self::GrantPorts,
            Verb::GrantBindCapability => Self::GrantBindCapability,
            Verb::SetUnprivilegedPortStart => Self::SetUnprivilegedPortStart,
            Verb::SetPingRange => Self::SetPingRange,
            Verb::DelegateControllers => Self::DelegateControllers,
            Verb::AllocateSubIds => Self::AllocateSubIds,
            Verb::AllowUserNamespaces => Self::AllowUserNamespaces,
        }
    }
}

words! {
    /// A cgroup controller that can be delegated: those that containers use (cgroups(7)).
    Controller {
        /// `--cpus`, `--cpu-shares`.
        Cpu = "cpu",
        /// `--cpuset-cpus`, `--cpuset-mems`; delegated by systemd from 244 on.
        Cpuset = "cpuset",
        /// `--device-write-bps` and the like.
        Io = "io",
        /// `--memory`.
        Memory = "memory",
        /// `--pids-limit`.
        Pids = "pids",
    }
}

words! {
    /// Who may send ICMP echo requests.
    PingRange {
        /// The caller's own group, beside those that may already.
        Own = "own",
        /// Every group.
        All = "all",
    }
}

words! {
    /// What a change still needs before it has its effect. Later versions may add words.
    Need {
        /// The engine must be restarted.
        EngineRestart = "engine-restart",
        /// The user's systemd must be restarted, or the user log out everywhere and in again; both
        /// end what the user runs.
        UserManagerRestart = "user-manager-restart",
    }
}

/// How a request was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The ids of what is now granted; none where nothing had to be changed.
    #[serde(default)]
    pub grants: Vec<String>,
    /// What is still needed.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// What a person should know besides, in sentences: what was left alone, for one.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Something that was granted: an entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Its id: 128 random bits in hexadecimal.
    pub id: String,
    /// The user who asked.
    pub uid: u32,
    /// The user's name, as it was then.
    pub user: String,
    /// What was asked for.
    pub verb: Verb,
    /// The same with what it is about, for people: `TCP port 80`.
    pub text: String,
    /// When, in µs of CLOCK_REALTIME.
    pub since: u64,
    /// The ports of [`Verb::GrantPorts`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<crate::Port>,
    /// What it changed and how it is undone, a sentence each.
    pub changes: Vec<String>,
    /// Where the machine is not (any more) as the grant says, a sentence each.
    #[serde(default)]
    pub drift: Vec<String>,
}
