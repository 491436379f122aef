//! The orderly stop: the containers, dockerd, containerd, the rest.

use std::time::Duration;

use nix::sys::signal::Signal;
use rootlessd_api::{Part, Phase};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Event, Init, Stage};
use crate::engine::{docker, sweep};

/// What containerd gets of the time at the least; it is stopped in milliseconds.
const CONTAINERD_SHARE: Duration = Duration::from_secs(2);
/// How long dockerd may take to read its configuration again; it takes milliseconds.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(3);

impl Init {
    /// Stop everything within `timeout`. `idle`: there are no containers, and dockerd stands still.
    pub(super) async fn stop(&mut self, timeout: Duration, idle: bool) {
        let deadline = Instant::now() + timeout;
        let was_ready = self.status.borrow().stage == Stage::Ready;
        self.status.send_modify(|status| status.stage = Stage::Stopping);

        self.begin(Phase::Containers);
        if was_ready && !idle && self.dockerd.is_some() {
            let until = deadline.min(Instant::now() + RELOAD_TIMEOUT);
            if timeout_at(until, self.end_live_restore()).await.is_err() {
                tracing::warn!("dockerd does not read its configuration: containers are killed");
            }
        }
        self.begin(Phase::Dockerd);
        if idle {
            // As it is: it has nothing to stop, and if it went on for this, it would accept clients
            // meanwhile, whom its end would cut off.
            self.send(Part::Dockerd, Signal::SIGKILL);
        }
        self.end(Part::Dockerd, deadline.checked_sub(CONTAINERD_SHARE).unwrap_or(deadline)).await;
        self.begin(Phase::Containerd);
        self.end(Part::Containerd, deadline).await;
        self.begin(Phase::Namespaces);
        self.children.end_all().await;
        // From in here, where what belongs to the containers' users can be removed too.
        sweep::remove_runtime_files(&self.plan.docker);
    }

    /// Have dockerd stop its containers when it ends, the way it does without live-restore: with
    /// their own signal and time, and without marking them as stopped by hand, so that their
    /// restart policies bring them back.
    async fn end_live_restore(&self) {
        let socket = &self.plan.docker.socket;
        match docker::info(socket).await {
            Ok(info) if !info.live_restore_enabled => return,
            Ok(_) => {}
            Err(error) => tracing::warn!("dockerd does not tell how it is: {error}"),
        }
        if let Err(error) = self.write_dockerd_config(Some(false)) {
            tracing::warn!("{error}");
            return;
        }
        if let Some(dockerd) = &self.dockerd {
            dockerd.signal(Signal::SIGHUP);
        }
        // dockerd tells nobody who is not subscribed when it has read it, so it is asked.
        while !docker::info(socket).await.is_ok_and(|info| !info.live_restore_enabled) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// End a part: ask, wait until `deadline`, kill.
    async fn end(&mut self, part: Part, deadline: Instant) {
        self.send(part, Signal::SIGTERM);
        if timeout_at(deadline, self.until_exited(part)).await.is_err() {
            tracing::warn!(rootlessd_part = part.as_str(), "{part} does not stop in time: killed");
            self.send(part, Signal::SIGKILL);
            self.until_exited(part).await;
        }
    }

    fn send(&mut self, part: Part, signal: Signal) {
        if let Some(running) = self.slot(part) {
            running.signal(signal);
        }
    }

    /// Wait until a part does not run. Whatever else comes meanwhile comes too late: a reload is
    /// answered so when it is dropped, and a second stop is a stop.
    async fn until_exited(&mut self, awaited: Part) {
        while self.slot(awaited).is_some() {
            if let Event::Exited(part, _) = self.next().await {
                *self.slot(part) = None;
            }
        }
    }
}
