//! containerd and dockerd replaced under the containers, because somebody wants it.

use rootlessd_api::{Error, ErrorKind, Part};

use super::{hearing::until_deaf, probe::Probe};
use crate::engine::{docker, init::client::InitClient};

/// The first version of the protocol whose engine-init replaces parts.
const REPLACES: u32 = 3;

/// Replace both parts, or those of which there is a new file, and wait until dockerd is well: which
/// they were.
pub(super) async fn replace(
    init: &InitClient,
    probe: &Probe,
    only_new: bool,
) -> Result<Vec<Part>, Error> {
    // It may just have been taken over.
    probe.learned().await;
    if probe.init().protocol < REPLACES {
        return Err(too_old());
    }
    let parts = match only_new {
        false => vec![Part::Containerd, Part::Dockerd],
        true => match probe.outdated() {
            none if none.is_empty() => return Ok(none),
            // dockerd takes longer to find a containerd that comes later than to start.
            _ if probe.outdated().contains(&Part::Containerd) => {
                vec![Part::Containerd, Part::Dockerd]
            }
            dockerd => dockerd,
        },
    };
    // What is written is not always what it goes by: it refuses a file with a mistake. One that does not
    // answer is killed, which ends no container.
    if docker::info(probe.socket()).await.is_ok_and(|info| !info.live_restore_enabled) {
        return Err(keeps_nothing());
    }
    probe.keep_silent(true);
    // It may take as long as a start; but not for ever.
    let replaced = tokio::select! {
        replaced = init.replace(&parts) => replaced,
        () = until_deaf(init) => Err(deaf()),
    };
    probe.keep_silent(false);
    replaced?;
    probe.until_healthy().await;
    Ok(parts)
}

fn too_old() -> Error {
    let text = "the engine was started by an older rootlessd, whose engine-init replaces nothing";
    Error::new(ErrorKind::Unsupported, text).with_remedy("rootlessctl restart")
}

/// As engine-init has it, where the file says it.
fn keeps_nothing() -> Error {
    let text = "the containers would end with this dockerd: in what it goes by, live-restore is off, \
                whatever is configured by now";
    Error::new(ErrorKind::Unsupported, text).with_remedy("rootlessctl restart")
}

fn deaf() -> Error {
    Error::new(ErrorKind::Busy, "engine-init does not answer, so nothing is replaced")
        .with_remedy("rootlessctl restart")
}
