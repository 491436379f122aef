//! What the front ends ask for, and the answers.

use std::{sync::Arc, time::Duration};

use rootlessd_api::{Error, ErrorKind, Job, JobKind, JobOptions, JobResult, Process, Status};
use tokio::{sync::oneshot, task::spawn_blocking, time::Instant};

use super::{
    Supervisor,
    handle::Command,
    jobs,
    machine::{self, Life},
    memory::Demand,
};
use crate::{engine::processes::Processes, sys::clock};

impl Supervisor {
    /// Do what is asked for, and answer.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            // Who does not wait for an answer any more needs none: `let _` below.
            Command::Status(reply) => self.tell_status(reply),
            Command::Request { kind, options, reply } => {
                let _ = reply.send(self.begin(kind, &options));
            }
            Command::Client(reply) => {
                self.start_on_demand();
                let _ = reply.send(());
            }
            Command::WaitJob { id, reply } => self.jobs.wait(id, reply),
            Command::CancelJob { id, reply } => {
                let _ = reply.send(self.cancel(id));
            }
            Command::Jobs(reply) => {
                let _ = reply.send(self.jobs.list());
            }
            Command::Reload(reply) => self.reload(reply),
            Command::ResetFailed(reply) => {
                self.memory.deaths.clear();
                self.memory.incidents.clear();
                self.memory.refusals.clear();
                self.step(machine::Event::ResetFailed);
                let _ = reply.send(Ok(()));
            }
            Command::ListPorts(reply) => self.list_ports(reply),
            Command::RequestPorts { ports, interactive, reply } => {
                self.request_ports(ports, interactive, reply);
            }
            Command::RefreshPorts(reply) => self.refresh_ports(reply),
            Command::Settings(reply) => {
                let _ = reply.send(self.links.loaded.borrow().settings.clone());
            }
        }
    }

    /// Start the engine for a client, unless something else was decided meanwhile.
    fn start_on_demand(&mut self) {
        if self.memory.machine.life() != Life::Listening || self.ending.is_some() {
            return;
        }
        tracing::info!("a client connects, so the engine is started");
        let starts = self.memory.demand.starts.saturating_add(1);
        self.memory.demand = Demand { starts, last: Some(clock::now_realtime()) };
        self.step(machine::Event::Client);
    }

    fn begin(&mut self, kind: JobKind, options: &JobOptions) -> Result<Job, Error> {
        if self.ending.is_some() {
            return Err(Error::new(ErrorKind::Busy, "rootlessd is shutting down"));
        }
        let life = self.memory.machine.life();
        let kind = effective_kind(kind, options, life)?;
        let timeout = options.timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros);
        // A time beyond what the clock can tell is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let is_at_work = self.jobs.current().is_some_and(|job| job.kind == kind);
        let job = self.jobs.begin(kind, deadline);
        match work(kind, life, is_at_work) {
            Work::Skip => self.jobs.end(JobResult::Skipped, None),
            Work::Take(event) => self.step(event),
            Work::Join => {}
            Work::Replace { only_new } => self.replace(only_new),
        }
        Ok(self.jobs.get(job.id).unwrap_or(job))
    }

    fn cancel(&mut self, id: u32) -> Result<(), Error> {
        let job = self.jobs.current().filter(|job| job.id == id);
        let kind = job.ok_or_else(|| jobs::no_such_job(id))?.kind;
        let error = Error::new(ErrorKind::Canceled, "the job was cancelled");
        self.jobs.end(JobResult::Canceled, Some(error));
        if matches!(kind, JobKind::Start | JobKind::Restart) {
            self.step(machine::Event::Stop);
        }
        Ok(())
    }

    /// One list of processes serves all who ask while it is made.
    fn tell_status(&mut self, reply: oneshot::Sender<Arc<Status>>) {
        if self.asking.is_empty() {
            let shim = self.engine.shim;
            let mut processes = std::mem::take(&mut self.processes);
            self.listing = Some(spawn_blocking(move || {
                let list = processes.list(shim);
                (processes, list)
            }))
            .into();
        }
        self.asking.push(reply);
    }

    /// Answer them.
    pub(super) fn answer_asking(&mut self, (processes, list): (Processes, Vec<Process>)) {
        self.listing = None.into();
        self.processes = processes;
        let status = Arc::new(Status { processes: list, ..self.status() });
        for reply in self.asking.drain(..) {
            // Whoever stopped waiting needs no answer.
            let _ = reply.send(Arc::clone(&status));
        }
    }
}

