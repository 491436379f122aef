//! Both front ends before one supervisor, in a directory of their own.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rootlessd::{
    dbus,
    supervisor::handle::Handle,
    varlink::{self, server::Limits, supervisor::Supervisor},
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    task::{JoinHandle, spawn_local},
};

use crate::bus::TestBus;

/// The front ends; they end when this is dropped.
#[derive(Debug)]
pub struct Front {
    directory: TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Front {
    /// Serve `handle`, in a [`LocalSet`](tokio::task::LocalSet): on varlink at once, on D-Bus as
    /// soon as there is a bus.
    pub fn start(handle: Handle, limits: Limits) -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        // For clients of other users, which are not to fail earlier than they should.
        let all = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), all).expect("our own directory");
        let mut front = Self { directory, tasks: Vec::new() };

        let listener = UnixListener::bind(front.varlink()).expect("a fresh socket");
        let all = PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(front.varlink(), all).expect("our own socket");
        let supervisor = Supervisor::new(handle.clone());
        front.tasks.push(spawn_local(async move {
            varlink::server::serve(listener, supervisor, limits).await;
        }));
        let address = TestBus::address_at(&front.bus());
        front.tasks.push(spawn_local(async move {
            dbus::run(handle, address).await;
        }));
        front
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The varlink socket.
    pub fn varlink(&self) -> PathBuf {
        self.directory.path().join("org.rootlessd.Supervisor")
    }

    /// Where the bus is expected.
    pub fn bus(&self) -> PathBuf {
        self.directory.path().join("bus")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
