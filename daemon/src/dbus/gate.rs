//! The way from the bus to the supervisor, with a limit.

use std::sync::Arc;

use rootlessd_api::{Status, dbus::Failure};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::supervisor::handle::Handle;

/// How many calls may wait for the supervisor at a time. zbus makes a task of every call, so that
/// without a limit a client that floods would fill the memory.
const MOST_CALLS: usize = 128;

/// What the objects share: the way to the supervisor, with a limit.
#[derive(Clone, Debug)]
pub struct Gate {
    handle: Handle,
    calls: Arc<Semaphore>,
}

impl Gate {
    /// A gate before `handle`.
    pub fn new(handle: Handle) -> Self {
        Self { handle, calls: Arc::new(Semaphore::new(MOST_CALLS)) }
    }

    /// The supervisor, to be asked while the permit is held, if not too many ask it.
    pub fn enter(&self) -> Result<(SemaphorePermit<'_>, &Handle), Failure> {
        let permit = self.calls.try_acquire().map_err(|_| Failure::limit())?;
        Ok((permit, &self.handle))
    }

    /// The status as it was last published, which nobody has to be asked for.
    pub fn status(&self) -> Arc<Status> {
        self.handle.status()
    }
}
