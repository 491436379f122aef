//! What can be asked of the helper: as a call, as root's command line, and in words.

use rootlessd_api::{
    Port,
    dbus::helper::{Dict, HelperProxy},
    helper::{Controller, PingRange, Verb},
};

/// A request for a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Ports for the caller's engine.
    Ports(Vec<Port>),
    /// All ports for everybody's RootlessKit.
    BindCapability,
    /// All ports from a number on, for everybody.
    PortStart(u16),
    /// Pings for the caller's group, or all.
    PingRange(PingRange),
    /// Cgroup controllers for every user's systemd.
    Controllers(Vec<Controller>),
    /// Subordinate ids for the caller.
    SubIds,
    /// User namespaces for everybody.
    UserNamespaces,
}

impl Request {
    /// Pings for the caller's group, or for everybody.
    pub const fn ping_range(everybody: bool) -> Self {
        Self::PingRange(if everybody { PingRange::All } else { PingRange::Own })
    }

    /// What is asked for.
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Ports(_) => Verb::GrantPorts,
            Self::BindCapability => Verb::GrantBindCapability,
            Self::PortStart(_) => Verb::SetUnprivilegedPortStart,
            Self::PingRange(_) => Verb::SetPingRange,
            Self::Controllers(_) => Verb::DelegateControllers,
            Self::SubIds => Verb::AllocateSubIds,
            Self::UserNamespaces => Verb::AllowUserNamespaces,
        }
    }

    /// What stands after `rootlessd-helper apply`.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.verb().to_string()];
        match self {
            Self::Ports(ports) => words.extend(ports.iter().map(ToString::to_string)),
            Self::PortStart(start) => words.push(start.to_string()),
            Self::PingRange(range) => words.push(range.to_string()),
            Self::Controllers(controllers) => {
                words.extend(controllers.iter().map(ToString::to_string));
            }
            Self::BindCapability | Self::SubIds | Self::UserNamespaces => {}
        }
        words
    }

    /// Calls the helper.
    pub async fn send(&self, helper: &HelperProxy<'_>) -> zbus::Result<Dict> {
        match self {
            Self::Ports(ports) => {
                let ports: Vec<_> =
                    ports.iter().map(|port| (port.protocol.as_str(), port.number)).collect();
                helper.grant_ports(&ports).await
            }
            Self::BindCapability => helper.grant_bind_capability().await,
            Self::PortStart(start) => helper.set_unprivileged_port_start(*start).await,
            Self::PingRange(range) => helper.set_ping_range(range.as_str()).await,
            Self::Controllers(controllers) => {
                let words: Vec<_> = controllers.iter().map(|one| one.as_str()).collect();
                helper.delegate_controllers(&words).await
            }
            Self::SubIds => helper.allocate_sub_ids().await,
            Self::UserNamespaces => helper.allow_user_namespaces().await,
        }
    }

    /// Whom it affects besides the caller, where there is something narrower to ask for instead.
    pub const fn warning(&self) -> Option<&'static str> {
        match self {
            Self::BindCapability => Some(
                "This lets every user who may run RootlessKit listen on every port below 1024, with \
                 any program that RootlessKit starts.\n\
                 For your own engine alone: rootlessctl ports allow PORT...",
            ),
            Self::PortStart(_) => Some(
                "This lets every program of every user listen on every port below 1024, those of the \
                 machine's own services, such as ssh, among them while these are down.\n\
                 For your own engine alone: rootlessctl ports allow PORT...",
            ),
            _ => None,
        }
    }

    /// What is so when it is done.
    pub fn done(&self) -> String {
        match self {
            Self::Ports(ports) => format!("Your engine may listen on {}.", list(ports)),
            Self::BindCapability => "Every user's RootlessKit may listen on every port.".to_owned(),
            Self::PortStart(0) => "Everybody may listen on every port.".to_owned(),
            Self::PortStart(start) => {
                format!("Everybody may listen on every port from {start} on.")
            }
            Self::PingRange(PingRange::Own) => "Your group may ping.".to_owned(),
            Self::PingRange(PingRange::All) => "Everybody may ping.".to_owned(),
            Self::Controllers(controllers) => {
                format!("Every user's systemd gets the controllers {}.", list(controllers))
            }
            Self::SubIds => "You have subordinate user and group ids.".to_owned(),
            Self::UserNamespaces => "Everybody may make user namespaces.".to_owned(),
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[impl ToString]) -> String {
    let mut words: Vec<_> = items.iter().map(ToString::to_string).collect();
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_a_line_for_root_and_a_sentence() {
        let ports = ["80", "443/udp"].map(|port| port.parse().unwrap()).to_vec();
        for (request, words, done) in [
            (
                Request::Ports(ports),
                "grant-ports 80/tcp 443/udp",
                "Your engine may listen on 80/tcp and 443/udp.",
            ),
            (
                Request::BindCapability,
                "grant-bind-capability",
                "Every user's RootlessKit may listen on every port.",
            ),
            (
                Request::PortStart(0),
                "set-unprivileged-port-start 0",
                "Everybody may listen on every port.",
            ),
            (Request::ping_range(false), "set-ping-range own", "Your group may ping."),
            (Request::ping_range(true), "set-ping-range all", "Everybody may ping."),
            (
                Request::Controllers(vec![Controller::Cpu, Controller::Io, Controller::Memory]),
                "delegate-controllers cpu io memory",
                "Every user's systemd gets the controllers cpu, io and memory.",
            ),
            (Request::SubIds, "allocate-subids", "You have subordinate user and group ids."),
            (
                Request::UserNamespaces,
                "allow-user-namespaces",
                "Everybody may make user namespaces.",
            ),
        ] {
            assert_eq!(request.words().join(" "), words);
            assert_eq!(request.done(), done);
        }
    }

    #[test]
    fn what_opens_all_ports_is_warned_of() {
        assert!(Request::BindCapability.warning().unwrap().contains("every user who may run"));
        assert!(Request::PortStart(0).warning().unwrap().contains("every program of every user"));
        assert_eq!(Request::SubIds.warning(), None);
    }
}
