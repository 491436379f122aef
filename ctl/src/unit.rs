//! `rootlessctl unit`: the main process of `docker.service`.
//!
//! The unit stands for the engine: it is active while the engine is up or on its way, inactive when
//! it was stopped or waits for a client, failed when it failed. It starts the engine, reports over sd_notify(3), and lives
//! through restarts of rootlessd.

use std::time::Duration;

use rootlessd_api::{
    Error, Job, JobKind, JobOptions, State, Status,
    client::{ClientError, Watch},
    names,
};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    exit::Exit, failure::Failure, human::Clock, runtime_dir, summary, supervisor::Supervisor,
};

/// How long rootlessd may take to answer: it may be starting itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long rootlessd may be gone before it counts as stopped.
const GONE: Duration = Duration::from_secs(5);
/// How long to wait between two looks for a rootlessd that is gone.
const AGAIN: Duration = Duration::from_millis(100);

/// Start the engine unless it is on its way, then follow it to its end; when systemd ends the unit,
/// stop the engine.
pub async fn run() -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(Some(PATIENCE))?;
    // The only errors are those of a process that has no signals to wait for.
    let mut terminate = signal(SignalKind::terminate()).map_err(|_| Failure::Closed)?;
    tokio::select! {
        ended = follow(&supervisor) => ended,
        _ = terminate.recv() => stop(&supervisor).await,
    }
}

/// Stop the engine. Where rootlessd is gone, it took the engine along or will be asked itself.
async fn stop(supervisor: &Supervisor) -> Result<Exit, Failure> {
    notify(&[NotifyState::Stopping]);
    let stopped = async {
        let mut client = supervisor.try_connect().await?;
        let job = client.request(JobKind::Stop, &JobOptions::default()).await?;
        client.wait_job(job.id).await
    };
    match stopped.await {
        Ok(Job { error: Some(error), .. }) => Err(ClientError::Api(error).into()),
        Ok(_) | Err(ClientError::Connect { .. } | ClientError::Closed { .. }) => Ok(Exit::Ok),
        Err(error) => Err(error.into()),
    }
}

async fn follow(supervisor: &Supervisor) -> Result<Exit, Failure> {
    // Read at once: it is there for this process only.
    let follows = names::unit_follows(&runtime_dir::find()?).exists();
    let mut unit = Unit { follows, ..Unit::default() };
    let mut seen = false;
    loop {
        match unit.live(supervisor).await {
            Err(Failure::Closed) => seen = true,
            Err(Failure::NoSupervisor { .. }) if seen => {}
            ended => return ended,
        }
        // An upgrade restarts rootlessd; the engine goes on, and so does the unit.
        notify(&[NotifyState::Status("waiting for rootlessd")]);
        if !is_back(supervisor).await {
            return if unit.ready { Ok(Exit::Ok) } else { Err(Failure::Closed) };
        }
    }
}

/// Wait for a rootlessd that went away; whether it came back.
async fn is_back(supervisor: &Supervisor) -> bool {
    let gone = Instant::now() + GONE;
    while supervisor.try_connect().await.is_err() {
        if Instant::now() >= gone {
            return false;
        }
        sleep(AGAIN).await;
    }
    true
}

/// A start that is under way.
type Start = JoinHandle<Result<Job, ClientError>>;

#[derive(Default)]
struct Unit {
    start: Option<Start>,
    refusal: Option<Error>,
    /// Whether rootlessd had the unit started, for an engine that was up.
    follows: bool,
    ready: bool,
}

impl Unit {
    /// Follow the engine until it does not run and is not on its way, or rootlessd goes away.
    async fn live(&mut self, supervisor: &Supervisor) -> Result<Exit, Failure> {
        self.start = if self.ready || self.follows { None } else { start(supervisor).await? };
        let mut watch = supervisor.connect().await?.watch().await?;
        let mut now = watch.next().await?;
        loop {
            if let Some(ended) = self.take(&now) {
                return ended;
            }
            now = self.next(supervisor, &mut watch).await?;
        }
    }

    /// The next status, or the one after the start when that is over.
    async fn next(
        &mut self,
        supervisor: &Supervisor,
        watch: &mut Watch,
    ) -> Result<Status, Failure> {
        let Some(start) = &mut self.start else { return Ok(watch.next().await?) };
        tokio::select! {
            status = watch.next() => Ok(status?),
            ended = start => {
                self.start = None;
                // A task that is lost was lost with the runtime.
                self.refusal = ended.map_err(|_| Failure::Closed)??.error;
                // What was watched so far may be from before the start.
                *watch = supervisor.connect().await?.watch().await?;
                Ok(watch.next().await?)
            }
        }
    }

    /// Report a status to systemd; and if it is the engine's end, how the unit ends.
    fn take(&mut self, now: &Status) -> Option<Result<Exit, Failure>> {
        let line = summary::line(now, &Clock::system());
        if now.state.is_up() && !self.ready {
            self.ready = true;
            notify(&[NotifyState::Ready, NotifyState::Status(&line)]);
        } else {
            notify(&[NotifyState::Status(&line)]);
        }
        // Until the start has its answer, the engine may not have left the state it was in.
        match now.state {
            State::Stopped | State::Listening if self.start.is_none() => {
                // For systemd, who ends in order has been there. In one message it would not see the first:
                // STOPPING=1 wins over READY=1, see service_notify_message() in its service.c.
                notify(&[NotifyState::Ready]);
                notify(&[NotifyState::Stopping]);
                Some(Ok(Exit::Ok))
            }
            State::Failed if self.start.is_none() => Some(Err(self.failure(now))),
            _ => None,
        }
    }

    fn failure(&mut self, status: &Status) -> Failure {
        if let Some(error) = self.refusal.take() {
            return Failure::EngineFailed { message: error.message, remedy: error.remedy };
        }
        let (text, remedy) = summary::gravest(status).unwrap_or(("the engine failed", None));
        Failure::EngineFailed {
            message: text.to_owned(),
            remedy: Some(remedy.unwrap_or("rootlessctl status").to_owned()),
        }
    }
}

/// Ask for a start, unless the engine is up or on its way.
async fn start(supervisor: &Supervisor) -> Result<Option<Start>, Failure> {
    let mut client = supervisor.connect().await?;
    let state = supervisor.answer(client.status()).await?.state;
    if state.is_up() || matches!(state, State::Starting | State::Backoff) {
        return Ok(None);
    }
    let options = JobOptions::default();
    let job = supervisor.answer(client.request(JobKind::Start, &options)).await?;
    Ok(Some(tokio::spawn(async move { client.wait_job(job.id).await })))
}

/// Tell systemd, where it listens. Started by hand, nobody does, and that is no failure.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
