//! Whether the file system of the engine's data has become full. Containers fill it without asking
//! anybody, and dockerd may not notice for a long time.

use std::{cell::Cell, path::PathBuf, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::InitStatus;
use crate::{engine::shortage, plan::DockerPlan};

/// Where the data is.
pub(super) struct DataRoot {
    path: PathBuf,
    status: watch::Sender<InitStatus>,
    /// Whether it was full at the last look.
    full: Cell<bool>,
    /// A look that takes its time.
    looking: Cell<Option<JoinHandle<bool>>>,
}

impl DataRoot {
    /// That of a dockerd. `status`: where it is told.
    pub fn of(docker: &DockerPlan, status: watch::Sender<InitStatus>) -> Self {
        let path = docker.data_root.clone();
        Self { path, status, full: Cell::new(false), looking: Cell::new(None) }
    }

    /// Look. A file system may take its time, and if that is more than this, the next look waits for the
    /// same answer.
    pub async fn look(&self, within: Duration) {
        let mut looking = self.looking.take().unwrap_or_else(|| {
            let path = self.path.clone();
            spawn_blocking(move || shortage::full_data_root(&path).is_some())
        });
        match timeout(within, &mut looking).await {
            Ok(found) => self.learn(found.unwrap_or_default()),
            Err(_) => self.looking.set(Some(looking)),
        }
    }

    /// Have rootlessd look once it has become full. That it is so no more, rootlessd sees itself.
    fn learn(&self, is_full: bool) {
        let was_full = self.full.replace(is_full);
        if is_full && !was_full {
            self.status.send_modify(|status| status.complain(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_told_once_each_time() {
        let data_root = DataRoot {
            path: "/proc".into(),
            status: watch::Sender::default(),
            full: Cell::new(false),
            looking: Cell::new(None),
        };
        for (is_full, complaints) in [(false, 0), (true, 1), (true, 1), (false, 1), (true, 2)] {
            data_root.learn(is_full);
            assert_eq!(data_root.status.borrow().complaints, complaints);
        }
        // One without limits.
        data_root.look(Duration::from_secs(10)).await;
        assert!(!data_root.full.get());
    }
}
