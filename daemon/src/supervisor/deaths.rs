//! The engine's end: what is remembered and said of it, beyond what the engine itself wrote down.

use rootlessd_api::{Death, Part, Reason};

use super::{
    Supervisor,
    machine::{self, Life},
    status::Knowledge,
};
use crate::{engine::shim, reasons::Code};

/// How many deaths are told.
const TOLD_DEATHS: usize = 20;

impl Supervisor {
    /// The engine came to its end, which is a death unless it was to be stopped.
    pub(super) fn lose_engine(
        &mut self,
        event: machine::Event,
        death: Option<Death>,
        shortages: Vec<Reason>,
    ) {
        match (self.memory.machine.life(), death) {
            (life, _) if !life.has_engine() => return,
            (Life::Stopping(..), _) | (_, None) => {}
            // What is short is one cause, however often a start dies of it.
            _ if event == machine::Event::Starved && self.is_short_of(&shortages) => {}
            (_, Some(mut death)) => {
                death.text += &self.casualties();
                self.bury(death);
            }
        }
        self.memory.shortages = shortages;
        self.memory.incidents_taken = 0;
        self.memory.containers = 0;
        self.engine = Knowledge::default();
        self.ports.refused.clear();
        self.step(event);
    }

    /// Whether the engine waits for these already.
    fn is_short_of(&self, shortages: &[Reason]) -> bool {
        let waits_for =
            |reason: &Reason| self.memory.shortages.iter().any(|it| it.code == reason.code);
        !shortages.is_empty() && shortages.iter().all(waits_for)
    }

    /// What else is lost with the engine.
    pub(super) fn casualties(&self) -> String {
        match self.memory.containers {
            0 => String::new(),
            1 => "; the container that ran ended with it".to_owned(),
            count => format!("; the {count} containers that ran ended with it"),
        }
    }

    /// Remember a death.
    pub(super) fn bury(&mut self, death: Death) {
        // Only the newest keeps its lines: the older ones are in the log.
        self.memory.deaths.iter_mut().for_each(|death| death.log.clear());
        self.memory.deaths.push(death);
        let excess = self.memory.deaths.len().saturating_sub(TOLD_DEATHS);
        self.memory.deaths.drain(..excess);
    }
}

/// Why an engine has to be started again that ended for want of memory.
pub(super) fn killed_for_memory(death: &Death) -> Option<Reason> {
    let text = format!("{}, and the engine is started again", death.text);
    let remedy = "limit the containers (docker run --memory), or raise a limit of the engine's: \
                  systemctl --user edit rootlessd.slice (MemoryMax=)";
    let reason = Code::KilledForMemory.reason_with_remedy(text, remedy);
    let reason = Reason { part: death.part, ..reason };
    death.out_of_memory.then_some(reason)
}

pub(super) fn unseen_death() -> Death {
    let text = "it died while no rootlessd was there to see it".to_owned();
    shim::death(Part::Shim, None, text, vec![])
}

pub(super) fn stranger_stop() -> Death {
    let text = "it was stopped in order, and not through rootlessd".to_owned();
    shim::death(Part::Rootlesskit, None, text, vec![])
}
