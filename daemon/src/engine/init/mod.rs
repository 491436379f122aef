//! `rootlessd engine-init`: the parent of containerd and dockerd, inside RootlessKit's namespaces.
//!
//! It prepares the namespaces, starts containerd and then dockerd on the listening socket, reaps
//! what is orphaned, tells rootlessd on its [control socket](control) how it is, and stops
//! everything in order. A part that dies takes all of it along: it writes down who was the first.

pub mod client;
mod control;
mod namespaces;
mod parts;
mod port_desk;
mod port_proxy;
mod stop;

use std::{io, os::fd::OwnedFd, process::ExitCode, time::Duration};

use rootlessd_api::{Death, Error, Part, Phase};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

pub use control::{InitStatus, PROTOCOL, Stage};
pub use port_desk::PortsStatus;

use self::{parts::Running, port_desk::PortDesk};
use super::{dir::EngineDir, shim, sweep};
use crate::{
    docker_config,
    plan::Plan,
    sys::{
        children::{Children, Exit},
        fd, files,
        notify::Notifications,
    },
};

/// What the control socket asks for.
#[derive(Debug)]
pub enum Request {
    /// Stop everything.
    Stop {
        /// Within this time.
        timeout: Duration,
        /// Whether there are no containers, and dockerd stands still.
        idle: bool,
    },
    /// Read the user's `daemon.json` again.
    Reload(oneshot::Sender<Result<(), Error>>),
}

/// What can happen while the engine runs.
enum Event {
    Exited(Part, Exit),
    Ready(Part),
    Asked(Request),
}

/// Why the engine does not go on as it was.
enum Interruption {
    Stop { timeout: Duration, idle: bool },
    Died(Death),
}

struct Init {
    dir: EngineDir,
    plan: Plan,
    listener: OwnedFd,
    children: Children,
    notifications: Notifications,
    terminate: Signal,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<InitStatus>,
    ports: PortDesk,
    containerd: Option<Running>,
    dockerd: Option<Running>,
}

/// Run containerd and dockerd until they are asked to stop, or one of them dies.
pub async fn run(args: shim::ShimArgs) -> ExitCode {
    let dir = EngineDir::at(args.dir);
    let mut init = match Init::new(dir.clone()) {
        Ok(init) => init,
        Err(error) => {
            let text = format!("the namespaces cannot be prepared: {error}");
            tracing::error!(rootlessd_part = Part::Init.as_str(), "{text}");
            let _ = dir.write_death(&shim::death(Part::Init, None, text, vec![]));
            return ExitCode::FAILURE;
        }
    };
    let interruption = match init.start().await {
        Ok(never) => match never {},
        Err(interruption) => interruption,
    };
    match interruption {
        Interruption::Stop { timeout, idle } => {
            init.stop(timeout, idle).await;
            ExitCode::SUCCESS
        }
        Interruption::Died(death) => {
            tracing::error!(rootlessd_part = death.part.as_str(), "{}", death.text);
            let _ = dir.write_death(&death);
            // No orderly stop: what is left would ask for what has died.
            init.children.end_all().await;
            ExitCode::FAILURE
        }
    }
}

impl Init {
    fn new(dir: EngineDir) -> io::Result<Self> {
        let listener = fd::take(shim::LISTEN_FD)?;
        let plan = dir.read_plan()?.ok_or_else(|| io::Error::other("there is no plan"))?;
        namespaces::prepare(&plan)?;
        // engine-shim holds the engine's lock, so nothing of the last one lives.
        sweep::remove_runtime_files(&plan.docker);
        let (ask, requests) = mpsc::channel(8);
        let (status, following) = watch::channel(InitStatus::default());
        let ports = PortDesk::default();
        control::serve(&dir, listener.try_clone()?, following, ports.clone(), ask)?;
        if plan.ask_ports {
            port_proxy::serve(&dir.port_proxy(), &plan, &ports)?;
        }
        Ok(Self {
            notifications: Notifications::listen(&dir.notify_socket())?,
            dir,
            plan,
            listener,
            children: Children::adopt_orphans()?,
            terminate: signal(SignalKind::terminate())?,
            requests,
            status,
            ports,
            containerd: None,
            dockerd: None,
        })
    }

