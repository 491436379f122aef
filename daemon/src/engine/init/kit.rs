//! RootlessKit, as engine-init finds it: the parent of what this process is in.

use std::{io, path::Path, time::Duration};

use hyper::{Method, body::Bytes};
use nix::unistd::getppid;

use super::hung;
use crate::{
    engine::dir::EngineDir,
    sys::{
        activity::Activity,
        http,
        process::{Identity, Stat},
    },
};

/// What RootlessKit is (its `pkg/api/openapi.yaml`, from 0.14).
const INFO: &str = "/v1/info";

/// The two processes of RootlessKit's: this one's parent, which connects what comes in with containers,
/// and the parent of that, which listens on the published ports and is who answers.
#[derive(Clone, Copy)]
pub(super) struct Kit {
    /// The one with the published ports.
    pub parent: u32,
    child: u32,
}

impl Kit {
    /// That of this engine.
    pub fn ours() -> Option<Self> {
        let child = getppid().as_raw().unsigned_abs();
        Some(Self { parent: Stat::of(child)?.parent, child })
    }

    /// Whose doing tells why it does not answer.
    pub fn witness(self) -> u32 {
        if is_stopped(self.child) { self.child } else { self.parent }
    }

    /// End it, since it hangs: nobody else can publish ports, and so the engine starts anew.
    pub fn end(self, dir: &EngineDir, activity: &Activity, lasted: Duration) {
        let pid = self.parent;
        if let Some(Stat { start_time, .. }) = Stat::of(pid) {
            hung::end(dir, "rootlesskit", Identity { pid, start_time }, activity, lasted);
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state == 'T')
}

/// Ask it at `socket` what it is. Its child has no answer of its own, and is as good as silent when
/// somebody has stopped it.
pub(super) async fn answer(socket: &Path, within: Duration) -> io::Result<()> {
    if Kit::ours().is_some_and(|kit| is_stopped(kit.child)) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    http::ask(socket, Method::GET, INFO, Bytes::new(), within).await.map(drop)
}
