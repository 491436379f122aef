//! What signals ask of rootlessd: to end, in one of two ways, or to read the configuration again.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    config::Loaded,
    readiness,
    supervisor::{Shutdown, handle::Handle},
    sys::cgroup,
    systemd::Systemd,
};

/// The supervisor's unit.
const UNIT: &str = "rootlessd.service";

/// The signals that mean something. What comes in before somebody asks is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    leave: Signal,
    reload: Signal,
}

impl Signals {
    /// Listen: from now on none of them kills this process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            leave: signal(SignalKind::user_defined2())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    /// Wait for one that asks for the end, before there is anything to choose how.
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.leave.recv() => {}
        }
    }

    /// Do what they ask for.
    pub async fn obey(
        mut self,
        handle: Handle,
        systemd: Option<Systemd>,
        loads: watch::Receiver<Loaded>,
        end: mpsc::Sender<Shutdown>,
    ) {
        loop {
            let how = tokio::select! {
                _ = self.terminate.recv() => how_to_end(systemd.as_ref()).await,
                _ = self.interrupt.recv() => Shutdown::StopEngine,
                _ = self.leave.recv() => Shutdown::LeaveEngine,
                _ = self.reload.recv() => {
                    if let Err(error) = handle.reload().await {
                        tracing::error!("the configuration cannot be read again: {error}");
                    }
                    continue;
                }
            };
            if how == Shutdown::StopEngine {
                readiness::stopping(loads.borrow().config.engine.stop_timeout * 2);
            }
            // A second signal while it ends changes nothing, unless it is about how.
            let _ = end.send(how).await;
        }
    }
}

/// A restart of the unit is a new rootlessd for the same engine; systemd tells it from a stop by
/// the unit's job alone.
async fn how_to_end(systemd: Option<&Systemd>) -> Shutdown {
    let own = cgroup::own().is_some_and(|group| group.ends_with(UNIT));
    match systemd.filter(|_| own) {
        Some(systemd) => match systemd.job_type(UNIT).await {
            Ok(Some(job)) if job == "restart" => Shutdown::LeaveEngine,
            Ok(_) => Shutdown::StopEngine,
            Err(error) => {
                tracing::warn!("systemd does not tell why rootlessd is to end: {error}");
                Shutdown::StopEngine
            }
        },
        None => Shutdown::StopEngine,
    }
}
