//! The arguments of RootlessKit: what Docker's `dockerd-rootless.sh` of the same generation would
//! pass, decided from what is installed.

use std::path::{Path, PathBuf};

use rootlessd_api::Reason;

use super::Capabilities;
use crate::{
    config::{NetworkConfig, NetworkDriver, PortDriver, Switch},
    preflight::version::Version,
    reasons::Code,
};

/// The first dockerd whose script detaches the network namespace by itself (moby's 84aedb8055).
const DETACHES_BY_DEFAULT: Version = Version(29, 5);
/// The first dockerd that can live with a detached network namespace.
const CAN_DETACH: Version = Version(26, 0);

/// The network helpers that are installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// slirp4netns(1), if it is new enough (0.4.0: it has `--netns-type`).
    pub slirp4netns: Option<PathBuf>,
    /// pasta(1)
    pub pasta: Option<PathBuf>,
    /// vpnkit
    pub vpnkit: Option<PathBuf>,
    /// lxc-user-nic(1)
    pub lxc_user_nic: Option<PathBuf>,
}

/// What the configuration wants of RootlessKit.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// `engine.network`
    pub network: &'a NetworkConfig,
    /// The state directory.
    pub state_dir: &'a Path,
    /// `rootlesskit.flags`
    pub flags: &'a [String],
    /// The installed dockerd, if its version is known.
    pub dockerd: Option<Version>,
}

/// How RootlessKit is launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its arguments, without the command that it is to run.
    pub arguments: Vec<String>,
    /// The network driver.
    pub network_driver: NetworkDriver,
    /// The port driver.
    pub port_driver: PortDriver,
    /// The network helper, for a driver that has one.
    pub helper: Option<PathBuf>,
    /// Whether the network namespace is detached.
    pub detach_netns: bool,
    /// What a person should know.
    pub notes: Vec<Reason>,
}

/// Decides how RootlessKit is launched.
pub fn launch(wanted: Wanted<'_>, can: &Capabilities, tools: &Tools) -> Result<Launch, Reason> {
    let Wanted { network, state_dir, flags, .. } = wanted;
    let network_driver = network_driver(network.driver, can, tools)?;
    let port_driver = port_driver(network.port_driver, network_driver, can)?;
    let detach_netns = detach_netns(wanted, can)?;
    refuse_contradictions(network, network_driver, detach_netns)?;
    refuse_unknown_flags(flags, can)?;
    let helper = tools.of(network_driver).map(Path::to_owned);

    let mut notes = Vec::new();
    let mut arguments = Arguments { can, words: Vec::new() };
    arguments.add("state-dir", &state_dir.display());
    arguments.add("net", &network_driver.as_str());
    arguments.add("mtu", &network.mtu.unwrap_or_else(|| default_mtu(network_driver)));
    arguments.add("slirp4netns-sandbox", &network.slirp4netns_sandbox.as_str());
    arguments.add("slirp4netns-seccomp", &network.slirp4netns_seccomp.as_str());
    if let Some(helper) = &helper {
        // The very program that was looked at, whatever the search path may say by then.
        arguments.add(&format!("{}-binary", network_driver.as_str()), &helper.display());
    }
    if network.disable_host_loopback {
        arguments.add_switch("disable-host-loopback");
        if network_driver == NetworkDriver::GvisorTapVsock {
            notes.push(host_loopback_open());
        }
    }
    arguments.add("port-driver", &port_driver.as_str());
    // /etc, or resolv.conf would vanish when the machine's is made anew; /run, or dockerd could not
    // make /run/docker.
    arguments.add("copy-up", &"/etc");
    arguments.add("copy-up", &"/run");
    arguments.add("propagation", &"rslave");
    if network.ipv6 {
        arguments.add_switch("ipv6");
    }
    let mut words = arguments.words;
    if detach_netns {
        words.push("--detach-netns".into());
        let (published, others) = split_published(flags);
        words.extend(others);
        if !published.is_empty() {
            notes.push(publish_detached(&published));
        }
    } else {
        words.extend_from_slice(flags);
    }
    Ok(Launch { arguments: words, network_driver, port_driver, helper, detach_netns, notes })
}

