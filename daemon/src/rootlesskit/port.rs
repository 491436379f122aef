//! Ports as RootlessKit's API has them (`pkg/port/port.go`, `pkg/api/router`): `GET /v1/ports` lists
//! them, `POST /v1/ports` publishes one, `DELETE /v1/ports/ID` takes it back.

use std::{io, path::Path, time::Duration};

use hyper::{Method, StatusCode, body::Bytes};
use rootlessd_api::Port;
use serde::Deserialize;

use crate::sys::http;

/// The path of the ports.
pub const PORTS: &str = "/v1/ports";
/// RootlessKit answers at once; publishing a port takes it some milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What RootlessKit's answer begins with when the kernel refused a port below 1024: of the builtin
/// port driver, in every version since 0.7.
const REFUSAL: &str = "cannot expose privileged port ";

/// What is published: the part of `port.Spec` that we read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// `tcp`, `tcp4`, `tcp6`, `udp`, …
    pub proto: String,
    /// The address on the machine; empty for all.
    #[serde(default, rename = "parentIP")]
    pub parent_ip: String,
    /// The port on the machine.
    pub parent_port: u16,
    /// The address in the network namespace; empty for the port driver's own choice.
    #[serde(default, rename = "childIP")]
    pub child_ip: String,
    /// The port in the network namespace.
    pub child_port: u16,
}

impl Spec {
    /// Whether RootlessKit publishes only one of the two: they have the same place on the machine
    /// (`pkg/port/portutil`).
    pub fn is_rival(&self, other: &Self) -> bool {
        // `tcp` stands for both of `tcp4` and `tcp6`.
        let (here, there) = (self.proto.as_str(), other.proto.as_str());
        let is_proto = here.starts_with(there) || there.starts_with(here);
        is_proto && (&self.parent_ip, self.parent_port) == (&other.parent_ip, other.parent_port)
    }

    /// Whether the two are one port, as far as they say where it leads to.
    pub fn is_same(&self, other: &Self) -> bool {
        let (here, there) = (&self.child_ip, &other.child_ip);
        self.is_rival(other)
            && self.child_port == other.child_port
            && (here == there || here.is_empty() || there.is_empty())
    }

    /// The port on the machine, if its protocol is one that can be granted.
    pub fn port(&self) -> Option<Port> {
        Port::new(self.proto.trim_end_matches(['4', '6']), self.parent_port).ok()
    }
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The port driver's number of it.
    pub id: u64,
    /// What is published.
    pub spec: Spec,
}

/// What RootlessKit says: the status and the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, JSON for the most part.
    pub body: Bytes,
}

impl Answer {
    /// Whether it is the refusal of a port that needs a privilege.
    pub fn is_privilege_refused(&self) -> bool {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let message = serde_json::from_slice(&self.body).map(|Message { message }| message);
        !self.status.is_success() && message.is_ok_and(|message| message.contains(REFUSAL))
    }
}

/// The number of the port that a line of dockerd's log says is privileged.
pub fn refused_in(line: &str) -> Option<u16> {
    let rest = line.split_once(REFUSAL)?.1;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The ports that are published now.
pub async fn published(socket: &Path) -> io::Result<Vec<Spec>> {
    Ok(list(socket).await?.into_iter().map(|status| status.spec).collect())
}

/// The same, with their numbers.
pub async fn list(socket: &Path) -> io::Result<Vec<Status>> {
    let answer = call(socket, Method::GET, PORTS, Bytes::new()).await?;
    if !answer.status.is_success() {
        // Such as a port driver without an API.
        return Ok(vec![]);
    }
    let ports: Option<Vec<Status>> = serde_json::from_slice(&answer.body)?;
    Ok(ports.unwrap_or_default())
}

/// Ask RootlessKit.
pub async fn call(socket: &Path, method: Method, path: &str, body: Bytes) -> io::Result<Answer> {
    let (status, body) = http::ask(socket, method, path, body, TIMEOUT).await?;
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RootlessKit 1.1 and 2.0 write it.
    const MESSAGE: &str = "cannot expose privileged port 80, you can add 'net.ipv4.ip_unprivileged_port_start=80' to \
                           /etc/sysctl.conf (currently 1024), or set CAP_NET_BIND_SERVICE on rootlesskit binary, or choose a \
                           larger port number (>= 1024): listen tcp4 0.0.0.0:80: bind: permission denied";

    #[test]
    fn a_refusal_is_recognised() {
        let answer = |status, message: &str| Answer {
            status,
            body: serde_json::json!({ "message": message }).to_string().into(),
        };
        for (answer, is) in [
            (answer(StatusCode::BAD_REQUEST, MESSAGE), true),
            (answer(StatusCode::INTERNAL_SERVER_ERROR, MESSAGE), true),
            (answer(StatusCode::CREATED, MESSAGE), false),
            (answer(StatusCode::BAD_REQUEST, "conflict with ID 3"), false),
            (Answer { status: StatusCode::BAD_REQUEST, body: "no JSON".into() }, false),
        ] {
            assert_eq!(answer.is_privilege_refused(), is, "{answer:?}");
        }
        let line =
            format!("level=error msg=\"failed: error while calling RootlessKit: {MESSAGE}\"");
        assert_eq!(refused_in(&line), Some(80));
        assert_eq!(refused_in("level=info msg=\"privileged port 80\""), None);
    }

    #[test]
    fn ports_have_a_protocol_that_can_be_granted() {
        for (proto, port) in
            [("tcp", "80/tcp"), ("tcp4", "80/tcp"), ("udp6", "80/udp"), ("sctp", "")]
        {
            let text = format!(
                r#"{{"proto":"{proto}","parentIP":"","parentPort":80,"childPort":8080,"id":1}}"#
            );
            let spec: Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.port().map_or(String::new(), |port| port.to_string()), port);
        }
    }
}
