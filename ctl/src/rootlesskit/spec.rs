//! The port specification of RootlessKit: `PARENTIP:PARENTPORT[:CHILDIP]:CHILDPORT/PROTO`.
//!
//! An IPv6 address stands in brackets. The texts of the errors are RootlessKit's, which calls the
//! ports by each other's name; scripts may look for them.

use std::net::IpAddr;

use serde::Serialize;

/// A port to publish, as RootlessKit's API takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// `tcp`, `udp` or `sctp`, with a `4` or `6` for one family only.
    pub proto: String,
    /// The address to listen on; empty for every one.
    #[serde(rename = "parentIP", skip_serializing_if = "String::is_empty")]
    pub parent_ip: String,
    /// The port to listen on.
    #[serde(skip_serializing_if = "is_zero")]
    pub parent_port: i64,
    /// The port inside.
    #[serde(skip_serializing_if = "is_zero")]
    pub child_port: i64,
    /// The address inside; empty for the port driver's default.
    #[serde(rename = "childIP", skip_serializing_if = "String::is_empty")]
    pub child_ip: String,
}

impl Spec {
    /// Read a specification. The ports' range is the API's to check.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, proto) = text
            .rsplit_once('/')
            .ok_or_else(|| format!("missing proto in PortSpec string: {text:?}"))?;
        if !is_proto(proto) {
            return Err(format!("invalid PortSpec string: {text:?}: unknown proto: {proto:?}"));
        }
        let unexpected = || format!("unexpected PortSpec string: {text:?}");
        let (rest, child_port) = rest.rsplit_once(':').ok_or_else(unexpected)?;
        let mut fields = fields(rest);
        let too_many = fields.len() > 3;
        if fields.len() > 4 {
            return Err(unexpected());
        }
        fields.resize(3, String::new());
        let [parent_ip, parent_port, child_ip] = fields.try_into().unwrap_or_default();
        for address in [&parent_ip, &child_ip] {
            if !address.is_empty() && address.parse::<IpAddr>().is_err() {
                return Err(format!("unexpected ParentIP in PortSpec string: {text:?}"));
            }
        }
        // RootlessKit takes the digits of a fifth field for more digits of the fourth's port. That
        // would publish a port that nobody meant.
        if too_many {
            return Err(unexpected());
        }
        let port = |called: &str, digits: &str| {
            atoi(digits).map_err(|error| {
                format!("unexpected {called} in PortSpec string: {text:?}: {error}")
            })
        };
        Ok(Self {
            proto: proto.to_owned(),
            parent_port: port("ChildPort", &parent_port)?,
            child_port: port("ParentPort", child_port)?,
            parent_ip,
            child_ip,
        })
    }
}

/// A decimal number, with the errors of Go's `strconv.Atoi`.
pub fn atoi(digits: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    digits.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {digits:?}: {why}")
    })
}

fn is_proto(word: &str) -> bool {
    let family = word.strip_suffix(['4', '6']).unwrap_or(word);
    matches!(family, "tcp" | "udp" | "sctp")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(port: &i64) -> bool {
    *port == 0
}

/// The fields between the colons. Brackets keep colons together and are dropped; so is white space.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut bracketed = false;
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        match c {
            '[' => bracketed = true,
            ']' if bracketed => bracketed = false,
            ':' if !bracketed => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(proto: &str, parent: (&str, i64), child: (&str, i64)) -> Spec {
        Spec {
            proto: proto.into(),
            parent_ip: parent.0.into(),
            parent_port: parent.1,
            child_ip: child.0.into(),
            child_port: child.1,
        }
    }

    #[test]
    fn specifications() {
        for (text, parsed) in [
            ("127.0.0.1:8080:80/tcp", spec("tcp", ("127.0.0.1", 8080), ("", 80))),
            ("0.0.0.0:53:53/udp4", spec("udp4", ("0.0.0.0", 53), ("", 53))),
            (":8080:80/sctp6", spec("sctp6", ("", 8080), ("", 80))),
            ("10.0.0.1:1:10.0.2.100:2/tcp", spec("tcp", ("10.0.0.1", 1), ("10.0.2.100", 2))),
            ("[::1]:8080:[fd00::2]:80/tcp6", spec("tcp6", ("::1", 8080), ("fd00::2", 80))),
            ("127.0.0.1:-1:+99999/tcp", spec("tcp", ("127.0.0.1", -1), ("", 99_999))),
            ("127.0.0.1: 8080 :80/tcp", spec("tcp", ("127.0.0.1", 8080), ("", 80))),
        ] {
            assert_eq!(Spec::parse(text), Ok(parsed), "{text}");
        }
    }

    #[test]
    fn mistakes() {
        for (text, error) in [
            ("8080", "missing proto in PortSpec string: \"8080\""),
            ("a:1/TCP", "invalid PortSpec string: \"a:1/TCP\": unknown proto: \"TCP\""),
            ("1/tcp46", "invalid PortSpec string: \"1/tcp46\": unknown proto: \"tcp46\""),
            ("8080/tcp", "unexpected PortSpec string: \"8080/tcp\""),
            ("a:80:80/tcp", "unexpected ParentIP in PortSpec string: \"a:80:80/tcp\""),
            (
                "010.0.0.1:80:80/tcp",
                "unexpected ParentIP in PortSpec string: \"010.0.0.1:80:80/tcp\"",
            ),
            ("fe80::1:80:80/tcp", "unexpected ParentIP in PortSpec string: \"fe80::1:80:80/tcp\""),
            ("a:b:c:d:e:80/tcp", "unexpected PortSpec string: \"a:b:c:d:e:80/tcp\""),
            (
                "127.0.0.1:80:127.0.0.1:80:80/tcp",
                "unexpected PortSpec string: \"127.0.0.1:80:127.0.0.1:80:80/tcp\"",
            ),
            ("80:80/tcp", "unexpected ParentIP in PortSpec string: \"80:80/tcp\""),
            (
                "127.0.0.1:http:80/tcp",
                "unexpected ChildPort in PortSpec string: \"127.0.0.1:http:80/tcp\": \
                 strconv.Atoi: parsing \"http\": invalid syntax",
            ),
            (
                "127.0.0.1:80:/tcp",
                "unexpected ParentPort in PortSpec string: \"127.0.0.1:80:/tcp\": \
                 strconv.Atoi: parsing \"\": invalid syntax",
            ),
            (
                "127.0.0.1:99999999999999999999:80/tcp",
                "unexpected ChildPort in PortSpec string: \
                 \"127.0.0.1:99999999999999999999:80/tcp\": \
                 strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
        ] {
            assert_eq!(Spec::parse(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn what_is_empty_is_left_out_of_the_json() {
        let json = serde_json::to_string(&spec("tcp", ("", 80), ("::1", 0))).unwrap();
        assert_eq!(json, r#"{"proto":"tcp","parentPort":80,"childIP":"::1"}"#);
    }
}
