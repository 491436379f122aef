//! The state of the whole: rootlessd, the processes of an engine, and what lies between them.

use std::{collections::BTreeSet, time::Duration};

use rootlessd_api::{JobKind, Phase};

use super::{Broken, POLICY};
use crate::{
    engine::{
        driver::course::{Course, Wish},
        init::{Stage, machine as init},
    },
    restart_policy::RestartPolicy,
    supervisor::machine::{Machine, Policy},
};

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub rootlessd: Rootlessd,
    /// `state.json`.
    pub saved: Machine,
    pub shim: Option<Shim>,
    pub kit: Option<Kit>,
    /// dockerds whose engine-init is gone: the kernel kills them with it.
    pub orphans: Vec<Proc>,
    /// Whether there is `engine.json`.
    pub record: bool,
    /// Whether there is `death.json`.
    pub death: bool,
    /// Whether the last engine-shim ended well.
    pub succeeded: bool,
    pub client: Client,
    /// How many faults may still happen.
    pub faults: u8,
    /// How many things may still be asked for.
    pub requests: u8,
    /// What was asked for last, by somebody who is to get it.
    pub wanted: Option<JobKind>,
    /// Whether a dockerd was killed under a client because nobody needed it.
    pub cut_off: bool,
    /// Whether something happened that must not: what.
    pub wrong: Option<&'static str>,
    /// Whether no dockerd gets ready any more that is started, and deaths count for no time at all.
    pub slow: bool,
    /// What is broken on purpose.
    pub broken: Option<Broken>,
}

/// The supervisor's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rootlessd {
    /// It was killed; systemd starts the next.
    Dead,
    /// It begins, and ends what is left of an engine.
    Burying {
        /// Whether that said how it died.
        told: bool,
    },
    Live(Supervisor),
}

/// The supervisor and its driver, and the two channels between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Supervisor {
    pub machine: Machine,
    /// Whether the delay of a back-off runs.
    pub delay: bool,
    pub job: Option<JobKind>,
    /// Whether the last probe failed.
    pub unwell: bool,
    /// Whether the parts are replaced that the job is about.
    pub replaced: bool,
    pub commands: Vec<Wish>,
    pub events: Vec<Told>,
    pub driver: Driver,
}

/// What the driver tells, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Phase(Phase),
    Healthy,
    Unhealthy,
    Idle,
    Replaced(bool),
    Gone,
    Died,
    Starved,
    Refused,
}

/// What the driver does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    Rest,
    /// It ends what is left of the last engine before it looks at the machine.
    Clean,
    Preflight,
    /// There is a shim that waits for its release. `recorded`: and can be found again.
    Held {
        recorded: bool,
    },
    Follow(Follow),
    /// It ends what is left.
    Sweep {
        /// Whether that was a death.
        died: bool,
    },
}

/// An engine that is followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Follow {
    pub course: Course,
    pub own: bool,
    /// What engine-init told last.
    pub heard: Option<(Stage, Phase)>,
    /// Whether the time for a start or a stop runs.
    pub timed: bool,
    /// Whether its RootlessKit was killed, and engine-shim is waited for.
    pub killing: bool,
    pub probing: bool,
    /// How the last probe went.
    pub probed: Option<bool>,
    pub looking: Looking,
    pub frozen: bool,
    pub replacing: Option<Replacing>,
}

/// Whether it is looked if anybody needs the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Looking {
    No,
    Now,
    Sure,
}

/// How far a replacement is that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replacing {
    Asking,
    Waiting,
    Healing,
}

/// engine-shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shim {
    pub at: At,
    pub hung: bool,
}

/// How far engine-shim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// It waits for its release.
    Held,
    /// RootlessKit makes the namespaces. `signalled`: and got a signal too early.
    Young {
        signalled: bool,
    },
    Up,
    /// RootlessKit has ended.
    Ending {
        in_order: bool,
    },
}