/// What is done for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: what it asks for is so.
    Skip,
    /// The machine takes this.
    Take(machine::Event),
    /// Nothing more: it is being done.
    Join,
    /// Parts are replaced.
    Replace {
        /// Only those whose file is another than when they were started.
        only_new: bool,
    },
}

/// What is done for a job of this kind where the engine is there in its life. `is_at_work`: one of the
/// same kind goes on.
pub const fn work(kind: JobKind, life: Life, is_at_work: bool) -> Work {
    match (kind, life) {
        (JobKind::Start, Life::Running | Life::Degraded) | (JobKind::Stop, Life::Stopped) => {
            Work::Skip
        }
        (JobKind::Start, _) => Work::Take(machine::Event::Start),
        (JobKind::Stop, _) => Work::Take(machine::Event::Stop),
        (JobKind::Restart, _) => Work::Take(machine::Event::Restart),
        (JobKind::Replacement | JobKind::Upgrade, _) if is_at_work => Work::Join,
        (JobKind::Replacement, _) => Work::Replace { only_new: false },
        (JobKind::Upgrade, Life::Running | Life::Degraded) => Work::Replace { only_new: true },
        // The next start is of what there is then.
        (JobKind::Upgrade, _) => Work::Skip,
    }
}

/// What kind of job a request is. Where there are no containers to be kept, a restart is a restart.
pub fn effective_kind(kind: JobKind, options: &JobOptions, life: Life) -> Result<JobKind, Error> {
    let keep = options.keep_containers == Some(true);
    if keep && !matches!(kind, JobKind::Restart | JobKind::Replacement) {
        let text =
            format!("a {kind} keeps no containers, or all of them: leave keep_containers out");
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let kind = if keep { JobKind::Replacement } else { kind };
    match (kind, life) {
        (JobKind::Replacement | JobKind::Upgrade, Life::Starting(_) | Life::Stopping(..)) => {
            let text = format!("the engine is {}; ask again when it is running", life.state());
            Err(Error::new(ErrorKind::Busy, text).with_remedy("rootlessctl watch"))
        }
        (JobKind::Replacement, Life::Stopped | Life::Listening | Life::Backoff | Life::Failed) => {
            Ok(JobKind::Restart)
        }
        (kind, _) => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::machine::Then;
    use rootlessd_api::Phase;

    #[test]
    fn a_restart_keeps_containers_where_there_are_any() {
        use JobKind::{Replacement, Restart, Start, Upgrade};
        let keep = JobOptions { keep_containers: Some(true), ..JobOptions::default() };
        for (kind, life, expected) in [
            (Restart, Life::Running, Some(Replacement)),
            (Restart, Life::Degraded, Some(Replacement)),
            (Restart, Life::Stopped, Some(Restart)),
            (Restart, Life::Listening, Some(Restart)),
            (Restart, Life::Backoff, Some(Restart)),
            (Restart, Life::Failed, Some(Restart)),
            (Restart, Life::Starting(Phase::Dockerd), None),
            (Restart, Life::Stopping(Phase::Dockerd, Then::Rest), None),
            (Start, Life::Running, None),
            (Upgrade, Life::Running, None),
        ] {
            assert_eq!(effective_kind(kind, &keep, life).ok(), expected, "{kind} {life:?}");
        }
        let keep = JobOptions::default();
        assert_eq!(effective_kind(Restart, &keep, Life::Running).ok(), Some(Restart));
    }
}
