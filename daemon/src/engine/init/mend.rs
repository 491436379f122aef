//! Parts that died are replaced under the containers, and so are those that somebody wants replaced:
//! the namespaces, containerd's shims and what they run do not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::FutureExt;
use nix::sys::signal::Signal;
use rootlessd_api::{Death, Error, ErrorKind, Part};
use tokio::{sync::oneshot, time::Instant};

use super::{Init, Interruption, Stage, parts};
use crate::{
    engine::{
        incidents::{self, Incident},
        shim,
    },
    restart_policy::RestartPolicy,
    sys::{
        children::Exit,
        clock::{self, Alarm},
        files,
    },
};

/// How long a part may take to end that is to be replaced. Both are done in milliseconds, but dockerd
/// then waits for clients that hold a connection, such as `docker events`.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What is lost, and what is being done about it.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// When parts died, in CLOCK_BOOTTIME since boot, the newest last; only those of the window.
    deaths: Vec<Duration>,
    /// Who is not ready again, and since when.
    lost: BTreeMap<Part, Instant>,
    /// Who is to end and be replaced, and has not ended yet; and why.
    ending: BTreeMap<Part, String>,
    /// When the next one may be started, if it has to wait.
    pause: Option<Alarm>,
    /// Who waits until nothing is lost.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Mending {
    /// When there is something to be done though nothing happened.
    pub const fn pause(&self) -> Option<Alarm> {
        self.pause
    }
}

/// How long to wait before a part that died is replaced: not at all for one that had been ready,
/// else as before the start of an engine. `None`: too many died, and the engine is given up.
fn remedy(
    policy: &RestartPolicy,
    deaths: &mut Vec<Duration>,
    now: Duration,
    was_ready: bool,
) -> Option<Duration> {
    let delay = policy.count(deaths, now)?;
    Some(if was_ready { Duration::ZERO } else { delay })
}

impl Init {
    /// Do the next that has to be done so that both parts run.
    pub(super) async fn mend(&mut self) -> Result<(), Interruption> {
        let now = Instant::now();
        self.kill_overdue(now);
        self.end_next(now);
        if self.mending.pause.is_some_and(|pause| !pause.is_over()) {
            return Ok(());
        }
        self.mending.pause = None;
        if self.containerd.is_none() {
            self.start_again(Part::Containerd).await
        } else if self.dockerd.is_none() && self.may_start_dockerd() {
            self.start_again(Part::Dockerd).await
        } else {
            Ok(())
        }
    }

    /// dockerd takes longer to find a containerd that comes later than to start.
    fn may_start_dockerd(&self) -> bool {
        let is_ready = self.containerd.as_ref().is_some_and(|containerd| containerd.ready);
        is_ready && !self.mending.ending.contains_key(&Part::Containerd)
    }

    /// A part that is not ready or gone when it should be is killed: its end is a death then.
    fn kill_overdue(&mut self, now: Instant) {
        for part in [Part::Dockerd, Part::Containerd] {
            if let Some(running) = self.slot(part)
                && running.due.is_some_and(|due| due <= now)
            {
                tracing::warn!(rootlessd_part = part.as_str(), "{part} takes too long: killed");
                running.due = None;
                running.signal(Signal::SIGKILL);
            }
        }
    }

    /// Ask the next part to end that is to be replaced: dockerd first, which talks to containerd.
    fn end_next(&mut self, now: Instant) {
        for part in [Part::Dockerd, Part::Containerd] {
            if !self.mending.ending.contains_key(&part) {
                continue;
            }
            if let Some(running) = self.slot(part).as_mut().filter(|running| running.due.is_none())
            {
                running.due = Some(now + END_TIMEOUT);
                running.signal(Signal::SIGTERM);
            }
            return;
        }
    }

