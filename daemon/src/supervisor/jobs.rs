//! The jobs: what people asked for, and how it went.

use std::collections::VecDeque;

use rootlessd_api::{Error, ErrorKind, Job, JobKind, JobResult, JobState};
use tokio::{sync::broadcast, time::Instant};

use super::{
    handle::Reply,
    machine::{Life, Then},
};

/// How many finished jobs are remembered.
const REMEMBERED: usize = 16;

/// The jobs. At most one is at work, since the engine goes in one direction at a time.
#[derive(Debug)]
pub struct Jobs {
    last_id: u32,
    current: Option<Current>,
    finished: VecDeque<Job>,
    published: broadcast::Sender<Job>,
}

#[derive(Debug)]
struct Current {
    job: Job,
    deadline: Option<Instant>,
    waiters: Vec<Reply<Job>>,
}

impl Jobs {
    /// No jobs; each change goes to `published`.
    pub const fn new(published: broadcast::Sender<Job>) -> Self {
        Self { last_id: 0, current: None, finished: VecDeque::new(), published }
    }

    /// Begin a job, in place of the one at work; one of the same kind goes on instead, for as long
    /// as the more patient of those who asked for it wants.
    pub fn begin(&mut self, kind: JobKind, deadline: Option<Instant>) -> Job {
        if let Some(current) = self.current.as_mut().filter(|current| current.job.kind == kind) {
            current.deadline =
                current.deadline.zip(deadline).map(|(first, second)| first.max(second));
            return current.job.clone();
        }
        self.end(
            JobResult::Canceled,
            Some(Error::new(ErrorKind::Canceled, format!("a {kind} was asked for instead"))),
        );
        self.last_id += 1;
        let job =
            Job { id: self.last_id, kind, state: JobState::Running, result: None, error: None };
        tracing::info!(rootlessd_job = job.id, "job {}: {kind}", job.id);
        self.current = Some(Current { job: job.clone(), deadline, waiters: vec![] });
        let _ = self.published.send(job.clone());
        job
    }

    /// End the job at work, if there is one.
    pub fn end(&mut self, result: JobResult, error: Option<Error>) {
        let Some(Current { mut job, waiters, .. }) = self.current.take() else { return };
        job.state = JobState::Finished;
        job.result = Some(result);
        tracing::info!(rootlessd_job = job.id, "job {}: {} is {result}", job.id, job.kind);
        job.error = error;
        for waiter in waiters {
            // Whoever stopped waiting needs no answer.
            let _ = waiter.send(Ok(job.clone()));
        }
        if self.finished.len() == REMEMBERED {
            self.finished.pop_front();
        }
        self.finished.push_back(job.clone());
        let _ = self.published.send(job);
    }

    /// End the job at work if the engine has come to where it was to go, or cannot any more.
    pub fn settle(&mut self, life: Life, why: impl FnOnce() -> Error) {
        let Some(current) = &self.current else { return };
        match outcome(current.job.kind, life) {
            None => {}
            Some(JobResult::Failed) => self.end(JobResult::Failed, Some(why())),
            Some(result) => self.end(result, None),
        }
    }

    /// When the job at work runs out of time.
    pub fn deadline(&self) -> Option<Instant> {
        self.current.as_ref().and_then(|current| current.deadline)
    }

    /// What the job at work does.
    pub fn current(&self) -> Option<&Job> {
        self.current.as_ref().map(|current| &current.job)
    }

    /// The job with this number, as it is now.
    pub fn get(&self, id: u32) -> Option<Job> {
        self.list().into_iter().find(|job| job.id == id)
    }

    /// All jobs, the oldest first.
    pub fn list(&self) -> Vec<Job> {
        self.finished.iter().chain(self.current()).cloned().collect()
    }

    /// Answer `reply` when the job is finished.
    pub fn wait(&mut self, id: u32, reply: Reply<Job>) {
        match self.current.as_mut().filter(|current| current.job.id == id) {
            Some(current) => {
                current.waiters.retain(|waiter| !waiter.is_closed());
                current.waiters.push(reply);
            }
            None => {
                let _ = reply.send(self.get(id).ok_or_else(|| no_such_job(id)));
            }
        }
    }
}

/// The error for a job that is not known.
pub fn no_such_job(id: u32) -> Error {
    Error::new(ErrorKind::NoSuchJob, format!("there is no job {id}; finished ones are forgotten"))
}

