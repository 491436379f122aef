//! What the supervisor must not forget when it is replaced: `state.json` in the runtime directory.
//! A reboot or logout forgets it with the engine that it is about.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rootlessd_api::{Death, Error, ErrorKind, Incident, Reason, names};
use serde::{Deserialize, Serialize};

use super::machine::{Life, Machine};
use crate::{
    reasons::Code,
    sys::{clock, files},
};

/// What the supervisor must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Where the engine is in its life, and the deaths that count.
    pub machine: Machine,
    /// When it came there, in µs of CLOCK_REALTIME.
    pub since: u64,
    /// The last deaths, as they are told.
    #[serde(default)]
    pub deaths: Vec<Death>,
    /// The last incidents, as they are told.
    #[serde(default)]
    pub incidents: Vec<Incident>,
    /// How many incidents of this engine were taken, from its first. They are not told apart by their time: a
    /// clock can be set back.
    #[serde(default)]
    pub incidents_taken: usize,
    /// How many containers ran in this engine when dockerd was asked last, to be told if they end with it.
    #[serde(default)]
    pub containers: u32,
    /// Why it failed, if not by dying.
    #[serde(default)]
    pub refusals: Vec<Reason>,
    /// What the machine is short of, so that the engine waits with its start, or was, so that it is started
    /// again.
    #[serde(default)]
    pub shortages: Vec<Reason>,
    /// When the next start is tried; in a back-off only.
    #[serde(default)]
    pub next_attempt: Option<Moment>,
    /// What clients started.
    #[serde(default)]
    pub demand: Demand,
}

/// The starts that a client of Docker's socket caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// How many.
    pub starts: u32,
    /// When the last one was, in µs of CLOCK_REALTIME.
    pub last: Option<u64>,
}

/// A moment to come, on both clocks: one to wait by, one to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// In CLOCK_BOOTTIME since boot.
    pub boottime: Duration,
    /// In µs of CLOCK_REALTIME.
    pub realtime: u64,
}

impl Moment {
    /// After this time.
    pub fn after(delay: Duration) -> Self {
        let micros = clock::micros(delay);
        Self {
            boottime: clock::now_boottime().saturating_add(delay),
            realtime: clock::now_realtime().saturating_add(micros),
        }
    }

    /// How long it is until then.
    pub fn left(self) -> Duration {
        self.boottime.saturating_sub(clock::now_boottime())
    }
}

impl Memory {
    /// Why the engine does not run, the gravest first.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        let failed = self.machine.life() == Life::Failed;
        let died = self.deaths.last().filter(|_| failed && self.refusals.is_empty());
        let died = died.map(|death| {
            let text = format!("it died too often; the last time, {}", death.text);
            let remedy = format!("rootlessctl logs --part {}, then rootlessctl start", death.part);
            Reason { part: death.part, ..Code::DiedTooOften.reason_with_remedy(text, remedy) }
        });
        let refusals = self.refusals.iter().filter(move |_| failed);
        refusals.chain(&self.shortages).cloned().chain(died)
    }

    /// Why a job that was to bring the engine elsewhere failed.
    pub fn why_not(&self, life: Life) -> Error {
        let waits_for = self.shortages.iter().find(|reason| Code::passes(reason));
        if let Some(Reason { text, remedy, .. }) = waits_for {
            let message = format!("{text}; it is tried again until that has passed");
            return Error { remedy: remedy.clone(), ..Error::new(ErrorKind::Preflight, message) };
        }
        match (life, self.refusals.first(), self.deaths.last()) {
            (Life::Failed, Some(reason), _) => {
                let more = self.refusals.len() - 1;
                let more =
                    if more == 0 { String::new() } else { format!(", and {more} more reasons") };
                Error {
                    kind: match Code::ConfigInvalid.is(reason) {
                        true => ErrorKind::Config,
                        false => ErrorKind::Preflight,
                    },
                    message: format!("{}{more}", reason.text),
                    remedy: reason.remedy.clone(),
                }
            }
            (Life::Failed | Life::Backoff, _, Some(death)) => {
                Error::new(ErrorKind::EngineDied, format!("the engine died: {}", death.text))
                    .with_remedy(format!("rootlessctl logs --part {}", death.part))
            }
            (life, ..) => {
                Error::new(ErrorKind::Canceled, format!("the engine is {} now", life.state()))
            }
        }
    }
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<M> {
    /// During which boot it was written.
    #[serde(default)]
    boot: Option<String>,
    #[serde(flatten)]
    memory: M,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// Below `$XDG_RUNTIME_DIR`.
    pub fn below(xdg_runtime_dir: &Path) -> Self {
        Self(names::runtime_dir(xdg_runtime_dir).join("state.json"))
    }

    /// What the last supervisor remembered. What cannot be read is told and forgotten: the engine
    /// itself is found without it.
    pub fn load(&self) -> Option<Memory> {
        let kept: Option<Kept<Memory>> = files::read_json(&self.0).unwrap_or_else(|error| {
            tracing::warn!("{} cannot be read: {error}", self.0.display());
            None
        });
        // Without systemd it may be in a directory that survives a boot, which the engine does not, nor
        // what its times mean. An earlier release did not say.
        let is_of_this = |kept: &Kept<Memory>| kept.boot.is_none() || kept.boot == clock::boot_id();
        kept.filter(is_of_this).map(|kept| kept.memory)
    }

    /// Remember.
    pub fn save(&self, memory: &Memory) -> io::Result<()> {
        files::replace_json(&self.0, &Kept { boot: clock::boot_id(), memory })
    }

    /// Forget: the next supervisor starts from nothing.
    pub fn clear(&self) -> io::Result<()> {
        files::remove(&self.0)
    }
}
