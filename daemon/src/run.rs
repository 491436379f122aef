//! The supervisor as a process: what it needs before it begins, how its parts are joined, and when
//! it ends.

use std::{
    fs::{DirBuilder, File},
    io::{self, IsTerminal},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    str::FromStr,
};

use nix::unistd::{dup2_stderr, setsid};
use rootlessd_api::{
    Error, ErrorKind, JobKind, JobOptions, LogLocation, Part, Supervisor as Identity, names,
};
use tokio::{
    sync::{mpsc, watch},
    task::{spawn_blocking, spawn_local},
};
use tracing::level_filters::LevelFilter;
use zbus::Address;

use crate::{
    cli::{NOT_TO_BE_RETRIED, RunArgs},
    config::{Config, Loaded, Reader, Start},
    dbus,
    dirs::{Dirs, Environment},
    doorman,
    engine::{
        autostart,
        driver::{Driver, Found, World},
        exec,
    },
    events::Recorder,
    follower,
    helper::Helper,
    lock,
    logging::{self, LogArgs},
    place::{self, Place},
    preflight::Known,
    readiness,
    signals::Signals,
    sockets::{self, Sockets},
    spare_name::SpareName,
    supervisor::{
        Constants, Inheritance, Links, Shutdown, Supervisor,
        handle::Handle,
        machine::Machine,
        memory::{Memory, Store},
    },
    sys::{cgroup, clock, files, notify::Notifications, process},
    systemd::Systemd,
    varlink,
};

/// Where the journal takes lines (systemd-journald(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The units that listen for it.
const SOCKET_UNITS: [&str; 2] = ["rootlessd.socket", "rootlessd-varlink.socket"];

/// What is to be done after [`prepare`].
pub enum Prepared {
    /// Supervise, in this process.
    Here(Box<Here>),
    /// Nothing: a process in the background supervises.
    Background,
}

/// What the supervisor needs before it begins.
pub struct Here {
    args: RunArgs,
    dirs: Dirs,
    environment: Environment,
    passed: Vec<(String, OwnedFd)>,
}

/// Find out whether and where to supervise.
pub fn prepare(args: &RunArgs) -> Result<Prepared, Error> {
    let internal =
        |what: &str, error: io::Error| Error::new(ErrorKind::Internal, format!("{what}: {error}"));
    // Many clients need many files, and so does what the engine is started with.
    process::raise_file_limit().map_err(|error| internal("the limit of open files", error))?;
    let passed = sockets::passed().map_err(|error| internal("systemd's sockets", error))?;
    let environment = Environment::of_process();
    let dirs = Dirs::resolve(&environment)?;
    refuse_system_unit(&environment)?;
    let runtime_dir = names::runtime_dir(&dirs.runtime);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&runtime_dir)
        .map_err(|error| internal(&format!("{} cannot be made", runtime_dir.display()), error))?;
    if args.daemonize {
        return daemonize(&dirs)
            .map(|()| Prepared::Background)
            .map_err(|error| internal("the background process", error));
    }
    if args.background {
        // Its own session: nothing that happens to the terminal concerns it.
        let _ = setsid();
    }
    Ok(Prepared::Here(Box::new(Here { args: args.clone(), dirs, environment, passed })))
}

