//! The stable names of what can be the matter with the machine or the configuration.
//!
//! A name never changes its meaning. `docs/reasons.md` has the table for people; a test keeps the
//! two the same.

use rootlessd_api::{Part, Reason};

/// Defines [`Code`]: name, part, and whether it prevents a start.
macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $word:literal, $part:ident, $gravity:ident;)+) => {
        /// The stable name of a [`Reason`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name, as it stands in a status.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What it means, for the manual.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($meaning),+).trim(),)+ }
            }

            /// The part that it is about.
            pub const fn part(self) -> Part {
                match self { $(Self::$variant => Part::$part,)+ }
            }

            /// Whether the engine waits with its start as long as it holds.
            pub const fn is_passing(self) -> bool {
                match self { $(Self::$variant => matches!(Gravity::$gravity, Gravity::Wait),)+ }
            }

            /// Whether the engine cannot start as long as it holds, and a person has to mend it.
            pub const fn is_fatal(self) -> bool {
                match self { $(Self::$variant => matches!(Gravity::$gravity, Gravity::Fatal),)+ }
            }
        }
    };
}

enum Gravity {
    Fatal,
    /// What keeps the engine from starting passes by itself, and it is tried again.
    Wait,
    Note,
}

codes! {
    /// rootlessd was started by root.
    RunningAsRoot = "running-as-root", Host, Fatal;
    /// `HOME` is not set, or no directory.
    HomeMissing = "home-missing", Host, Fatal;
    /// `XDG_RUNTIME_DIR` is not set, or no directory.
    RuntimeDirMissing = "runtime-dir-missing", Host, Fatal;
    /// `XDG_RUNTIME_DIR` belongs to somebody else.
    RuntimeDirNotOurs = "runtime-dir-not-ours", Host, Fatal;
    /// `XDG_RUNTIME_DIR` is open to others: its mode is not 0700.
    RuntimeDirMode = "runtime-dir-mode", Host, Fatal;
    /// `XDG_RUNTIME_DIR` is below a directory that everybody may write to and that is cleaned.
    RuntimeDirInTmp = "runtime-dir-in-tmp", Host, Fatal;
    /// `XDG_RUNTIME_DIR` is a symbolic link.
    RuntimeDirSymlink = "runtime-dir-symlink", Host, Fatal;
    /// rootlessd's directory in `XDG_RUNTIME_DIR` was removed or mounted over, and the engine is being stopped.
    RuntimeDirGone = "runtime-dir-gone", Host, Note;

    /// A program that the engine needs is not installed.
    ProgramMissing = "program-missing", Host, Fatal;
    /// newuidmap or newgidmap is neither setuid root nor has its file capability.
    NewidmapUnprivileged = "newidmap-unprivileged", Host, Fatal;
    /// A directory of the search path was left out, since others could put programs there.
    PathEntrySkipped = "path-entry-skipped", Host, Note;
    /// A program does not answer when it is asked for its version.
    ProbeFailed = "probe-failed", Host, Fatal;
    /// The user has no subordinate user ids.
    SubuidMissing = "subuid-missing", Host, Fatal;
    /// The user has no subordinate group ids.
    SubgidMissing = "subgid-missing", Host, Fatal;
    /// The user has fewer than 65536 subordinate user ids.
    SubuidSmall = "subuid-small", Host, Note;
    /// The user has fewer than 65536 subordinate group ids.
    SubgidSmall = "subgid-small", Host, Note;
    /// `/dev/net/tun` cannot be opened.
    TunUnusable = "tun-unusable", Host, Fatal;
    /// The kernel lets only root make user namespaces.
    UsernsDisabled = "userns-disabled", Host, Fatal;
    /// The kernel's limit of user namespaces is 0.
    UsernsLimit = "userns-limit", Host, Fatal;
    /// AppArmor lets only programs with a profile make user namespaces, and RootlessKit has none.
    UsernsApparmor = "userns-apparmor", Host, Fatal;
    /// The engine's data would be on a network file system.
    DataRootNetwork = "data-root-network", Host, Fatal;
    /// The file system of the engine's data does not answer.
    DataRootUnreachable = "data-root-unreachable", Host, Fatal;
    /// The file system of the engine's data is full.
    DataRootFull = "data-root-full", Host, Wait;
    /// The file system of the engine's data has no inodes left.
    DataRootInodes = "data-root-inodes", Host, Wait;
    /// The file system of `XDG_RUNTIME_DIR` has no space or no inodes left.
    RuntimeDirFull = "runtime-dir-full", Host, Wait;
    /// Something of the engine failed for want of space, or of the user's share of it.
    SpaceMissing = "space-missing", Host, Wait;
    /// A part has nearly as many files open as it may, or failed for having too many.
    FilesExhausted = "files-exhausted", Host, Wait;
    /// A part or a container could not be started since there are too many processes, of the user or of the machine.
    ProcessesExhausted = "processes-exhausted", Host, Wait;
    /// Containers' limits are ignored: dockerd has no cgroup driver here.
    CgroupDriverNone = "cgroup-driver-none", Host, Note;
    /// Some of containers' limits are ignored: the user's systemd lacks a cgroup controller.
    ControllersMissing = "controllers-missing", Host, Note;

    /// Another engine holds RootlessKit's state directory.
    StateDirLocked = "state-dir-locked", Host, Fatal;
    /// Another program listens on the Docker socket.
    DockerSocketTaken = "docker-socket-taken", Host, Fatal;
    /// Another dockerd of this user runs.
    DockerdElsewhere = "dockerd-elsewhere", Host, Fatal;
    /// Rootless containerd runs; it and rootless Docker cannot both.
    ContainerdRootless = "containerd-rootless", Host, Fatal;

    /// The network driver that the configuration names cannot be used here.
    NetworkDriverUnusable = "network-driver-unusable", Config, Fatal;
    /// None of the network drivers can be used here.
    NetworkDriverMissing = "network-driver-missing", Host, Fatal;
    /// The port driver does not fit the network driver, or the installed RootlessKit.
    PortDriverUnusable = "port-driver-unusable", Config, Fatal;
    /// `engine.network.detach_netns` asks for what the installed programs cannot.
    DetachNetnsUnusable = "detach-netns-unusable", Config, Fatal;
    /// slirp4netns cannot confine itself when the network namespace is detached.
    SandboxDetached = "sandbox-detached", Config, Fatal;
    /// The network driver has no IPv6.
    Ipv6Unusable = "ipv6-unusable", Config, Fatal;
    /// The installed RootlessKit does not know a flag of the configuration.
    RootlesskitFlagUnknown = "rootlesskit-flag-unknown", Config, Fatal;
    /// The installed RootlessKit is too old for dockerd.
    RootlesskitTooOld = "rootlesskit-too-old", Host, Fatal;
    /// Published ports of `rootlesskit.flags` are left out, as dockerd listens itself.
    PublishDetached = "publish-detached", Config, Note;
    /// gvisor-tap-vsock cannot keep the machine's 127.0.0.1 out of the containers' reach.
    HostLoopbackOpen = "host-loopback-open", Config, Note;

    /// `daemon.json` cannot be read, or is no JSON object.
    DaemonJsonInvalid = "daemon-json-invalid", Config, Fatal;
    /// `daemon.json` sets what is rootlessd's to set.
    DaemonJsonConflict = "daemon-json-conflict", Config, Fatal;
    /// `daemon.json` opens the API to the network without TLS both ways.
    HostsInsecure = "hosts-insecure", Config, Fatal;
    /// Others may read the key with which dockerd proves who it is.
    TlsKeyExposed = "tls-key-exposed", Config, Fatal;
    /// `live-restore` is off, since this engine is a member of a Swarm.
    LiveRestoreOffSwarm = "live-restore-off-swarm", Config, Note;
    /// `live-restore` is off, since `daemon.json` says so, and not rootlessd's configuration.
    LiveRestoreOffDaemonJson = "live-restore-off-daemon-json", Config, Note;
    /// Drop-ins of another `docker.service` have no effect on rootlessd.
    DropInsIgnored = "drop-ins-ignored", Config, Note;
    /// The unit that Docker's set-up tool wrote is still there.
    StockUnitPresent = "stock-unit-present", Config, Note;

    /// rootlessd's configuration has a mistake.
    ConfigInvalid = "config-invalid", Config, Fatal;
    /// The engine died so often that rootlessd does not start it again by itself.
    DiedTooOften = "died-too-often", Supervisor, Note;
    /// The engine dies, and its containers with it; what is left of it is being ended.
    EngineDying = "engine-dying", Supervisor, Note;
    /// dockerd runs, and does not answer.
    DockerdNotAnswering = "dockerd-not-answering", Dockerd, Note;
    /// A part of the engine died, or was ended, and is being replaced; the containers go on.
    PartBeingReplaced = "part-being-replaced", Supervisor, Note;
    /// The kernel killed a part of the engine since memory ran out; it is being replaced and the containers go on, or the engine is started again.
    KilledForMemory = "killed-for-memory", Supervisor, Note;
    /// A part of the engine cannot be replaced for now, or its successor cannot do all that it did; the engine goes on without that.
    PartMissing = "part-missing", Supervisor, Note;
    /// There is a newer containerd or dockerd than the one that runs.
    UpgradeAvailable = "upgrade-available", Supervisor, Note;
    /// A container could not publish a port that needs a privilege.
    PortPrivileged = "port-privileged", Network, Note;
    /// A port was granted when the container that asked for it waited no more.
    PortGrantedLate = "port-granted-late", Network, Note;
    /// The configuration has changed in ways that the engine reads at its start.
    RestartNeeded = "restart-needed", Config, Note;
}

