//! The one way in: what a front end can ask of the supervisor.

use std::{collections::BTreeSet, sync::Arc};

use crate::events::Events;
use rootlessd_api::{
    Error, ErrorKind, Job, JobKind, JobOptions, LogLocation, Port, PublishedPort, Setting, Status,
    helper::Outcome,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// A request to the supervisor, and where its answer goes.
#[derive(Debug)]
pub enum Command {
    /// The status with its processes.
    Status(oneshot::Sender<Arc<Status>>),
    /// Begin a job.
    Request {
        /// What to do.
        kind: JobKind,
        /// How.
        options: JobOptions,
        /// The job.
        reply: Reply<Job>,
    },
    /// A client is in the queue of Docker's socket.
    Client(oneshot::Sender<()>),
    /// Tell when a job is finished.
    WaitJob {
        /// The job's number.
        id: u32,
        /// The finished job.
        reply: Reply<Job>,
    },
    /// End a job.
    CancelJob {
        /// The job's number.
        id: u32,
        /// Whether there was one to end.
        reply: Reply<()>,
    },
    /// All known jobs.
    Jobs(oneshot::Sender<Vec<Job>>),
    /// Read the configuration again.
    Reload(Reply<()>),
    /// Forget the deaths.
    ResetFailed(Reply<()>),
    /// The published ports.
    ListPorts(Reply<Vec<PublishedPort>>),
    /// Ask for ports.
    RequestPorts {
        /// Which.
        ports: BTreeSet<Port>,
        /// Whether somebody may be asked.
        interactive: bool,
        /// How it was done.
        reply: Reply<Outcome>,
    },
    /// Look again at what is granted.
    RefreshPorts(Reply<()>),
    /// The effective configuration.
    Settings(oneshot::Sender<Vec<Setting>>),
}

/// Where the answer to a request goes.
pub type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// The handle that every front end holds; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<Status>>,
    jobs: broadcast::Sender<Job>,
    logs: Arc<LogLocation>,
    events: Events,
}

/// The supervisor's ends of a [`Handle`].
#[derive(Debug)]
pub struct Mailbox {
    /// Requests come in here.
    pub commands: mpsc::Receiver<Command>,
    /// Every change of the status goes out here.
    pub status: watch::Sender<Arc<Status>>,
    /// Every change of a job goes out here: new ones, then finished ones.
    pub jobs: broadcast::Sender<Job>,
}

impl Handle {
    /// A handle and the supervisor's ends of it, with the first status.
    pub fn new(status: Status, logs: LogLocation, events: Events) -> (Self, Mailbox) {
        // More requests than this wait in their connections: back-pressure, not memory.
        let (commands, commands_in) = mpsc::channel(64);
        let (status_out, status) = watch::channel(Arc::new(status));
        // A front end that lags by more than this many jobs reads the list instead.
        let (jobs, _) = broadcast::channel(64);
        let mailbox = Mailbox { commands: commands_in, status: status_out, jobs: jobs.clone() };
        (Self { commands, status, jobs, logs: Arc::new(logs), events }, mailbox)
    }

    /// The status as it was last published, without processes.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// The status with the processes and what memory they take now.
    pub async fn full_status(&self) -> Result<Arc<Status>, Error> {
        self.ask(Command::Status).await
    }

    /// Follow the status; the value at hand counts as seen.
    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Follow the jobs: each new one, and each again when it is finished.
    pub fn watch_jobs(&self) -> broadcast::Receiver<Job> {
        self.jobs.subscribe()
    }

    /// What happened, and what happens.
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// Begin a start, stop or restart. Nothing to do is a finished job with the result `skipped`.
    pub async fn request(&self, kind: JobKind, options: JobOptions) -> Result<Job, Error> {
        self.ask(|reply| Command::Request { kind, options, reply }).await?
    }

    /// A client is in the queue of Docker's socket: start the engine for it, if it listens.
    pub async fn client(&self) -> Result<(), Error> {
        self.ask(Command::Client).await
    }

    /// Wait until a job is finished.
    pub async fn wait_job(&self, id: u32) -> Result<Job, Error> {
        self.ask(|reply| Command::WaitJob { id, reply }).await?
    }

    /// End a job.
    pub async fn cancel_job(&self, id: u32) -> Result<(), Error> {
        self.ask(|reply| Command::CancelJob { id, reply }).await?
    }

    /// The jobs at work and the last finished ones, the oldest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, Error> {
        self.ask(Command::Jobs).await
    }

    /// Read the configuration again.
    pub async fn reload(&self) -> Result<(), Error> {
        self.ask(Command::Reload).await?
    }

    /// Forget the deaths.
    pub async fn reset_failed(&self) -> Result<(), Error> {
        self.ask(Command::ResetFailed).await?
    }

    /// The published ports.
    pub async fn list_ports(&self) -> Result<Vec<PublishedPort>, Error> {
        self.ask(Command::ListPorts).await?
    }

    /// Ask the helper for ports, on the user's behalf.
    pub async fn request_ports(
        &self,
        ports: BTreeSet<Port>,
        interactive: bool,
    ) -> Result<Outcome, Error> {
        self.ask(|reply| Command::RequestPorts { ports, interactive, reply }).await?
    }

    /// Look again at what is granted: somebody changed it.
    pub async fn refresh_ports(&self) -> Result<(), Error> {
        self.ask(Command::RefreshPorts).await?
    }

    /// The effective configuration.
    pub async fn settings(&self) -> Result<Vec<Setting>, Error> {
        self.ask(Command::Settings).await
    }

    /// Where the logs are.
    pub fn log_location(&self) -> &LogLocation {
        &self.logs
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let gone = || Error::new(ErrorKind::Busy, "rootlessd is shutting down");
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}
