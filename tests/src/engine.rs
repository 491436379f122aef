//! An engine that a test plays, behind the real supervisor: it stands where
//! [`Driver`](rootlessd::engine::driver::Driver) stands, at the other ends of its two channels.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rootlessd::{
    config::{Config, Loaded, Reader},
    engine::{
        docker::Info,
        driver::{Command, Event, Facts, Unseen},
        incidents::Incident,
    },
    events::Recorder,
    helper::Helper,
    plan::{DockerPlan, Plan, Versions},
    reasons::Code,
    supervisor::{
        Constants, Inheritance, Links, Shutdown, Supervisor,
        handle::{Handle, Reply},
        memory::{Memory, Store},
    },
};
use rootlessd_api::{
    Death, Error, Part, Phase, Reason, State, Status, Supervisor as Identity, history, names,
    samples,
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_local},
    time::timeout,
};

use crate::{BOUND, bus::TestBus};

/// What the configuration is when it is read.
type Configuration = Arc<Mutex<Result<Loaded, Error>>>;

/// What a supervisor begins with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// What it remembers.
    pub memory: Memory,
    /// Whether there is an engine of an earlier one.
    pub found: bool,
    /// What one left that is not there any more.
    pub unseen: Unseen,
    /// The configuration.
    pub config: Config,
}

/// The engine, and with it the supervisor before it, which ends when this is dropped.
#[derive(Debug)]
pub struct Engine {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    shutdown: mpsc::Sender<Shutdown>,
    supervisor: JoinHandle<Shutdown>,
    config: Configuration,
    loads: watch::Receiver<Loaded>,
    _runtime: Option<TempDir>,
}

impl Setup {
    /// Begin with `memory`, and find an engine if that says that there is one.
    pub fn of(memory: Memory) -> Self {
        Self { found: memory.machine.life().has_engine(), memory, ..Self::default() }
    }

    /// Begin, in a [`LocalSet`](tokio::task::LocalSet).
    pub fn start(self) -> (Handle, Engine) {
        let runtime = TempDir::new().expect("a directory for temporary files");
        let (handle, mut engine) = self.start_in(runtime.path());
        engine._runtime = Some(runtime);
        (handle, engine)
    }

    /// Where the history is of a supervisor with `runtime` as `$XDG_RUNTIME_DIR`.
    pub fn history_in(runtime: &Path) -> PathBuf {
        history::directory(&runtime.join("state"))
    }

    /// Begin with `runtime` as `$XDG_RUNTIME_DIR`, in a [`LocalSet`](tokio::task::LocalSet).
    pub fn start_in(self, runtime: &Path) -> (Handle, Engine) {
        std::fs::create_dir_all(names::runtime_dir(runtime)).expect("our own directory");
        let constants = Constants {
            supervisor: Identity { pid: std::process::id(), ..samples::status().supervisor },
            socket: names::docker_socket(runtime),
        };
        let first = Supervisor::first_status(&constants, &self.memory);
        let recorder = Recorder::new(Self::history_in(runtime));
        let (handle, mailbox) = Handle::new(first, samples::log_location(), recorder.events());
        let (to_engine, commands) = mpsc::channel(16);
        let (events, from_engine) = mpsc::channel(64);
        let (shutdown, ends) = mpsc::channel(1);
        let loaded = loaded(self.config);
        let config: Configuration = Arc::new(Mutex::new(Ok(loaded.clone())));
        let (loaded, loads) = watch::channel(loaded);
        let read = config.clone();
        let links = Links {
            mailbox,
            commands: to_engine,
            events: from_engine,
            shutdown: ends,
            loaded,
            reader: Reader::new(move || {
                read.lock().unwrap_or_else(PoisonError::into_inner).clone()
            }),
            helper: Helper::on(TestBus::address_at(&runtime.join("system-bus"))),
            store: Store::below(runtime),
            recorder,
        };
        let inherited = match self.found {
            true => Inheritance::Engine,
            false => Inheritance::Nothing(self.unseen),
        };
        let supervisor = Supervisor::new(links, constants, self.memory).run(inherited);
        let supervisor = spawn_local(supervisor);
        let engine =
            Engine { commands, events, shutdown, supervisor, config, loads, _runtime: None };
        (handle, engine)
    }
}

impl Engine {
    /// A supervisor that remembers nothing, with an engine that is stopped.
    pub fn stopped() -> (Handle, Self) {
        Setup::default().start()
    }

