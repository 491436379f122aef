//! A machine in a temporary directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
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

    /// All that an engine needs: Docker 26.1 and RootlessKit 2.0.2 with slirp4netns.
    pub fn complete() -> Self {
        let machine = Self::bare();
        machine.write("/etc/os-release", "ID=debian\n");
        for file in ["/etc/subuid", "/etc/subgid"] {
            machine.write(file, "alice:524288:65536\n");
        }
        machine.write("/dev/net/tun", "");
        machine.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        machine.directory("/run/systemd/system");
        let root = machine.root().display();
        machine.write("/proc/self/mountinfo", &format!("1 1 8:1 / {root} rw - ext4 x rw\n"));
        machine.program("/usr/bin/dockerd", "echo 'Docker version 26.1.5+dfsg1, build 411e817'");
        machine.program("/usr/bin/containerd", "echo 'containerd containerd.io 1.7.24 abc'");
        machine.program("/usr/sbin/runc", "echo 'runc version 1.1.15+ds1'; echo 'spec: 1.2.0'");
        machine.program("/usr/sbin/ip", "");
        machine.program("/usr/sbin/iptables", "");
        machine.program("/usr/bin/slirp4netns", "echo '--netns-type=TYPE'");
        let help = include_str!("../../tests/rootlesskit/2.0.2.txt");
        machine.program("/usr/bin/rootlesskit", &format!("/bin/cat <<'END'\n{help}END"));
        for program in ["/usr/bin/newuidmap", "/usr/bin/newgidmap"] {
            let path = machine.program(program, "");
            fs::set_permissions(path, fs::Permissions::from_mode(0o4755)).expect("chmod");
        }
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
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        // By another process: a child that another test forks meanwhile would hold our open file,
        // and running the program would fail as it is busy.
        let written = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 0755 \"$0\""])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(written.expect("a shell").success());
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
