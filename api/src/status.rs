//! How the engine is: one value, published by the supervisor and read by every front end.

use serde::{Deserialize, Serialize};

use crate::port::Port;

/// Defines an enum that travels as a word, the same on D-Bus, on varlink and in rootlessctl. With
/// `else`, a word of a later version is read as the last variant, which is never sent.
macro_rules! words {
    (
        $(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }
        $(else $(#[$edoc:meta])* $else:ident = $elseword:literal)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
            $($(#[$edoc])* #[serde(other, rename = $elseword)] $else,)?
        }

        impl $name {
            /// Every word there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ $(Self::$else => $elseword,)? }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|known| known.as_str() == word)
                    .ok_or_else(|| format!("unknown {}: {word:?}", stringify!($name)))
            }
        }
    };
}
pub(crate) use words;

words! {
    /// The state of the engine. Later versions may add words: treat an unknown one as not running.
    State {
        /// Not running, and only a request starts it.
        Stopped = "stopped",
        /// Not running, and the first client of Docker's socket starts it.
        Listening = "listening",
        /// Being started; [`Status::phase`] says how far it is.
        Starting = "starting",
        /// dockerd said that it is ready, and the last probe passed.
        Running = "running",
        /// Running, but a part of it does not do its work; [`Status::reasons`] say which.
        Degraded = "degraded",
        /// Being stopped; [`Status::phase`] says how far it is.
        Stopping = "stopping",
        /// It died, and is started again at [`Status::next_attempt`].
        Backoff = "backoff",
        /// It died too often, or cannot start until somebody mends what [`Status::reasons`] name.
        Failed = "failed",
    }
    else
    /// What a later version calls by a word that this one does not know.
    Unknown = "unknown"
}

impl State {
    /// Whether dockerd answers.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Degraded)
    }

    /// Whether the state stays as it is until somebody asks for another.
    pub const fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Stopped | Self::Listening | Self::Running | Self::Degraded | Self::Failed
        )
    }
}

words! {
    /// What a starting or stopping engine is busy with. A start goes through all of them in this
    /// order, a stop through `containers`, `dockerd`, `containerd` and `namespaces`.
    Phase {
        /// Looking whether the machine has what the engine needs.
        Preflight = "preflight",
        /// RootlessKit makes (or: the rest of the scope leaves) the namespaces.
        Namespaces = "namespaces",
        /// The network helper connects the namespaces.
        Network = "network",
        /// containerd.
        Containerd = "containerd",
        /// dockerd.
        Dockerd = "dockerd",
        /// The containers: with a restart policy at a start, all that run at a stop.
        Containers = "containers",
    }
}

words! {
    /// A part of the engine, or of what it stands on.
    Part {
        /// rootlessd itself.
        Supervisor = "supervisor",
        /// `rootlessd engine-shim`, the parent of RootlessKit.
        Shim = "shim",
        /// RootlessKit, both of its processes.
        Rootlesskit = "rootlesskit",
        /// slirp4netns, pasta or another network helper.
        Network = "network",
        /// `rootlessd engine-init`, the parent of containerd and dockerd.
        Init = "init",
        /// containerd.
        Containerd = "containerd",
        /// dockerd.
        Dockerd = "dockerd",
        /// A container's processes, the containerd shims among them.
        Container = "container",
        /// The machine: a package, a kernel setting, a directory.
        Host = "host",
        /// The configuration, rootlessd's or dockerd's.
        Config = "config",
    }
}

/// Something about the engine that a person should know, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The reason's stable name, such as `subuid-missing`.
    pub code: String,
    /// The part that it is about.
    pub part: Part,
    /// What is the matter, in a sentence.
    pub text: String,
    /// The command that mends it, or a sentence where no command does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// A death of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Death {
    /// When, in µs of CLOCK_REALTIME.
    pub at: u64,
    /// The part that died first, and took the others with it.
    pub part: Part,
    /// Its exit status, if it exited and the status could be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed it since memory ran out, as far as that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// What happened, in a sentence.
    pub text: String,
    /// The last lines that the part wrote, at most 20.
    #[serde(default)]
    pub log: Vec<String>,
}