    /// Start both parts, and go on until something interrupts.
    async fn start(&mut self) -> Result<std::convert::Infallible, Interruption> {
        self.begin(Phase::Containerd);
        let containerd = parts::start_containerd(self);
        self.containerd = Some(started(Part::Containerd, containerd)?);
        self.tell_pids();
        self.until_ready(Part::Containerd).await?;

        self.begin(Phase::Dockerd);
        self.write_dockerd_config(None).map_err(|error| {
            Interruption::Died(shim::death(Part::Config, None, error.message, vec![]))
        })?;
        let dockerd = parts::start_dockerd(self);
        self.dockerd = Some(started(Part::Dockerd, dockerd)?);
        self.tell_pids();
        self.until_ready(Part::Dockerd).await?;

        self.status.send_modify(|status| status.stage = Stage::Ready);
        loop {
            self.go_on().await?;
        }
    }

    async fn until_ready(&mut self, awaited: Part) -> Result<(), Interruption> {
        while self.go_on().await? != Some(awaited) {}
        Ok(())
    }

    /// Take the next event: a part that is ready now, if that is what it is, or an interruption.
    async fn go_on(&mut self) -> Result<Option<Part>, Interruption> {
        match self.next().await {
            Event::Ready(part) => Ok(Some(part)),
            Event::Exited(part, exit) => {
                let log = match self.slot(part).take() {
                    Some(running) => running.last_lines().await,
                    None => vec![],
                };
                let text = format!("{part} {}", exit.describe());
                Err(Interruption::Died(shim::death(part, Some(exit), text, log)))
            }
            Event::Asked(Request::Stop { timeout, idle }) => {
                Err(Interruption::Stop { timeout, idle })
            }
            Event::Asked(Request::Reload(reply)) => {
                // Whoever stopped waiting needs no answer.
                let _ = reply.send(self.reload());
                Ok(None)
            }
        }
    }

    /// Wait for whatever comes first. Orphans are reaped on the way.
    async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                exit = self.children.next() => {
                    if let Some(part) = self.part_of(exit.pid) {
                        return Event::Exited(part, exit);
                    }
                }
                pid = self.notifications.ready() => {
                    // Only from the processes that we started: a container that got hold of the
                    // socket has nothing to say here.
                    if let Some(part) = self.part_of(pid) {
                        return Event::Ready(part);
                    }
                }
                Some(request) = self.requests.recv() => return Event::Asked(request),
                _ = self.terminate.recv() => {
                    let timeout = self.plan.stop_timeout;
                    return Event::Asked(Request::Stop { timeout, idle: false });
                }
            }
        }
    }

    fn part_of(&self, pid: i32) -> Option<Part> {
        let is = |running: &Option<Running>| running.as_ref().is_some_and(|it| it.pid() == pid);
        if is(&self.containerd) {
            Some(Part::Containerd)
        } else if is(&self.dockerd) {
            Some(Part::Dockerd)
        } else {
            None
        }
    }

    /// Where a part is kept while it runs.
    const fn slot(&mut self, part: Part) -> &mut Option<Running> {
        match part {
            Part::Containerd => &mut self.containerd,
            _ => &mut self.dockerd,
        }
    }

    fn begin(&self, phase: Phase) {
        self.status.send_modify(|status| status.phase = phase);
    }

    fn tell_pids(&self) {
        let pid = |running: &Option<Running>| {
            running.as_ref().and_then(|it| u32::try_from(it.pid()).ok())
        };
        self.status.send_modify(|status| {
            status.containerd = pid(&self.containerd);
            status.dockerd = pid(&self.dockerd);
        });
    }

    /// Write dockerd's configuration anew from the user's and ours.
    fn write_dockerd_config(&self, live_restore: Option<bool>) -> Result<(), Error> {
        let user = docker_config::read(&self.plan.docker.user_config)?;
        let merged = docker_config::merge(&user, &self.plan.docker, live_restore)?;
        files::replace_json(&self.dir.dockerd_config(), &merged).map_err(|error| {
            let path = self.dir.dockerd_config();
            Error::new(
                rootlessd_api::ErrorKind::Internal,
                format!("{} cannot be written: {error}", path.display()),
            )
        })
    }

    fn reload(&mut self) -> Result<(), Error> {
        // rootlessd may have changed its mind about this meanwhile.
        if let Ok(Some(plan)) = self.dir.read_plan() {
            self.plan.docker.live_restore = plan.docker.live_restore;
        }
        self.write_dockerd_config(None)?;
        if let Some(dockerd) = &self.dockerd {
            dockerd.signal(nix::sys::signal::Signal::SIGHUP);
        }
        Ok(())
    }
}

fn started(part: Part, result: io::Result<Running>) -> Result<Running, Interruption> {
    result.map_err(|error| {
        let text = format!("{part} cannot be started: {error}");
        Interruption::Died(shim::death(part, None, text, vec![]))
    })
}
