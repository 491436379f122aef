//! What an engine is started from and with, and what is done before its start and after its end.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    process::Stdio,
};

use rootlessd_api::{Death, ErrorKind, Part, Phase, Reason, names};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, watch},
};

use super::{Event, course, follow::Engine};
use crate::{
    config::{Loaded, Reader},
    dirs::{Dirs, Environment},
    engine::{
        dir::{EngineDir, Record},
        shim::{self, ShimArgs},
        shortage::Shortage,
        sweep::{self, Remains},
    },
    helper::Helper,
    logging::LogArgs,
    plan::Plan,
    preflight::{self, Known, Unfit},
    reasons::Code,
    sys::{children::Exit, files, process::Process},
    systemd::Systemd,
};

/// What an engine is started from and with.
#[derive(Debug)]
pub struct World {
    /// The user's directories.
    pub dirs: Dirs,
    /// The environment that rootlessd was started with.
    pub environment: Environment,
    /// Where the configuration is read, at each start.
    pub reader: Reader,
    /// The configuration as it was last read.
    pub loaded: watch::Sender<Loaded>,
    /// The user's systemd, where there is one.
    pub systemd: Option<Systemd>,
    /// Who grants ports.
    pub helper: Helper,
    /// The socket that dockerd is to serve.
    pub listener: OwnedFd,
    /// Where the engine's processes log to.
    pub log: LogArgs,
    /// Where events go.
    pub events: mpsc::Sender<Event>,
    /// What the engine's programs have said about themselves.
    pub known: Known,
}

/// Why there is no engine after a launch.
pub(super) enum Failure {
    Refused(Vec<Reason>),
    Died(Death),
    Short(Vec<Reason>),
}

impl Failure {
    /// Two dockerds on one data-root would ruin it: there is no launch beside a process of the last
    /// engine, as one that waits for a disk and so cannot be ended.
    fn of_remains(remains: Remains) -> Option<Self> {
        let left = remains.left?;
        let text = format!("the last engine is not gone yet: {left}");
        Some(Self::Died(shim::death(Part::Host, None, text, vec![])))
    }

    /// What could not be seen is tried again as after a death: no person has to mend it.
    fn of_preflight(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Refused(reasons) => Self::Refused(reasons),
            Unfit::Short(reasons) => Self::Short(reasons),
            Unfit::Unknown(why) => {
                let text = format!("the machine could not be looked at: {why}");
                match Shortage::in_line(&text) {
                    Some(shortage) => Self::Short(vec![shortage.reason(&text)]),
                    None => Self::Died(shim::death(Part::Host, None, text, vec![])),
                }
            }
        }
    }
}

impl World {
    pub(super) fn dir(&self) -> EngineDir {
        EngineDir::below(&self.dirs.runtime)
    }

    pub(super) async fn tell(&self, event: Event) {
        // A supervisor that left does not need to know.
        let _ = self.events.send(event).await;
    }

    /// Start an engine. It can be dropped at any point: what it began ends by itself, or is found
    /// by [`Self::clean`].
    pub(super) async fn launch(&self) -> Result<Engine, Failure> {
        self.tell(Event::Phase(Phase::Preflight)).await;
        Failure::of_remains(self.clean().await).map_or(Ok(()), Err)?;
        let loaded = self.read_config().await.map_err(|reason| Failure::Refused(vec![reason]))?;
        let systemd = self.systemd.is_some();
        let plan = preflight::prepare(&self.dirs, &self.environment, &loaded, systemd, &self.known)
            .await
            .map_err(Failure::of_preflight)?;
        self.tell(Event::Phase(Phase::Namespaces)).await;
        match self.start_shim(plan).await {
            Ok(engine) => Ok(engine),
            Err(error) => {
                let _ = self.clean().await;
                let text = format!("the engine cannot be started: {error}");
                Err(match Shortage::of_error(&error) {
                    Some(shortage) => Failure::Short(vec![shortage.reason(&text)]),
                    None => Failure::Died(shim::death(Part::Shim, None, text, vec![])),
                })
            }
        }
    }

