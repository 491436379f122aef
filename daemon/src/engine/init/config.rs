//! dockerd's configuration: the user's, and what is ours.

use rootlessd_api::{Error, ErrorKind};

use super::Init;
use crate::{
    docker_config,
    engine::{dir::EngineDir, userland_proxy},
    plan::Plan,
    sys::files,
};

impl Init {
    /// Write dockerd's configuration anew from the user's and ours.
    pub(super) fn write_dockerd_config(&mut self) -> Result<(), Error> {
        let written = write(&self.dir, &self.plan, None)?;
        self.machine.live_restore = written.live_restore;
        self.chosen_proxy = written.chosen_proxy;
        Ok(())
    }

    pub(super) fn reload(&mut self) -> Result<(), Error> {
        // rootlessd may have changed its mind about this meanwhile.
        if let Ok(Some(plan)) = self.dir.read_plan() {
            self.plan.docker.live_restore = plan.docker.live_restore;
        }
        self.write_dockerd_config()
    }
}

/// What dockerd's configuration came to.
pub(super) struct Written {
    /// Whether containers outlive dockerd.
    pub live_restore: bool,
    /// The docker-proxy that the user chose.
    pub chosen_proxy: Option<String>,
}

/// Write dockerd's configuration from the user's and ours. `live_restore` is for the time of a stop, and
/// nobody's wish.
pub(super) fn write(
    dir: &EngineDir,
    plan: &Plan,
    live_restore: Option<bool>,
) -> Result<Written, Error> {
    let user = docker_config::read(&plan.docker.user_config)?;
    let mut merged = docker_config::merge(&user, &plan.docker, live_restore)?;
    let mut chosen_proxy = None;
    if userland_proxy::is_wanted(&user, &plan.dockerd_flags) {
        chosen_proxy = user.get(userland_proxy::KEY).and_then(|it| it.as_str()).map(str::to_owned);
        merged[userland_proxy::KEY] = dir.userland_proxy().to_string_lossy().into();
    }
    let path = dir.dockerd_config();
    files::replace_json(&path, &merged).map_err(|error| {
        let text = format!("{} cannot be written: {error}", path.display());
        Error::new(ErrorKind::Internal, text)
    })?;
    Ok(Written { live_restore: merged["live-restore"] == true, chosen_proxy })
}
