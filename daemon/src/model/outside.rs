//! What comes from outside: what somebody asks for, and what breaks.

use rootlessd_api::{JobKind, Part};

use super::state::{Client, Driver, Looking, Rootlessd, State, Told};
use crate::{engine::driver::course::Verdict, supervisor::machine};

/// What somebody can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Start,
    Stop,
    Restart,
    Replace,
    ResetFailed,
    /// A client connects.
    Connect,
    /// Nobody has needed it for long enough.
    Quiet,
}

/// What can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Dies(Part),
    Hangs(Part),
    /// dockerd waits for a disk.
    Sticks,
    CannotStart,
    KitDies,
    KitHangs,
    ShimDies,
    ShimHangs,
    RootlessdDies,
    LaunchFails,
    LaunchRefused,
    /// The machine is short of something.
    LaunchStarves,
    Starves,
}

impl State {
    /// Somebody asks for something.
    pub fn ask(&mut self, asked: Asked) {
        match asked {
            Asked::Start => self.request(JobKind::Start, false),
            Asked::Stop => self.request(JobKind::Stop, false),
            Asked::Restart => self.request(JobKind::Restart, false),
            Asked::Replace => self.request(JobKind::Restart, true),
            Asked::ResetFailed => {
                self.wanted = None;
                self.step(machine::Event::ResetFailed);
            }
            Asked::Connect => self.client = Client::Queued,
            Asked::Quiet => self.judge(Verdict::Quiet),
        }
    }

    /// Whether somebody may ask for it now.
    pub fn may_ask(&self, asked: Asked) -> bool {
        match asked {
            Asked::Connect => self.client == Client::None,
            Asked::Quiet => {
                let looks = self.followed().is_some_and(|it| it.looking == Looking::Now);
                looks && self.client == Client::None && self.is_well()
            }
            _ => self.supervisor().is_some(),
        }
    }

    /// Something breaks.
    pub fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Dies(part) => self.end_part(part),
            Fault::Hangs(part) => {
                if let Some(it) = self.kit.as_mut().and_then(|kit| kit.slot(part).as_mut()) {
                    it.hung = true;
                }
            }
            Fault::Sticks => {
                if let Some(it) = self.kit.as_mut().and_then(|kit| kit.dockerd.as_mut()) {
                    it.stuck = true;
                }
            }
            Fault::CannotStart => {
                if let Some(kit) = &mut self.kit {
                    kit.no_start = true;
                }
            }
            Fault::KitDies => self.kit_ends(false),
            Fault::KitHangs => {
                if let Some(kit) = &mut self.kit {
                    kit.hung = true;
                }
            }
            Fault::ShimDies => self.end_shim(false),
            Fault::ShimHangs => {
                if let Some(shim) = &mut self.shim {
                    shim.hung = true;
                }
            }
            Fault::RootlessdDies => self.end_rootlessd(),
            Fault::LaunchFails => {
                self.tell(Told::Died);
                self.drive(Driver::Rest);
            }
            Fault::LaunchStarves => {
                self.tell(Told::Starved);
                self.drive(Driver::Rest);
            }
            Fault::Starves => {
                if let Some(it) = self.kit.as_mut().and_then(|kit| kit.dockerd.as_mut()) {
                    it.starved = true;
                }
                self.end_part(Part::Dockerd);
            }
            Fault::LaunchRefused => {
                self.tell(Told::Refused);
                self.drive(Driver::Rest);
            }
        }
    }

    /// Whether it can break now.
    pub fn may_suffer(&self, fault: Fault) -> bool {
        let part = |part| {
            self.kit.as_ref().and_then(|kit| kit.part(part)).filter(|it| !it.dead && !it.killed)
        };
        let driver = self.supervisor().map(|it| &it.driver);
        match fault {
            Fault::Dies(it) => part(it).is_some(),
            Fault::Hangs(it) => part(it).is_some_and(|it| !it.hung),
            Fault::Sticks => part(Part::Dockerd).is_some_and(|it| !it.stuck),
            Fault::CannotStart => self.kit.as_ref().is_some_and(|it| !it.no_start && !it.is_deaf()),
            Fault::KitDies => self.kit.is_some(),
            Fault::KitHangs => self.kit.as_ref().is_some_and(|kit| !kit.hung),
            Fault::ShimDies => self.shim.is_some(),
            Fault::ShimHangs => self.shim.is_some_and(|shim| !shim.hung),
            Fault::RootlessdDies => self.rootlessd != Rootlessd::Dead,
            Fault::LaunchFails | Fault::LaunchRefused | Fault::LaunchStarves => {
                matches!(driver, Some(Driver::Preflight))
            }
            Fault::Starves => part(Part::Dockerd).is_some(),
        }
    }
}

/// Everything that somebody can ask for.
pub const ASKED: [Asked; 7] = [
    Asked::Start,
    Asked::Stop,
    Asked::Restart,
    Asked::Replace,
    Asked::ResetFailed,
    Asked::Connect,
    Asked::Quiet,
];

/// Everything that can break.
pub const FAULTS: [Fault; 15] = [
    Fault::Dies(Part::Containerd),
    Fault::Dies(Part::Dockerd),
    Fault::Hangs(Part::Containerd),
    Fault::Hangs(Part::Dockerd),
    Fault::Sticks,
    Fault::CannotStart,
    Fault::KitDies,
    Fault::KitHangs,
    Fault::ShimDies,
    Fault::ShimHangs,
    Fault::RootlessdDies,
    Fault::LaunchFails,
    Fault::LaunchRefused,
    Fault::LaunchStarves,
    Fault::Starves,
];
