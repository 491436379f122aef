//! What is left of an engine: found by what only its processes can have, ended, and removed.
//!
//! Usually there is nothing: engine-shim ends its own descendants, and rootlessd only makes sure.
//! It is needed when the shim itself was killed, or does not get done in time.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use rootlessd_api::{Death, names};
use tokio::time::{Instant, timeout_at};

use super::{dir::EngineDir, scraps};
use crate::{
    plan::{DockerPlan, Plan},
    sys::{
        files,
        process::{self, Process, Stat},
    },
    systemd::Systemd,
};

/// How long killed processes may take to be gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What an engine said of its end before it was gone.
#[derive(Debug)]
pub struct Remains {
    /// How it died, if it wrote that down.
    pub death: Option<Death>,
    /// Whether it ended in order: who does takes its record along.
    pub in_order: bool,
    /// Which process of it does not end, and why, if there is one.
    pub left: Option<String>,
}

/// End whatever is left of the engine, and remove its files: all that can be known of its end.
/// `plan`: the engine's; otherwise as it was written down. `runtime`: `$XDG_RUNTIME_DIR`.
pub async fn sweep(
    systemd: Option<&Systemd>,
    dir: &EngineDir,
    runtime: &Path,
    plan: Option<&Plan>,
) -> Remains {
    let death = dir.read_death().ok().flatten();
    let in_order = matches!(dir.read_record(), Ok(None));
    let written = if plan.is_some() { None } else { dir.read_plan().ok().flatten() };
    let plan = plan.or(written.as_ref());
    let temporary = plan.and_then(|plan| plan.environment.get("TMPDIR"));
    let left = end(systemd, dir, plan).await;
    scraps::remove([runtime, Path::new("/tmp")].into_iter().chain(temporary.map(Path::new)));
    Remains { death, in_order, left }
}

/// No step waits for the success of the one before: what one cannot end, the next may. Which process
/// none of them has ended.
async fn end(systemd: Option<&Systemd>, dir: &EngineDir, plan: Option<&Plan>) -> Option<String> {
    let left = end_processes(dir, plan).await.err().map(|error| error.to_string());
    if let Some(left) = &left {
        tracing::warn!("a process of the last engine stays: {left}");
    }
    if let Some(systemd) = systemd {
        for unit in [names::ENGINE_SCOPE, names::CONTAINERS_SLICE] {
            tell(unit, systemd.kill_cgroup(unit).await);
        }
        tell(names::ENGINE_SCOPE, systemd.stop_unit(names::ENGINE_SCOPE).await);
    }
    if let Some(plan) = plan {
        remove_runtime_files(&plan.docker);
        remove_state_dir(&plan.state_dir);
    }
    tell(dir.path().display(), dir.remove());
    left
}

/// Say what stays, if it does.
fn tell(what: impl fmt::Display, ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::warn!("{what} of the last engine stays: {error}");
    }
}

/// Remove what dockerd and containerd keep at run time, once neither of them lives. Seen to stop a
/// start: a `docker.pid` that names any live process, and a `containerd.pid` that is not a bare
/// number. Only names that the daemons make are touched, since the directory is the user's choice.
pub fn remove_runtime_files(docker: &DockerPlan) {
    let names =
        ["containerd", "libnetwork", "netns", "runtimes", "runtime-runc", "swarm", "metrics.sock"];
    let below = names.map(|name| docker.exec_root.join(name));
    for path in [docker.pid_file.clone()].into_iter().chain(below) {
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                // dockerd's `libnetwork` is one that only root can enter, which nobody is out here.
                let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
                files::remove_tree(&path)
            }
            Ok(_) => files::remove(&path),
            Err(_) => Ok(()),
        };
        tell(path.display(), removed);
    }
    // Something else in it is not ours to judge.
    let _ = fs::remove_dir(&docker.exec_root);
}

/// Kill the engine's processes and what descends from them, until there is none.
async fn end_processes(dir: &EngineDir, plan: Option<&Plan>) -> io::Result<()> {
    let marks = marks(dir, plan);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = find(&marks);
        let Some(first) = found.iter().find_map(|&pid| Process::open(pid).ok()) else {
            return Ok(());
        };
        found.iter().copied().for_each(process::kill);
        timeout_at(deadline, first.gone()).await.map_err(|_| {
            io::Error::other(format!("process {} does not end", first.identity().pid))
        })?;
    }
}

/// Two arguments in a row that only a process of this engine has.
type Mark = (&'static str, String);

fn marks(dir: &EngineDir, plan: Option<&Plan>) -> Vec<Mark> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut marks = vec![
        ("--dir", text(dir.path())),
        ("--config", text(&dir.containerd_config())),
        ("--config-file", text(&dir.dockerd_config())),
    ];
    marks.extend(plan.map(|plan| ("-address", text(&plan.docker.containerd_socket()))));
    marks
}

fn find(marks: &[Mark]) -> Vec<u32> {
    let parents: HashMap<u32, u32> = process::all()
        .filter_map(|pid| Stat::of(pid).filter(|stat| stat.state != 'Z').map(|it| (pid, it.parent)))
        .collect();
    let marked: HashSet<u32> =
        parents.keys().copied().filter(|&pid| is_marked(pid, marks)).collect();
    let belongs = |&pid: &u32| {
        std::iter::successors(Some(pid), |pid| parents.get(pid).copied())
            .take(parents.len())
            .any(|ancestor| marked.contains(&ancestor))
    };
    parents.keys().copied().filter(belongs).collect()
}

fn is_marked(pid: u32, marks: &[Mark]) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let arguments: Vec<_> = arguments.split(|&byte| byte == 0).collect();
    arguments
        .windows(2)
        .any(|pair| marks.iter().any(|(flag, value)| pair == [flag.as_bytes(), value.as_bytes()]))
}

/// RootlessKit removes its state directory unless it was killed. The path can be the user's choice,
/// so only RootlessKit's own names in it are touched.
fn remove_state_dir(state_dir: &Path) {
    let names = [
        "api.sock",
        "child_pid",
        "hosts",
        "lock",
        "netns",
        "resolv.conf",
        ".bp-ready.pipe",
        ".bp.sock",
        ".s4nn.sock",
    ];
    for name in names {
        let path = state_dir.join(name);
        tell(path.display(), files::remove(&path));
    }
    // Something else in it is not ours to judge.
    let _ = fs::remove_dir(state_dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_engines_processes_are_ended_and_no_others() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = EngineDir::at(temporary.path().join("engine"));
        let path = dir.path().to_str().unwrap();
        let sh = |script: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script, "sh"]).args(arguments).spawn().unwrap()
        };
        let mut other = sh("sleep 60; :", &["--dir=", path]);
        let mut ours = sh("sleep 61 & wait; exit 1", &["--dir", path]);
        assert!(find(&marks(&dir, None)).contains(&ours.id()));
        // The zombie stays until it is waited for, which is the parent's business.
        end_processes(&dir, None).await.unwrap();
        assert!(find(&marks(&dir, None)).is_empty());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        process::kill(other.id());
        other.wait().unwrap();
    }

    #[test]
    fn what_cannot_be_removed_keeps_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        let state_dir = temporary.path();
        // What should be a file is none.
        fs::create_dir(state_dir.join("api.sock")).unwrap();
        fs::write(state_dir.join("lock"), "").unwrap();
        remove_state_dir(state_dir);
        assert!(state_dir.join("api.sock").exists());
        assert!(!state_dir.join("lock").exists());
    }
}