    async fn start_again(&mut self, part: Part) -> Result<(), Interruption> {
        let started = match part {
            Part::Containerd => parts::start_containerd(self),
            _ => {
                self.clear_after_dockerd();
                if let Err(error) = self.write_dockerd_config(None) {
                    tracing::warn!("dockerd goes on by the configuration before: {error}");
                }
                parts::start_dockerd(self)
            }
        };
        match started {
            Ok(mut running) => {
                running.due = Some(Instant::now() + self.plan.start_timeout);
                *self.slot(part) = Some(running);
                self.tell_parts();
                Ok(())
            }
            Err(error) => {
                let text = format!("{part} cannot be started again: {error}");
                self.lose(shim::death(part, None, text, vec![]), false)
            }
        }
    }

    /// Remove what a dockerd that did not end by itself leaves, and its successor stumbles over.
    fn clear_after_dockerd(&self) {
        if let Err(error) = files::remove(&self.plan.docker.pid_file) {
            tracing::warn!("{} stays: {error}", self.plan.docker.pid_file.display());
        }
        // The containers run on, and so the new one publishes the same ports.
        self.port_proxy.keep();
    }

    /// A part has ended.
    pub(super) async fn take_exit(&mut self, part: Part, exit: Exit) -> Result<(), Interruption> {
        let (was_ready, log) = match self.slot(part).take() {
            Some(running) => (running.ready, running.last_lines().await),
            None => (false, vec![]),
        };
        if let Some(why) = self.mending.ending.remove(&part) {
            self.note_loss(shim::death(part, None, format!("{part} was ended {why}"), vec![]));
            return Ok(());
        }
        let text = format!("{part} {}", exit.describe());
        self.lose(shim::death(part, Some(exit), text, log), was_ready)?;
        if part == Part::Containerd && self.live_restore {
            self.end_blind_dockerd();
        }
        Ok(())
    }

    /// dockerd is not told of what ends while its containerd is away, and shows it as running for ever;
    /// a new one looks, and is there sooner than the old one finds the new containerd.
    fn end_blind_dockerd(&mut self) {
        if let Some(dockerd) = &mut self.dockerd {
            let why = "since it does not see what happens while containerd is away".to_owned();
            dockerd.due = Some(Instant::now() + END_TIMEOUT);
            dockerd.signal(Signal::SIGKILL);
            self.mending.ending.insert(Part::Dockerd, why);
        }
    }

    /// A part died: have it replaced, or give the engine up.
    fn lose(&mut self, mut death: Death, was_ready: bool) -> Result<(), Interruption> {
        let policy = self.plan.restart;
        // One that never was ready would hardly be at the next try.
        if self.status.borrow().stage == Stage::Starting {
            return Err(Interruption::Died(death));
        }
        // A new one would end the containers that it finds, and start none of them again.
        if death.part == Part::Dockerd && !self.live_restore {
            death.text += "; it is not replaced under its containers, since live-restore is off";
            return Err(Interruption::Died(death));
        }
        let now = clock::now_boottime();
        let Some(delay) = remedy(&policy, &mut self.mending.deaths, now, was_ready) else {
            let (count, window) = (self.mending.deaths.len(), policy.window);
            death.text = format!("{}; parts died {count} times within {window:?}", death.text);
            return Err(Interruption::Died(death));
        };
        self.mending.pause = Some(Alarm::after(delay));
        self.note_loss(death);
        Ok(())
    }

    fn note_loss(&mut self, death: Death) {
        let part = death.part;
        tracing::warn!(rootlessd_part = part.as_str(), "{}; it is replaced", death.text);
        self.mending.lost.entry(part).or_insert_with(Instant::now);
        self.note(&Incident::lost(death));
        self.tell_parts();
    }

