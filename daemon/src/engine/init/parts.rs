//! containerd and dockerd as processes.

use std::{cell::RefCell, collections::BTreeMap, io, path::Path, rc::Rc, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use rootlessd_api::{Part, Port, Protocol};
use tokio::{task::JoinHandle, time::Instant};

use super::{Init, containers::Containers};
use crate::{
    engine::{
        exec,
        log::{self, Lines, Tail},
        shortage::Shortage,
        userland_proxy,
    },
    plan::DockerPlan,
    rootlesskit::port,
    sys::{
        children,
        files::{self, FileId},
    },
};

/// How long to wait for the rest of what a dead part wrote. Somebody else may hold its pipe open.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(500);

/// How often complaints of one thing are passed on at most.
const COMPLAINTS_INTERVAL: Duration = Duration::from_millis(500);

/// A part that runs.
#[derive(Debug)]
pub struct Running {
    /// Its pid, as a child of this process.
    pub pid: Pid,
    tail: Rc<RefCell<Tail>>,
    pump: JoinHandle<()>,
    /// Which file its program was when it was started.
    pub program: Option<FileId>,
    /// Why it was found to hang, and ended.
    pub hung: Option<String>,
    /// Since when it is told that it hangs and is left, until it answers again.
    pub left: Option<Instant>,
}

impl Running {
    /// Its pid.
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Send it a signal.
    pub fn signal(&self, signal: Signal) {
        children::send(self.pid, signal);
    }

    /// The last lines it wrote, once it is dead.
    pub async fn last_lines(self) -> Vec<String> {
        let _ = tokio::time::timeout(LAST_LINES_TIMEOUT, self.pump).await;
        self.tail.borrow().lines()
    }
}

/// Start containerd, on the paths where dockerd would start its own.
pub(super) fn start_containerd(init: &Init) -> io::Result<Running> {
    let config = init.dir.containerd_config();
    std::fs::create_dir_all(init.plan.docker.containerd_dir())?;
    Containers::of(&init.plan.docker).prepare()?;
    files::replace(&config, containerd_config(&init.plan.docker).as_bytes())?;
    let arguments = ["--config".into(), config.into_os_string()];
    start(init, Part::Containerd, &init.plan.containerd, &arguments, None)
}

/// Start dockerd on the listening socket, with the merged configuration.
pub(super) fn start_dockerd(init: &Init) -> io::Result<Running> {
    let mut arguments = vec!["--config-file".into(), init.dir.dockerd_config().into_os_string()];
    arguments.extend(init.plan.dockerd_flags.iter().map(Into::into));
    let listener = init.listener.try_clone()?;
    start(init, Part::Dockerd, &init.plan.dockerd, &arguments, Some(listener))
}

fn start(
    init: &Init,
    part: Part,
    program: &Path,
    arguments: &[std::ffi::OsString],
    listener: Option<std::os::fd::OwnedFd>,
) -> io::Result<Running> {
    let (mut lines, stdout, stderr) = Lines::pipe()?;
    // Before it runs: a file that comes in between is one too many, not one too few.
    let file = FileId::at(program);
    let mut command = exec::command(program, listener)?;
    command
        .args(arguments)
        .env("NOTIFY_SOCKET", init.dir.notify_socket())
        .stdout(stdout)
        .stderr(stderr);
    // Of the two, dockerd and what it starts publish ports.
    if part == Part::Dockerd {
        command.env("ROOTLESSKIT_STATE_DIR", init.dir.port_proxy());
        let config = init.configs.wanted.as_ref();
        if let Some(chosen) = config.and_then(|config| config.chosen_proxy.as_ref()) {
            command.env(userland_proxy::CHOSEN, chosen);
        }
    }
    let pid = init.children.spawn(&mut command)?;
    drop(command);
    let tail = Rc::new(RefCell::new(Tail::default()));
    let filled = Rc::clone(&tail);
    // Where the proxy asks, it knows better.
    let ports = (!init.plan.ask_ports).then(|| init.ports.clone());
    let status = init.status.clone();
    let mut complained: BTreeMap<Shortage, Instant> = BTreeMap::new();
    let pump = tokio::task::spawn_local(async move {
        while let Some(line) = lines.next().await {
            log::forward(part, &line);
            let is_new = |it: &Shortage| {
                complained.get(it).is_none_or(|last| last.elapsed() >= COMPLAINTS_INTERVAL)
            };
            if let Some(shortage) = Shortage::in_line(&line).filter(is_new) {
                complained.insert(shortage, Instant::now());
                status.send_modify(|status| status.complain(Some(shortage)));
            }
            if let Some(ports) = &ports
                && let Some(number) = port::refused_in(&line)
            {
                // The line does not tell the protocol; nearly always it is this one.
                ports.note(Port { protocol: Protocol::Tcp, number });
            }
            filled.borrow_mut().push(line);
        }
    });
    Ok(Running { pid, tail, pump, program: file, hung: None, left: None })
}

/// The configuration that dockerd writes for its own containerd, as far as it matters: the same
/// root and state, no CRI. Version 2 is understood by containerd 1.4 to 2.x.
fn containerd_config(docker: &DockerPlan) -> String {
    let text = |path: std::path::PathBuf| toml::Value::from(path.to_string_lossy().into_owned());
    let mut grpc = toml::Table::new();
    grpc.insert("address".into(), text(docker.containerd_socket()));
    let mut config = toml::Table::new();
    config.insert("version".into(), 2.into());
    config.insert("root".into(), text(docker.containerd_root()));
    config.insert("state".into(), text(docker.containerd_state()));
    config.insert("disabled_plugins".into(), vec!["io.containerd.grpc.v1.cri"].into());
    config.insert("grpc".into(), grpc.into());
    config.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_gets_the_paths_of_dockerds_own() {
        let docker = DockerPlan {
            user_config: "/h/.config/docker/daemon.json".into(),
            data_root: "/h/\"odd\"".into(),
            exec_root: "/run/user/1/docker".into(),
            pid_file: "/run/user/1/docker.pid".into(),
            socket: "/run/user/1/docker.sock".into(),
            cgroup_parent: None,
            cgroup_driver: None,
            live_restore: None,
        };
        let config: toml::Table = containerd_config(&docker).parse().unwrap();
        assert_eq!(config["root"].as_str(), Some("/h/\"odd\"/containerd/daemon"));
        assert_eq!(config["state"].as_str(), Some("/run/user/1/docker/containerd/daemon"));
        assert_eq!(
            config["grpc"]["address"].as_str(),
            Some("/run/user/1/docker/containerd/containerd.sock")
        );
    }
}
