//! Whether anybody needs a running engine; and if nobody has for `engine.idle_timeout`, its end.
//!
//! Whoever connects while it is decided must be neither refused nor cut off. So dockerd stands still
//! for the last look, and until it is killed: nobody is accepted any more who is not seen in it. Who
//! connects later waits in the queue, and is the first client of the next engine. (A SIGTERM, with
//! which dockerd 20.10 goes on to accept for a moment, was seen to cut off one in a thousand.)

use std::{future::pending, time::Duration};

use rootlessd_api::client::ClientError;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{World, clients};
use crate::{
    config::Loaded,
    engine::{
        autostart, docker,
        init::client::{Frozen, InitClient},
        processes,
    },
    plan::DockerPlan,
    sockets,
};

/// How often it is looked at most.
const INTERVAL: Duration = Duration::from_secs(60);

/// How far it is found out that nobody needs the engine.
pub(super) enum Verdict {
    /// Nobody has for long enough. To be sure, nobody may ask dockerd anything now, neither we.
    Quiet(Watcher),
    /// Nobody does, and its dockerd stands still until the engine is stopped.
    Idle(Frozen),
    /// Somebody does after all.
    Needed,
}

/// Looks whether an engine is needed.
pub(super) struct Watcher {
    init: InitClient,
    loaded: watch::Receiver<Loaded>,
    /// The inode of the socket that dockerd serves.
    listener: u64,
    /// The engine's first process.
    shim: u32,
    docker: DockerPlan,
}

impl Watcher {
    /// For an engine; `None` if its clients cannot be told from others'.
    pub fn of(world: &World, shim: u32, docker: &DockerPlan) -> Option<Self> {
        Some(Self {
            init: InitClient::of(world.dir()),
            loaded: world.loaded.subscribe(),
            listener: sockets::inode(&world.listener)?,
            shim,
            docker: docker.clone(),
        })
    }

    /// Wait until nobody has needed the engine for `engine.idle_timeout`.
    pub async fn until_quiet(mut self) -> Verdict {
        let mut quiet_since = None;
        loop {
            let timeout = self.loaded.borrow_and_update().config.engine.stops_idle();
            let pause = async {
                match timeout {
                    Some(timeout) => sleep(timeout.min(INTERVAL)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                Ok(()) = self.loaded.changed() => {
                    quiet_since = None;
                    continue;
                }
            }
            if let Some(why) = self.needed().await {
                tracing::debug!("the engine is needed: {why}");
                quiet_since = None;
                continue;
            }
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if timeout.is_some_and(|timeout| since.elapsed() >= timeout) {
                return Verdict::Quiet(self);
            }
        }
    }

    /// Have dockerd stand still, and look once more.
    pub async fn make_sure(self) -> Verdict {
        match self.init.freeze().await {
            Ok(frozen) => match self.seen_by_kernel().await {
                None => return Verdict::Idle(frozen),
                Some(why) => tracing::debug!("the engine is needed after all: {why}"),
            },
            Err(ClientError::UnknownMethod(_)) => {
                tracing::debug!("an engine of an older release is not stopped, though idle");
            }
            Err(error) => tracing::warn!("the engine is not stopped, though idle: {error}"),
        }
        Verdict::Needed
    }

    /// Why it is needed.
    async fn needed(&self) -> Option<String> {
        if let Some(why) = self.seen_by_kernel().await {
            return Some(why);
        }
        match docker::running(&self.docker.socket).await {
            Ok(0) => {}
            Ok(count) => return Some(format!("{count} containers run")),
            Err(error) => return Some(format!("dockerd does not tell what runs: {error}")),
        }
        let docker = self.docker.clone();
        let has_to_run = spawn_blocking(move || autostart::has_to_run_by(&docker)).await;
        has_to_run.unwrap_or(true).then(|| "it would be started without a client again".into())
    }

    /// Why it is needed, as far as that is to be seen while dockerd does not answer.
    async fn seen_by_kernel(&self) -> Option<String> {
        let (listener, shim) = (self.listener, self.shim);
        let ignored = self.loaded.borrow().config.engine.idle_ignore.clone();
        let look = move || {
            let Some(dockerd) = processes::dockerd_at_rest(shim) else {
                return Some("it pulls, builds or runs something".to_owned());
            };
            match clients::count(listener, dockerd, &ignored) {
                Ok(0) => None,
                Ok(count) => Some(format!("{count} clients are connected")),
                Err(error) => Some(format!("its clients cannot be counted: {error}")),
            }
        };
        spawn_blocking(look).await.unwrap_or_else(|error| Some(error.to_string()))
    }
}
