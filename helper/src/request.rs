//! What can be asked for: closed sets of values, checked before anybody is asked to agree.

use std::{collections::BTreeSet, fmt, marker::PhantomData, str::FromStr};

use rootlessd_api::{
    Error, ErrorKind, Port,
    helper::{Controller, MOST_PORTS, PingRange, Verb},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

/// The longest word that means anything.
const MOST_LETTERS: usize = 64;
/// The longest list that is read.
const MOST_ITEMS: usize = 256;

/// A request with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`Verb::GrantPorts`]: at least one, at most [`MOST_PORTS`].
    Ports(BTreeSet<Port>),
    /// [`Verb::GrantBindCapability`].
    BindCapability,
    /// [`Verb::SetUnprivilegedPortStart`]: the first port that anybody may listen on.
    PortStart(u16),
    /// [`Verb::SetPingRange`].
    PingRange(PingRange),
    /// [`Verb::DelegateControllers`]: at least one.
    Controllers(BTreeSet<Controller>),
    /// [`Verb::AllocateSubIds`].
    SubIds,
    /// [`Verb::AllowUserNamespaces`].
    UserNamespaces,
}

impl Request {
    /// Ports as they come over the bus, `("tcp", 80)`.
    pub fn ports<'a>(ports: impl IntoIterator<Item = (&'a str, u16)>) -> Result<Self, Error> {
        let port = |(protocol, number)| Port::new(short(protocol)?, number).map_err(invalid);
        let ports: Result<_, _> = ports.into_iter().map(port).collect();
        Self::these_ports(ports?)
    }

    /// Ports that are some.
    pub fn these_ports(ports: BTreeSet<Port>) -> Result<Self, Error> {
        match ports.len() {
            0 => Err(invalid("no port was named")),
            1..=MOST_PORTS => Ok(Self::Ports(ports)),
            many => Err(invalid(format!("{many} ports are too many: {MOST_PORTS} at a time"))),
        }
    }

    /// A number below which ports stay privileged. From 1024 on they are nobody's privilege.
    pub fn port_start(start: u16) -> Result<Self, Error> {
        match start {
            0..1024 => Ok(Self::PortStart(start)),
            _ => Err(invalid(format!(
                "ports from 1024 on need no privilege anyway: name a number below that, not {start}"
            ))),
        }
    }

    /// A word of [`PingRange`].
    pub fn ping_range(range: &str) -> Result<Self, Error> {
        word(range).map(Self::PingRange)
    }

    /// Words of [`Controller`].
    pub fn controllers<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let controllers: BTreeSet<_> = words.into_iter().map(word).collect::<Result<_, _>>()?;
        match controllers.is_empty() {
            true => Err(invalid("no controller was named")),
            false => Ok(Self::Controllers(controllers)),
        }
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
}

/// A word that is no longer than any that means something: what is, is not said back and written down
/// whole, in megabytes.
pub fn short(word: &str) -> Result<&str, Error> {
    match word.len() {
        0..=MOST_LETTERS => Ok(word),
        long => Err(invalid(format!("there is no word of {long} letters here"))),
    }
}

/// A list as it comes over the bus. One that is too long for anything is not read.
#[derive(Debug)]
pub struct Few<T>(pub Vec<T>);

impl<T: zbus::Type> zbus::Type for Few<T> {
    const SIGNATURE: &'static zbus::Signature = <Vec<T>>::SIGNATURE;
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST_ITEMS} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Few<T>, A::Error> {
                let mut few = Vec::new();
                while let Some(item) = items.next_element()? {
                    if few.len() == MOST_ITEMS {
                        return Err(A::Error::invalid_length(MOST_ITEMS + 1, &self));
                    }
                    few.push(item);
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

fn word<T: FromStr<Err = String>>(word: &str) -> Result<T, Error> {
    short(word)?.parse().map_err(invalid)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request() {
        let many: Vec<_> = (1..=65).map(|number| ("tcp", number)).collect();
        let wrong = [
            Request::ports([]),
            Request::ports([("tcp", 0)]),
            Request::ports([("sctp", 80)]),
            Request::ports([("tcp\nudp", 80)]),
            Request::ports(many.iter().copied()),
            Request::port_start(1024),
            Request::port_start(u16::MAX),
            Request::ping_range("0 2147483647"),
            Request::ping_range(""),
            Request::controllers([]),
            Request::controllers(["cpu", "devices"]),
            Request::controllers(["memory pids"]),
            Request::ping_range(&"x".repeat(4_000_000)),
        ];
        for request in wrong {
            let error = request.unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
            assert!(error.message.len() < 300, "{error}");
        }
        // The same port twice is that port.
        assert_eq!(Request::ports([("tcp", 80), ("tcp", 80)]), Request::ports([("tcp", 80)]));
        assert!(Request::ports(many[1..].iter().copied()).is_ok());
    }
}
