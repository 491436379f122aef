//! A message bus of a test's own, which can be killed and started again.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use zbus::{Address, Connection, connection::Builder};

/// A bus in a process of its own.
#[derive(Debug)]
pub struct TestBus {
    path: PathBuf,
    process: Child,
}

impl TestBus {
    /// Start a bus with a socket at `path`. `helper` is the program `rootlessd-test-helper`.
    pub fn start(helper: &str, path: &Path) -> Self {
        let mut process = Command::new(helper)
            .arg("bus")
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let stdout = process.stdout.take().expect("a pipe was asked for");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the helper says something");
        assert_eq!(line, "ready\n", "the bus is ready");
        Self { path: path.to_owned(), process }
    }

    /// The address of a bus at `path`, whether there is one or not.
    pub fn address_at(path: &Path) -> Address {
        format!("unix:path={}", path.display()).parse().expect("a path without special characters")
    }

    /// A new connection.
    pub async fn connect(&self) -> Connection {
        Builder::address(Self::address_at(&self.path)).build().await.expect("the bus answers")
    }

    /// End the bus as nothing announces it: its socket file stays, all connections break.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.end();
    }
}
