//! Whether containerd, dockerd and RootlessKit still answer. One that was stopped, or waits for itself,
//! is there for all who only look whether its process is.
//!
//! While containers run they are asked now and then, and when somebody doubts them: dockerd for a sign
//! of life and for what it knows of containers, containerd what it says of its own health, RootlessKit
//! what it is. Who does not answer is asked again at once, and hangs if it does not answer several times
//! in a row and does not get on meanwhile. A busy one, or one on a busy machine, gets a minute,
//! RootlessKit five.
//!
//! At the same time it is looked whether there is still [room](super::room).

use std::{
    cell::Cell,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use rootlessd_api::Part;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    InitStatus, Request, Stage,
    containers::Containers,
    kit::{self, Kit},
    room::Room,
};
use crate::{
    engine::{dir::EngineDir, docker, shortage},
    plan::Plan,
    sys::{activity::Activity, grpc, oom::OomKills},
};

/// How often they are asked.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long an answer may take; a few milliseconds are usual.
const PATIENCE: Duration = Duration::from_millis(1500);
/// After so many questions without an answer it hangs, if it did nothing meanwhile.
const LIMIT: u32 = 3;
/// How long an answer may take of one that is busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// After so many questions without an answer it hangs, whatever it does: after a minute.
const BUSY_LIMIT: u32 = 9;
/// The same of RootlessKit, with which all containers end: after five minutes.
const BUSY_LIMIT_OF_ALL: u32 = 33;
/// Who used this part of the time that it had for an answer did something.
const PROGRESS: u32 = 10;

/// containerd's own word on its health (grpc.health.v1).
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What others have to say about when parts are asked.
#[derive(Debug, Default)]
pub(super) struct Attention {
    doubt: Notify,
    kept_still: Cell<Option<u32>>,
}

impl Attention {
    /// Have the parts asked at once: one did not answer.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Which dockerd is kept still on purpose, so that it cannot answer, and must not be asked.
    pub fn keep_still(&self, dockerd: Option<u32>) {
        self.kept_still.set(dockerd);
    }

    /// Which dockerd is kept still.
    pub const fn kept_still(&self) -> Option<u32> {
        self.kept_still.get()
    }
}

/// Who asks.
pub(super) struct PartProbe {
    dir: EngineDir,
    containers: Containers,
    containerd: PathBuf,
    dockerd: PathBuf,
    rootlesskit: PathBuf,
    room: Room,
    status: watch::Receiver<InitStatus>,
    attention: Rc<Attention>,
    oom_kills: Rc<OomKills>,
    found: mpsc::Sender<Request>,
    /// The dockerd that was told to hang last.
    hung: Cell<Option<u32>>,
}

impl PartProbe {
    pub fn of(
        dir: &EngineDir,
        plan: &Plan,
        status: &watch::Sender<InitStatus>,
        attention: Rc<Attention>,
        oom_kills: Rc<OomKills>,
        found: mpsc::Sender<Request>,
    ) -> Self {
        Self {
            dir: dir.clone(),
            containers: Containers::of(&plan.docker),
            containerd: plan.docker.containerd_socket(),
            dockerd: plan.docker.socket.clone(),
            rootlesskit: plan.rootlesskit_socket(),
            room: Room::of(&plan.docker, dir, status.clone()),
            status: status.subscribe(),
            attention,
            oom_kills,
            found,
            hung: Cell::new(None),
        }
    }

