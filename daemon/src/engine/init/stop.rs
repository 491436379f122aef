//! How dockerd is had to stop its containers when it ends.

use std::time::Duration;

use futures_util::{FutureExt, future::LocalBoxFuture};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::Init;
use crate::{engine::docker, sys::children};

/// How often dockerd is asked whether it has read its configuration: it tells nobody who is not
/// subscribed.
const INTERVAL: Duration = Duration::from_millis(10);

impl Init {
    /// Have dockerd read that its containers are not to outlive it; ends when it has, or cannot be
    /// told. Who drops it when dockerd has ended signals nobody else.
    pub(super) fn end_live_restore(&self) -> Option<LocalBoxFuture<'static, ()>> {
        let pid = self.dockerd.as_ref()?.pid;
        let config = self.configs.wanted.clone()?.ending_containers();
        let (dir, socket) = (self.dir.clone(), self.plan.docker.socket.clone());
        let reading = async move {
            match docker::info(&socket).await {
                Ok(info) if !info.live_restore_enabled => return,
                Ok(_) => {}
                Err(error) => tracing::warn!("dockerd does not tell how it is: {error}"),
            }
            if let Err(error) = config.write_for_the_end(&dir) {
                tracing::warn!("{error}");
                return;
            }
            children::send(pid, Signal::SIGHUP);
            while !docker::info(&socket).await.is_ok_and(|info| !info.live_restore_enabled) {
                sleep(INTERVAL).await;
            }
        };
        Some(reading.boxed_local())
    }
}
