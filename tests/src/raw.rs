//! A varlink client that can also misbehave.

use std::{io, path::Path};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::BOUND;

/// A connection.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl RawClient {
    /// Connect to the socket at `path`.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(path).await?, unread: Vec::new() })
    }

    /// Send bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Send a message.
    pub async fn send(&mut self, message: &Value) -> io::Result<()> {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.send_bytes(&bytes).await
    }

    /// Send no more.
    pub async fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The next message, or none if the connection has ended.
    pub async fn receive(&mut self) -> Option<Value> {
        timeout(BOUND, self.receive_unbounded()).await.expect("an answer in time")
    }

    async fn receive_unbounded(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == 0) {
                let message: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&message[..end]).expect("JSON"));
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Call a method and take its answer.
    pub async fn call(&mut self, message: &Value) -> Value {
        self.send(message).await.expect("the server reads");
        self.receive().await.expect("an answer")
    }
}

/// A method of the supervisor, in full.
pub fn method(name: &str) -> String {
    format!("org.rootlessd.Supervisor.{name}")
}

/// A call of a method of the supervisor.
pub fn call(name: &str, parameters: Value) -> Value {
    json!({ "method": method(name), "parameters": parameters })
}
