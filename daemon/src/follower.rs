//! Keeps `docker.service` in step: the unit is active while the engine runs, whoever started it.
//! Its main process (`rootlessctl unit`) ends with the engine; that it begins with it is done here.

use std::{convert::Infallible, future::pending, io, path::Path};

use rootlessd_api::names;

use crate::{supervisor::handle::Handle, sys::files, systemd::Systemd};

/// The unit that stands for the engine.
const DOCKER: &str = "docker.service";
/// The unit that is this process.
const OWN: &str = "rootlessd.service";

/// Start the unit whenever the engine has come up, for ever.
pub async fn keep(
    handle: Handle,
    systemd: Systemd,
    xdg_runtime_dir: std::path::PathBuf,
) -> Infallible {
    let mut statuses = handle.watch();
    let mark = names::unit_follows(&xdg_runtime_dir);
    loop {
        let up = match statuses.wait_for(|status| status.state.is_up()).await {
            Ok(status) => status.since,
            Err(_) => pending().await,
        };
        if let Err(error) = start(&systemd, &mark).await {
            tracing::info!("{DOCKER} is not started along with the engine: {error}");
        }
        // It may have gone and come again while systemd was at it.
        let gone = statuses.wait_for(|status| !status.state.is_up() || status.since != up).await;
        if gone.is_err() {
            pending().await
        }
    }
}

/// Start it if it is the one that was installed with us, and not another Docker's.
async fn start(systemd: &Systemd, mark: &Path) -> io::Result<()> {
    let docker = systemd.fragment_path(DOCKER).await?;
    let own = systemd.fragment_path(OWN).await?;
    if docker.is_empty() || Path::new(&docker).parent() != Path::new(&own).parent() {
        return Ok(());
    }
    files::replace(mark, b"")?;
    let started = systemd.start_unit(DOCKER).await;
    files::remove(mark)?;
    started
}