impl Tools {
    /// The helper of a driver.
    pub fn of(&self, driver: NetworkDriver) -> Option<&Path> {
        match driver {
            NetworkDriver::Slirp4netns => self.slirp4netns.as_deref(),
            NetworkDriver::Pasta => self.pasta.as_deref(),
            NetworkDriver::Vpnkit => self.vpnkit.as_deref(),
            NetworkDriver::LxcUserNic => self.lxc_user_nic.as_deref(),
            NetworkDriver::Auto | NetworkDriver::GvisorTapVsock => None,
        }
    }

    fn has(&self, driver: NetworkDriver) -> bool {
        driver == NetworkDriver::GvisorTapVsock || self.of(driver).is_some()
    }
}

struct Arguments<'a> {
    can: &'a Capabilities,
    words: Vec<String>,
}

impl Arguments<'_> {
    /// A flag that this RootlessKit has not got is left out: it can do without, or it was refused
    /// before.
    fn add(&mut self, name: &str, value: &dyn std::fmt::Display) {
        if self.can.has_flag(name) {
            self.words.push(format!("--{name}={value}"));
        }
    }

    fn add_switch(&mut self, name: &str) {
        if self.can.has_flag(name) {
            self.words.push(format!("--{name}"));
        }
    }
}

fn network_driver(
    wanted: NetworkDriver,
    can: &Capabilities,
    tools: &Tools,
) -> Result<NetworkDriver, Reason> {
    use NetworkDriver::{Auto, GvisorTapVsock, Pasta, Slirp4netns, Vpnkit};
    let known = |driver: NetworkDriver| can.network_drivers.contains(driver.as_str());
    if wanted == Auto {
        return [Slirp4netns, Pasta, Vpnkit, GvisorTapVsock]
            .into_iter()
            .find(|driver| known(*driver) && tools.has(*driver))
            .ok_or_else(|| {
                Code::NetworkDriverMissing.reason(
                    "neither slirp4netns (0.4.0 or newer) nor pasta is installed, so the \
                     containers would have no network",
                )
            });
    }
    let name = wanted.as_str();
    let unusable = |why: String| {
        Code::NetworkDriverUnusable.reason_with_remedy(
            format!("engine.network.driver is {name}, {why}"),
            "set engine.network.driver = \"auto\"",
        )
    };
    if !known(wanted) {
        return Err(unusable(format!("which this RootlessKit ({}) does not know", can.shown())));
    }
    if !tools.has(wanted) {
        return Err(unusable("which is not installed".into()));
    }
    Ok(wanted)
}

fn port_driver(
    wanted: PortDriver,
    network: NetworkDriver,
    can: &Capabilities,
) -> Result<PortDriver, Reason> {
    use PortDriver::{Auto, Builtin, GvisorTapVsock, Implicit, None, Pesto, Slirp4netns};
    let is_pasta = network == NetworkDriver::Pasta;
    let unusable = |why: String| {
        Code::PortDriverUnusable.reason_with_remedy(
            format!("engine.network.port_driver is {}, {why}", wanted.as_str()),
            "set engine.network.port_driver = \"auto\"",
        )
    };
    let fits = match wanted {
        Auto => return Ok(if is_pasta { Implicit } else { Builtin }),
        None => true,
        Implicit | Pesto => is_pasta,
        Builtin => !is_pasta,
        Slirp4netns => network == NetworkDriver::Slirp4netns,
        GvisorTapVsock => network == NetworkDriver::GvisorTapVsock,
    };
    if !can.port_drivers.contains(wanted.as_str()) {
        return Err(unusable(format!("which this RootlessKit ({}) does not know", can.shown())));
    }
    if !fits {
        let network = network.as_str();
        return Err(unusable(format!("which does not work with the network driver {network}")));
    }
    Ok(wanted)
}

