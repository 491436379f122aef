//! The orderly stop: the containers, dockerd, containerd, the rest.

use std::time::Duration;

use nix::sys::signal::Signal;
use rootlessd_api::{Part, Phase};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Event, Init, Interruption, Stage};
use crate::engine::{docker, sweep};

/// What containerd gets of the time at the least; it is stopped in milliseconds.
const CONTAINERD_SHARE: Duration = Duration::from_secs(2);
/// How long dockerd may take to read its configuration again; it takes milliseconds, or a second if it
/// is being replaced.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

impl Init {
    /// Stop everything within `timeout`. `idle`: there are no containers, and dockerd stands still.
    pub(super) async fn stop(&mut self, timeout: Duration, idle: bool) {
        let deadline = Instant::now() + timeout;
        let was_ready = self.status.borrow().stage == Stage::Ready;
        self.status.send_modify(|status| status.stage = Stage::Stopping);

        self.begin(Phase::Containers);
        if was_ready && !idle {
            let until = deadline.min(Instant::now() + RELOAD_TIMEOUT);
            match timeout_at(until, self.end_live_restore()).await {
                Ok(Err(Interruption::Died(death))) => {
                    tracing::warn!("{}: containers are killed", death.text);
                }
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!(
                        "dockerd does not read its configuration: containers are killed"
                    );
                }
            }
        }
        self.stop_mending();
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
    ///
    /// A part that is being replaced is waited for, and so is one that dies now: without dockerd the
    /// containers would be killed.
    async fn end_live_restore(&mut self) -> Result<(), Interruption> {
        let socket = self.plan.docker.socket.clone();
        loop {
            self.until_mended().await?;
            if self.dockerd.is_none() {
                return Ok(());
            }
            match self.unless_lost(docker::info(&socket)).await? {
                None => continue,
                Some(Ok(info)) if !info.live_restore_enabled => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::warn!("dockerd does not tell how it is: {error}"),
            }
            if let Err(error) = self.write_dockerd_config(Some(false)) {
                tracing::warn!("{error}");
                return Ok(());
            }
            self.send(Part::Dockerd, Signal::SIGHUP);
            // dockerd tells nobody who is not subscribed when it has read it, so it is asked.
            let is_read = async {
                while !docker::info(&socket).await.is_ok_and(|info| !info.live_restore_enabled) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            if self.unless_lost(is_read).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Wait for something that dockerd is asked; `None` if it dies meanwhile.
    async fn unless_lost<T>(
        &mut self,
        answer: impl Future<Output = T>,
    ) -> Result<Option<T>, Interruption> {
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return Ok(Some(answer)),
                event = self.next() => {
                    self.take(event).await?;
                    if self.dockerd.is_none() {
                        return Ok(None);
                    }
                    self.mend().await?;
                }
            }
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
