//! A port, as `docker run -p` and the helper's grants name it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::status::words;

words! {
    /// A protocol that has ports.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// A port: written `80`, which is TCP, `80/tcp` or `443/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Its number, from 1. Ports are sorted by it.
    #[serde(rename = "port")]
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl Port {
    /// The port of a protocol's word and a number; an error tells which of the two is none.
    pub fn new(protocol: &str, number: u16) -> Result<Self, String> {
        let protocol = protocol.parse().map_err(|_| {
            // What a stranger writes is shown as what it is.
            format!("the protocol is \"tcp\" or \"udp\", not {protocol:?}")
        })?;
        match number {
            0 => Err("there is no port 0".into()),
            number => Ok(Self { protocol, number }),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        // `parse` takes a sign, which no port has.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse() {
            Ok(number) if digits => Self::new(protocol, number),
            _ => {
                Err(format!("a port is a number up to 65535, such as 80 or 443/udp, not {text:?}"))
            }
        }
    }
}

words! {
    /// What lets a port below 1024 be listened on. Later versions may add words.
    PortPrivilege {
        /// The helper's grant of this port to this user.
        Grant = "grant",
        /// A file capability of RootlessKit's program, whoever gave it.
        Capability = "capability",
        /// The kernel's setting `net.ipv4.ip_unprivileged_port_start`, which is lower.
        Sysctl = "sysctl",
    }
}

/// A port that a container publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The port on the machine.
    #[serde(flatten)]
    pub port: Port,
    /// The address that it is published at, such as `0.0.0.0` or `::`.
    pub address: String,
    /// The port in the engine's network namespace that it leads to.
    pub child_port: u16,
    /// Whether it is below 1024, where a privilege is needed unless the machine's owner changed that.
    pub privileged: bool,
    /// What lets a privileged one be listened on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<PortPrivilege>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_and_written() {
        for (text, written) in
            [("80", "80/tcp"), ("443/udp", "443/udp"), ("65535/tcp", "65535/tcp")]
        {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), written);
        }
        let wrong = [
            "",
            "0",
            "-1",
            "+80",
            "65536",
            "70000",
            "0x50",
            " 80",
            "80 ",
            "80 #",
            "80\n",
            "80/",
            "/tcp",
            "80/sctp",
            "80/TCP",
            "80/tcp/udp",
            "80\nkernel.core_pattern=|/tmp/x",
            "٨٠",
        ];
        for text in wrong {
            assert!(text.parse::<Port>().is_err(), "{text:?}");
        }
    }
}
