//! Preflight: whether the engine can start on this machine, and the [`Plan`] with which it does.

mod conflicts;
mod data_root;
mod environment;
mod idmap;
mod kernel;
mod known;
mod mounts;
mod packages;
mod probe;
mod programs;
mod subids;
#[cfg(test)]
pub(crate) mod testing;
pub mod version;

use std::{collections::BTreeMap, path::Path};

use rootlessd_api::{Reason, names};
use serde_json::{Map, Value};

use crate::{
    config::{AskPorts, Loaded, NetworkDriver},
    dirs::{Dirs, Environment},
    docker_config,
    engine::shortage::Places,
    plan::{DockerPlan, Plan, Versions},
    reasons::{Code, Findings},
    rootlesskit::{self, Capabilities, Launch, Tools, Wanted},
};
use environment::engine_environment;
use kernel::Cgroups;
pub use known::Known;
use packages::Family;
use programs::{Finder, Programs, SearchPath};
use version::{Version, version_in};

/// The first RootlessKit that dockerd can ask for its ports (moby's `libnetwork` needs `/v1/info`).
const OLDEST_ROOTLESSKIT: Version = Version(0, 14);

/// Looks at the machine and makes the plan of an engine. Changes nothing.
///
/// `systemd`: whether the engine runs in a scope of the user's systemd. `known`: what the programs said the
/// last times.
///
/// The plan has in [`Plan::reasons`] what does not prevent a start.
pub async fn prepare(
    dirs: &Dirs,
    environment: &Environment,
    loaded: &Loaded,
    systemd: bool,
    known: &Known,
) -> Result<Plan, Unfit> {
    let mut findings = Findings::default();
    findings.extend(loaded.reasons.clone());
    let inspection =
        Inspection { dirs, environment, loaded, family: Family::of(dirs), systemd, known };
    let plan = inspection.run(&mut findings).await;
    // What is missing may only be what could not be seen, so this comes first.
    if !findings.unknown.is_empty() {
        return Err(Unfit::Unknown(findings.unknown.join("; ")));
    }
    match plan {
        Some(_) if findings.fatal.is_empty() && !findings.passing.is_empty() => {
            Err(Unfit::Short(findings.passing))
        }
        Some(plan) if findings.fatal.is_empty() => Ok(Plan { reasons: findings.notes, ..plan }),
        _ => Err(Unfit::Refused(findings.fatal)),
    }
}

/// Why there is no plan.
#[derive(Debug)]
pub enum Unfit {
    /// A person has to mend something: everything that prevents a start, not only the first.
    Refused(Vec<Reason>),
    /// The machine is short of something, which passes.
    Short(Vec<Reason>),
    /// The machine could not be looked at this time, in a sentence. The next look may succeed.
    Unknown(String),
}

/// One look at the machine.
struct Inspection<'a> {
    dirs: &'a Dirs,
    environment: &'a Environment,
    loaded: &'a Loaded,
    family: Family,
    systemd: bool,
    known: &'a Known,
}

/// What the programs say about themselves.
struct Answers {
    rootlesskit: Option<Capabilities>,
    slirp4netns_fits: bool,
    versions: Versions,
    /// Which of those that decide how the engine is started did not answer this time, and why.
    unknown: Vec<String>,
}