    /// Ask them again and again, and tell of one that hangs.
    pub async fn go_on(self) {
        let (mut containerd, mut dockerd, mut rootlesskit) = (None, None, None);
        loop {
            if containerd.is_none() && dockerd.is_none() && rootlesskit.is_none() {
                self.until_next().await;
            }
            if self.attention.kept_still().is_some() || self.status.borrow().stage != Stage::Ready {
                (containerd, dockerd, rootlesskit) = (None, None, None);
                sleep(INTERVAL).await;
                continue;
            }
            (containerd, dockerd, rootlesskit, ()) = tokio::join!(
                self.ask(Part::Containerd, containerd),
                self.ask(Part::Dockerd, dockerd),
                self.ask(Part::Rootlesskit, rootlesskit),
                self.room.look(PATIENCE)
            );
            // Containers can be in the same cgroup, and their ends are none of the parts'. Not every kernel
            // tells of them.
            self.oom_kills.look();
            for silence in [&mut containerd, &mut dockerd, &mut rootlesskit] {
                let Some(hangs) = silence.take_if(|silence| silence.hangs()) else { continue };
                // It cannot even accept a question, and the next one would fare no better.
                if let Some(reason) = shortage::too_many_files(hangs.part, hangs.pid) {
                    tracing::debug!("{} does not answer: {}", hangs.part, reason.text);
                    continue;
                }
                if hangs.part == Part::Rootlesskit {
                    if let Some(kit) = Kit::ours() {
                        kit.end(&self.dir, &hangs.activity, hangs.lasted);
                    }
                    continue;
                }
                if hangs.part == Part::Dockerd {
                    self.hung.set(Some(hangs.pid));
                }
                if self.found.send(hangs.tell(self.containers.may_be_any())).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn until_next(&self) {
        let while_they_run = async {
            // One that hangs and is not ended is asked until it answers.
            if self.hung.get().is_none() {
                self.containers.until_any().await;
            }
            sleep(INTERVAL).await;
        };
        tokio::select! {
            () = while_they_run => {}
            () = self.attention.doubt.notified() => {}
        }
    }

    /// Ask a part; its silence if it does not answer, and `before` if it did not the last time.
    async fn ask(&self, part: Part, before: Option<Silence>) -> Option<Silence> {
        let pid = self.pid_of(part)?;
        let patience = before.as_ref().map_or(PATIENCE, Silence::patience);
        let begun = Instant::now();
        let answer = match part {
            Part::Containerd => grpc::call(&self.containerd, HEALTH, patience).await.map(drop),
            Part::Rootlesskit => kit::answer(&self.rootlesskit, patience).await,
            _ => answer_of_dockerd(&self.dockerd, patience).await,
        };
        let Err(error) = answer else {
            // One that is not ended can come to itself. containerd is always ended.
            if part == Part::Dockerd && self.hung.take() == Some(pid) {
                // Who does not hear it has ended.
                let _ = self.found.send(Request::Answers { part, pid }).await;
            }
            return None;
        };
        if !is_silence(&error) {
            tracing::debug!("{part} cannot be asked how it is: {error}");
            return None;
        }
        if self.pid_of(part) != Some(pid) {
            return None;
        }
        // A full queue refuses at once.
        tokio::time::sleep_until(begun + patience).await;
        Some(Silence::after(before, part, pid, Activity::of(pid)?, begun.elapsed()))
    }

    fn pid_of(&self, part: Part) -> Option<u32> {
        let status = self.status.borrow();
        match part {
            Part::Containerd => status.containerd,
            Part::Rootlesskit => Kit::ours().map(Kit::witness),
            _ => status.dockerd,
        }
    }
}

/// The quickest of dockerd's answers, and one for which it looks at its containers.
async fn answer_of_dockerd(socket: &Path, within: Duration) -> io::Result<()> {
    docker::ping(socket, within).await?;
    docker::newest(socket, within).await
}

/// Whether an error is that of one that does not answer. A queue that is full of others who wait for it
/// refuses as well (`EAGAIN` of connect(2)).
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// A part that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Silence {
    part: Part,
    pid: u32,
    questions: u32,
    /// How many of the last questions in a row found it doing nothing.
    still: u32,
    lasted: Duration,
    activity: Activity,
}

impl Silence {
    /// After another question, after which so much time went by.
    fn after(
        before: Option<Self>,
        part: Part,
        pid: u32,
        activity: Activity,
        time: Duration,
    ) -> Self {
        let before = before.filter(|before| before.pid == pid);
        let worked = before.as_ref().is_some_and(|before| {
            activity.used.saturating_sub(before.activity.used) * PROGRESS >= time
        });
        let (questions, still, lasted) =
            before.map_or((0, 0, Duration::ZERO), |it| (it.questions, it.still, it.lasted));
        let still = if worked || activity.doing.gets_on() { 0 } else { still + 1 };
        let (questions, lasted) = (questions + 1, lasted + time);
        Self { part, pid, questions, still, lasted, activity }
    }

    /// How long it may take to answer the next question.
    const fn patience(&self) -> Duration {
        if self.questions < LIMIT || self.still > 0 { PATIENCE } else { BUSY_PATIENCE }
    }

    const fn hangs(&self) -> bool {
        let busy_limit = match self.part {
            Part::Rootlesskit => BUSY_LIMIT_OF_ALL,
            _ => BUSY_LIMIT,
        };
        self.still >= LIMIT || self.questions >= busy_limit
    }

    fn tell(self, containers: bool) -> Request {
        let Self { part, pid, lasted, activity, .. } = self;
        let seconds = lasted.as_secs_f64();
        let why = format!("it did not answer for {seconds:.1} s, while it was {activity}");
        Request::Hung { part, pid, why, containers }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::{plan::DockerPlan, sys::activity::Doing};

    #[test]
    fn who_gets_on_is_given_time() {
        use Doing::{Asleep, Blocked, Busy, Stopped};
        /// What it was found doing after each question, and the ms of processor time that it used
        /// meanwhile; the number of the question after which it hangs.
        type Row<'a> = (&'a [(Doing, u64)], Option<usize>);
        let rows: &[Row<'_>] = &[
            (&[(Stopped, 0), (Stopped, 0), (Stopped, 0)], Some(3)),
            (&[(Asleep, 0), (Asleep, 10), (Asleep, 10)], Some(3)),
            (&[(Asleep, 0), (Asleep, 0)], None),
            // Something kept it from answering, and then it stood still.
            (&[(Busy, 900), (Stopped, 0), (Stopped, 0), (Stopped, 0)], Some(4)),
            // It waits for itself, but copies what containers write.
            (&[(Asleep, 0), (Asleep, 300), (Asleep, 300), (Asleep, 300)], None),
            (&[(Asleep, 0), (Busy, 0), (Asleep, 0), (Asleep, 0)], None),
            (&[(Asleep, 0), (Blocked, 0), (Asleep, 0), (Asleep, 0), (Asleep, 0)], Some(5)),
            (&[(Busy, 1500); 8], None),
            (&[(Blocked, 0); 20], Some(9)),
        ];
        for (questions, hangs) in rows {
            let mut silence = None;
            let mut used = Duration::from_secs(7);
            let found = questions.iter().position(|&(doing, more)| {
                used += Duration::from_millis(more);
                let mut activity = Activity::doing(doing);
                activity.used = used;
                let time = silence.as_ref().map_or(PATIENCE, Silence::patience);
                let next = Silence::after(silence.take(), Part::Dockerd, 4, activity, time);
                silence.insert(next).hangs()
            });
            assert_eq!(found.map(|index| index + 1), *hangs, "{questions:?}");
        }
    }

    #[test]
    fn a_new_process_begins_anew_and_a_busy_one_may_take_longer() {
        let silence = |before, pid, doing| {
            Silence::after(before, Part::Dockerd, pid, Activity::doing(doing), PATIENCE)
        };
        let first = silence(None, 4, Doing::Stopped);
        let second = silence(Some(first), 4, Doing::Stopped);
        assert_eq!(second.lasted, PATIENCE * 2);
        assert_eq!(silence(Some(second), 5, Doing::Stopped).questions, 1);
        for (part, seconds) in [(Part::Dockerd, 60), (Part::Rootlesskit, 300)] {
            let after =
                |before| Silence::after(before, part, 4, Activity::doing(Doing::Busy), PATIENCE);
            let mut busy = after(None);
            let mut longest = PATIENCE;
            while !busy.hangs() {
                longest += busy.patience();
                busy = after(Some(busy));
            }
            assert_eq!(busy.patience(), BUSY_PATIENCE);
            assert_eq!(longest.as_secs() / 10, seconds / 10, "{part}");
        }
    }

    /// A dockerd that takes no question out of its queue, which has room for one.
    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn who_never_answers_is_told_of_unless_it_is_kept_still() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let docker = DockerPlan {
            user_config: at("daemon.json"),
            data_root: at("data"),
            exec_root: at("exec"),
            pid_file: at("pid"),
            socket: at("docker.sock"),
            cgroup_parent: None,
            cgroup_driver: None,
            live_restore: None,
        };
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let doing = || Activity::of(child.id()).unwrap().doing;
        while doing() != Doing::Asleep {
            std::thread::yield_now();
        }
        let dockerd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&dockerd, &SocketAddrUnix::new(&docker.socket).unwrap()).unwrap();
        listen(&dockerd, 0).unwrap();
        let status =
            InitStatus { stage: Stage::Ready, dockerd: Some(child.id()), ..InitStatus::default() };
        let status = watch::Sender::new(status);
        let attention = Rc::new(Attention::default());
        let (found, mut told) = mpsc::channel(1);
        let dir = EngineDir::at(at("engine"));
        let probe = PartProbe {
            containers: Containers::of(&docker),
            containerd: at("containerd.sock"),
            dockerd: docker.socket.clone(),
            rootlesskit: at("api.sock"),
            room: Room::of(&docker, &dir, status.clone()),
            dir,
            status: status.subscribe(),
            attention: Rc::clone(&attention),
            oom_kills: Rc::new(OomKills::from_now()),
            found,
            hung: Cell::new(None),
        };
        probe.containers.prepare().unwrap();
        let asking = async {
            // Without containers nobody asks.
            let a_while = Duration::from_secs(600);
            assert!(timeout(a_while, told.recv()).await.is_err());
            let begun = Instant::now();
            // The first question fills its queue.
            attention.doubt();
            let Some(Request::Hung { part, pid, why, containers }) = told.recv().await else {
                panic!()
            };
            assert_eq!((part, pid, containers), (Part::Dockerd, child.id(), false));
            let start = "it did not answer for 4.5 s, while it was asleep";
            assert!(why.starts_with(start), "{why}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            attention.keep_still(Some(7));
            attention.doubt();
            assert!(timeout(a_while, told.recv()).await.is_err());
        };
        tokio::select! {
            () = probe.go_on() => panic!("it ends"),
            () = asking => {}
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_longest_that_one_can_hang_unseen() {
        assert!(INTERVAL + PATIENCE * LIMIT < Duration::from_secs(8));
    }
}
