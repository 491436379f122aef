//! `org.rootlessd.Supervisor1.Job`.

use std::collections::BTreeMap;

use rootlessd_api::{Job, JobResult, dbus::Failure};
use tokio::sync::watch;
use zbus::{interface, message::Header};

use super::{gate::Gate, values};

/// The object of one job.
#[derive(Debug)]
pub struct JobObject {
    gate: Gate,
    id: u32,
    job: watch::Receiver<Job>,
}

impl JobObject {
    /// The object of a job that changes as `job` does.
    pub fn new(gate: Gate, job: watch::Receiver<Job>) -> Self {
        let id = job.borrow().id;
        Self { gate, id, job }
    }
}

#[interface(name = "org.rootlessd.Supervisor1.Job")]
impl JobObject {
    /// End the job with the result "canceled". A start that is cancelled is undone, a stop goes on.
    ///
    /// Errors: org.rootlessd.Error.NoSuchJob if it is over.
    // Without the header as an argument, zbus takes whatever arguments the caller sends.
    async fn cancel(&self, #[zbus(header)] _call: Header<'_>) -> Result<(), Failure> {
        let (_permit, supervisor) = self.gate.enter()?;
        Ok(supervisor.cancel_job(self.id).await?)
    }

    /// Its number, unique while rootlessd runs.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u32 {
        self.id
    }

    /// What it does: "start", "stop", "restart", "replacement" or "upgrade".
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> String {
        self.job.borrow().kind.to_string()
    }

    /// How far it is: "running" or "finished".
    #[zbus(property)]
    fn state(&self) -> String {
        self.job.borrow().state.to_string()
    }

    /// How it ended: a result of the signal JobRemoved; empty while it is at work.
    #[zbus(property)]
    fn result(&self) -> String {
        values::text(self.job.borrow().result.map(JobResult::as_str))
    }

    /// Why it failed: "name", the name of an error of rootlessd; "message", a sentence; "remedy",
    /// may be absent, what mends it. Empty if it did not fail. Keys may be added.
    #[zbus(property)]
    fn error(&self) -> BTreeMap<&'static str, String> {
        values::error(self.job.borrow().error.as_ref())
    }
}
