//! The varlink server with an interface that can do what the supervisor's does not: pass files,
//! insist on `more`, end a stream.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    cell::Cell,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    rc::Rc,
};

use futures_util::{StreamExt, stream};
use rootlessd::varlink::{
    call::{Answer, ErrorReply, Interface, Request},
    server::{Limits, serve},
};
use rootlessd_api::client::{ClientError, Connection};
use rootlessd_tests::{open_files, raw::RawClient, run, run_alone, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::UnixListener, task::spawn_local};

const NAME: &str = "org.example.Test";

#[derive(Default)]
struct Test {
    working: Rc<Cell<u32>>,
}

/// Counts down however a call ends.
struct Working(Rc<Cell<u32>>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Interface for Test {
    fn name(&self) -> &'static str {
        NAME
    }

    fn idl(&self) -> &'static str {
        "interface org.example.Test\nmethod Give() -> ()\n"
    }

    async fn call(&self, request: Request) -> Result<Answer, ErrorReply> {
        match request.method() {
            "Give" => {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(b"hello").unwrap();
                let fds = vec![OwnedFd::from(reader), OwnedFd::from(writer)];
                Ok(Answer::OneWithFds(json!({ "files": 2 }), fds))
            }
            "Count" => {
                request.expect_more()?;
                let values = (1..=3).map(|number| json!({ "number": number }));
                Ok(Answer::Many(stream::iter(values).boxed_local()))
            }
            "Hang" => {
                self.working.set(self.working.get() + 1);
                let _working = Working(self.working.clone());
                std::future::pending().await
            }
            _ => Err(request.unknown_method()),
        }
    }
}

struct World {
    working: Rc<Cell<u32>>,
    socket: PathBuf,
    _directory: TempDir,
}

fn start() -> World {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("test");
    let listener = UnixListener::bind(&socket).unwrap();
    let test = Test::default();
    let working = test.working.clone();
    spawn_local(serve(listener, test, Limits::default()));
    World { working, socket, _directory: directory }
}

#[test]
fn open_files_go_with_their_reply() {
    run_alone(async {
        let world = start();
        let mut client = Connection::open(&world.socket, NAME).await.unwrap();
        let (_, _): (Value, _) = client.call_for_fds("Give", json!({})).await.unwrap();
        let before = open_files();
        for _ in 0..10 {
            let (reply, mut fds): (Value, _) =
                client.call_for_fds("Give", json!({})).await.unwrap();
            assert_eq!((reply, fds.len()), (json!({ "files": 2 }), 2));
            drop(fds.pop());
            let mut text = String::new();
            std::fs::File::from(fds.pop().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
        assert_eq!(open_files(), before);
    });
}

#[test]
fn a_stream_ends_with_its_connection() {
    run(async {
        let world = start();
        let mut client = RawClient::connect(&world.socket).await.unwrap();
        let call = json!({ "method": "org.example.Test.Count" });
        assert_eq!(client.call(&call).await["error"], "org.varlink.service.ExpectedMore");
        client.send(&json!({ "method": "org.example.Test.Count", "more": true })).await.unwrap();
        for number in 1..=3 {
            let expected = json!({ "parameters": { "number": number }, "continues": true });
            assert_eq!(client.receive().await.unwrap(), expected);
        }
        assert_eq!(client.receive().await, None);
    });
}

#[test]
fn a_call_ends_with_its_client() {
    run(async {
        let world = start();
        let mut client = RawClient::connect(&world.socket).await.unwrap();
        client.send(&json!({ "method": "org.example.Test.Hang" })).await.unwrap();
        // What is sent behind the call does not hide that the client goes.
        client.send(&json!({ "method": "org.example.Test.Hang" })).await.unwrap();
        until("the call is at work", || world.working.get() == 1).await;
        drop(client);
        until("the call has ended", || world.working.get() == 0).await;
    });
}

#[test]
fn the_typed_client_knows_the_standard_errors() {
    run(async {
        let world = start();
        let mut client = Connection::open(&world.socket, NAME).await.unwrap();
        match client.call::<Value>("Gone", json!({})).await {
            Err(ClientError::Protocol(text)) => assert!(text.contains("Gone"), "{text}"),
            other => panic!("{other:?}"),
        }
    });
}
