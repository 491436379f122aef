//! A machine in a temporary directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, geteuid};
use tempfile::TempDir;

use crate::dirs::{Dirs, Environment};

/// A machine with one user, `alice`, laid out below a temporary directory.
#[derive(Debug)]
pub struct Machine {
    root: TempDir,
    uid: Uid,
}

impl Machine {
    /// Nothing but the user, their home and their runtime directory.
    pub fn bare() -> Self {
        // Root, as on a build machine, stands in for somebody else; a user for themselves.
        let uid = if geteuid().is_root() { Uid::from_raw(1000) } else { geteuid() };
        let machine = Self { root: TempDir::new().expect("a temporary directory"), uid };
        machine.directory("/home/alice");
        machine.directory("/tmp");
        machine.write("/etc/passwd", &format!("alice:x:{uid}:{uid}::/home/alice:/bin/sh\n"));
        let runtime = machine.directory(&format!("/run/user/{uid}"));
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("chmod");
        machine
    }

    /// What stands for `/`.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The user.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// The user's runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path(&format!("/run/user/{}", self.uid))
    }

    /// A path on the machine.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Makes a directory.
    pub fn directory(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).expect("make a directory");
        chown(&path, Some(self.uid.as_raw()), None).expect("chown");
        path
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs::write(&path, text).expect("write a file");
        path
    }

    /// Writes a program: a shell script.
    pub fn program(&self, path: &str, script: &str) -> PathBuf {
        let path = self.write(path, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// Takes a file or directory away.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        result.expect("remove a file");
    }

    /// The environment of a session of the user.
    pub fn environment(&self) -> Environment {
        let path = |path: &str| self.path(path).display().to_string();
        Environment::from_iter([
            ("HOME", path("/home/alice")),
            ("PATH", format!("{}:{}", path("/usr/local/bin"), path("/usr/bin"))),
            ("XDG_RUNTIME_DIR", self.runtime_dir().display().to_string()),
        ])
    }

    /// The directories of the user.
    pub fn dirs(&self) -> Dirs {
        Dirs::resolve_on(&self.environment(), self.root(), self.uid).expect("they resolve")
    }
}