/// RootlessKit, its child and engine-init: none outlives another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kit {
    pub machine: init::Machine,
    pub hung: bool,
    pub timers: BTreeSet<init::Timer>,
    /// Whether dockerd is being told to stop its containers with itself.
    pub reading: bool,
    /// Whether dockerd stands still because rootlessd wants it.
    pub frozen: bool,
    pub containerd: Option<Proc>,
    pub dockerd: Option<Proc>,
    /// Whether it only waits until all is gone; and whether in order.
    pub ending: Option<bool>,
    /// Whether the next part that is started cannot be.
    pub no_start: bool,
}

/// containerd or dockerd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proc {
    pub ready: bool,
    /// Whether it said so, and that is not taken yet.
    pub said: bool,
    pub hung: bool,
    /// Whether it waits for a disk, so that nothing ends it.
    pub stuck: bool,
    pub asked_to_end: bool,
    pub killed: bool,
    /// Whether it has ended and that is not taken yet.
    pub dead: bool,
    /// Whether it ends for want of something.
    pub starved: bool,
}

/// A client of Docker's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    None,
    Queued,
    /// dockerd has accepted it.
    Talking,
}

impl State {
    /// The supervisor, while there is one.
    pub fn supervisor(&self) -> Option<&Supervisor> {
        match &self.rootlessd {
            Rootlessd::Live(supervisor) => Some(supervisor),
            _ => None,
        }
    }

    pub fn supervisor_mut(&mut self) -> Option<&mut Supervisor> {
        match &mut self.rootlessd {
            Rootlessd::Live(supervisor) => Some(supervisor),
            _ => None,
        }
    }

    /// The engine that is followed, while one is.
    pub fn followed(&self) -> Option<&Follow> {
        match self.supervisor().map(|supervisor| &supervisor.driver) {
            Some(Driver::Follow(follow)) => Some(follow),
            _ => None,
        }
    }

    pub fn followed_mut(&mut self) -> Option<&mut Follow> {
        match self.supervisor_mut().map(|supervisor| &mut supervisor.driver) {
            Some(Driver::Follow(follow)) => Some(follow),
            _ => None,
        }
    }

    pub fn policy(&self) -> Policy {
        let window = if self.slow { Duration::ZERO } else { POLICY.restart.window };
        Policy { restart: RestartPolicy { window, ..POLICY.restart }, ..POLICY }
    }

    /// Whether dockerd answers.
    pub fn is_well(&self) -> bool {
        self.kit.as_ref().is_some_and(|kit| {
            !kit.frozen
                && kit.dockerd.is_some_and(|it| it.ready && !it.hung && !it.stuck && !it.dead)
        })
    }

    /// Whether it is told that dockerd is lost: it is being replaced, or hangs and is left.
    pub fn misses_dockerd(&self) -> bool {
        self.kit.as_ref().is_some_and(|kit| {
            let is_left = |it: &Proc| it.hung && !kit.machine.live_restore;
            kit.dockerd.is_none_or(|it| !it.ready || it.dead || is_left(&it))
        })
    }

    /// Whether a dockerd waits for a disk.
    pub fn is_stuck(&self) -> bool {
        let own = self.kit.as_ref().and_then(|kit| kit.dockerd);
        own.iter().chain(&self.orphans).any(|it| it.stuck)
    }

    /// How many dockerds there are.
    pub fn dockerds(&self) -> usize {
        let own = self.kit.as_ref().and_then(|kit| kit.dockerd).filter(|it| !it.dead);
        self.orphans.len() + usize::from(own.is_some())
    }

    /// Whether anything of an engine is there.
    pub fn has_processes(&self) -> bool {
        self.shim.is_some() || self.kit.is_some() || !self.orphans.is_empty()
    }
}

impl Kit {
    /// Whether it takes nothing.
    pub const fn is_deaf(&self) -> bool {
        self.hung || self.ending.is_some()
    }
}