    async fn read_config(&self) -> Result<Loaded, Reason> {
        let loaded = self.reader.read().await.map_err(|error| {
            let reason = Code::ConfigInvalid.reason(error.message);
            Reason { remedy: error.remedy, ..reason }
        })?;
        self.loaded.send_replace(loaded.clone());
        Ok(loaded)
    }

    async fn start_shim(&self, plan: Plan) -> io::Result<Engine> {
        let dir = self.dir();
        let state_dir = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&plan.state_dir)?;
            // That of a dead one would say that this one has its namespaces, and its network helper.
            files::remove(&plan.state_dir.join("child_pid"))
        };
        let made = dir.make().and_then(|()| dir.write_plan(&plan)).and_then(|()| state_dir());
        made.map_err(|error| {
            let runtime = self.dirs.runtime.display();
            io::Error::new(error.kind(), format!("{runtime} cannot be written to: {error}"))
        })?;
        let args = ShimArgs { dir: dir.path().to_owned(), log: self.log.clone() };
        let command = shim::command(&args, &plan, self.listener.try_clone()?)?;
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let shim = Process::open(child.id().unwrap_or_default())?;
        if let Some(systemd) = &self.systemd {
            systemd.start_scope(names::ENGINE_SCOPE, names::SLICE, shim.identity().pid).await?;
            // Before it has children: containers of the last engine publish their ports at once.
            self.attach_grants().await;
        }
        dir.write_record(&Record { shim: shim.identity() })?;
        // It is where it belongs, and can be found again: now it may have children.
        let mut gate = child.stdin.take().ok_or_else(|| io::Error::other("no gate"))?;
        gate.write_all(&[1]).await?;
        Ok(Engine { plan, shim, child: Some(child) })
    }

    /// Have the new scope granted what the last one was.
    async fn attach_grants(&self) {
        match self.helper.attach_grants().await {
            Ok(ports) => self.tell(Event::Granted(ports)).await,
            Err(error) if error.kind == ErrorKind::HelperMissing => {
                tracing::debug!("no port is granted: {error}");
            }
            Err(error) => tracing::warn!("ports that were granted are not had: {error}"),
        }
    }

    /// Tell how an engine dies that is not gone yet: that takes as long as the ends of all that goes with it.
    pub(super) async fn tell_dying(&self) {
        if let Ok(Some(Death { part, text, .. })) = self.dir().read_death() {
            let text = format!("{text}, and the engine ends with it");
            self.tell(Event::Dying(Reason { part, ..Code::EngineDying.reason(text) })).await;
        }
    }

    /// Remove what an engine left, and tell how it ended. `exit`: of its first process, where it
    /// could be had.
    pub(super) async fn bury(&self, plan: &Plan, exit: Option<Exit>) {
        let remains = self.sweep(Some(plan)).await;
        let succeeded = exit.map(|exit| exit.code == Some(0));
        let died = course::is_death(remains.death.is_some(), remains.in_order, succeeded);
        let death = remains.death.or_else(|| {
            let text = match exit {
                Some(exit) => format!("engine-shim {}", exit.describe()),
                None => "engine-shim was ended before it could tell why".to_owned(),
            };
            died.then(|| shim::death(Part::Shim, exit, text, vec![]))
        });
        self.tell(death.map_or(Event::Gone, Event::of_death)).await;
    }

    /// Remove what an engine left that nobody saw end.
    pub(super) async fn clean(&self) -> Remains {
        self.sweep(None).await
    }

    async fn sweep(&self, plan: Option<&Plan>) -> Remains {
        sweep::sweep(self.systemd.as_ref(), &self.dir(), &self.dirs.runtime, plan).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_what_is_left_nothing_is_launched() {
        let remains = |left| Remains { death: None, in_order: false, left };
        assert!(Failure::of_remains(remains(None)).is_none());
        let left = Some("process 7 does not end".to_owned());
        let Some(Failure::Died(death)) = Failure::of_remains(remains(left)) else { panic!() };
        assert_eq!(death.text, "the last engine is not gone yet: process 7 does not end");
    }
}
