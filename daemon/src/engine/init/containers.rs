//! Whether containers run. containerd keeps a directory for each, from before its first process to
//! after its last: `io.containerd.runtime.v2.task/moby/ID` in its state, from 1.4 to 2.x.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::Duration,
};

use crate::{plan::DockerPlan, sys::files};

/// How often to look where the kernel does not tell of a new container.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The containers of an engine.
#[derive(Clone, Debug)]
pub(super) struct Containers(PathBuf);

impl Containers {
    /// Those of a dockerd.
    pub fn of(docker: &DockerPlan) -> Self {
        Self(docker.containerd_state().join("io.containerd.runtime.v2.task/moby"))
    }

    /// Make the directory as containerd would for the first one, so that it can be watched.
    pub fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o711).create(&self.0)
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.look().unwrap_or_default()
    }

    /// Whether there is one, or that cannot be seen.
    pub fn may_be_any(&self) -> bool {
        self.look().unwrap_or_else(|error| error.kind() != io::ErrorKind::NotFound)
    }

    fn look(&self) -> io::Result<bool> {
        Ok(fs::read_dir(&self.0)?.next().is_some())
    }

    /// Wait until there is one.
    pub async fn until_any(&self) {
        files::until_in(&self.0, LOOK_INTERVAL, || self.any()).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_is_waited_for() {
        let temporary = tempfile::tempdir().unwrap();
        let containers = Containers(temporary.path().join("tasks/moby"));
        assert!(!containers.any() && !containers.may_be_any());
        containers.prepare().unwrap();
        containers.prepare().unwrap();
        let mut first = Box::pin(containers.until_any());
        assert_eq!(first.as_mut().now_or_never(), None);
        fs::create_dir(containers.0.join("1234")).unwrap();
        first.await;
        containers.until_any().await;
        fs::remove_dir(containers.0.join("1234")).unwrap();
        assert!(!containers.any() && !containers.may_be_any());
        fs::remove_dir(&containers.0).unwrap();
        fs::write(&containers.0, "").unwrap();
        assert!(!containers.any() && containers.may_be_any());
    }
}