    /// The next command.
    pub async fn command(&mut self) -> Command {
        let command = timeout(BOUND, self.commands.recv()).await.expect("a command in time");
        command.expect("the supervisor is there")
    }

    /// Take a start.
    pub async fn take_start(&mut self) {
        let command = self.command().await;
        assert!(matches!(command, Command::Start), "{command:?}");
    }

    /// Take a stop: the time for it.
    pub async fn take_stop(&mut self) -> Duration {
        match self.command().await {
            Command::Stop { timeout } => timeout,
            other => panic!("{other:?}"),
        }
    }

    /// Take a replacement: whether it is only of what is new.
    pub async fn take_replacement(&mut self) -> bool {
        match self.command().await {
            Command::Replace { only_new } => only_new,
            other => panic!("{other:?}"),
        }
    }

    /// Take a reload: where the answer goes.
    pub async fn take_reload(&mut self) -> Reply<()> {
        match self.command().await {
            Command::Reload(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// The next command, if there is one.
    pub fn try_command(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Whether nothing was asked for that was not taken.
    pub fn is_left_alone(&mut self) -> bool {
        self.try_command().is_none()
    }

    /// Tell the supervisor something.
    pub async fn tell(&self, event: Event) {
        self.events.send(event).await.expect("the supervisor is there");
    }

    /// Tell that it is there, started with the configuration that is in force.
    pub async fn tell_launched(&self) {
        self.tell_launched_with(&self.config_in_force()).await;
    }

    /// Tell that it is there, started with this configuration.
    pub async fn tell_launched_with(&self, config: &Config) {
        let plan = Box::new(Plan { config: Some(config.engines()), ..plan() });
        self.tell(Event::Launched { plan, shim: std::process::id() }).await;
    }

    /// Tell that it is well, with so many containers.
    pub async fn tell_healthy(&self, containers: u32) {
        let facts = facts();
        let info = Info { containers_running: containers, ..facts.info };
        self.tell(Event::Healthy(Facts { info, ..facts })).await;
    }

    /// Tell that dockerd does not answer, and why.
    pub async fn tell_unhealthy(&self, why: impl Into<String>) {
        let reason = Code::DockerdNotAnswering.reason_with_remedy(why, "rootlessctl restart");
        self.tell(Event::Unhealthy(reason)).await;
    }

    /// Tell that a part died and is being replaced.
    pub async fn tell_lost(&self, part: Part) {
        self.tell(Event::Incidents(vec![Incident::Lost(death(part))])).await;
    }

    /// Tell that a part was replaced.
    pub async fn tell_replaced(&self, part: Part) {
        let replaced = Incident::Replaced { part, at: samples::incident().at, took: 410_000 };
        self.tell(Event::Incidents(vec![replaced])).await;
    }

    /// Tell that it died.
    pub async fn tell_died(&self) {
        // Memory is no matter of who only wants a death.
        self.tell(Event::Died(Death { out_of_memory: false, ..samples::death() })).await;
    }

    /// Take a start, and come up.
    pub async fn come_up(&mut self) {
        self.take_start().await;
        self.tell(Event::Phase(Phase::Preflight)).await;
        self.tell(Event::Phase(Phase::Namespaces)).await;
        self.tell_launched().await;
        for phase in [Phase::Network, Phase::Containerd, Phase::Dockerd, Phase::Containers] {
            self.tell(Event::Phase(phase)).await;
        }
        self.tell_healthy(3).await;
    }

    /// Take a stop, and go down.
    pub async fn go_down(&mut self) {
        self.take_stop().await;
        for phase in [Phase::Containers, Phase::Dockerd, Phase::Containerd, Phase::Namespaces] {
            self.tell(Event::Phase(phase)).await;
        }
        self.tell(Event::Gone).await;
    }

    /// From now on, do at once whatever is asked for.
    pub fn obey(mut self) -> JoinHandle<()> {
        spawn_local(async move {
            while let Some(command) = self.commands.recv().await {
                match command {
                    Command::Start => {
                        self.tell_launched().await;
                        self.tell_healthy(0).await;
                    }
                    Command::Stop { .. } => self.tell(Event::Gone).await,
                    Command::Replace { .. } => {
                        self.tell(Event::Replaced(Ok(vec![Part::Dockerd]))).await;
                    }
                    // Whoever stopped waiting needs no answer.
                    Command::Reload(reply) => drop(reply.send(Ok(()))),
                }
            }
        })
    }

    /// What the configuration is when it is read the next time.
    pub fn set_config(&self, config: Result<Config, Error>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config.map(loaded);
    }

    /// The configuration, as it is in force.
    pub fn loads(&self) -> watch::Receiver<Loaded> {
        self.loads.clone()
    }

    /// The configuration that is in force.
    pub fn config_in_force(&self) -> Config {
        self.loads.borrow().config.clone()
    }

    /// Tell the supervisor how to end.
    pub async fn shut_down(&self, how: Shutdown) {
        self.shutdown.send(how).await.expect("the supervisor is there");
    }

    /// How the supervisor ended, once it has.
    pub async fn ended(mut self) -> Shutdown {
        let ended = timeout(BOUND, &mut self.supervisor).await.expect("an end in time");
        ended.expect("the supervisor does not panic")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Wait for a status.
pub async fn reaches(handle: &Handle, what: impl FnMut(&Status) -> bool) -> Status {
    let mut what = what;
    let mut statuses = handle.watch();
    let reached = timeout(BOUND, statuses.wait_for(|status| what(status))).await;
    reached.expect("a status in time").expect("the supervisor is there").as_ref().clone()
}

/// Wait for a state.
pub async fn is(handle: &Handle, state: State) -> Status {
    reaches(handle, |status| status.state == state).await
}

/// Memories of an engine in a life, as `state.json` has it.
pub fn memory(life: serde_json::Value) -> Memory {
    let machine = serde_json::json!({ "life": life, "deaths": [] });
    let memory = serde_json::json!({ "machine": machine, "since": 1 });
    serde_json::from_value(memory).expect("a life")
}

fn loaded(config: Config) -> Loaded {
    Loaded { config, settings: vec![samples::setting()], reasons: vec![] }
}

/// The plan of an engine like that of [`samples::status`].
pub fn plan() -> Plan {
    let status = samples::status();
    let path = |text: Option<String>| PathBuf::from(text.unwrap_or_default());
    Plan {
        rootlesskit: vec!["/usr/bin/rootlesskit".into()],
        state_dir: path(status.state_dir),
        environment: Default::default(),
        network_driver: status.network_driver.unwrap_or_default(),
        port_driver: status.port_driver.unwrap_or_default(),
        network_helper: None,
        network_on_loss: Default::default(),
        detach_netns: false,
        selinux: false,
        containerd: "/usr/bin/containerd".into(),
        dockerd: "/usr/bin/dockerd".into(),
        dockerd_flags: vec![],
        docker: DockerPlan {
            user_config: "/home/somebody/.config/docker/daemon.json".into(),
            data_root: path(status.data_root),
            exec_root: "/run/user/1000/docker".into(),
            pid_file: "/run/user/1000/docker.pid".into(),
            socket: status.socket_path.into(),
            cgroup_parent: None,
            live_restore: None,
            cgroup_driver: None,
        },
        ask_ports: true,
        restart: Default::default(),
        start_timeout: Duration::from_secs(90),
        stop_timeout: Duration::from_secs(30),
        config: None,
        versions: Versions {
            rootlesskit: status.rootlesskit_version,
            dockerd: status.version,
            containerd: status.containerd_version,
            runc: status.runc_version,
        },
        reasons: vec![],
    }
}

/// What dockerd says in [`samples::status`].
pub fn facts() -> Facts {
    let status = samples::status();
    Facts {
        info: Info {
            server_version: status.version.unwrap_or_default(),
            driver: status.storage_driver.unwrap_or_default(),
            cgroup_driver: status.cgroup_driver.unwrap_or_default(),
            containers_running: 3,
            live_restore_enabled: true,
        },
        controllers: status.controllers,
        containerd_version: status.containerd_version,
        outdated: vec![],
    }
}

/// A death of a part.
pub fn death(part: Part) -> Death {
    Death { part, exit_code: None, out_of_memory: false, ..samples::death() }
}

/// What an engine left that died of a part of it.
pub fn died(part: Part) -> Unseen {
    Unseen { death: Some(death(part)), ..Unseen::default() }
}

/// An obstacle that only a person removes.
pub fn obstacle() -> Reason {
    Code::SubuidMissing.reason_with_remedy("there are no ids", "sudo usermod")
}
