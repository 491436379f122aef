//! A message bus of a test's own, which can be killed and started again.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use zbus::{Address, Connection, connection::Builder};

/// dbus-daemon's configuration: what is not allowed is forbidden.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=PATH</listen>
  <auth>EXTERNAL</auth>
  <servicedir>SERVICES</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"#;

/// A bus in a process of its own.
#[derive(Debug)]
pub struct TestBus {
    path: PathBuf,
    process: Child,
}

impl TestBus {
    /// Start a bus with a socket at `path`. `helper` is the program `rootlessd-test-helper`.
    pub fn start(helper: &str, path: &Path) -> Self {
        let (bus, line) = Self::spawn(Command::new(helper).arg("bus").arg(path), path);
        assert_eq!(line, "ready\n", "the bus is ready");
        bus
    }

    /// Start dbus-daemon(1), which stands for the machine's: every user is let in, and who calls a name
    /// that nobody has is told so. What it may start is in the folder beside `path` that ends in
    /// `services`, when it reads its configuration.
    pub fn daemon(path: &Path) -> Self {
        let config = path.with_extension("conf");
        let services = path.with_extension("services").display().to_string();
        let text = CONFIG.replace("PATH", &path.display().to_string());
        fs::write(&config, text.replace("SERVICES", &services)).expect("written");
        let mut command = Command::new("dbus-daemon");
        let command =
            command.arg("--config-file").arg(config).args(["--nofork", "--print-address"]);
        let (bus, line) = Self::spawn(command, path);
        assert!(line.starts_with("unix:path="), "{line}");
        bus
    }

    /// Returns with the first line that it prints.
    fn spawn(command: &mut Command, path: &Path) -> (Self, String) {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("a bus starts");
        let stdout = process.stdout.take().expect("a pipe was asked for");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("the bus says something");
        (Self { path: path.to_owned(), process }, line)
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