impl Inspection<'_> {
    /// Goes on as far as there is something to look at, so that all obstacles are known at once.
    async fn run(&self, findings: &mut Findings) -> Option<Plan> {
        let config = &self.loaded.config;
        let path = config.environment.get("PATH").map(String::as_str);
        let (path, skipped) =
            SearchPath::new(self.dirs, path.or_else(|| self.environment.get("PATH")));
        findings.extend(skipped);
        let engine = engine_environment(self.dirs, self.environment, config, &path);
        let mut finder = Finder { path: &path, dirs: self.dirs, family: self.family, findings };
        let programs = finder.find_all(config);

        let user = self.user_config(findings);
        let docker = user.as_ref().and_then(|user| self.docker_plan(user, findings));
        if let Some(user) = &user {
            let mut finder = Finder { path: &path, dirs: self.dirs, family: self.family, findings };
            finder.find_iptables(user, &config.dockerd.flags);
        }
        self.check_kernel(programs.as_ref(), findings);
        let state_dir = config.rootlesskit.state_dir.clone();
        let state_dir = state_dir.unwrap_or_else(|| self.dirs.runtime.join("dockerd-rootless"));
        if let Some(docker) = &docker {
            let containerd = self.containerd_rootless();
            findings.extend(conflicts::check(self.dirs, &state_dir, docker, &containerd));
        }

        let data_root = async {
            match &docker {
                Some(docker) => data_root::check(self.dirs, &docker.data_root).await,
                None => None,
            }
        };
        let answers = async {
            match &programs {
                Some(programs) => Some(ask(programs, &engine, self.known).await),
                None => None,
            }
        };
        let getsubids = path.find("getsubids");
        let subids = subids::check(self.dirs, getsubids.as_deref(), &engine);
        let (unfit, subids, answers) = tokio::join!(data_root, subids, answers);
        match subids {
            Ok(reasons) => findings.extend(reasons),
            Err(unknown) => findings.unknown.push(unknown),
        }
        // A dead file system must not be looked at again.
        let docker = match unfit {
            Some(reason) => {
                findings.add(reason);
                None
            }
            None => docker.map(|docker| self.with_swarm(user.as_ref(), docker, findings)),
        };

        if let Some(docker) = &docker {
            findings.extend(Places::of(docker, &self.dirs.runtime).full());
        }

        let (programs, answers) = (programs?, answers?);
        findings.unknown.extend(answers.unknown.clone());
        let launch = self.launch(&programs, &answers, &state_dir, findings)?;
        if launch.detach_netns {
            let mut finder = Finder { path: &path, dirs: self.dirs, family: self.family, findings };
            finder.need("nsenter");
        }
        let docker = docker?;
        let rootlesskit = programs.rootlesskit.display().to_string();
        Some(Plan {
            rootlesskit: [vec![rootlesskit], launch.arguments].concat(),
            state_dir,
            environment: engine,
            network_driver: launch.network_driver.as_str().into(),
            port_driver: launch.port_driver.as_str().into(),
            network_helper: launch.helper,
            network_on_loss: config.engine.network.on_loss,
            detach_netns: launch.detach_netns,
            selinux: kernel::has_selinux(self.dirs),
            containerd: programs.containerd,
            dockerd: programs.dockerd,
            dockerd_flags: config.dockerd.flags.clone(),
            docker,
            ask_ports: config.engine.ports.ask == AskPorts::Desktop,
            restart: (&config.engine.restart).into(),
            start_timeout: config.engine.start_timeout,
            stop_timeout: config.engine.stop_timeout,
            config: Some(config.engines()),
            versions: answers.versions,
            reasons: Vec::new(),
        })
    }

    fn user_config(&self, findings: &mut Findings) -> Option<Map<String, Value>> {
        docker_config::read(&docker_config::user_config(self.dirs))
            .map_err(|reason| findings.add(reason))
            .ok()
    }

    /// dockerd's paths and what is ours of its configuration, but for what lies in the data.
    fn docker_plan(
        &self,
        user: &Map<String, Value>,
        findings: &mut Findings,
    ) -> Option<DockerPlan> {
        let mut plan =
            docker_config::plan(user, self.dirs).map_err(|reason| findings.add(reason)).ok()?;
        let cgroups = Cgroups::of(self.dirs, self.systemd);
        findings.extend(cgroups.check(&self.dirs.user, self.family));
        if cgroups.usable() {
            findings.extend(kernel::check_controllers(self.dirs));
        }
        if !docker_config::has_cgroup_driver(user) {
            let ours = cgroups.usable() && !user.contains_key("cgroup-parent");
            plan.cgroup_parent = ours.then(|| names::CONTAINERS_SLICE.to_owned());
            // With this driver a rootless dockerd uses none.
            plan.cgroup_driver = cgroups.misleads_dockerd().then(|| "cgroupfs".to_owned());
        }
        let wanted = self.loaded.config.engine.live_restore;
        match user.get(docker_config::LIVE_RESTORE) {
            None => plan.live_restore = Some(wanted),
            Some(Value::Bool(false)) if wanted => {
                findings.add(Code::LiveRestoreOffDaemonJson.reason_with_remedy(
                    format!(
                        "{} turns live-restore off: containers end when dockerd does",
                        plan.user_config.display()
                    ),
                    "remove \"live-restore\" from it, or set engine.live_restore = false to agree",
                ));
            }
            Some(_) => {}
        }
        // Whatever dockerd's file cannot be made of is an obstacle now, not in the namespaces.
        if let Err(reason) = docker_config::merge(user, &plan) {
            findings.add(reason);
        }
        Some(plan)
    }

    fn with_swarm(
        &self,
        user: Option<&Map<String, Value>>,
        mut plan: DockerPlan,
        findings: &mut Findings,
    ) -> DockerPlan {
        let users =
            user.and_then(|user| user.get(docker_config::LIVE_RESTORE)).and_then(Value::as_bool);
        let on = plan.live_restore.or(users) == Some(true);
        if on && docker_config::is_in_swarm(&plan.data_root) {
            plan.live_restore = Some(false);
            findings.add(Code::LiveRestoreOffSwarm.reason_with_remedy(
                "this engine is a member of a Swarm, where dockerd has no live-restore: containers \
                 end when dockerd does",
                "set engine.live_restore = false to agree, or docker swarm leave --force",
            ));
        }
        plan
    }

    fn check_kernel(&self, programs: Option<&Programs>, findings: &mut Findings) {
        let rootlesskit = programs.map_or(Path::new("rootlesskit"), |found| &found.rootlesskit);
        findings.extend(kernel::check_user_namespaces(self.dirs, rootlesskit, self.family));
        // lxc-user-nic(1) makes a pair of its own.
        if self.loaded.config.engine.network.driver != NetworkDriver::LxcUserNic {
            findings.extend(kernel::check_tun(self.dirs));
        }
        if let Some(Programs { newuidmap, newgidmap, .. }) = programs {
            findings.extend(idmap::check(self.dirs, newuidmap, newgidmap, self.family));
        }
    }

    fn containerd_rootless(&self) -> std::path::PathBuf {
        match self.environment.get("CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR") {
            Some(path) => path.into(),
            None => self.dirs.runtime.join("containerd-rootless"),
        }
    }

    fn launch(
        &self,
        programs: &Programs,
        answers: &Answers,
        state_dir: &Path,
        findings: &mut Findings,
    ) -> Option<Launch> {
        let config = &self.loaded.config;
        let shown = programs.rootlesskit.display();
        let Some(can) = &answers.rootlesskit else {
            findings.add(Code::ProbeFailed.reason_with_remedy(
                format!("{shown} --help does not answer as RootlessKit does"),
                format!("run {shown} --help to see what it says"),
            ));
            return None;
        };
        if let Some(version) = can.number().filter(|version| *version < OLDEST_ROOTLESSKIT) {
            findings.add(Code::RootlesskitTooOld.reason_with_remedy(
                format!("{shown} is {}.{}; dockerd needs 0.14 or newer", version.0, version.1),
                self.family.install("rootlesskit"),
            ));
        }
        let tools = Tools {
            slirp4netns: programs.tools.slirp4netns.clone().filter(|_| answers.slirp4netns_fits),
            ..programs.tools.clone()
        };
        let wanted = Wanted {
            network: &config.engine.network,
            state_dir,
            flags: &config.rootlesskit.flags,
            dockerd: answers.versions.dockerd.as_deref().and_then(Version::parse),
        };
        match rootlesskit::launch(wanted, can, &tools) {
            Ok(launch) => {
                findings.extend(launch.notes.clone());
                Some(launch)
            }
            Err(mut reason) => {
                if Code::NetworkDriverMissing.is(&reason) {
                    reason.remedy = Some(self.family.install("slirp4netns"));
                }
                findings.add(reason);
                None
            }
        }
    }
}

