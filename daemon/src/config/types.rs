//! The configuration as values.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Defines an enum whose values are words in the configuration and on a command line.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every word there is.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value that a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

choice! {
    /// When the engine starts.
    Start {
        /// With rootlessd, if dockerd would start a container then; else with the first client.
        Auto = "auto",
        /// With rootlessd.
        Boot = "boot",
        /// With the first client.
        Demand = "demand",
    }
}

choice! {
    /// How RootlessKit connects the namespaces to the network.
    NetworkDriver {
        /// The first of the others, in this order, that is installed and that RootlessKit knows;
        /// `lxc-user-nic` is never chosen by itself.
        Auto = "auto",
        /// slirp4netns(1).
        Slirp4netns = "slirp4netns",
        /// pasta(1); RootlessKit 2.0.
        Pasta = "pasta",
        /// VPNKit.
        Vpnkit = "vpnkit",
        /// gvisor-tap-vsock, inside RootlessKit 3.0.
        GvisorTapVsock = "gvisor-tap-vsock",
        /// lxc-user-nic(1), setuid root.
        LxcUserNic = "lxc-user-nic",
    }
}

choice! {
    /// How RootlessKit publishes ports.
    PortDriver {
        /// `implicit` for pasta, `builtin` for the others.
        Auto = "auto",
        /// RootlessKit's own.
        Builtin = "builtin",
        /// slirp4netns's own.
        Slirp4netns = "slirp4netns",
        /// pasta's own, without an API.
        Implicit = "implicit",
        /// gvisor-tap-vsock's own.
        GvisorTapVsock = "gvisor-tap-vsock",
        /// pasta's, with an API; RootlessKit 3.1.
        Pesto = "pesto",
        /// None: no port is published.
        None = "none",
    }
}

choice! {
    /// Whether something is on, or left to the program to decide.
    Switch {
        /// Where it works.
        Auto = "auto",
        /// Always.
        On = "true",
        /// Never.
        Off = "false",
    }
}

choice! {
    /// What is done when the network helper is lost and cannot be replaced.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    OnLoss {
        /// It is tried again, or said where that can never be.
        #[default]
        Heal = "heal",
        /// The engine is started anew.
        Restart = "restart",
        /// It is said, and no more.
        Report = "report",
    }
}

choice! {
    /// What is done when a container publishes a port that needs a privilege that was not granted.
    AskPorts {
        /// Somebody on the desktop is asked, and the container waits.
        Desktop = "desktop",
        /// The container fails.
        Never = "never",
    }
}

choice! {
    /// The least grave messages that are logged.
    LogLevel {
        /// What failed.
        Error = "error",
        /// What will fail.
        Warn = "warn",
        /// What happens.
        Info = "info",
        /// How.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `[engine]`
    pub engine: EngineConfig,
    /// `[rootlesskit]`
    pub rootlesskit: RootlesskitConfig,
    /// `[dockerd]`
    pub dockerd: DockerdConfig,
    /// `[containerd]`
    pub containerd: ContainerdConfig,
    /// `[environment]`: more variables for the engine.
    pub environment: BTreeMap<String, String>,
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// `[engine]`: the engine's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// When it starts.
    pub start: Start,
    /// How long an engine may run that nobody needs; zero: for ever.
    pub idle_timeout: Duration,
    /// The programs (`comm` of proc(5)) whose connections do not show that it is needed.
    pub idle_ignore: Vec<String>,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// How long a Docker client may wait while the engine starts, is in back-off or lacks its dockerd.
    pub client_wait: Duration,
    /// Whether containers live on when dockerd dies.
    pub live_restore: bool,
    /// `[engine.restart]`
    pub restart: RestartConfig,
    /// `[engine.network]`
    pub network: NetworkConfig,
    /// `[engine.ports]`
    pub ports: PortsConfig,
}

/// `[engine.ports]`: ports below 1024.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortsConfig {
    /// What is done when one is published that was not granted.
    pub ask: AskPorts,
}

/// `[engine.restart]`: what a death leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartConfig {
    /// After how many deaths within `window` the engine is `failed`; 0: never.
    pub limit: u32,
    /// The time in which deaths are counted.
    pub window: Duration,
    /// The time before the first new start; it doubles with each further death.
    pub delay: Duration,
    /// What it grows to at most.
    pub max_delay: Duration,
}

/// `[engine.network]`: how the engine reaches the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The network driver.
    pub driver: NetworkDriver,
    /// The MTU; absent: what suits the driver.
    pub mtu: Option<u32>,
    /// The port driver.
    pub port_driver: PortDriver,
    /// Whether slirp4netns confines itself to a mount namespace of its own.
    pub slirp4netns_sandbox: Switch,
    /// Whether slirp4netns confines itself with seccomp(2).
    pub slirp4netns_seccomp: Switch,
    /// Whether the machine's 127.0.0.1 is out of the containers' reach.
    pub disable_host_loopback: bool,
    /// Whether dockerd stays in the machine's network namespace.
    pub detach_netns: Switch,
    /// Whether containers get IPv6 to the outside.
    pub ipv6: bool,
    /// What is done when the network helper is lost and cannot be replaced.
    pub on_loss: OnLoss,
}

/// `[rootlesskit]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootlesskitConfig {
    /// The program; absent: `docker-rootlesskit` or `rootlesskit` of the search path.
    pub path: Option<PathBuf>,
    /// The state directory; absent: `$XDG_RUNTIME_DIR/dockerd-rootless`.
    pub state_dir: Option<PathBuf>,
    /// More arguments, put last.
    pub flags: Vec<String>,
}

/// `[dockerd]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerdConfig {
    /// The program; absent: `dockerd` of the search path.
    pub path: Option<PathBuf>,
    /// More arguments, put last.
    pub flags: Vec<String>,
}

/// `[containerd]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerdConfig {
    /// The program; absent: `containerd` of the search path.
    pub path: Option<PathBuf>,
}

/// `[proxy]`: how the engine itself reaches the web; containers are dockerd's matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `HTTP_PROXY`
    pub http: Option<String>,
    /// `HTTPS_PROXY`
    pub https: Option<String>,
    /// `NO_PROXY`
    pub no: Option<String>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least grave messages that are logged.
    pub level: LogLevel,
}

impl EngineConfig {
    /// Whether the first client starts an engine that does not run.
    pub fn listens(&self) -> bool {
        self.start != Start::Boot
    }

    /// How long an engine may run that nobody needs, if it is ever stopped for that.
    pub fn stops_idle(&self) -> Option<Duration> {
        Some(self.idle_timeout).filter(|timeout| self.listens() && !timeout.is_zero())
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            start: Start::Auto,
            idle_timeout: Duration::from_secs(600),
            idle_ignore: vec![],
            start_timeout: Duration::from_secs(90),
            stop_timeout: Duration::from_secs(30),
            client_wait: Duration::from_secs(30),
            live_restore: true,
            restart: RestartConfig::default(),
            network: NetworkConfig::default(),
            ports: PortsConfig { ask: AskPorts::Desktop },
        }
    }
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            limit: 5,
            window: Duration::from_secs(60),
            delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(30),
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            driver: NetworkDriver::Auto,
            mtu: None,
            port_driver: PortDriver::Auto,
            slirp4netns_sandbox: Switch::Auto,
            slirp4netns_seccomp: Switch::Auto,
            disable_host_loopback: true,
            detach_netns: Switch::Auto,
            ipv6: false,
            on_loss: OnLoss::Heal,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info }
    }
}
