//! What has to be found out about an engine that an earlier rootlessd started.

use tokio::sync::mpsc;

use super::Event;
use crate::{engine::init::client::InitClient, helper::Helper, sockets};

/// Tell what the user was granted, for an engine that has it already.
pub(super) async fn tell_granted(helper: Helper, events: mpsc::Sender<Event>) {
    if let Ok(ports) = helper.granted().await {
        // A supervisor that left does not need to know.
        let _ = events.send(Event::Granted(ports)).await;
    }
}

/// Tell if an engine that was taken over serves another socket than we have, as it is when systemd
/// made `rootlessd.socket` anew: nobody reaches it then.
pub(super) async fn compare_sockets(
    init: InitClient,
    ours: Option<u64>,
    events: mpsc::Sender<Event>,
) {
    let theirs = init.listener().await.and_then(|listener| sockets::inode(&listener));
    if theirs.is_some() && theirs != ours {
        // A supervisor that left does not need to know.
        let _ = events.send(Event::OutOfReach).await;
    }
}