/// Asks all programs at once: dockerd alone takes as long as all the rest.
async fn ask(programs: &Programs, engine: &BTreeMap<String, String>, known: &Known) -> Answers {
    let ask = async |program: &Path, argument| known.ask(program, argument, engine).await;
    let slirp4netns = async {
        match &programs.tools.slirp4netns {
            Some(path) => ask(path, "--help").await,
            None => Ok(None),
        }
    };
    let (rootlesskit, dockerd, containerd, runc, slirp4netns) = tokio::join!(
        ask(&programs.rootlesskit, "--help"),
        ask(&programs.dockerd, "--version"),
        ask(&programs.containerd, "--version"),
        ask(&programs.runc, "--version"),
        slirp4netns,
    );
    let version = |output: Option<String>| output.and_then(|text| version_in(&text));
    let mut unknown = Vec::new();
    let mut needed = |answer: Result<Option<String>, String>| {
        answer.unwrap_or_else(|why| {
            unknown.push(why);
            None
        })
    };
    let rootlesskit = needed(rootlesskit)
        .map(|help| Capabilities::parse(&help))
        .filter(|capabilities| capabilities.has_flag("net"));
    Answers {
        versions: Versions {
            rootlesskit: rootlesskit.as_ref().and_then(|found| found.version.clone()),
            dockerd: version(needed(dockerd)),
            // Only shown.
            containerd: version(containerd.unwrap_or_default()),
            runc: version(runc.unwrap_or_default()),
        },
        slirp4netns_fits: needed(slirp4netns).is_some_and(|help| help.contains("--netns-type")),
        rootlesskit,
        unknown,
    }
}

#[cfg(test)]
mod tests;
