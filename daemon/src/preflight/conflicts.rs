//! Another engine of the same user: two of them would spoil each other's state.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rootlessd_api::{Reason, names};

use crate::{dirs::Dirs, plan::DockerPlan, reasons::Code, sys::process::Stat};

/// Looks for other engines on the same state, data or socket.
///
/// `containerd_rootless`: the state directory of nerdctl's `containerd-rootless.sh`.
pub fn check(
    dirs: &Dirs,
    state_dir: &Path,
    docker: &DockerPlan,
    containerd_rootless: &Path,
) -> Vec<Reason> {
    let machine = Machine { dirs };
    [
        machine.check_state_dir(state_dir),
        machine.check_containerd(containerd_rootless),
        machine.check_pid_file(&docker.pid_file),
        machine.check_socket(&docker.socket),
    ]
    .into_iter()
    .flatten()
    .collect()
}

struct Machine<'a> {
    dirs: &'a Dirs,
}

impl Machine<'_> {
    /// RootlessKit holds a lock on a file in its state directory as long as it lives.
    fn check_state_dir(&self, state_dir: &Path) -> Option<Reason> {
        let pid = self.holder_of_lock(state_dir).filter(|pid| !self.is_ours(*pid))?;
        Some(Code::StateDirLocked.reason_with_remedy(
            format!("{} is in use by {}", state_dir.display(), self.describe(pid)),
            self.how_to_stop(pid),
        ))
    }

    /// The two would fight over the same files (moby#52171); a directory without a process behind
    /// it harms nobody.
    fn check_containerd(&self, state_dir: &Path) -> Option<Reason> {
        let pid = self.holder_of_lock(state_dir)?;
        Some(Code::ContainerdRootless.reason_with_remedy(
            format!("rootless containerd runs: {}", self.describe(pid)),
            self.how_to_stop(pid),
        ))
    }

    /// A pid file that is left over, or whose pid is somebody else's by now, is no obstacle.
    fn check_pid_file(&self, pid_file: &Path) -> Option<Reason> {
        let pid: u32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        if self.comm(pid)? != "dockerd" || self.is_ours(pid) {
            return None;
        }
        Some(Code::DockerdElsewhere.reason_with_remedy(
            format!("another Docker of {} runs: {}", self.dirs.user, self.describe(pid)),
            self.how_to_stop(pid),
        ))
    }

    fn check_socket(&self, socket: &Path) -> Option<Reason> {
        if self.holds_socket(socket) {
            return None;
        }
        let stream = UnixStream::connect(socket).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        let pid = u32::try_from(peer.pid()).ok()?;
        // Of the two, systemd holds it for rootlessd.socket.
        let is_ours = pid == std::process::id()
            || matches!(self.comm(pid).as_deref(), Some("rootlessd" | "systemd"));
        (!is_ours).then(|| {
            Code::DockerSocketTaken.reason_with_remedy(
                format!("{} is served by {}", socket.display(), self.describe(pid)),
                self.how_to_stop(pid),
            )
        })
    }

    /// Whether this process has the listening socket open.
    fn holds_socket(&self, socket: &Path) -> bool {
        let table = fs::read_to_string(self.dirs.on_system("/proc/net/unix")).unwrap_or_default();
        let inodes = listening_inodes(&table, socket);
        let own = fs::read_dir(self.dirs.on_system("/proc/self/fd")).into_iter().flatten();
        let mut targets = own.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        !inodes.is_empty() && targets.any(|target| inodes.contains(&target))
    }

    fn holder_of_lock(&self, state_dir: &Path) -> Option<u32> {
        let lock = fs::metadata(state_dir.join("lock")).ok()?;
        let locks = fs::read_to_string(self.dirs.on_system("/proc/locks")).ok()?;
        holder_of_lock(&locks, lock.dev(), lock.ino())
    }

    /// Whether a process belongs to an engine of rootlessd's: such a one is ended before the next
    /// starts.
    fn is_ours(&self, pid: u32) -> bool {
        let in_scope = unit_of(&self.cgroup(pid)) == Some(names::ENGINE_SCOPE);
        let is_rootlessd =
            |pid: u32| pid == std::process::id() || self.comm(pid).as_deref() == Some("rootlessd");
        let mut ancestors = std::iter::successors(Some(pid), |pid| self.parent(*pid)).take(64);
        in_scope || ancestors.any(is_rootlessd)
    }

    fn describe(&self, pid: u32) -> String {
        let name = self.comm(pid).unwrap_or_else(|| "a process".into());
        match unit_of(&self.cgroup(pid)) {
            Some(unit) => format!("{name} (pid {pid} of {unit})"),
            None => format!("{name} (pid {pid})"),
        }
    }

    fn how_to_stop(&self, pid: u32) -> String {
        let cgroup = self.cgroup(pid);
        match unit_of(&cgroup) {
            // One of the system, with User=, which Docker's manual warns of.
            Some(unit) if cgroup.contains(":/system.slice/") => {
                format!("sudo systemctl disable --now {unit}")
            }
            Some(unit) if unit.ends_with(".service") => {
                format!("systemctl --user disable --now {unit}")
            }
            _ => format!("kill {pid}"),
        }
    }

    fn proc(&self, pid: u32, file: &str) -> PathBuf {
        self.dirs.on_system(format!("/proc/{pid}/{file}"))
    }

    fn comm(&self, pid: u32) -> Option<String> {
        Some(fs::read_to_string(self.proc(pid, "comm")).ok()?.trim_end().to_owned())
    }

    fn cgroup(&self, pid: u32) -> String {
        fs::read_to_string(self.proc(pid, "cgroup")).unwrap_or_default()
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        let stat = Stat::parse(&fs::read_to_string(self.proc(pid, "stat")).ok()?)?;
        Some(stat.parent).filter(|parent| *parent > 0)
    }
}