fn detach_netns(wanted: Wanted<'_>, can: &Capabilities) -> Result<bool, Reason> {
    let known = can.has_flag("detach-netns");
    let unusable = |why: String| {
        Err(Code::DetachNetnsUnusable.reason_with_remedy(
            format!("engine.network.detach_netns is true, but {why}"),
            "set engine.network.detach_netns = \"auto\"",
        ))
    };
    match wanted.network.detach_netns {
        Switch::Off => Ok(false),
        Switch::Auto => Ok(known && wanted.dockerd >= Some(DETACHES_BY_DEFAULT)),
        Switch::On if !known => {
            unusable(format!("this RootlessKit ({}) cannot do that", can.shown()))
        }
        Switch::On => match wanted.dockerd {
            Some(version) if version < CAN_DETACH => {
                unusable(format!("dockerd {}.{} does not know of it", version.0, version.1))
            }
            _ => Ok(true),
        },
    }
}

fn refuse_contradictions(
    network: &NetworkConfig,
    driver: NetworkDriver,
    detach_netns: bool,
) -> Result<(), Reason> {
    if detach_netns && network.slirp4netns_sandbox == Switch::On {
        return Err(Code::SandboxDetached.reason_with_remedy(
            "engine.network.slirp4netns_sandbox is true, but slirp4netns cannot confine itself \
             when the network namespace is detached (rootless-containers/slirp4netns#317)",
            "set engine.network.slirp4netns_sandbox = \"auto\", or detach_netns = false",
        ));
    }
    if network.ipv6 && !matches!(driver, NetworkDriver::Slirp4netns | NetworkDriver::Pasta) {
        return Err(Code::Ipv6Unusable.reason_with_remedy(
            format!(
                "engine.network.ipv6 is true, but the network driver {} has no IPv6",
                driver.as_str()
            ),
            "set engine.network.ipv6 = false, or use slirp4netns or pasta",
        ));
    }
    Ok(())
}

fn refuse_unknown_flags(flags: &[String], can: &Capabilities) -> Result<(), Reason> {
    let unknown = flags.iter().filter_map(|word| flag_name(word)).find(|name| !can.has_flag(name));
    match unknown {
        Some(name) => Err(Code::RootlesskitFlagUnknown.reason_with_remedy(
            format!(
                "rootlesskit.flags has --{name}, which this RootlessKit ({}) does not know",
                can.shown()
            ),
            "take it out of rootlesskit.flags",
        )),
        None => Ok(()),
    }
}

fn flag_name(word: &str) -> Option<&str> {
    word.starts_with('-').then(|| word.trim_start_matches('-').split('=').next())?
}

/// Takes `--publish` and `-p` with their values out of flags.
fn split_published(flags: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut published, mut others) = (Vec::new(), Vec::new());
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        match flag_name(word) {
            Some("p" | "publish") => match word.split_once('=') {
                Some((_, value)) => published.push(value.to_owned()),
                None => published.extend(words.next().cloned()),
            },
            _ => others.push(word.clone()),
        }
    }
    (published, others)
}

fn default_mtu(driver: NetworkDriver) -> u32 {
    use NetworkDriver::{GvisorTapVsock, Pasta, Slirp4netns};
    if matches!(driver, Slirp4netns | Pasta | GvisorTapVsock) { 65520 } else { 1500 }
}

fn host_loopback_open() -> Reason {
    Code::HostLoopbackOpen.reason_with_remedy(
        "gvisor-tap-vsock cannot keep the machine's 127.0.0.1 out of the containers' reach",
        "install slirp4netns or pasta",
    )
}

fn publish_detached(published: &[String]) -> Reason {
    Code::PublishDetached.reason_with_remedy(
        format!(
            "rootlesskit.flags publishes {}, which is left out: dockerd listens on the machine's \
             own network here, and the two would want the same port",
            published.join(", ")
        ),
        "take it out of rootlesskit.flags",
    )
}

impl Capabilities {
    fn shown(&self) -> &str {
        self.version.as_deref().unwrap_or("of an unknown version")
    }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