    /// A part is ready.
    pub(super) fn take_ready(&mut self, part: Part) {
        if let Some(running) = self.slot(part).as_mut().filter(|running| !running.ready) {
            running.ready = true;
            running.due = None;
            if running.stale {
                running.signal(Signal::SIGHUP);
            }
            if part == Part::Dockerd {
                self.port_proxy.take_back();
            }
        }
        if let Some(since) = self.mending.lost.remove(&part) {
            let took = since.elapsed();
            tracing::info!(rootlessd_part = part.as_str(), "{part} is replaced, after {took:.2?}");
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.note(&Incident::Replaced { part, at: clock::now_realtime(), took });
        }
        if self.mending.lost.is_empty() && self.mending.ending.is_empty() {
            for reply in self.mending.waiting.drain(..) {
                // Whoever stopped waiting needs no answer.
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Wait until both parts are there, if they are about to be: containers are stopped by dockerd.
    pub(super) async fn until_mended(&mut self) -> Result<(), Interruption> {
        // Who has ended by now is gone, though nobody looked yet.
        while let Some(event) = self.next().now_or_never() {
            self.take(event).await?;
            self.mend().await?;
        }
        let is_at_work = |mending: &Mending| !mending.lost.is_empty() || !mending.ending.is_empty();
        while is_at_work(&self.mending) && self.mending.pause.is_none_or(Alarm::is_over) {
            self.mend().await?;
            self.go_on().await?;
        }
        Ok(())
    }

    /// Nothing is replaced any more: the engine goes down.
    pub(super) fn stop_mending(&mut self) {
        self.mending = Mending::default();
        for running in [&mut self.containerd, &mut self.dockerd].into_iter().flatten() {
            running.due = None;
        }
    }

    fn note(&self, incident: &Incident) {
        if let Err(error) = incidents::append(&self.dir, incident) {
            tracing::warn!("{} cannot be written: {error}", self.dir.incidents().display());
        }
    }

    /// Replace parts because somebody wants it; those that are being replaced already will do.
    pub(super) fn replace(
        &mut self,
        parts: BTreeSet<Part>,
        why: Option<String>,
        reply: oneshot::Sender<Result<(), Error>>,
    ) {
        let refusal = if self.status.borrow().stage != Stage::Ready {
            Some(Error::new(ErrorKind::Busy, "the engine is not up yet"))
        } else if parts.contains(&Part::Dockerd) && !self.live_restore {
            let text = "containers do not outlive dockerd here, since live-restore is off: see \
                        rootlessctl status, engine.live_restore and daemon.json";
            Some(Error::new(ErrorKind::Unsupported, text).with_remedy("rootlessctl restart"))
        } else {
            None
        };
        // Whoever stopped waiting needs no answer.
        match refusal {
            Some(error) => drop(reply.send(Err(error))),
            None => {
                let there = parts.into_iter().filter(|it| !self.mending.lost.contains_key(it));
                let why = why.unwrap_or_else(|| "to be replaced, as was asked".into());
                let ending = there.map(|part| (part, why.clone()));
                self.mending.ending.extend(ending.collect::<Vec<_>>());
                self.mending.waiting.push(reply);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        limit: 4,
        window: Duration::from_secs(60),
        delay: Duration::from_millis(200),
        max_delay: Duration::from_millis(500),
    };

    #[test]
    fn who_had_been_ready_is_replaced_at_once_and_too_many_are_not() {
        let forever = RestartPolicy { limit: 0, ..POLICY };
        // (second of each death, delay in ms before the last one is replaced if it was not ready)
        let rows: &[(RestartPolicy, &[u64], Option<u64>)] = &[
            (POLICY, &[0], Some(200)),
            (POLICY, &[0, 1], Some(400)),
            (POLICY, &[0, 1, 2], Some(500)),
            (POLICY, &[0, 1, 2, 3], None),
            (POLICY, &[0, 1, 2, 61], Some(400)),
            (POLICY, &[0, 60], Some(200)),
            (POLICY, &[0, 100, 200, 300], Some(200)),
            (RestartPolicy { limit: 1, ..POLICY }, &[0], None),
            (forever, &[0, 1, 2, 3, 4, 5], Some(500)),
        ];
        for (policy, seconds, delay) in rows {
            for was_ready in [true, false] {
                let mut deaths = vec![];
                let mut found = None;
                for &second in *seconds {
                    found = remedy(policy, &mut deaths, Duration::from_secs(second), was_ready);
                }
                let delay = delay.map(|delay| if was_ready { 0 } else { delay });
                let delay = delay.map(Duration::from_millis);
                assert_eq!(found, delay, "{policy:?} {seconds:?} {was_ready}");
            }
        }
    }
}
