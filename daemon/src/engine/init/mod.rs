//! `rootlessd engine-init`: the parent of containerd and dockerd, inside RootlessKit's namespaces.
//!
//! It prepares the namespaces, starts containerd and then dockerd on the listening socket, reaps
//! what is orphaned, tells rootlessd on its [control socket](control) how it is, and stops
//! everything in order. A part that dies is [replaced](mend), unless it dies while the engine comes
//! up, or too often: then it takes all of it along, and who was the first is written down. All that is
//! decided by the [machine]; the rest does it.

pub mod client;
mod config;
mod containers;
mod control;
mod hung;
mod kit;
pub(crate) mod machine;
mod mend;
mod namespaces;
mod network_probe;
mod part_probe;
mod parts;
mod port_desk;
mod port_proxy;
mod port_table;
mod room;
mod stop;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use futures_util::future::{LocalBoxFuture, OptionFuture};
use rootlessd_api::{Death, Error, Part};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub use control::{InitStatus, PROTOCOL, Stage};
pub use port_desk::PortsStatus;
pub use port_proxy::WAYS;
pub use port_table::Way;

use self::{
    control::Control,
    machine::{Machine, Timer},
    part_probe::{Attention, PartProbe},
    parts::Running,
    port_desk::PortDesk,
    port_proxy::PortProxy,
};
use super::{dir::EngineDir, shim, sweep};
use crate::{
    plan::Plan,
    sys::{
        children::{Children, Exit},
        clock::{self, Alarm},
        fd,
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
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Replace a part that does not answer.
    Hung {
        /// containerd or dockerd.
        part: Part,
        /// Which process of it.
        pid: u32,
        /// How it was found to hang.
        why: String,
        /// Whether containers run.
        containers: bool,
    },
    /// A part that was found to hang answers.
    Answers {
        /// containerd or dockerd.
        part: Part,
        /// Which process of it.
        pid: u32,
    },
}

/// What can happen while the engine runs.
enum Happening {
    Exited(Part, Exit),
    Ready(Part),
    Asked(Request),
    Over(Timer),
    LiveRestoreEnded,
}

/// How the engine comes to its end.
enum End {
    Stopped,
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
    configs: config::Configs,
    /// Decides.
    machine: Machine,
    containerd: Option<Running>,
    dockerd: Option<Running>,
    timers: BTreeMap<Timer, Instant>,
    /// When the next part may be started, if it has to wait.
    pause: Option<Alarm>,
    /// Who is lost, and since when.
    lost: BTreeMap<Part, Instant>,
    /// Who waits until nothing is lost.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Until when a stop may take.
    stop_by: Instant,
    /// dockerd's reading of what it is to do with containers when it ends.
    reading: OptionFuture<LocalBoxFuture<'static, ()>>,
    /// Until it is at work.
    part_probe: Option<PartProbe>,
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
    match init.live().await {
        End::Stopped => {
            init.children.end_all().await;
            // From in here, where what belongs to the containers' users can be removed too.
            sweep::remove_runtime_files(&init.plan.docker);
            ExitCode::SUCCESS
        }
        End::Died(death) => {
            tracing::error!(rootlessd_part = death.part.as_str(), "{}", death.text);
            let _ = dir.write_death(&death);
            // No orderly stop: what is left would ask for what has died. engine-shim sees to one that waits for
            // a disk, and cannot be ended.
            let _ = tokio::time::timeout(shim::END_TIMEOUT, init.children.end_all()).await;
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
        let children = Children::adopt_orphans()?;
        let attention = Rc::new(Attention::default());
        let part_probe = PartProbe::of(
            &dir,
            &plan,
            &status,
            Rc::clone(&attention),
            children.oom_kills(),
            ask.clone(),
        );
        let control = Control {
            listener: listener.try_clone()?,
            status: following,
            ports: ports.clone(),
            attention,
            requests: ask,
        };
        control.serve(&dir)?;
        let port_proxy = PortProxy::serve(&dir.port_proxy(), &plan, &ports)?;
        Ok(Self {
            notifications: Notifications::listen(&dir.notify_socket())?,
            dir,
            plan,
            listener,
            children,
            terminate: signal(SignalKind::terminate())?,
            requests,
            status,
            ports,
            port_proxy,
            configs: config::Configs::default(),
            machine: Machine::default(),
            containerd: None,
            dockerd: None,
            timers: BTreeMap::new(),
            pause: None,
            lost: BTreeMap::new(),
            waiting: vec![],
            stop_by: Instant::now(),
            reading: None.into(),
            part_probe: Some(part_probe),
        })
    }

    /// From the start of the parts to the end of them.
    async fn live(&mut self) -> End {
        let mut end = self.take(machine::Event::Begun, None).await;
        loop {
            if let Some(end) = end {
                return end;
            }
            let happening = self.next().await;
            end = self.learn(happening).await;
        }
    }

    /// Wait for whatever comes first. Orphans are reaped on the way.
    async fn next(&mut self) -> Happening {
        let next = self.timers.iter().min_by_key(|(_, moment)| **moment);
        let (timer, due) = next.map(|(timer, moment)| (*timer, *moment)).unzip();
        loop {
            tokio::select! {
                exit = self.children.next() => {
                    if let Some(part) = self.part_of(exit.pid) {
                        return Happening::Exited(part, exit);
                    }
                }
                pid = self.notifications.ready() => {
                    // Only from the processes that we started: a container that got hold of the
                    // socket has nothing to say here.
                    if let Some(part) = self.part_of(pid) {
                        return Happening::Ready(part);
                    }
                }
                Some(request) = self.requests.recv() => return Happening::Asked(request),
                _ = self.terminate.recv() => {
                    let timeout = self.plan.stop_timeout;
                    return Happening::Asked(Request::Stop { timeout, idle: false });
                }
                Some(()) = &mut self.reading => {
                    self.reading = None.into();
                    return Happening::LiveRestoreEnded;
                }
                () = clock::until(due) => {
                    if let Some(timer) = timer {
                        return Happening::Over(timer);
                    }
                }
                Some(()) = OptionFuture::from(self.pause.map(Alarm::rings)) => {
                    self.pause = None;
                    return Happening::Over(Timer::Pause);
                }
            }
        }
    }

    /// Take what happened.
    async fn learn(&mut self, happening: Happening) -> Option<End> {
        match happening {
            Happening::Ready(part) => {
                if part == Part::Dockerd {
                    // By now it has published again what it publishes.
                    self.port_proxy.take_back();
                    self.configs.prove();
                }
                self.take(machine::Event::Ready(part), None).await
            }
            Happening::Exited(part, exit) => {
                let (hung, log) = match self.slot(part).take() {
                    Some(mut running) => (running.hung.take(), running.last_lines().await),
                    None => (None, vec![]),
                };
                let text = match hung {
                    Some(why) => format!("{part} was ended, since {why}"),
                    None => format!("{part} {}", exit.describe()),
                };
                let death = shim::death(part, Some(exit), text, log);
                let fault = mend::fault_of(&death);
                if part == Part::Dockerd
                    && fault == machine::Fault::Own
                    && self.machine.awaits_dockerd()
                {
                    self.configs.refuse();
                }
                let event = machine::Event::Exited(part, fault);
                self.take(event, Some(death)).await
            }
            Happening::Over(timer) => {
                self.timers.remove(&timer);
                if let Timer::Part(part) = timer {
                    tracing::warn!(rootlessd_part = part.as_str(), "{part} takes too long: killed");
                }
                self.take(machine::Event::Over(timer), None).await
            }
            Happening::LiveRestoreEnded => self.take(machine::Event::LiveRestoreEnded, None).await,
            Happening::Asked(request) => self.obey(request).await,
        }
    }

    async fn obey(&mut self, request: Request) -> Option<End> {
        let is_stopping = self.machine.stage() == Stage::Stopping;
        match request {
            // A second stop is none. A reload would take back what dockerd was told for the stop; that
            // it comes too late is told by no answer.
            Request::Stop { .. } | Request::Reload(_) if is_stopping => None,
            Request::Stop { timeout, idle } => {
                self.stop_by = Instant::now() + timeout;
                self.take(machine::Event::Stop { idle }, None).await
            }
            Request::Reload(reply) => {
                let written = self.reload().await;
                let is_written = written.is_ok();
                // Whoever stopped waiting needs no answer.
                let _ = reply.send(written);
                if !is_written {
                    return None;
                }
                self.take(machine::Event::Configured, None).await
            }
            Request::Replace { parts, reply } => {
                self.waiting.push(reply);
                self.take(machine::Event::Replace(parts), None).await
            }
            Request::Hung { part, pid, why, containers } => {
                self.running(part, pid)?;
                self.take(machine::Event::Hung { part, why, containers }, None).await
            }
            Request::Answers { part, pid } => {
                let since = self.running(part, pid)?.left.take()?;
                self.tell_answers(part, since);
                None
            }
        }
    }

    /// A part, if that is the process that is meant.
    fn running(&mut self, part: Part, pid: u32) -> Option<&mut Running> {
        self.slot(part).as_mut().filter(|it| it.pid().unsigned_abs() == pid)
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

    /// Tell rootlessd how it is.
    fn publish(&self) {
        let pid = |running: &Option<Running>| {
            running.as_ref().and_then(|it| u32::try_from(it.pid()).ok())
        };
        let file = |running: &Option<Running>| running.as_ref().and_then(|it| it.program);
        let status = |last: &InitStatus| InitStatus {
            protocol: PROTOCOL,
            complaints: last.complaints,
            complaints_of: last.complaints_of,
            stage: self.machine.stage(),
            phase: self.machine.phase(),
            containerd: pid(&self.containerd),
            dockerd: pid(&self.dockerd),
            rootlesskit: kit::Kit::ours().map(|kit| kit.parent),
            containerd_file: file(&self.containerd),
            dockerd_file: file(&self.dockerd),
        };
        self.status.send_if_modified(|last| {
            let status = status(last);
            std::mem::replace(last, status) != status
        });
    }
}
