//! The status: made from what is known, by nobody else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rootlessd_api::{Part, Reason, Status};

use super::{machine::Life, memory::Memory, ports::Ports};
use crate::{
    config::Loaded,
    engine::driver::Facts,
    plan::{Plan, Versions},
    reasons::Code,
};

/// What the status says of the supervisor itself, and never changes.
#[derive(Clone, Debug)]
pub struct Constants {
    /// Who answers.
    pub supervisor: rootlessd_api::Supervisor,
    /// The socket of Docker's API.
    pub socket: PathBuf,
}

/// What is known of the engine. It can all be found out again.
#[derive(Default)]
pub(super) struct Knowledge {
    pub plan: Option<Plan>,
    pub shim: Option<u32>,
    pub facts: Option<Facts>,
    pub main_pid: Option<u32>,
    /// Why it is degraded.
    pub unwell: Option<Reason>,
    /// What the machine is short of.
    pub short: Vec<Reason>,
    /// How many incidents it has told since it was started, or found.
    pub incidents: usize,
    /// The parts that it does without, and why.
    pub lost: BTreeMap<Part, Reason>,
    /// Why it has no place to be any more.
    pub uprooted: Option<Reason>,
    /// Whether the parts were replaced that somebody wanted replaced.
    pub replaced: bool,
}

impl Knowledge {
    /// Whether it comes to its end, and should not.
    pub fn is_dying(&self) -> bool {
        self.unwell.as_ref().is_some_and(|reason| Code::EngineDying.is(reason))
    }
}

/// The status that follows from what is known.
pub(super) fn status(
    constants: &Constants,
    memory: &Memory,
    engine: &Knowledge,
    ports: &Ports,
    loaded: &Loaded,
) -> Status {
    let life = memory.machine.life();
    let degraded = engine.lost.values().chain(&engine.unwell).filter(|_| life == Life::Degraded);
    let plan = engine.plan.as_ref();
    let is_stale = plan.is_some_and(|plan| plan.is_stale(&loaded.config.engines()));
    let advice = plan.map_or(&loaded.reasons, |plan| &plan.reasons);
    let info = engine.facts.as_ref().map(|facts| &facts.info);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let version =
        |of: fn(&Versions) -> &Option<String>| plan.and_then(|plan| of(&plan.versions).clone());
    Status {
        state: life.state(),
        phase: life.phase(),
        since: memory.since,
        reasons: memory
            .reasons()
            .chain(engine.uprooted.clone())
            .chain(degraded.cloned())
            .chain(engine.short.iter().cloned())
            .chain(is_stale.then(restart_needed))
            .chain(engine.facts.as_ref().and_then(|facts| upgrade_available(&facts.outdated)))
            .chain(ports.reasons(plan))
            .chain(advice.iter().cloned())
            .collect(),
        next_attempt: memory.next_attempt.map(|moment| moment.realtime),
        deaths: memory.deaths.clone(),
        incidents: memory.incidents.clone(),
        main_pid: engine.main_pid,
        supervisor: constants.supervisor.clone(),
        version: info.map(|info| info.server_version.clone()).or_else(|| version(|it| &it.dockerd)),
        containerd_version: engine
            .facts
            .as_ref()
            .and_then(|facts| facts.containerd_version.clone())
            .or_else(|| version(|it| &it.containerd)),
        runc_version: version(|it| &it.runc),
        rootlesskit_version: version(|it| &it.rootlesskit),
        socket_path: text(&constants.socket),
        data_root: plan.map(|plan| text(&plan.docker.data_root)),
        state_dir: plan.map(|plan| text(&plan.state_dir)),
        network_driver: plan.map(|plan| plan.network_driver.clone()),
        port_driver: plan.map(|plan| plan.port_driver.clone()),
        storage_driver: info.map(|info| info.driver.clone()),
        cgroup_driver: info.map(|info| info.cgroup_driver.clone()),
        controllers: engine.facts.as_ref().map(|it| it.controllers.clone()).unwrap_or_default(),
        granted_ports: ports.granted.iter().copied().collect(),
        containers_running: info.map(|info| info.containers_running),
        demand_starts: memory.demand.starts,
        last_demand_start: memory.demand.last,
        processes: vec![],
    }
}

fn restart_needed() -> Reason {
    let text = "the configuration has changed in ways that the engine reads at its start";
    Code::RestartNeeded.reason_with_remedy(text, "rootlessctl restart")
}

fn upgrade_available(outdated: &[Part]) -> Option<Reason> {
    let part = *outdated.first()?;
    let names: Vec<_> = outdated.iter().map(|part| part.as_str()).collect();
    let text = format!("there is another {} now than the one that runs", names.join(" and "));
    let reason = Code::UpgradeAvailable.reason_with_remedy(text, "rootlessctl upgrade");
    Some(Reason { part, ..reason })
}

/// Log a change of the phase, which is no event: a start has too many of them.
pub(super) fn log_phase(old: &Status, new: &Status) {
    if let Some(phase) = new.phase.filter(|_| (old.state, old.phase) != (new.state, new.phase)) {
        let (state, phase) = (new.state.as_str(), phase.as_str());
        tracing::info!(rootlessd_state = state, rootlessd_phase = phase, "{state}: {phase}");
    }
}
