//! What the [course](super::course) of an engine says, done.

use std::{collections::VecDeque, time::Duration};

use nix::sys::signal::Signal;
use rootlessd_api::{Part, Phase};
use tokio::time::{Instant, timeout};

use super::{
    super::{
        Event, clients,
        course::{self, Effect, Limit},
        idle::{Verdict, Watcher},
        shortages, takeover,
    },
    Followed,
};
use crate::{
    engine::{processes, shim},
    sockets, sys,
};

/// What a stop may take beyond its time before everything is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// What an engine may take to stop that is too young to be asked: it has no containers yet, and
/// RootlessKit was seen to hang on a signal that came too early.
const YOUNG_GRACE: Duration = Duration::from_secs(2);
/// What an engine that is killed may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(5);

impl Followed<'_> {
    /// Take what looking whether anybody needs it came to.
    pub(super) async fn judge(&mut self, looked: Verdict) {
        while self.replacing.try_join_next().is_some() {}
        let replacing = !self.replacing.is_empty();
        let verdict = match &looked {
            Verdict::Quiet(_) => course::Verdict::Quiet,
            Verdict::Idle(_) => course::Verdict::Idle,
            Verdict::Needed => course::Verdict::Needed,
        };
        self.looked = Some(looked);
        self.take(course::Event::Looked { verdict, replacing }).await;
        // A dockerd that is not to be stopped goes on.
        self.looked = None;
    }

    /// Let the course take an event, and do what it says.
    pub(super) async fn take(&mut self, event: course::Event) {
        let mut effects: VecDeque<_> = self.course.next(event).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Tell(phase) => self.world.tell(Event::Phase(phase)).await,
                Effect::Time(Limit::Stop) => self.deadline = Some(self.stop_by + STOP_GRACE),
                Effect::Time(Limit::Young) => {
                    self.deadline = Some(self.stop_by.min(Instant::now() + YOUNG_GRACE));
                }
                Effect::EndTime => self.deadline = None,
                Effect::Probe => {
                    self.asking.spawn_local(self.probe.clone().go_on());
                    let docker = &self.engine.plan.docker;
                    let shortages = shortages::watch(docker, self.world, self.probe.clone());
                    self.asking.spawn_local(shortages);
                    self.attend_clients();
                }
                Effect::EndProbe => self.asking.shutdown().await,
                Effect::Look => self.watch_for_idleness(),
                Effect::MakeSure => {
                    if let Some(Verdict::Quiet(watcher)) = self.looked.take() {
                        self.looking.spawn_local(watcher.make_sure());
                    }
                }
                Effect::TellIdle => {
                    if let Some(Verdict::Idle(frozen)) = self.looked.take() {
                        self.frozen = Some(frozen);
                    }
                    self.world.tell(Event::Idle).await;
                }
                Effect::Compare => self.compare(),
                Effect::EndTasks => {
                    self.asking.abort_all();
                    self.replacing.abort_all();
                    self.looking.abort_all();
                }
                Effect::AskToStop => {
                    if !self.ask_to_stop().await {
                        effects.extend(self.course.next(course::Event::NotHeard));
                    }
                }
                Effect::Signal => drop(self.engine.shim.signal(Signal::SIGTERM)),
                Effect::WriteDeath(phase) => self.write_death(phase),
                Effect::WriteHang => {
                    let text =
                        "engine-init does not answer, and so nobody mends dockerd".to_owned();
                    let _ =
                        self.world.dir().write_death(&shim::death(Part::Init, None, text, vec![]));
                }
                Effect::Kill => self.kill().await,
            }
        }
    }

    /// What has to be found out about an engine that an earlier rootlessd started.
    fn compare(&mut self) {
        let ours = sockets::inode(&self.world.listener);
        let events = self.world.events.clone();
        let init = self.init_client();
        self.asking.spawn_local(takeover::compare_sockets(init, ours, events.clone()));
        self.asking.spawn_local(takeover::tell_granted(self.world.helper.clone(), events));
    }

    /// Without a listener that the kernel tells of, its clients cannot be told from others'.
    fn attend_clients(&mut self) {
        if let Some(listener) = sockets::inode(&self.world.listener) {
            self.asking.spawn_local(clients::attend(listener, self.probe.clone()));
        }
    }

    fn watch_for_idleness(&mut self) {
        let shim = self.engine.shim.identity().pid;
        if let Some(watcher) = Watcher::of(self.world, shim, &self.engine.plan.docker) {
            self.looking.spawn_local(watcher.until_quiet());
        }
    }

    /// Whether engine-init hears it.
    async fn ask_to_stop(&mut self) -> bool {
        let left = self.stop_by.saturating_duration_since(Instant::now());
        let heard = self.init_client().stop(left, self.frozen.as_ref()).await.is_ok();
        if !heard {
            self.frozen = None;
        }
        heard
    }

    fn write_death(&self, phase: Phase) {
        let limit = self.start_timeout;
        let text = format!("the start did not get beyond its phase {phase} within {limit:?}");
        let part = if phase == Phase::Dockerd { Part::Dockerd } else { Part::Init };
        let _ = self.world.dir().write_death(&shim::death(part, None, text, vec![]));
    }

    /// End an engine that does not end when it is asked to. Its shim removes the rest, or is ended
    /// too.
    async fn kill(&self) {
        if let Some(pid) = processes::rootlesskit(self.engine.shim.identity().pid) {
            sys::process::kill(pid);
            if timeout(KILL_GRACE, self.engine.shim.gone()).await.is_ok() {
                return;
            }
        }
        let _ = self.engine.shim.signal(Signal::SIGKILL);
    }
}