impl Code {
    /// A reason of this name.
    pub fn reason(self, text: impl Into<String>) -> Reason {
        let code = self.as_str().to_owned();
        Reason { code, part: self.part(), text: text.into(), remedy: None }
    }

    /// A reason of this name, and what mends it.
    pub fn reason_with_remedy(self, text: impl Into<String>, remedy: impl Into<String>) -> Reason {
        Reason { remedy: Some(remedy.into()), ..self.reason(text) }
    }

    /// Whether a reason is of those with which the engine waits with its start.
    pub fn passes(reason: &Reason) -> bool {
        Self::ALL.iter().any(|code| code.is_passing() && code.is(reason))
    }

    /// Whether `reason` has this name.
    pub fn is(self, reason: &Reason) -> bool {
        reason.code == self.as_str()
    }
}

/// What was found, the obstacles apart from the rest.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What prevents a start.
    pub fatal: Vec<Reason>,
    /// What prevents it for now.
    pub passing: Vec<Reason>,
    /// What does not.
    pub notes: Vec<Reason>,
    /// What could not be found out this time, in sentences: the rest is not to be trusted either.
    pub unknown: Vec<String>,
}

impl Findings {
    /// Adds a reason where its code says.
    pub fn add(&mut self, reason: Reason) {
        if Code::ALL.iter().any(|code| code.is_fatal() && code.is(&reason)) {
            self.fatal.push(reason);
        } else if Code::passes(&reason) {
            self.passing.push(reason);
        } else {
            self.notes.push(reason);
        }
    }
}

