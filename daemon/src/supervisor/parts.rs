//! Parts of a running engine that are lost and replaced, and who wants that.

use rootlessd_api::{Error, JobKind, JobResult, Part, Reason};

use super::{Supervisor, machine, memory::Memory, status::Knowledge};
use crate::{
    engine::{driver, incidents::Incident},
    reasons::Code,
};

/// How many incidents are told.
const TOLD: usize = 20;

impl Supervisor {
    /// Take what happened to parts.
    pub(super) fn learn_incidents(&mut self, incidents: &[Incident]) {
        // No more at a time than are told: what is never in a status is no event.
        for incidents in incidents.chunks(TOLD) {
            for incident in incidents {
                self.engine.incidents += 1;
                // Who took the engine over reads again what the one before had read.
                if self.engine.incidents > self.memory.incidents_taken {
                    self.memory.incidents_taken = self.engine.incidents;
                    self.memory.remember(incident.tell());
                }
                self.engine.take(incident.clone());
            }
            match self.engine.lost.is_empty() {
                // The next probe tells whether all is well again.
                true => self.publish(),
                false => self.step(machine::Event::Unhealthy),
            }
        }
    }

    /// Remember what happened to parts of an engine that ended while there was no supervisor, before its
    /// end is told.
    pub(super) fn remember_unseen(&mut self, incidents: &[Incident]) {
        for incidents in
            incidents.get(self.memory.incidents_taken..).unwrap_or_default().chunks(TOLD)
        {
            incidents.iter().for_each(|incident| self.memory.remember(incident.tell()));
            self.publish();
        }
    }

    /// Have parts replaced, for the job at work.
    pub(super) fn replace(&mut self, only_new: bool) {
        self.engine.replaced = false;
        self.command(driver::Command::Replace { only_new });
    }

    /// What a replacement came to.
    pub(super) fn take_replacement(&mut self, result: Result<Vec<Part>, Error>) {
        if !self.is_replacing() {
            return;
        }
        match result {
            Ok(parts) if parts.is_empty() => self.jobs.end(JobResult::Skipped, None),
            Ok(_) => {
                self.engine.replaced = true;
                self.settle_replacement();
            }
            Err(error) => self.jobs.end(JobResult::Failed, Some(error)),
        }
    }

    /// End a job whose parts are replaced, once the engine is well with them.
    pub(super) fn settle_replacement(&mut self) {
        let misses = |part| self.engine.lost.contains_key(&part);
        let is_well =
            self.engine.unwell.is_none() && !misses(Part::Containerd) && !misses(Part::Dockerd);
        if self.engine.replaced && is_well && self.is_replacing() {
            self.engine.replaced = false;
            self.jobs.end(JobResult::Done, None);
        }
    }

    fn is_replacing(&self) -> bool {
        let kind = self.jobs.current().map(|job| job.kind);
        matches!(kind, Some(JobKind::Replacement | JobKind::Upgrade))
    }
}

impl Memory {
    fn remember(&mut self, incident: rootlessd_api::Incident) {
        // One that died before it wrote down what it had taken.
        if self.incidents.contains(&incident) {
            return;
        }
        self.incidents.push(incident);
        let excess = self.incidents.len().saturating_sub(TOLD);
        self.incidents.drain(..excess);
    }
}

impl Knowledge {
    fn take(&mut self, incident: Incident) {
        match incident {
            Incident::Lost(death) => {
                let text = format!("{}, and is being replaced", death.text);
                let reason = match death.out_of_memory {
                    true => Code::KilledForMemory.reason(text),
                    false => Code::PartBeingReplaced.reason(text),
                };
                self.lost.insert(death.part, Reason { part: death.part, ..reason });
            }
            Incident::Missing { part, text, .. } => {
                let reason = Code::PartMissing.reason_with_remedy(text, "rootlessctl restart");
                self.lost.insert(part, Reason { part, ..reason });
            }
            // One that hung, and was left, answers again.
            Incident::Changed { part: Part::Dockerd, .. } => {
                self.unwell = self.lost.remove(&Part::Dockerd).or(self.unwell.take());
            }
            // It is told, and that is all.
            Incident::Changed { .. } => {}
            Incident::Replaced { part, .. } => {
                // It stays the reason until a probe shows that all is well.
                self.unwell = self.lost.remove(&part).or(self.unwell.take());
            }
        }
    }
}