/// The process that holds a flock(2) on a file, after `/proc/locks` (proc_locks(5)).
fn holder_of_lock(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        // `->` begins one that waits.
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == file => pid.parse().ok(),
            _ => None,
        }
    })
}

/// The unit that a process runs in, after `/proc/PID/cgroup` (cgroups(7)).
fn unit_of(cgroup: &str) -> Option<&str> {
    cgroup
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            matches!(controllers, "" | "name=systemd").then_some(path)
        })
        .flat_map(|path| path.rsplit('/'))
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
}

/// The links that stand in `/proc/PID/fd` for the sockets that listen on a path, after
/// `/proc/net/unix` (unix(7)).
fn listening_inodes(table: &str, socket: &Path) -> Vec<PathBuf> {
    // __SO_ACCEPTCON of linux/net.h
    const LISTENS: u32 = 1 << 16;
    let row = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let path = line.split_once(" /").map(|(_, rest)| format!("/{rest}"))?;
        let inode = fields.get(6)?;
        (flags & LISTENS != 0 && Path::new(&path) == socket)
            .then(|| PathBuf::from(format!("socket:[{inode}]")))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use serde_json::Map;

    use super::*;
    use crate::{docker_config, preflight::testing};

    const SERVICE: &str =
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service\n";
    const SCOPE: &str =
        "0::/user.slice/user@1000.service/rootlessd.slice/rootlessd-engine.scope/init\n";

    struct World {
        machine: testing::Machine,
        state_dir: PathBuf,
    }

    impl World {
        fn new() -> Self {
            let machine = testing::Machine::bare();
            let state_dir = machine.runtime_dir().join("dockerd-rootless");
            Self { machine, state_dir }
        }

        fn process(&self, pid: u32, comm: &str, parent: u32, cgroup: &str) {
            let at = |file| format!("/proc/{pid}/{file}");
            self.machine.write(&at("comm"), &format!("{comm}\n"));
            self.machine.write(&at("cgroup"), cgroup);
            self.machine
                .write(&at("stat"), &format!("{pid} (a) b) S {parent}{}\n", " 1".repeat(50)));
        }

        fn lock(&self, directory: &Path, pid: u32) {
            fs::create_dir_all(directory).expect("make a directory");
            let path = directory.join("lock");
            fs::write(&path, "").expect("write a file");
            let file = fs::metadata(path).expect("metadata");
            let major = nix::sys::stat::major(file.dev());
            let minor = nix::sys::stat::minor(file.dev());
            let (other, inode) = (file.ino() + 1, file.ino());
            let text = format!(
                "1: POSIX  ADVISORY  WRITE 7 {major:02x}:{minor:02x}:{inode} 0 EOF\n\
                 2: FLOCK  ADVISORY  WRITE 8 {major:02x}:{minor:02x}:{other} 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n\
                 3: -> FLOCK  ADVISORY  WRITE 9 {major:02x}:{minor:02x}:{inode} 0 EOF\n"
            );
            self.machine.write("/proc/locks", &text);
        }

        fn reasons(&self) -> Vec<Reason> {
            let dirs = self.machine.dirs();
            let docker = docker_config::plan(&Map::new(), &dirs).expect("a plan");
            let containerd = self.machine.runtime_dir().join("containerd-rootless");
            check(&dirs, &self.state_dir, &docker, &containerd)
        }
    }

    #[test]
    fn an_engine_of_the_stock_unit_is_named() {
        let world = World::new();
        world.lock(&world.state_dir, 4711);
        world.process(4711, "rootlesskit", 1, SERVICE);
        let reasons = world.reasons();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert_eq!(reasons[0].code, "state-dir-locked");
        let text = &reasons[0].text;
        assert!(text.ends_with("rootlesskit (pid 4711 of docker.service)"), "{text}");
        let remedy = reasons[0].remedy.as_deref();
        assert_eq!(remedy, Some("systemctl --user disable --now docker.service"));
    }

    #[test]
    fn our_own_engine_is_no_other() {
        let world = World::new();
        world.lock(&world.state_dir, 10);
        world.process(10, "rootlesskit", 9, SCOPE);
        assert_eq!(world.reasons(), []);
        // Without systemd it is the parents that tell.
        world.process(10, "rootlesskit", 9, "0::/\n");
        assert_eq!(world.reasons().len(), 1);
        world.process(9, "rootlessd", 1, "0::/\n");
        assert_eq!(world.reasons(), []);
    }

    #[test]
    fn a_state_directory_that_nobody_holds_is_no_obstacle() {
        let world = World::new();
        world.lock(&world.state_dir, 10);
        world.machine.write("/proc/locks", "");
        assert_eq!(world.reasons(), []);
    }

    #[test]
    fn rootless_containerd_counts_while_it_runs() {
        let world = World::new();
        let directory = world.machine.runtime_dir().join("containerd-rootless");
        fs::create_dir(&directory).expect("make a directory");
        assert_eq!(world.reasons(), []);
        world.lock(&directory, 12);
        let reasons = world.reasons();
        assert_eq!(reasons[0].code, "containerd-rootless");
        assert_eq!(reasons[0].remedy.as_deref(), Some("kill 12"));
    }

    #[test]
    fn a_pid_file_counts_only_for_a_live_dockerd() {
        let world = World::new();
        let pid_file = world.machine.runtime_dir().join("docker.pid");
        for (text, comm, cgroup, found) in [
            ("20", "dockerd", SERVICE, true),
            ("20\n", "dockerd", SERVICE, true),
            ("20", "bash", SERVICE, false),
            ("20", "dockerd", SCOPE, false),
            ("21", "dockerd", SERVICE, false),
            ("garbage", "dockerd", SERVICE, false),
        ] {
            fs::write(&pid_file, text).expect("write a file");
            world.process(20, comm, 1, cgroup);
            let reasons = world.reasons();
            assert_eq!(reasons.len(), usize::from(found), "{text} {comm}: {reasons:?}");
        }
    }

    #[test]
    fn our_own_socket_is_not_connected_to() {
        let world = World::new();
        let path = world.machine.runtime_dir().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        assert_eq!(world.reasons(), [], "the peer is this process");
        listener.set_nonblocking(true).expect("fcntl");
        listener.accept().expect("it was connected to");

        let line = format!("0: 2 0 10000 0001 01 77 {}\n", path.display());
        world.machine.write("/proc/net/unix", &format!("Num RefCount\n{line}"));
        world.machine.directory("/proc/self/fd");
        symlink("socket:[77]", world.machine.path("/proc/self/fd/3")).expect("symlink");
        assert_eq!(world.reasons(), []);
        assert!(listener.accept().is_err(), "it was connected to again");
    }

    #[test]
    fn units_are_found_on_either_hierarchy() {
        for (cgroup, unit) in [
            (SERVICE, Some("docker.service")),
            (SCOPE, Some("rootlessd-engine.scope")),
            (
                "12:pids:/x.service\n1:name=systemd:/user.slice/session-2.scope\n",
                Some("session-2.scope"),
            ),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
    }
}