impl Extend<Reason> for Findings {
    fn extend<I: IntoIterator<Item = Reason>>(&mut self, reasons: I) {
        reasons.into_iter().for_each(|reason| self.add(reason));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for name in names {
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(fine), "{name}");
        }
    }

    /// The table of the manual begins each row with name, part, gravity and meaning.
    #[test]
    fn the_manual_has_every_code() {
        let manual = include_str!("../../docs/reasons.md");
        let rows: Vec<_> = manual.lines().filter(|line| line.starts_with("| `")).collect();
        for code in Code::ALL {
            let gravity = match (code.is_fatal(), code.is_passing()) {
                (true, _) => "no start",
                (_, true) => "waits",
                _ => "note",
            };
            let (name, part, meaning) = (code.as_str(), code.part(), code.meaning());
            let row = format!("| `{name}` | {part} | {gravity} | {meaning} |");
            assert!(rows.iter().any(|line| line.starts_with(&row)), "missing: {row}");
        }
        assert_eq!(rows.len(), Code::ALL.len(), "a row of the manual has no code");
    }

    #[test]
    fn findings_are_sorted_by_gravity() {
        let mut findings = Findings::default();
        findings.extend([Code::SubuidMissing.reason("a"), Code::SubuidSmall.reason("b")]);
        findings.add(Code::DataRootFull.reason("c"));
        assert_eq!((findings.fatal.len(), findings.passing.len()), (1, 1));
        assert_eq!(findings.notes.len(), 1);
    }
}
