//! `rootlessd engine-init`: the parent of containerd and dockerd, inside RootlessKit's namespaces.
//!
//! It prepares the namespaces, starts containerd and then dockerd on the listening socket, reaps
//! what is orphaned, tells rootlessd on its [control socket](control) how it is, and stops
//! everything in order. A part that dies is [replaced](mend), unless it dies while the engine comes
//! up, or too often: then it takes all of it along, and who was the first is written down.

pub mod client;
mod control;
mod mend;
mod namespaces;
mod network_probe;
mod parts;
mod port_desk;
mod port_proxy;
mod port_table;
mod stop;

use std::{collections::BTreeSet, io, os::fd::OwnedFd, process::ExitCode, time::Duration};

use futures_util::future::OptionFuture;
use rootlessd_api::{Death, Error, Part, Phase};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::Instant,
};

pub use control::{InitStatus, PROTOCOL, Stage};
pub use port_desk::PortsStatus;
pub use port_proxy::WAYS;
pub use port_table::Way;

use self::{mend::Mending, parts::Running, port_desk::PortDesk, port_proxy::PortProxy};
use super::{dir::EngineDir, shim, sweep, userland_proxy};
use crate::{
    docker_config,
    plan::Plan,
    sys::{
        children::{Children, Exit},
        clock::{self, Alarm},
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
    /// Replace parts under the containers; the answer comes when the new ones are ready.
    Replace {
        /// containerd, dockerd or both.
        parts: BTreeSet<Part>,
        /// Why, if that is not just somebody's wish.
        why: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// What can happen while the engine runs.
enum Event {
    Exited(Part, Exit),
    Ready(Part),
    Asked(Request),
    /// It is time for something.
    Due,
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
    port_proxy: PortProxy,
    /// The docker-proxy that the user chose.
    chosen_proxy: Option<String>,
    containerd: Option<Running>,
    dockerd: Option<Running>,
    mending: Mending,
    /// Whether containers are to outlive dockerd, by its configuration as it was last written.
    live_restore: bool,
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
        let port_proxy = PortProxy::serve(&dir.port_proxy(), &plan, &ports)?;
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
            port_proxy,
            chosen_proxy: None,
            containerd: None,
            dockerd: None,
            mending: Mending::default(),
            live_restore: false,
        })
    }

    /// Start both parts, and go on until something interrupts.
    async fn start(&mut self) -> Result<std::convert::Infallible, Interruption> {
        self.begin(Phase::Containerd);
        let containerd = parts::start_containerd(self);
        self.containerd = Some(started(Part::Containerd, containerd)?);
        self.tell_parts();
        self.until_ready(Part::Containerd).await?;

        self.begin(Phase::Dockerd);
        self.write_dockerd_config(None).map_err(|error| {
            Interruption::Died(shim::death(Part::Config, None, error.message, vec![]))
        })?;
        let dockerd = parts::start_dockerd(self);
        self.dockerd = Some(started(Part::Dockerd, dockerd)?);
        self.tell_parts();
        self.until_ready(Part::Dockerd).await?;

        self.status.send_modify(|status| status.stage = Stage::Ready);
        spawn_local(network_probe::watch(self.dir.clone(), self.plan.clone()));
        loop {
            self.mend().await?;
            self.go_on().await?;
        }
    }

    async fn until_ready(&mut self, awaited: Part) -> Result<(), Interruption> {
        while self.go_on().await? != Some(awaited) {}
        Ok(())
    }

    /// Take the next event: a part that is ready now, if that is what it is, or an interruption.
    async fn go_on(&mut self) -> Result<Option<Part>, Interruption> {
        let event = self.next().await;
        self.take(event).await
    }

    /// Take an event, as [`Self::go_on`] does.
    async fn take(&mut self, event: Event) -> Result<Option<Part>, Interruption> {
        match event {
            Event::Ready(part) => {
                self.take_ready(part);
                Ok(Some(part))
            }
            Event::Exited(part, exit) => {
                self.take_exit(part, exit).await?;
                Ok(None)
            }
            // A second one is none.
            Event::Asked(Request::Stop { .. }) if self.status.borrow().stage == Stage::Stopping => {
                Ok(None)
            }
            Event::Asked(Request::Stop { timeout, idle }) => {
                Err(Interruption::Stop { timeout, idle })
            }
            Event::Asked(Request::Reload(reply)) => {
                // Whoever stopped waiting needs no answer.
                let _ = reply.send(self.reload());
                Ok(None)
            }
            Event::Asked(Request::Replace { parts, why, reply }) => {
                self.replace(parts, why, reply);
                Ok(None)
            }
            Event::Due => Ok(None),
        }
    }

    /// Wait for whatever comes first. Orphans are reaped on the way.
    async fn next(&mut self) -> Event {
        let (due, pause) = (self.due(), self.mending.pause());
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
                () = clock::until(due) => return Event::Due,
                Some(()) = OptionFuture::from(pause.map(Alarm::rings)) => return Event::Due,
            }
        }
    }

    /// When something has to be done if nothing happens.
    fn due(&self) -> Option<Instant> {
        let parts = [&self.containerd, &self.dockerd].into_iter().flatten();
        parts.filter_map(|running| running.due).min()
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

    fn tell_parts(&self) {
        let pid = |running: &Option<Running>| {
            running.as_ref().and_then(|it| u32::try_from(it.pid()).ok())
        };
        let file = |running: &Option<Running>| running.as_ref().and_then(|it| it.program);
        self.status.send_modify(|status| {
            status.containerd = pid(&self.containerd);
            status.dockerd = pid(&self.dockerd);
            status.containerd_file = file(&self.containerd);
            status.dockerd_file = file(&self.dockerd);
        });
    }

    /// Write dockerd's configuration anew from the user's and ours.
    fn write_dockerd_config(&mut self, live_restore: Option<bool>) -> Result<(), Error> {
        let user = docker_config::read(&self.plan.docker.user_config)?;
        let mut merged = docker_config::merge(&user, &self.plan.docker, live_restore)?;
        if userland_proxy::is_wanted(&user, &self.plan.dockerd_flags) {
            self.chosen_proxy =
                user.get(userland_proxy::KEY).and_then(|it| it.as_str()).map(str::to_owned);
            merged[userland_proxy::KEY] = self.dir.userland_proxy().to_string_lossy().into();
        }
        // For the time of a stop it is nobody's wish.
        if live_restore.is_none() {
            self.live_restore = merged["live-restore"] == true;
        }
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
        match &mut self.dockerd {
            Some(dockerd) if dockerd.ready => dockerd.signal(nix::sys::signal::Signal::SIGHUP),
            // It would die of the signal.
            Some(dockerd) => dockerd.stale = true,
            None => {}
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
