//! dockerd's configuration: the user's, and what is ours.

use std::time::Duration;

use rootlessd_api::{Error, ErrorKind};
use serde_json::{Map, Value, json};
use tokio::{task::spawn_blocking, time::timeout};

use super::Init;
use crate::{
    docker_config::{self, LIVE_RESTORE},
    engine::{dir::EngineDir, userland_proxy},
    plan::Plan,
    sys::files,
};

/// How long the user's file may take to be read: it can be on a file system that is gone.
const PATIENCE: Duration = Duration::from_secs(2);

impl Init {
    /// Write dockerd's configuration anew from the user's and ours.
    pub(super) async fn write_dockerd_config(&mut self) -> Result<(), Error> {
        let user = read(&self.plan).await?;
        let config = DockerdConfig::of(&user, &self.plan, &self.dir)?;
        config.write(&self.dir)?;
        self.machine.live_restore = config.live_restore();
        self.dockerd_config = Some(config);
        Ok(())
    }

    pub(super) async fn reload(&mut self) -> Result<(), Error> {
        // rootlessd may have changed its mind about this meanwhile.
        if let Ok(Some(plan)) = self.dir.read_plan() {
            self.plan.docker.live_restore = plan.docker.live_restore;
        }
        self.write_dockerd_config().await
    }
}

async fn read(plan: &Plan) -> Result<Map<String, Value>, Error> {
    let path = plan.docker.user_config.clone();
    match timeout(PATIENCE, spawn_blocking(move || docker_config::read(&path))).await {
        Ok(Ok(read)) => Ok(read?),
        Ok(Err(_)) | Err(_) => {
            let path = plan.docker.user_config.display();
            let text = format!("{path} cannot be read: its file system does not answer");
            Err(Error::new(ErrorKind::Config, text))
        }
    }
}

/// A configuration of dockerd's.
#[derive(Clone, Debug)]
pub(super) struct DockerdConfig {
    merged: Value,
    /// The docker-proxy that the user chose.
    pub chosen_proxy: Option<String>,
}

impl DockerdConfig {
    fn of(user: &Map<String, Value>, plan: &Plan, dir: &EngineDir) -> Result<Self, Error> {
        let mut merged = docker_config::merge(user, &plan.docker)?;
        let mut chosen_proxy = None;
        if userland_proxy::is_wanted(user, &plan.dockerd_flags) {
            let chosen = user.get(userland_proxy::KEY).and_then(Value::as_str);
            chosen_proxy = chosen.map(str::to_owned);
            merged[userland_proxy::KEY] = dir.userland_proxy().to_string_lossy().into();
        }
        Ok(Self { merged, chosen_proxy })
    }

    /// Whether containers outlive dockerd.
    fn live_restore(&self) -> bool {
        self.merged[LIVE_RESTORE] == true
    }

    /// The same, by which dockerd stops its containers when it ends. It is for the time of a stop, and nobody's
    /// wish; what the user's file has become meanwhile is none of its business.
    pub fn ending_containers(mut self) -> Self {
        self.merged[LIVE_RESTORE] = json!(false);
        self
    }

    pub fn write(&self, dir: &EngineDir) -> Result<(), Error> {
        let path = dir.dockerd_config();
        files::replace_json(&path, &self.merged).map_err(|error| {
            let text = format!("{} cannot be written: {error}", path.display());
            Error::new(ErrorKind::Internal, text)
        })
    }

    /// Write it in the place of the one before, where there is no space for both: for a stop, after which
    /// nobody reads it.
    pub fn write_for_the_end(&self, dir: &EngineDir) -> Result<(), Error> {
        self.write(dir).or_else(|error| {
            let content = self.merged.to_string();
            files::overwrite(&dir.dockerd_config(), content.as_bytes()).map_err(|_| error)
        })
    }
}
