//! Whether the file systems that the engine writes to have become full, or a part has nearly as many
//! files open as it may. Containers fill what they write to without asking anybody, and dockerd may not
//! notice for a long time.

use std::{cell::Cell, time::Duration};

use tokio::sync::watch;

use super::InitStatus;
use crate::{
    engine::{
        dir::EngineDir,
        shortage::{DataRoot, Places},
    },
    plan::DockerPlan,
};

/// Whether there is no room for the data, in the runtime directory, for open files.
type Lacking = [bool; 3];

/// What there is to be room for.
pub(super) struct Room {
    places: Places,
    status: watch::Sender<InitStatus>,
    data_root: DataRoot,
    /// For which of them there was none at the last look.
    lacking: Cell<Lacking>,
}

impl Room {
    /// That of a dockerd, and of the engine's directory. `status`: where it is told.
    pub fn of(docker: &DockerPlan, dir: &EngineDir, status: watch::Sender<InitStatus>) -> Self {
        let places = Places::of(docker, dir.path());
        let data_root = DataRoot::of(places.clone());
        Self { places, status, data_root, lacking: Cell::default() }
    }

    /// Look, for at most so long: the data's file system may take its time.
    pub async fn look(&self, within: Duration) {
        let data_root = self.data_root.full(within).await;
        let status = *self.status.borrow();
        self.learn([
            data_root.is_some(),
            self.places.full_runtime().is_some(),
            status.too_many_files().next().is_some(),
        ]);
    }

    /// Have rootlessd look once something is lacking. That there is room again, rootlessd sees itself.
    fn learn(&self, lacking: Lacking) {
        let before = self.lacking.replace(lacking);
        if lacking.iter().zip(before).any(|(&is, was)| is && !was) {
            self.status.send_modify(|status| status.complain(None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_told_once_each_time() {
        let temporary = tempfile::tempdir().unwrap();
        let docker = DockerPlan {
            user_config: temporary.path().join("daemon.json"),
            // One without limits.
            data_root: "/proc".into(),
            exec_root: temporary.path().join("exec"),
            pid_file: temporary.path().join("pid"),
            socket: temporary.path().join("docker.sock"),
            cgroup_parent: None,
            cgroup_driver: None,
            live_restore: None,
        };
        let dir = EngineDir::at("/proc/self".into());
        let room = Room::of(&docker, &dir, watch::Sender::default());
        for (lacking, complaints) in [
            ([false; 3], 0),
            ([true, false, false], 1),
            ([true, false, false], 1),
            // One does not hide another.
            ([true, false, true], 2),
            ([true, false, false], 2),
            ([false; 3], 2),
            ([true, true, true], 3),
        ] {
            room.learn(lacking);
            assert_eq!(room.status.borrow().complaints, complaints);
        }
        room.look(Duration::from_secs(10)).await;
        assert_eq!(room.lacking.get(), Lacking::default());
    }
}
