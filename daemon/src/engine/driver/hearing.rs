//! Whether engine-init still hears. It replaces what dies or hangs, so nothing does if it hangs itself,
//! or engine-shim, which would tell of its end. It is asked only by who waits for it or misses
//! something: an engine that is well does not need it.

use std::{cell::Cell, time::Duration};

use tokio::{sync::Notify, time::sleep};

use crate::engine::init::client::InitClient;

/// How soon it is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// After so many questions in a row without an answer it is deaf. One may meet a machine that is busy,
/// or an engine that is just gone.
const LIMIT: u32 = 2;

/// How often it was asked in vain.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    missed: Cell<u32>,
    deaf: Notify,
}

impl Hearing {
    /// Ask once. Whether it is deaf.
    pub async fn ask(&self, init: &InitClient) -> bool {
        self.missed.set(if init.hears().await { 0 } else { self.missed.get().saturating_add(1) });
        let is_deaf = self.missed.get() >= LIMIT;
        if is_deaf {
            self.deaf.notify_one();
        }
        is_deaf
    }

    /// Wait until somebody has found that it is deaf.
    pub async fn lost(&self) {
        self.deaf.notified().await;
    }
}

/// Ask again and again, until it is deaf.
pub(super) async fn until_deaf(init: &InitClient) {
    let hearing = Hearing::default();
    while !hearing.ask(init).await {
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::dir::EngineDir;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn one_that_does_not_answer_twice_is_deaf() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = EngineDir::at(temporary.path().join("engine"));
        dir.make().unwrap();
        // As one that was stopped: it is there, and takes nothing.
        let _socket = std::os::unix::net::UnixListener::bind(dir.init_socket()).unwrap();
        let init = InitClient::of(dir);
        let hearing = Hearing::default();
        assert!(!hearing.ask(&init).await);
        assert!(hearing.ask(&init).await);
        hearing.lost().await;
        until_deaf(&init).await;
    }
}
