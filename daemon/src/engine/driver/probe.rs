//! Whether dockerd does its work: it is asked now and then, when a container started or ended, and
//! when a part was replaced. One that does not answer in time is engine-init's to look at.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use futures_util::{FutureExt, future::OptionFuture};
use rootlessd_api::Part;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use super::{Event, Facts, hearing::Hearing, program_files::ProgramFiles};
use crate::{
    engine::{
        dir::EngineDir,
        docker::{self, ContainerEvents},
        init::{InitStatus, client::InitClient},
    },
    plan::Plan,
    reasons::Code,
    sys::{activity::Activity, cgroup, files::FileId},
};

/// How often a running dockerd is asked whether it still answers.
const INTERVAL: Duration = Duration::from_secs(60);
/// How soon after a failed probe it is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// How soon it is asked again whether it found its containerd again.
const CONTAINERD_AGAIN: Duration = Duration::from_millis(250);
/// How long to collect what containers do before dockerd is asked again.
const BURST: Duration = Duration::from_millis(250);

/// What mends a dockerd that does not answer. Where it would end the containers it is refused, with what
/// is left to be done.
const REMEDY: &str = "rootlessctl restart --keep-containers";

/// What is asked, and of whom.
pub(super) struct Probe {
    socket: PathBuf,
    /// The paths of the programs that can be replaced under the containers.
    programs: [(Part, PathBuf); 2],
    init: watch::Sender<Option<InitStatus>>,
    engine_init: InitClient,
    /// containerd's version; dockerd is asked for it after each change.
    containerd: RefCell<Option<String>>,
    /// Whether containers ran when dockerd was asked last.
    has_containers: Cell<bool>,
    /// Whether dockerd has yet to show that it reaches containerd.
    doubtful: Cell<bool>,
    now: Notify,
    /// Whether it is an occasion to look at the machine, too.
    occasion: Notify,
    /// How often parts complained, as engine-init told last.
    complaints: Cell<u32>,
    /// Whether nothing is to be asked: dockerd ends only when nobody asks it anything any more.
    silent: Cell<bool>,
    /// Whether the last probe passed, and how many there were.
    passed: watch::Sender<(bool, u64)>,
    /// Whether engine-init hears, which is to mend what does not.
    pub hearing: Hearing,
    events: mpsc::Sender<Event>,
}

impl Probe {
    pub fn of(plan: &Plan, dir: EngineDir, events: mpsc::Sender<Event>) -> Self {
        Self {
            socket: plan.docker.socket.clone(),
            programs: [
                (Part::Containerd, plan.containerd.clone()),
                (Part::Dockerd, plan.dockerd.clone()),
            ],
            init: watch::Sender::default(),
            engine_init: InitClient::of(dir),
            containerd: RefCell::new(plan.versions.containerd.clone()),
            has_containers: Cell::new(false),
            doubtful: Cell::new(false),
            now: Notify::new(),
            occasion: Notify::new(),
            complaints: Cell::new(0),
            silent: Cell::new(false),
            passed: watch::Sender::default(),
            hearing: Hearing::default(),
            events,
        }
    }

    /// Docker's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Learn which processes there are, and of which files.
    pub fn learn(&self, init: InitStatus) {
        if self.complaints.replace(init.complaints) != init.complaints {
            self.occasion.notify_one();
        }
        self.init.send_replace(Some(init));
    }

    /// Wait until it is known which processes there are.
    pub async fn learned(&self) {
        // The sender is here.
        let _ = self.init.subscribe().wait_for(Option::is_some).await;
    }

    /// Ask at once, and whether dockerd reaches its containerd: something happened to a part.
    pub fn at_once(&self) {
        self.doubtful.set(true);
        self.now.notify_one();
    }

    /// Ask nothing, and keep no connection, until told otherwise.
    pub fn keep_silent(&self, silent: bool) {
        self.silent.set(silent);
        self.now.notify_one();
    }

    /// Wait until there is an occasion to look at the machine: dockerd was asked, or a part complained
    /// that it is short of something.
    pub async fn occasion(&self) {
        self.occasion.notified().await;
    }

    /// Whether containers ran when dockerd was asked last.
    pub const fn has_containers(&self) -> bool {
        self.has_containers.get()
    }

    /// Wait until it is asked at once and is well.
    pub async fn until_healthy(&self) {
        let mut passed = self.passed.subscribe();
        let (_, before) = *passed.borrow_and_update();
        self.at_once();
        // It ends with the probe itself.
        let _ = passed.wait_for(|&(passed, count)| passed && count > before).await;
    }

    /// What engine-init told last.
    pub fn init(&self) -> InitStatus {
        self.init.borrow().unwrap_or_default()
    }

