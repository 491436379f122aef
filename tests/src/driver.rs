//! A supervisor without an engine: it does what a test tells it, behind the real [`Handle`].

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use rootlessd::supervisor::handle::{Command, Handle, Mailbox, Reply};
use rootlessd_api::{
    Error, ErrorKind, Job, JobKind, JobOptions, JobResult, JobState, State, Status, samples,
};
use tokio::{
    sync::{broadcast, watch},
    task::{JoinHandle, spawn_local},
};

/// How many finished jobs are listed.
const KEPT_JOBS: usize = 16;

/// The end of a [`Handle`] that a test holds. It ends when it is dropped.
#[derive(Debug)]
pub struct Driver {
    state: Rc<RefCell<Inner>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    status: watch::Sender<Arc<Status>>,
    jobs_out: broadcast::Sender<Job>,
    jobs: BTreeMap<u32, Job>,
    options: BTreeMap<u32, JobOptions>,
    waiting: Vec<(u32, Reply<Job>)>,
    failure: Option<Error>,
    stalled: Option<Vec<Command>>,
    reloads: u32,
    resets: u32,
}

impl Driver {
    /// A driver and the handle before it, in a [`LocalSet`](tokio::task::LocalSet). Everything in
    /// the first status is known but the phase.
    pub fn start() -> (Handle, Self) {
        let (handle, mailbox) = Handle::new(first_status(), samples::log_location());
        let Mailbox { mut commands, status, jobs } = mailbox;
        let state = Rc::new(RefCell::new(Inner {
            status,
            jobs_out: jobs,
            jobs: BTreeMap::new(),
            options: BTreeMap::new(),
            waiting: Vec::new(),
            failure: None,
            stalled: None,
            reloads: 0,
            resets: 0,
        }));
        let inner = state.clone();
        let task = spawn_local(async move {
            while let Some(command) = commands.recv().await {
                inner.borrow_mut().obey(command);
            }
        });
        (handle, Self { state, task })
    }

    /// Change the status, and publish it.
    pub fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.state.borrow().status.send_modify(|status| change(Arc::make_mut(status)));
    }

    /// Fail every further request with `failure`, or none.
    pub fn fail(&self, failure: Option<Error>) {
        self.state.borrow_mut().failure = failure;
    }

    /// Answer no request until [`Self::resume`].
    pub fn stall(&self) {
        self.state.borrow_mut().stalled.get_or_insert_default();
    }

    /// Answer the requests that came meanwhile, and all further ones.
    pub fn resume(&self) {
        let mut inner = self.state.borrow_mut();
        let commands = inner.stalled.take().unwrap_or_default();
        commands.into_iter().for_each(|command| inner.obey(command));
    }

    /// Finish a job.
    pub fn finish(&self, id: u32, result: JobResult, error: Option<Error>) {
        self.state.borrow_mut().finish(id, result, error);
    }

    /// What a job was asked for with.
    pub fn options(&self, id: u32) -> Option<JobOptions> {
        self.state.borrow().options.get(&id).cloned()
    }

    /// How many jobs there ever were.
    pub fn job_count(&self) -> u32 {
        self.state.borrow().jobs.keys().next_back().copied().unwrap_or(0)
    }

    /// How many wait for a job.
    pub fn waiting(&self) -> usize {
        self.state.borrow().waiting.iter().filter(|(_, reply)| !reply.is_closed()).count()
    }

    /// How often a reload and a reset was asked for.
    pub fn reloads_and_resets(&self) -> (u32, u32) {
        let inner = self.state.borrow();
        (inner.reloads, inner.resets)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn first_status() -> Status {
    Status { state: State::Stopped, phase: None, next_attempt: None, ..without_processes() }
}

fn without_processes() -> Status {
    Status { processes: Vec::new(), ..samples::status() }
}

impl Inner {
    fn obey(&mut self, command: Command) {
        if let Some(stalled) = &mut self.stalled {
            return stalled.push(command);
        }
        match command {
            Command::Status(reply) => {
                let mut status = Status::clone(&self.status.borrow());
                status.processes = vec![samples::process()];
                let _ = reply.send(status);
            }
            Command::Request { kind, options, reply } => {
                let _ = reply.send(self.refuse().map(|()| self.begin(kind, options)));
            }
            Command::WaitJob { id, reply } => self.wait(id, reply),
            Command::CancelJob { id, reply } => {
                let running = self.jobs.get(&id).is_some_and(|job| job.state == JobState::Running);
                if running {
                    self.finish(id, JobResult::Canceled, None);
                }
                let _ = reply.send(if running { Ok(()) } else { Err(no_such_job(id)) });
            }
            Command::Jobs(reply) => {
                let _ = reply.send(self.listed());
            }
            Command::Reload(reply) => {
                self.reloads += 1;
                let _ = reply.send(self.refuse());
            }
            Command::ResetFailed(reply) => {
                self.resets += 1;
                let _ = reply.send(self.refuse());
            }
            Command::Settings(reply) => {
                let _ = reply.send(vec![samples::setting()]);
            }
        }
    }

    fn refuse(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn begin(&mut self, kind: JobKind, options: JobOptions) -> Job {
        let id = self.jobs.keys().next_back().copied().unwrap_or(0) + 1;
        let skipped = kind == JobKind::Start && self.status.borrow().state.is_up();
        let job = Job {
            id,
            kind,
            state: if skipped { JobState::Finished } else { JobState::Running },
            result: skipped.then_some(JobResult::Skipped),
            error: None,
        };
        self.options.insert(id, options);
        self.jobs.insert(id, job.clone());
        let _ = self.jobs_out.send(job.clone());
        job
    }

    fn finish(&mut self, id: u32, result: JobResult, error: Option<Error>) {
        let job = self.jobs.get_mut(&id).expect("a job of this number");
        *job = Job { state: JobState::Finished, result: Some(result), error, ..job.clone() };
        let _ = self.jobs_out.send(job.clone());
        for (_, reply) in self.waiting.extract_if(.., |(waiting, _)| *waiting == id) {
            let _ = reply.send(Ok(job.clone()));
        }
    }

    fn wait(&mut self, id: u32, reply: Reply<Job>) {
        self.waiting.retain(|(_, reply)| !reply.is_closed());
        match self.jobs.get(&id) {
            Some(job) if job.state == JobState::Running => self.waiting.push((id, reply)),
            Some(job) => drop(reply.send(Ok(job.clone()))),
            None => drop(reply.send(Err(no_such_job(id)))),
        }
    }

    fn listed(&self) -> Vec<Job> {
        let finished = |job: &&Job| job.state == JobState::Finished;
        let dropped = self.jobs.values().filter(finished).count().saturating_sub(KEPT_JOBS);
        let oldest = self.jobs.values().filter(finished).nth(dropped).map_or(0, |job| job.id);
        self.jobs.values().filter(|job| !finished(job) || job.id >= oldest).cloned().collect()
    }
}

fn no_such_job(id: u32) -> Error {
    Error::new(ErrorKind::NoSuchJob, format!("there is no job {id}"))
}
