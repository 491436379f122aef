//! The ports of RootlessKit's port driver `slirp4netns`: slirp4netns itself listens on them, so they
//! go with it, while RootlessKit and dockerd take them for published. The next one is told of them on
//! its API socket (slirp4netns(1)), under the numbers by which RootlessKit knows them
//! (`pkg/port/slirp4netns`): one request a connection.

use std::{io, path::Path, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::rootlesskit::port::{self, Status};

/// slirp4netns answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Publish again what RootlessKit, asked at `rootlesskit`, has published through the slirp4netns
/// whose API is at `api`. An error says which ports stay unpublished, and why.
pub async fn restore(rootlesskit: &Path, api: &Path) -> io::Result<()> {
    let mut published = port::list(rootlesskit).await?;
    published.sort_by_key(|port| port.id);
    let mut failed = vec![];
    for port in published {
        if let Err(error) = add(api, &port).await {
            failed.push(format!("{}/{}: {error}", port.spec.parent_port, port.spec.proto));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(io::Error::other(failed.join(", "))) }
}

/// Publish a port under its number. slirp4netns counts, and ports that are not there any more had
/// numbers as well.
async fn add(api: &Path, port: &Status) -> io::Result<()> {
    let spec = &port.spec;
    let request = json!({
        "execute": "add_hostfwd",
        "arguments": {
            // There is no IPv6.
            "proto": spec.proto.trim_end_matches('4'),
            "host_addr": spec.parent_ip,
            "host_port": spec.parent_port,
            "guest_addr": spec.child_ip,
            "guest_port": spec.child_port,
        },
    });
    loop {
        let id = ask(api, &request).await?.id.unwrap_or_default();
        if id >= port.id {
            return Ok(());
        }
        ask(api, &json!({ "execute": "remove_hostfwd", "arguments": { "id": id } })).await?;
    }
}

/// What slirp4netns returns.
#[derive(Deserialize)]
struct Returned {
    id: Option<u64>,
}

async fn ask(api: &Path, request: &Value) -> io::Result<Returned> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Answer {
        Return(Returned),
        Error { desc: String },
    }
    let exchange = async {
        let mut stream = UnixStream::connect(api).await?;
        stream.write_all(&serde_json::to_vec(request)?).await?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await?;
        match serde_json::from_slice(&answer)? {
            Answer::Return(returned) => Ok(returned),
            Answer::Error { desc } => Err(io::Error::other(desc)),
        }
    };
    timeout(TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use tokio::net::UnixListener;

    use super::*;

    /// What a slirp4netns does that was just started.
    async fn slirp4netns(listener: UnixListener, ports: &RefCell<BTreeMap<u64, Value>>) {
        let mut next = 1;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            let request: Value = serde_json::from_slice(&buffer[..count]).unwrap();
            let arguments = &request["arguments"];
            let answer = match request["execute"].as_str() {
                Some("add_hostfwd") if arguments["host_port"] == 81 => {
                    json!({ "error": { "desc": "slirp_add_hostfwd failed" } })
                }
                Some("add_hostfwd") => {
                    let id = next;
                    next += 1;
                    ports.borrow_mut().insert(id, arguments.clone());
                    json!({ "return": { "id": id } })
                }
                Some("remove_hostfwd") => {
                    ports.borrow_mut().remove(&arguments["id"].as_u64().unwrap()).unwrap();
                    json!({ "return": {} })
                }
                other => panic!("{other:?}"),
            };
            stream.write_all(answer.to_string().as_bytes()).await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn ports_get_the_numbers_that_they_had() {
        let temporary = tempfile::tempdir().unwrap();
        let api = temporary.path().join("api");
        let listener = UnixListener::bind(&api).unwrap();
        let ports = RefCell::default();
        let spec = |id, port: u16| {
            let spec = json!({
                "proto": "tcp4", "parentIP": "127.0.0.1", "parentPort": port,
                "childIP": "10.0.2.100", "childPort": port,
            });
            Status { id, spec: serde_json::from_value(spec).unwrap() }
        };
        let publish = async {
            add(&api, &spec(2, 8080)).await.unwrap();
            let error = add(&api, &spec(3, 81)).await.unwrap_err();
            assert_eq!(error.to_string(), "slirp_add_hostfwd failed");
            add(&api, &spec(5, 8081)).await.unwrap();
        };
        tokio::select! {
            () = slirp4netns(listener, &ports) => {}
            () = publish => {}
        }
        let expected = |port: u16| {
            json!({
                "proto": "tcp", "host_addr": "127.0.0.1", "host_port": port,
                "guest_addr": "10.0.2.100", "guest_port": port,
            })
        };
        assert_eq!(ports.into_inner(), BTreeMap::from([(2, expected(8080)), (5, expected(8081))]));
    }
}