words! {
    /// What happened to a part of a running engine. Later versions may add words.
    IncidentKind {
        /// It died, or was ended, and is being replaced.
        Lost = "lost",
        /// It was replaced.
        Replaced = "replaced",
        /// It, or something that it did, cannot be replaced for now: the engine goes on without that.
        Missing = "missing",
        /// Something that it goes by has changed, such as the machine's network.
        Changed = "changed",
    }
    else
    /// What a later version calls by a word that this one does not know.
    Unknown = "unknown"
}

/// What happened to a part, while the engine as a whole lived on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// When, in µs of CLOCK_REALTIME.
    pub at: u64,
    /// To which part.
    pub part: Part,
    /// What.
    pub kind: IncidentKind,
    /// What happened, in a sentence.
    pub text: String,
    /// How long after its loss it was replaced, or how long what has changed lasted, in µs: a suspend
    /// of the machine, or how long a part did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<u64>,
}

/// One process of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The part it belongs to.
    pub part: Part,
    /// Its pid, as the machine counts.
    pub pid: u32,
    /// Its name (`comm` of proc(5)).
    pub name: String,
    /// Its proportional set size in bytes (`Pss` of `/proc/PID/smaps_rollup`), or the resident set
    /// where the kernel refuses that file, as it does for a file-capped RootlessKit; 0 if neither.
    pub memory: u64,
}

/// Who answers: the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervisor {
    /// The version of rootlessd.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// When it started, in µs of CLOCK_REALTIME.
    pub since: u64,
    /// Whether the engine runs in a scope of the user's systemd.
    pub systemd: bool,
}

/// How the engine is. A field that is not known (yet) is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The state.
    pub state: State,
    /// How far a start or stop is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// When the state began, in µs of CLOCK_REALTIME.
    pub since: u64,
    /// What a person should know, the gravest first.
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// When the next start is tried, in µs of CLOCK_REALTIME; in `backoff` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<u64>,
    /// The deaths since `ResetFailed`, the newest last; at most 20, and only the newest carries its
    /// log lines.
    #[serde(default)]
    pub deaths: Vec<Death>,
    /// What happened to single parts since `ResetFailed`, the newest last; at most 20.
    #[serde(default)]
    pub incidents: Vec<Incident>,
    /// The pid of RootlessKit's first process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_pid: Option<u32>,
    /// The supervisor that answers.
    pub supervisor: Supervisor,
    /// dockerd's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// containerd's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerd_version: Option<String>,
    /// runc's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runc_version: Option<String>,
    /// RootlessKit's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootlesskit_version: Option<String>,
    /// The socket of Docker's API.
    pub socket_path: String,
    /// The directory of images, volumes and containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_root: Option<String>,
    /// RootlessKit's state directory, with its `api.sock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// The network driver: `slirp4netns`, `pasta`, `vpnkit`, `gvisor-tap-vsock`, `lxc-user-nic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_driver: Option<String>,
    /// The port driver: `builtin`, `slirp4netns`, `implicit`, `gvisor-tap-vsock`, `pesto`, `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_driver: Option<String>,
    /// dockerd's storage driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_driver: Option<String>,
    /// dockerd's cgroup driver: `systemd`, `cgroupfs`, or `none`, which ignores every limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_driver: Option<String>,
    /// The cgroup controllers that the user may use (`cgroup.controllers`).
    #[serde(default)]
    pub controllers: Vec<String>,
    /// The ports below 1024 that the helper has granted to the user.
    #[serde(default)]
    pub granted_ports: Vec<Port>,
    /// How many containers run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers_running: Option<u32>,
    /// How often a client of Docker's socket has started the engine since the user's first session
    /// began, or rootlessd was stopped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub demand_starts: u32,
    /// When one did so last, in µs of CLOCK_REALTIME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_demand_start: Option<u64>,
    /// The processes, when asked for (`GetStatus`); a change to them alone is not published.
    #[serde(default)]
    pub processes: Vec<Process>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    /// A client of this version reads the status of a later one.
    #[test]
    fn an_unknown_state_is_one_that_is_not_running() {
        let mut status = serde_json::to_value(samples::status()).unwrap();
        status["state"] = "hibernating".into();
        let status: Status = serde_json::from_value(status).unwrap();
        assert_eq!(status.state, State::Unknown);
        assert!(!status.state.is_up() && !State::ALL.contains(&status.state));
    }
}
