//! Keeps `docker.service` in step: the unit is active while the engine runs, whoever started it.
//! Its main process (`rootlessctl unit`) ends with the engine; that it begins with it is done here.

use std::{convert::Infallible, io, path::Path};

use crate::{supervisor::handle::Handle, systemd::Systemd};

/// The unit that stands for the engine.
const DOCKER: &str = "docker.service";
/// The unit that is this process.
const OWN: &str = "rootlessd.service";

/// Start the unit whenever the engine has come up, for ever.
pub async fn keep(handle: Handle, systemd: Systemd) -> Infallible {
    let mut statuses = handle.watch();
    let mut was_up = false;
    loop {
        let is_up = statuses.borrow_and_update().state.is_up();
        if is_up
            && !was_up
            && let Err(error) = start(&systemd).await
        {
            tracing::info!("{DOCKER} is not started along with the engine: {error}");
        }
        was_up = is_up;
        if statuses.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Start it if it is the one that was installed with us, and not another Docker's.
async fn start(systemd: &Systemd) -> io::Result<()> {
    let docker = systemd.fragment_path(DOCKER).await?;
    let own = systemd.fragment_path(OWN).await?;
    if docker.is_empty() || Path::new(&docker).parent() != Path::new(&own).parent() {
        return Ok(());
    }
    systemd.start_unit(DOCKER).await
}
