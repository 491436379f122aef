//! The plan of one engine: everything that its processes have to know, decided before the first of
//! them starts.
//!
//! Data flows one way: configuration and machine → [`Plan`] → `engine-shim` → `engine-init`. The
//! plan is written to the runtime directory, so that a later rootlessd, which takes the engine
//! over, knows it as well as the one that made it. Fields are only ever added, with a default: an
//! engine may be older or newer than the rootlessd that reads its plan.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rootlessd_api::Reason;
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        Config, EngineConfig, OnLoss,
        engines::{self, LIVE_RESTORE, Values},
    },
    docker_config,
    reasons::Code,
    restart_policy::RestartPolicy,
};

/// Everything that the processes of one engine have to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// RootlessKit: the program and its arguments, without the command that it is to run.
    pub rootlesskit: Vec<String>,
    /// RootlessKit's state directory.
    pub state_dir: PathBuf,
    /// The whole environment of the engine's processes.
    pub environment: BTreeMap<String, String>,
    /// The network driver, by RootlessKit's name.
    pub network_driver: String,
    /// The port driver, by RootlessKit's name.
    pub port_driver: String,
    /// The network helper's program, an absolute path; absent for a driver inside RootlessKit.
    #[serde(default)]
    pub network_helper: Option<PathBuf>,
    /// What is done when the network helper is lost and cannot be replaced.
    #[serde(default)]
    pub network_on_loss: OnLoss,
    /// Whether the containers' network namespace is `<state_dir>/netns` and the daemons stay in the
    /// machine's (`--detach-netns`).
    pub detach_netns: bool,
    /// Whether SELinux is on: it has to be asked outside the namespaces
    /// (rootless-containers/rootlesskit#94).
    pub selinux: bool,
    /// containerd: an absolute path.
    pub containerd: PathBuf,
    /// dockerd: an absolute path.
    pub dockerd: PathBuf,
    /// More arguments for dockerd, from the configuration.
    pub dockerd_flags: Vec<String>,
    /// dockerd's paths and what of its configuration is ours.
    pub docker: DockerPlan,
    /// Whether a port that needs a privilege is asked for when a container publishes it.
    #[serde(default)]
    pub ask_ports: bool,
    /// How often and how fast a part that died is replaced.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How long a part may take until it is ready, when it is replaced.
    #[serde(default = "start_timeout")]
    pub start_timeout: Duration,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// What of the configuration it was made from, and the engine goes by; absent in an old plan.
    #[serde(default)]
    pub config: Option<Values>,
    /// What was found out about the programs.
    pub versions: Versions,
    /// What a person should know, though it prevents no start.
    pub reasons: Vec<Reason>,
}

/// dockerd's paths, and what of its configuration is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerPlan {
    /// The user's `daemon.json`; it need not exist.
    pub user_config: PathBuf,
    /// `data-root`.
    pub data_root: PathBuf,
    /// `exec-root`.
    pub exec_root: PathBuf,
    /// `pidfile`.
    pub pid_file: PathBuf,
    /// The socket that clients use; dockerd gets it as an open file.
    pub socket: PathBuf,
    /// `cgroup-parent`, if it is ours to set.
    pub cgroup_parent: Option<String>,
    /// `live-restore`, if it is ours to set; it overrules the user's, which would be `true` in a
    /// Swarm, where dockerd does not start with it.
    pub live_restore: Option<bool>,
    /// `native.cgroupdriver` of `exec-opts`, if it is ours to set: where the machine has systemd
    /// and the user has none, dockerd's choice of systemd would fail each container.
    #[serde(default)]
    pub cgroup_driver: Option<String>,
}

/// The versions of the engine's programs, as they print them; absent where one could not be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// RootlessKit's.
    pub rootlesskit: Option<String>,
    /// dockerd's.
    pub dockerd: Option<String>,
    /// containerd's.
    pub containerd: Option<String>,
    /// runc's.
    pub runc: Option<String>,
}

fn start_timeout() -> Duration {
    EngineConfig::default().start_timeout
}

impl DockerPlan {
    /// containerd's root directory, dockerd's own default, so that existing images stay.
    pub fn containerd_root(&self) -> PathBuf {
        self.data_root.join("containerd/daemon")
    }

    /// The directory that dockerd would keep its containerd's files in.
    pub fn containerd_dir(&self) -> PathBuf {
        self.exec_root.join("containerd")
    }

    /// containerd's state directory, dockerd's own default.
    pub fn containerd_state(&self) -> PathBuf {
        self.containerd_dir().join("daemon")
    }

    /// containerd's socket, dockerd's own default.
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_dir().join("containerd.sock")
    }
}

impl Plan {
    /// Whether the engine has to be started anew to follow what the configuration says now.
    pub fn is_stale(&self, now: &Values) -> bool {
        self.config.as_ref().is_some_and(|config| engines::differ(config, now))
    }

    /// The plan with what of the configuration a running engine can follow, if that changed:
    /// dockerd takes `live-restore` whenever it reads its file.
    pub fn following(&self, config: &Config) -> Option<Self> {
        let key = LIVE_RESTORE.to_owned();
        let now = config.engines().remove(&key)?;
        let before = self.config.as_ref()?.get(&key);
        if before == Some(&now) {
            return None;
        }
        let mut plan = self.clone();
        plan.config.get_or_insert_default().insert(key, now);
        let on = config.engine.live_restore;
        if plan.docker.live_restore.is_some() {
            let in_swarm = docker_config::is_in_swarm(&plan.docker.data_root);
            plan.docker.live_restore = Some(on && !in_swarm);
        }
        let agreed = [Code::LiveRestoreOffSwarm, Code::LiveRestoreOffDaemonJson];
        plan.reasons.retain(|reason| on || !agreed.iter().any(|code| code.is(reason)));
        Some(plan)
    }

    /// The socket of RootlessKit's API.
    pub fn rootlesskit_socket(&self) -> PathBuf {
        self.state_dir.join("api.sock")
    }
}