/// Supervise until told to end.
pub async fn run(here: Here) -> ExitCode {
    let ended = supervise(here).await;
    // Everything that it held is closed by now.
    let ended = ended.and_then(|anew| match anew {
        true => place::begin_anew().map(|never| match never {}),
        false => Ok(()),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("rootlessd: {error}");
            match error.kind() {
                // Another rootlessd is there.
                io::ErrorKind::ResourceBusy => ExitCode::from(NOT_TO_BE_RETRIED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Whether another rootlessd is to begin in this one's place.
async fn supervise(here: Here) -> io::Result<bool> {
    // First of all: whoever has started us may have something to say at once.
    let mut signals = Signals::listen()?;
    let Here { args, dirs, environment, passed } = here;
    let lock = tokio::select! {
        lock = lock::take(&dirs, args.replace) => lock?,
        // Nothing has begun.
        () = signals.end() => return Ok(false),
    };
    let reader = Reader::of(dirs.clone(), environment.clone());
    let loaded = reader.read().await;
    let log = log_args(&args, &dirs, loaded.as_ref().ok());
    logging::init(&log, Part::Supervisor, !args.background && io::stderr().is_terminal());
    let start = loaded.as_ref().ok().map(|loaded| loaded.config.engine.start);
    // A mistake in the configuration is no reason not to be there: the status tells it, once the
    // engine's start was refused for it.
    let loaded = loaded.unwrap_or_else(|_| Loaded {
        config: Config::default(),
        settings: vec![],
        reasons: vec![],
    });
    let bus = session_bus(&dirs, &environment);
    let systemd = find_systemd(&dirs, bus.as_ref()).await;
    let store = Store::below(&dirs.runtime);
    let remembered = store.load();
    let (found, engines) = match Found::find(&dirs) {
        // systemd kept the socket itself.
        Some(found) if sockets::has_docker(&passed) => (Some(found), None),
        Some(found) => found.listener(&dirs).await.unzip(),
        None => (None, None),
    };
    let inherited = match &found {
        Some(_) => Inheritance::Engine,
        // Before anything listens: what is left of an engine may still hold its socket.
        None => Inheritance::Nothing(Found::bury_unseen(&dirs, systemd.as_ref()).await),
    };
    let sockets = sockets::acquire(&dirs.runtime, passed, engines).await?;
    let is_new = remembered.is_none() && found.is_none();
    let starts = is_new && starts_by_itself(start, &dirs).await;
    let memory = remembered.unwrap_or_else(|| Memory {
        since: clock::now_realtime(),
        machine: if starts { Machine::default() } else { Machine::listening() },
        ..Memory::default()
    });
    let constants = Constants {
        supervisor: Identity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: clock::now_realtime(),
            systemd: systemd.is_some(),
        },
        socket: sockets.docker.path.clone(),
    };
    let logs = LogLocation {
        directory: log.directory.as_ref().map(|path| path.to_string_lossy().into_owned()),
    };
    let first = Supervisor::first_status(&constants, &memory);
    let recorder = Recorder::new(rootlessd_api::history::directory(&dirs.state_home));
    let events = recorder.events();
    let (handle, mailbox) = Handle::new(first, logs, events.clone());
    let (command, commands) = mpsc::channel(16);
    let (event, told) = mpsc::channel(64);
    let (end, shutdown) = mpsc::channel(1);
    let (loaded, loads) = watch::channel(loaded);

    let helper = Helper::of_machine();
    let world = World {
        dirs: dirs.clone(),
        environment,
        reader: reader.clone(),
        loaded: loaded.clone(),
        systemd: systemd.clone(),
        helper: helper.clone(),
        listener: sockets.docker.listener.try_clone()?.into(),
        log,
        events: event,
        known: Known::default(),
    };
    let links = Links {
        mailbox,
        commands: command,
        events: told,
        shutdown,
        loaded,
        reader,
        helper,
        store,
        recorder,
    };
    let driver = spawn_local(Driver::new(world, commands).run(found));
    let supervisor = spawn_local(Supervisor::new(links, constants, memory).run(inherited));
    front(&handle, &sockets, loads.clone(), bus)?;
    let spare_name = SpareName::of(&sockets.docker.path, &names::runtime_dir(&dirs.runtime));
    let keeping = spare_name.clone().keep();
    spawn_local(async move {
        let Err(error) = keeping.await;
        tracing::warn!("Docker's socket is not kept from removal: {error}");
    });
    if starts {
        handle.request(JobKind::Start, JobOptions::default()).await.map_err(io::Error::other)?;
    }
    spawn_local(readiness::keep(handle.clone()));
    if let Some(systemd) = &systemd {
        // One that an earlier rootlessd left behind says nothing.
        let _ = files::remove(&names::unit_follows(&dirs.runtime));
        spawn_local(follower::keep(handle.clone(), systemd.clone(), dirs.runtime.clone()));
    }
    if args.background {
        dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    }
    spawn_local(end_with_place(names::runtime_dir(&dirs.runtime), end.clone()));
    spawn_local(signals.obey(handle, systemd.clone(), loads, end));

    let how = supervisor.await.map_err(io::Error::other)?;
    // The driver ends with the supervisor, which gave it commands.
    driver.await.map_err(io::Error::other)?;
    events.flush().await;
    if how == Shutdown::StopEngine {
        spare_name.remove();
        end_sockets(&sockets, systemd.as_ref()).await;
    }
    drop(lock);
    let anew = matches!(how, Shutdown::BeginAnew(_));
    Ok(anew && !restart_sockets(&sockets, systemd.as_ref()).await)
}

/// Ask for the end when the runtime directory is gone.
async fn end_with_place(directory: PathBuf, end: mpsc::Sender<Shutdown>) {
    let lost = match Place::watch(&directory) {
        Ok(place) => place.lost().await,
        Err(error) => Err(error),
    };
    match lost {
        Ok(reason) => {
            tracing::error!("{}", reason.text);
            // Whoever is ending already needs no reason.
            let _ = end.send(Shutdown::BeginAnew(reason)).await;
        }
        Err(error) => tracing::warn!("{} is not watched: {error}", directory.display()),
    }
}

/// Whether an engine of which nothing is known starts with rootlessd, and not with its first client.
async fn starts_by_itself(start: Option<Start>, dirs: &Dirs) -> bool {
    match start {
        Some(Start::Demand) => false,
        Some(Start::Auto) => {
            let dirs = dirs.clone();
            spawn_blocking(move || autostart::has_to_run(&dirs)).await.unwrap_or(true)
        }
        // What is wrong with the configuration is told by a start that is refused.
        Some(Start::Boot) | None => true,
    }
}

/// The session bus, as `DBUS_SESSION_BUS_ADDRESS` has it, or where systemd puts it.
fn session_bus(dirs: &Dirs, environment: &Environment) -> Option<Address> {
    let usual = || format!("unix:path={}", dirs.runtime.join("bus").display());
    let bus = environment.get("DBUS_SESSION_BUS_ADDRESS").map_or_else(usual, str::to_owned);
    Address::from_str(&bus)
        .inspect_err(|error| tracing::warn!("the session bus {bus} cannot be used: {error}"))
        .ok()
}

async fn find_systemd(dirs: &Dirs, bus: Option<&Address>) -> Option<Systemd> {
    Systemd::find(&dirs.runtime, bus?).await.unwrap_or_else(|error| {
        tracing::warn!("the user's systemd does not answer, so the engine gets no scope: {error}");
        None
    })
}

/// Let the world in.
fn front(
    handle: &Handle,
    sockets: &Sockets,
    loads: watch::Receiver<Loaded>,
    bus: Option<Address>,
) -> io::Result<()> {
    let varlink = sockets.varlink.listener.try_clone()?;
    varlink.set_nonblocking(true)?;
    spawn_local(varlink::serve(tokio::net::UnixListener::from_std(varlink)?, handle.clone()));
    if let Some(bus) = bus {
        spawn_local(dbus::run(handle.clone(), bus));
    }
    let docker = sockets.docker.listener.try_clone()?;
    let doorman = doorman::keep(docker, handle.clone(), loads);
    spawn_local(async move {
        let Err(error) = doorman.await;
        tracing::warn!("Docker's clients are not answered while dockerd is away: {error}");
    });
    Ok(())
}

/// Have systemd listen anew, where it listens; rootlessd begins anew with it.
async fn restart_sockets(sockets: &Sockets, systemd: Option<&Systemd>) -> bool {
    let systems = !sockets.docker.own || !sockets.varlink.own;
    let Some(systemd) = systemd.filter(|_| systems) else { return false };
    for unit in SOCKET_UNITS {
        if let Err(error) = systemd.begin_restart(unit).await {
            tracing::warn!("{unit} cannot be started anew: {error}");
        }
    }
    true
}

/// What was stopped must not be revived by the next client.
async fn end_sockets(sockets: &Sockets, systemd: Option<&Systemd>) {
    sockets.docker.remove();
    sockets.varlink.remove();
    let systems = !sockets.docker.own || !sockets.varlink.own;
    for unit in SOCKET_UNITS {
        if let Some(systemd) = systemd.filter(|_| systems)
            && let Err(error) = systemd.begin_stop(unit).await
        {
            tracing::warn!("{unit} cannot be stopped: {error}");
        }
    }
}

fn log_args(args: &RunArgs, dirs: &Dirs, loaded: Option<&Loaded>) -> LogArgs {
    let configured = loaded.and_then(|loaded| loaded.config.log.level.as_str().parse().ok());
    let by_default = || dirs.state_home.join("rootlessd/log");
    let no_journal = !Path::new(JOURNAL).exists();
    LogArgs {
        directory: args.log_directory.clone().or_else(|| no_journal.then(by_default)),
        level: args.log_level.or(configured).unwrap_or(LevelFilter::INFO),
    }
}

/// A system unit has no user's session: no systemd of the user's to make the engine's scope, no
/// delegation, and a runtime directory that comes and goes without it.
fn refuse_system_unit(environment: &Environment) -> Result<(), Error> {
    let started = environment.get("SYSTEMD_EXEC_PID").and_then(|pid| pid.parse().ok());
    let group = cgroup::own().unwrap_or_default();
    if started != Some(std::process::id()) || !group.starts_with("/system.slice/") {
        return Ok(());
    }
    let message = "rootlessd is a user's service, and this is a unit of the system";
    Err(Error::new(ErrorKind::Preflight, message)
        .with_remedy("systemctl --user enable --now rootlessd, as that user"))
}

/// Start this program again in the background, and wait until it is ready.
fn daemonize(dirs: &Dirs) -> io::Result<()> {
    let socket: PathBuf =
        names::runtime_dir(&dirs.runtime).join(format!("ready.{}", std::process::id()));
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--daemonize");
    let mut command = Command::new(exec::own_program()?);
    command
        .args(arguments)
        .arg("--background")
        .env("NOTIFY_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = runtime.block_on(async {
        let mut notifications = Notifications::listen(&socket).map_err(|error| {
            let text = format!("{} cannot be made: {error}", socket.display());
            io::Error::new(error.kind(), text)
        })?;
        let mut child = tokio::process::Command::from(command).spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let ready = async { while Some(notifications.ready().await) != pid {} };
        tokio::select! {
            () = ready => Ok(()),
            status = child.wait() => {
                Err(io::Error::other(format!("it ended before it was ready ({})", status?)))
            }
        }
    });
    files::remove(&socket)?;
    started
}
