//! What the tests of the command line share: a user with a runtime directory, and the program.

#![allow(dead_code, reason = "each test file uses its part of it")]

pub mod supervisor;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A runtime directory for one test.
pub struct User {
    directory: tempfile::TempDir,
}

impl User {
    /// A user whose supervisor does not run.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// `$XDG_RUNTIME_DIR`
    pub fn runtime_dir(&self) -> &Path {
        self.directory.path()
    }

    /// Where the supervisor listens.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("rootlessd/org.rootlessd.Supervisor")
    }

    /// `rootlessctl` as this user runs it, with nothing else in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rootlessctl"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .stdin(Stdio::null());
        command
    }

    /// Run it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }
}

/// How a program ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Standard output as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