    /// The parts whose file is another now than when they were started.
    pub fn outdated(&self) -> Vec<Part> {
        let InitStatus { containerd_file, dockerd_file, .. } = self.init();
        let outdated = [containerd_file, dockerd_file].into_iter().zip(&self.programs);
        outdated
            .filter(|(started, (_, path))| is_outdated(*started, FileId::at(path)))
            .map(|(_, &(part, _))| part)
            .collect()
    }

    /// Ask dockerd again and again, and tell.
    pub async fn go_on(self: Rc<Self>) {
        let mut containers = None;
        // Whether it was asked just now because a container started or ended.
        let mut happened = false;
        let mut in_time = true;
        // Without it, it is seen when dockerd is asked.
        let mut files = ProgramFiles::of(self.programs.iter().map(|(_, path)| path)).ok();
        loop {
            while self.silent.get() {
                containers = None;
                self.now.notified().await;
            }
            if containers.is_none() && in_time {
                // Before dockerd is asked, so that nothing happens unseen in between.
                containers = ContainerEvents::follow(&self.socket).await.ok();
            }
            let asked = self.ask().await;
            let Asked { event, pause, .. } = asked;
            in_time = asked.in_time;
            let passed = matches!(event, Event::Healthy(_));
            if self.events.send(event).await.is_err() {
                return;
            }
            self.passed.send_modify(|last| *last = (passed, last.1 + 1));
            self.occasion.notify_one();
            if !in_time {
                containers = None;
                self.doubt().await;
            }
            if !passed {
                self.hearing.ask(&self.engine_init).await;
            }
            if happened {
                // What happens together is asked about once more: dockerd tells of an end before it counts it.
                sleep(BURST).await;
                while let Some(Some(())) = next_of(&mut containers).now_or_never() {}
                happened = false;
                continue;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.now.notified() => {}
                Some(()) = OptionFuture::from(files.as_mut().map(ProgramFiles::replaced)) => {}
                told = next_of(&mut containers) => match told {
                    Some(()) => happened = true,
                    None => {
                        sleep(BURST).await;
                        containers = None;
                    }
                }
            }
        }
    }

    /// Have it looked at whether it hangs, and replaced if so. Where that cannot be, it stays as it is,
    /// and the reason why the engine is degraded.
    pub async fn doubt(&self) {
        if let Err(error) = self.engine_init.doubt().await {
            tracing::debug!("it is not looked at whether dockerd hangs: {error}");
        }
    }

    async fn ask(&self) -> Asked {
        let failed = |text: String, pause| {
            let reason = Code::DockerdNotAnswering.reason_with_remedy(text, REMEDY);
            Asked { event: Event::Unhealthy(reason), pause, in_time: true }
        };
        let info = match docker::info(&self.socket).await {
            Ok(info) => info,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let activity = self.init().dockerd.and_then(Activity::of);
                let activity = activity.map_or("gone".to_owned(), |it| it.to_string());
                let text = format!("dockerd does not answer in time: it is {activity}");
                return Asked { in_time: false, ..failed(text, AGAIN) };
            }
            Err(error) => return failed(format!("dockerd does not answer: {error}"), AGAIN),
        };
        self.has_containers.set(info.containers_running > 0);
        if self.doubtful.get() {
            match docker::containerd_version(&self.socket).await {
                Ok(Some(version)) => drop(self.containerd.replace(Some(version))),
                _ => {
                    return failed("dockerd does not reach containerd".into(), CONTAINERD_AGAIN);
                }
            }
            self.doubtful.set(false);
        }
        let facts = Facts {
            info,
            controllers: cgroup::users_controllers(),
            containerd_version: self.containerd.borrow().clone(),
            outdated: self.outdated(),
        };
        Asked { event: Event::Healthy(facts), pause: INTERVAL, in_time: true }
    }
}

/// What a question came to.
struct Asked {
    event: Event,
    /// How long to wait before the next.
    pause: Duration,
    /// Whether there was any answer, if only a bad one.
    in_time: bool,
}

/// Whether a part should be started again: there is a file for it, which is not the one it is of.
/// What an engine-init of an older release does not tell is none.
fn is_outdated(started: Option<FileId>, now: Option<FileId>) -> bool {
    started.zip(now).is_some_and(|(started, now)| started != now)
}

async fn next_of(containers: &mut Option<ContainerEvents>) -> Option<()> {
    match containers {
        Some(containers) => containers.next().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_at_the_path_is_a_newer_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dockerd");
        assert_eq!(FileId::at(&path), None);
        std::fs::write(&path, "1").unwrap();
        let old = FileId::at(&path);
        std::fs::write(dir.path().join("new"), "1").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        let new = FileId::at(&path);
        for (started, now, outdated) in [
            (old, old, false),
            (old, new, true),
            // In the middle of an upgrade, and of an older engine-init.
            (old, None, false),
            (None, new, false),
        ] {
            assert_eq!(is_outdated(started, now), outdated, "{started:?} {now:?}");
        }
    }
}