/// How a job of this kind ends when the engine is there in its life; `None` while it is on its way.
pub const fn outcome(kind: JobKind, life: Life) -> Option<JobResult> {
    match (kind, life) {
        (JobKind::Start | JobKind::Restart, Life::Running | Life::Degraded)
        | (JobKind::Stop, Life::Stopped) => Some(JobResult::Done),
        // It is told when the parts are replaced.
        (JobKind::Replacement | JobKind::Upgrade, Life::Running | Life::Degraded)
        | (JobKind::Start | JobKind::Restart, Life::Starting(_))
        | (JobKind::Start | JobKind::Restart, Life::Stopping(_, Then::Start))
        | (JobKind::Stop, Life::Stopping(_, Then::Rest)) => None,
        _ => Some(JobResult::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rootlessd_api::Phase;
    use std::time::Duration;

    #[test]
    fn outcomes() {
        use JobKind::{Replacement, Restart, Start, Stop, Upgrade};
        use JobResult::{Done, Failed};
        let going_up = Life::Starting(Phase::Network);
        let down = Life::Stopping(Phase::Dockerd, Then::Rest);
        let down_up = Life::Stopping(Phase::Dockerd, Then::Start);
        let down_listen = Life::Stopping(Phase::Dockerd, Then::Listen);
        #[rustfmt::skip]
        let rows = [
            (Start, Life::Stopped, Some(Failed)), (Stop, Life::Stopped, Some(Done)), (Restart, Life::Stopped, Some(Failed)),
            (Start, going_up, None), (Stop, going_up, Some(Failed)), (Restart, going_up, None),
            (Start, Life::Listening, Some(Failed)), (Stop, Life::Listening, Some(Failed)), (Restart, Life::Listening, Some(Failed)),
            (Start, Life::Running, Some(Done)), (Stop, Life::Running, Some(Failed)), (Restart, Life::Running, Some(Done)),
            (Start, Life::Degraded, Some(Done)), (Stop, Life::Degraded, Some(Failed)), (Restart, Life::Degraded, Some(Done)),
            (Start, down, Some(Failed)), (Stop, down, None), (Restart, down, Some(Failed)),
            (Start, down_up, None), (Stop, down_up, Some(Failed)), (Restart, down_up, None),
            (Start, down_listen, Some(Failed)), (Stop, down_listen, Some(Failed)), (Restart, down_listen, Some(Failed)),
            (Start, Life::Backoff, Some(Failed)), (Stop, Life::Backoff, Some(Failed)), (Restart, Life::Backoff, Some(Failed)),
            (Start, Life::Failed, Some(Failed)), (Stop, Life::Failed, Some(Failed)), (Restart, Life::Failed, Some(Failed)),
        ];
        for (kind, life, result) in rows {
            assert_eq!(outcome(kind, life), result, "{kind} × {life:?}");
            if kind == Stop {
                let result = (!matches!(life, Life::Running | Life::Degraded)).then_some(Failed);
                for kind in [Replacement, Upgrade] {
                    assert_eq!(outcome(kind, life), result, "{kind} × {life:?}");
                }
            }
        }
    }

    #[test]
    fn a_contrary_job_replaces_and_the_same_goes_on() {
        let (published, mut seen) = broadcast::channel(8);
        let mut jobs = Jobs::new(published);
        let first = jobs.begin(JobKind::Start, None);
        assert_eq!(jobs.begin(JobKind::Start, None), first);
        let second = jobs.begin(JobKind::Stop, None);
        let states: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok())
            .map(|job| (job.id, job.kind, job.result))
            .collect();
        assert_eq!(
            states,
            [
                (1, JobKind::Start, None),
                (1, JobKind::Start, Some(JobResult::Canceled)),
                (2, JobKind::Stop, None)
            ]
        );
        assert_eq!(
            jobs.get(1).and_then(|job| job.error).map(|error| error.kind),
            Some(ErrorKind::Canceled)
        );
        assert_eq!(jobs.current(), Some(&second));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_more_patient_decides_how_long_a_job_may_take() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        for (first, second, deadline) in [
            (Some(soon), Some(later), Some(later)),
            (Some(later), Some(soon), Some(later)),
            (Some(soon), None, None),
            (None, Some(soon), None),
        ] {
            let mut jobs = Jobs::new(broadcast::channel(1).0);
            jobs.begin(JobKind::Start, first);
            jobs.begin(JobKind::Start, second);
            assert_eq!(jobs.deadline(), deadline);
        }
    }

    #[test]
    fn only_the_last_are_remembered() {
        let mut jobs = Jobs::new(broadcast::channel(1).0);
        for _ in 0..20 {
            jobs.begin(JobKind::Start, None);
            jobs.end(JobResult::Done, None);
        }
        assert_eq!(
            jobs.list().iter().map(|job| job.id).collect::<Vec<_>>(),
            (5..=20).collect::<Vec<_>>()
        );
        assert!(jobs.get(4).is_none());
    }
}
