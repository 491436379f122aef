//! dockerd's configuration: the user's, and what is ours.

use std::time::Duration;

use rootlessd_api::{Error, ErrorKind, Part};
use serde_json::{Map, Value, json};
use tokio::{task::spawn_blocking, time::timeout};

use super::Init;
use crate::{
    docker_config::{self, LIVE_RESTORE},
    engine::{dir::EngineDir, incidents::Incident, userland_proxy},
    plan::Plan,
    sys::{clock, files},
};

/// How long the user's file may take to be read: it can be on a file system that is gone.
const PATIENCE: Duration = Duration::from_secs(2);

impl Init {
    /// Write the configuration of the first dockerd, from the user's and ours.
    pub(super) async fn configure_first(&mut self) -> Result<(), Error> {
        let config = self.read_dockerd_config().await?;
        config.write(&self.dir)?;
        self.machine.live_restore = config.live_restore();
        self.configs.start(config);
        Ok(())
    }

    /// Write that of one that follows another, under containers that run: whatever the user's file says by
    /// now, it begins by one with which it keeps them.
    pub(super) async fn configure_next(&mut self) {
        let read = self.read_dockerd_config().await;
        if let Err(error) = &read {
            tracing::warn!("dockerd goes on by the configuration before: {error}");
        }
        let Some((config, is_refused)) = self.configs.next(read.ok()) else { return };
        if is_refused {
            let path = self.plan.docker.user_config.display();
            let text = format!(
                "dockerd did not start by {path} as it is now, and goes on by what that was before; once it \
                 is mended: rootlessctl reload"
            );
            tracing::warn!("{text}");
            let at = clock::now_realtime();
            self.note(&Incident::Changed { part: Part::Config, at, text, took: None });
        }
        if let Err(error) = config.keeping_containers().write(&self.dir) {
            tracing::warn!("dockerd goes on by the configuration before: {error}");
        }
        self.configs.start(config);
    }

    /// Whether dockerd was started by another configuration than it is to go by.
    pub(super) fn is_to_be_configured(&self) -> bool {
        let wanted = self.configs.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.live_restore() != self.machine.live_restore)
    }

    /// Write the one that it is to go by, before it is told to read it.
    pub(super) fn configure(&mut self) -> Result<(), Error> {
        if let Some(wanted) = &self.configs.wanted {
            wanted.write(&self.dir)?;
            self.machine.live_restore = wanted.live_restore();
        }
        Ok(())
    }

    pub(super) async fn reload(&mut self) -> Result<(), Error> {
        // rootlessd may have changed its mind about this meanwhile.
        if let Ok(Some(plan)) = self.dir.read_plan() {
            self.plan.docker.live_restore = plan.docker.live_restore;
        }
        let config = self.read_dockerd_config().await?;
        let before = self.configs.wanted.replace(config);
        // One that starts must not find it: it might be one by which it keeps no containers.
        if self.machine.has_dockerd()
            && let Err(error) = self.configure()
        {
            self.configs.wanted = before;
            return Err(error);
        }
        Ok(())
    }

    async fn read_dockerd_config(&self) -> Result<DockerdConfig, Error> {
        let user = read(&self.plan).await?;
        DockerdConfig::of(&user, &self.plan, &self.dir)
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

/// dockerd's configurations.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// By which it goes, or is to go on.
    pub wanted: Option<DockerdConfig>,
    /// By which one was started last.
    tried: Option<DockerdConfig>,
    /// Whether that one ended before it got ready, by itself.
    is_refused: bool,
    /// By which one got ready last.
    proven: Option<DockerdConfig>,
}

impl Configs {
    /// One is started by this.
    fn start(&mut self, config: DockerdConfig) {
        self.tried = Some(config.clone());
        self.wanted = Some(config);
        self.is_refused = false;
    }

    /// It got ready.
    pub fn prove(&mut self) {
        self.proven.clone_from(&self.tried);
        self.is_refused = false;
    }

    /// It ended before that, and nothing else is to blame for it.
    pub const fn refuse(&mut self) {
        self.is_refused = true;
    }

    /// By which the next one is started, if this was `read`, and whether that is the last that is known to be
    /// good, since the one before refused what was read.
    fn next(&self, read: Option<DockerdConfig>) -> Option<(DockerdConfig, bool)> {
        let config = read.or_else(|| self.wanted.clone())?;
        let proven = self.proven.as_ref().filter(|&proven| *proven != config);
        match proven.filter(|_| self.is_refused && self.tried.as_ref() == Some(&config)) {
            Some(proven) => Some((proven.clone(), true)),
            None => Some((config, false)),
        }
    }
}

/// A configuration of dockerd's.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// The same, by which dockerd keeps its containers.
    fn keeping_containers(&self) -> Self {
        let mut config = self.clone();
        config.merged[LIVE_RESTORE] = json!(true);
        config
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_tried_now_and_then_and_the_last_good_one_holds() {
        let config = |text: &str| DockerdConfig { merged: json!(text), chosen_proxy: None };
        let (good, bad) = (config("good"), config("bad"));
        let mut configs = Configs::default();
        assert_eq!(configs.next(None), None);
        configs.start(good.clone());
        configs.prove();
        for _ in 0..2 {
            assert_eq!(configs.next(Some(bad.clone())), Some((bad.clone(), false)));
            configs.start(bad.clone());
            // It cannot be started at all, or is short of something.
            assert_eq!(configs.next(Some(bad.clone())), Some((bad.clone(), false)));
            configs.refuse();
            assert_eq!(configs.next(Some(bad.clone())), Some((good.clone(), true)));
            // Nor is one that was mended meanwhile.
            let mended = config("mended");
            assert_eq!(configs.next(Some(mended.clone())), Some((mended, false)));
            configs.start(good.clone());
            configs.prove();
        }
        // What cannot be read changes nothing.
        assert_eq!(configs.next(None), Some((good, false)));
    }

    #[test]
    fn containers_are_kept_until_it_runs() {
        let config = DockerdConfig { merged: json!({}), chosen_proxy: None };
        assert!(!config.live_restore() && config.keeping_containers().live_restore());
        assert!(!config.keeping_containers().ending_containers().live_restore());
    }
}
