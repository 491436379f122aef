//! The network helper, slirp4netns or pasta: what carries the packets between the engine's network
//! namespace and the machine. RootlessKit starts it and never looks at it again: without it,
//! everything goes on and nothing comes through.
//!
//! engine-shim follows it by pidfd, and replaces it by a child of its own with the same arguments:
//! the namespace, its addresses and routes are still there. What happened is written down as
//! [incidents](super::incidents). The dead one stays a zombie of RootlessKit's, which waits for it
//! at its own end only.
//!
//! It also follows what of the machine's network a helper [goes by](surroundings), and replaces one
//! that does not see that it has changed.

mod changes;
mod ports;
mod successor;
mod surroundings;

use std::{
    fs,
    future::pending,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use futures_util::FutureExt;
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::{Pid, mkfifo},
};
use rootlessd_api::{Death, Part};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep},
};

use self::{
    changes::{Changes, Pace, next_change},
    successor::{READY_FD, Ready, Successor, successor},
    surroundings::{Judgement, Surroundings},
};
use super::{
    dir::EngineDir,
    exec,
    incidents::{self, Incident},
    log::{self, Lines, Tail},
    processes,
    shim::death,
};
use crate::{
    config::OnLoss,
    plan::Plan,
    restart_policy::{Deaths, RestartPolicy},
    sys::{
        children::{self, Exit},
        clock::{self, Alarm},
        files,
        oom::OomKills,
        process::{Process, Stat},
    },
};

/// The network drivers whose helper stays.
const LASTING: [&str; 3] = ["slirp4netns", "pasta", "vpnkit"];
/// Whatever ends RootlessKit ends its helper with it, and either can be the first. This is how long
/// the other may take.
const GRACE: Duration = Duration::from_millis(20);
/// How often to look, with this pause, for the command line of a helper that lives and has none.
const LOOKS: usize = 50;
/// How fast a helper is replaced that dies again and again, or cannot be started. After too many
/// losses that is tried once in the window.
const PACE: RestartPolicy = RestartPolicy {
    limit: 9,
    window: Duration::from_secs(60),
    delay: Duration::from_millis(10),
    max_delay: Duration::from_secs(60),
};
/// How long a helper may take to get ready; tens of milliseconds are usual.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the helper of an engine of this plan cannot be replaced, whatever becomes of it; `None` if it can.
pub fn why_irreplaceable(plan: &Plan) -> Option<String> {
    successor::why_none(&plan.network_driver, &plan.port_driver)
}

/// Follow the helper of `rootlesskit` and replace it when it is lost; where that cannot be, do what the
/// plan says. `exits`: of this
/// process's children, but for RootlessKit. `oom_kills`: what the kernel killed for memory. It returns
/// only if the engine is to end for it: how the helper died.
pub async fn guard(
    dir: &EngineDir,
    plan: &Plan,
    rootlesskit: Pid,
    exits: UnboundedReceiver<Exit>,
    oom_kills: Rc<OomKills>,
) -> Death {
    let Some(program) = plan.network_helper.as_deref() else { return pending().await };
    if !LASTING.contains(&plan.network_driver.as_str()) {
        return pending().await;
    }
    let guard = Guard {
        dir,
        plan,
        program,
        rootlesskit: rootlesskit.as_raw().unsigned_abs(),
        exits,
        oom_kills,
        losses: Deaths::default(),
        changes: Changes::follow()
            .inspect_err(|error| tracing::warn!("changes of the network are not seen: {error}"))
            .ok(),
        pace: Pace::default(),
        known: Surroundings::now(),
        started: Surroundings::now(),
    };
    guard.run().await
}

struct Guard<'a> {
    dir: &'a EngineDir,
    plan: &'a Plan,
    program: &'a Path,
    rootlesskit: u32,
    exits: UnboundedReceiver<Exit>,
    oom_kills: Rc<OomKills>,
    /// Those that count.
    losses: Deaths,
    /// Tells when to look at the machine's network, if that can be told.
    changes: Option<Changes>,
    /// When the next change is looked at.
    pace: Pace,
    /// The machine's network as it was told last.
    known: Surroundings,
    /// The same when the helper was started.
    started: Surroundings,
}

/// A helper that runs, or did a moment ago.
struct Running {
    process: Process,
    /// Whether this process reaps it.
    is_child: bool,
    /// What it writes, unless RootlessKit reads it.
    lines: Option<Lines>,
    tail: Tail,
}

impl Running {
    fn take_line(&mut self, line: String) {
        log::forward(Part::Network, &line);
        self.tail.push(line);
    }
}

impl Guard<'_> {
    async fn run(mut self) -> Death {
        // Written once the network is connected.
        files::appeared(&self.child_pid()).await;
        let Some((mut running, line)) = self.find().await else {
            tracing::warn!(
                rootlessd_part = Part::Network.as_str(),
                "no {} of RootlessKit's is found, so it is not watched",
                self.plan.network_driver
            );
            return pending().await;
        };
        let Plan { network_driver, port_driver, .. } = self.plan;
        let successor =
            successor(network_driver, port_driver, self.program, &line, &self.pid_file());
        loop {
            let can_heal = successor.is_ok() && !line.is_empty();
            let (death, is_ours) = self.end_of(&mut running, can_heal).await;
            let lost = Instant::now();
            if self.is_ending().await {
                return pending().await;
            }
            // It died on the way up, before it could be asked for its arguments: so does the engine.
            if line.is_empty() {
                return death;
            }
            tracing::warn!(rootlessd_part = Part::Network.as_str(), "{}", death.text);
            let replaced = match &successor {
                Ok(successor) => {
                    self.tell(&Incident::lost(death.clone()));
                    self.replace(successor, is_ours).await
                }
                Err(why) => Err(why.clone()),
            };
            running = match replaced {
                Ok(running) => running,
                // A successor has no place in an engine that has begun to end meanwhile.
                Err(_) if self.is_ending().await => return pending().await,
                Err(why) => {
                    let text = format!("{}, and cannot be replaced: {why}", death.text);
                    if self.plan.network_on_loss == OnLoss::Restart {
                        return Death { text, ..death };
                    }
                    self.miss(text);
                    return pending().await;
                }
            };
            let restored = match &successor {
                Ok(successor) => self.restore_ports(successor).await,
                Err(_) => Ok(()),
            };
            let took = clock::micros(lost.elapsed());
            let at = clock::now_realtime();
            self.tell(&Incident::Replaced { part: Part::Network, at, took });
            if let Err(error) = restored {
                self.miss(format!(
                    "ports that slirp4netns had published are not any more: {error}"
                ));
            }
            tracing::info!(
                rootlessd_part = Part::Network.as_str(),
                "{network_driver} was replaced after {} ms",
                took / 1000
            );
        }
    }

    /// The helper that RootlessKit started, and its command line: empty if it is dead.
    async fn find(&self) -> Option<(Running, Vec<String>)> {
        let shim = std::process::id();
        let pid = processes::network_helper(self.rootlesskit, shim)?;
        let process = Process::open(pid).ok()?;
        let mut line = vec![];
        for _ in 0..LOOKS {
            line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // That of one that lives has been seen to be empty, as it is while it becomes another program.
            if !line.is_empty() || process.gone().now_or_never().is_some() {
                break;
            }
            sleep(GRACE).await;
        }
        let words = line.strip_suffix(&[0]).map(|line| line.split(|&byte| byte == 0));
        let words = words.into_iter().flatten().map(|word| String::from_utf8_lossy(word).into());
        // A pasta that went to the background is an orphan of RootlessKit's.
        let is_child = Stat::of(pid)?.parent == shim;
        let running = Running { process, is_child, lines: None, tail: Tail::default() };
        Some((running, words.collect()))
    }

    /// Wait until a helper has died, or has to be replaced and was ended for it: how it died, and whether
    /// it was ended here. What it goes by is told on the way when it changes.
    async fn end_of(&mut self, running: &mut Running, can_heal: bool) -> (Death, bool) {
        let mut changes = self.changes.take();
        let mut ended = None;
        // What changed while the last one was replaced was not seen yet.
        let mut is_seen = false;
        let mut death = loop {
            let pace = self.pace.clone();
            let change = async {
                if is_seen {
                    next_change(&mut changes).await;
                }
                Alarm::after(pace.left(clock::now_boottime())).rings().await;
            };
            tokio::select! {
                death = self.death_of(running) => break death,
                () = change => is_seen = true,
            }
            if ended.is_none() {
                ended = self.take_change(can_heal);
                if ended.is_some()
                    && let Err(error) = running.process.signal(Signal::SIGKILL)
                {
                    tracing::warn!("{} cannot be ended: {error}", self.plan.network_driver);
                }
            }
        };
        self.changes = changes;
        let is_ours = ended.is_some();
        if let Some(why) = ended {
            death.text = why;
        }
        (death, is_ours)
    }

    /// Tell what of the machine's network is another: why the helper is to be ended, if it is.
    fn take_change(&mut self, can_heal: bool) -> Option<String> {
        let now = Surroundings::now();
        let driver = &self.plan.network_driver;
        let judgement = now.judge(driver, can_heal, &self.known, &self.started)?;
        self.known = now;
        self.pace.count(clock::now_boottime());
        let Judgement { text, end } = judgement;
        tracing::info!(rootlessd_part = Part::Network.as_str(), "{text}");
        let at = clock::now_realtime();
        self.tell(&Incident::Changed { part: Part::Network, at, text, took: None });
        end
    }

    /// Wait for a helper's death: how it died.
    async fn death_of(&mut self, running: &mut Running) -> Death {
        let pid = i32::try_from(running.process.identity().pid).unwrap_or_default();
        let exit = loop {
            tokio::select! {
                Some(exit) = self.exits.recv() => if exit.pid == pid { break Some(exit) },
                () = running.process.gone(), if !running.is_child => {
                    break Exit::of_zombie(pid).map(|exit| exit.judged_by(&self.oom_kills));
                }
                Some(line) = next_line(&mut running.lines) => running.take_line(line),
            }
        };
        for line in running.lines.as_mut().map(Lines::drain).unwrap_or_default() {
            running.take_line(line);
        }
        let helper = running.process.identity();
        let text = self.dir.take_why_ended(helper).unwrap_or_else(|| {
            let how = exit.map_or("died".to_owned(), |exit| exit.describe());
            format!("{} {how}", self.plan.network_driver)
        });
        death(Part::Network, exit, text, running.tail.lines())
    }

    /// Whether the engine itself ends: RootlessKit ends its helper after its child is gone.
    async fn is_ending(&self) -> bool {
        sleep(GRACE).await;
        let lives = |pid| Stat::of(pid).is_some_and(|stat| stat.state != 'Z');
        let child = fs::read_to_string(self.child_pid()).ok().and_then(|pid| pid.parse().ok());
        !lives(self.rootlesskit) || child.is_some_and(|child| !lives(child))
    }

    /// Replace a helper that was lost; with `heal`, however long that takes. Else a try that fails is the
    /// error, which says why. One that was ended here, since the network has changed, is no loss that counts,
    /// and is replaced in any case.
    async fn replace(
        &mut self,
        successor: &Successor,
        mut is_ours: bool,
    ) -> Result<Running, String> {
        let is_patient = is_ours || self.plan.network_on_loss == OnLoss::Heal;
        let mut missed = None;
        loop {
            let delay = match std::mem::take(&mut is_ours) {
                true => Some(Duration::ZERO),
                false => PACE.count(&mut self.losses, clock::now_boottime()),
            };
            if delay.is_none() && missed.is_none() {
                let count = self.losses.count();
                let why = format!("it was lost {count} times within a minute, or on end");
                if !is_patient {
                    return Err(why);
                }
                self.miss_for_now(&why);
                missed = Some(why);
            }
            Alarm::after(delay.unwrap_or(PACE.window)).rings().await;
            match self.start(successor).await {
                Ok(running) => {
                    self.losses.end_row();
                    return Ok(running);
                }
                Err(error) if !is_patient => return Err(error.to_string()),
                Err(error) => {
                    let why = error.to_string();
                    if missed.as_ref() != Some(&why) {
                        self.miss_for_now(&why);
                        missed = Some(why);
                    }
                }
            }
        }
    }

    /// Start a successor; returns when it is ready.
    async fn start(&mut self, successor: &Successor) -> io::Result<Running> {
        self.started = Surroundings::now();
        // Whoever died meanwhile is none of those to come.
        while self.exits.try_recv().is_ok() {}
        let (lines, stdout, stderr) = Lines::pipe()?;
        let mut command = exec::command(self.program, None)?;
        command.args(&successor.arguments).env_clear().envs(&self.plan.environment);
        command.stdout(stdout).stderr(stderr);
        let ready = match successor.ready {
            Ready::Byte => {
                let (reader, writer) = io::pipe()?;
                exec::pass(&mut command, writer.into(), READY_FD)?;
                pipe::Receiver::from_owned_fd(reader.into())?
            }
            Ready::Pid => {
                files::remove(&self.pid_file())?;
                mkfifo(&self.pid_file(), Mode::S_IRUSR | Mode::S_IWUSR)?;
                pipe::OpenOptions::new().open_receiver(self.pid_file())?
            }
        };
        let pid = children::spawn(&mut command)?.as_raw().unsigned_abs();
        // With it go our ends of its pipes.
        drop(command);
        let process = Process::open(pid)?;
        let mut running =
            Running { process, is_child: true, lines: Some(lines), tail: Tail::default() };
        tokio::select! {
            () = is_written_to(ready) => {}
            Death { text, log, .. } = self.death_of(&mut running) => {
                // Whatever it was, it says so last.
                let why = log.last().filter(|line| !text.contains(*line));
                let why = why.map_or(text.clone(), |line| format!("{text}: {line}"));
                return Err(io::Error::other(why));
            }
            () = sleep(READY_TIMEOUT) => {
                running.process.signal(Signal::SIGKILL)?;
                let text = format!("it did not get ready within {} s", READY_TIMEOUT.as_secs());
                return Err(io::Error::other(text));
            }
        }
        Ok(running)
    }

    /// Have a new slirp4netns publish what the old one did, where it is what publishes.
    async fn restore_ports(&self, successor: &Successor) -> io::Result<()> {
        match &successor.api_socket {
            Some(api) => ports::restore(&self.plan.rootlesskit_socket(), api).await,
            None => Ok(()),
        }
    }

    fn miss_for_now(&self, why: &str) {
        let (driver, program) = (&self.plan.network_driver, self.program.display());
        self.miss(format!("{driver} ({program}) cannot be replaced for now: {why}"));
    }

    fn miss(&self, text: String) {
        tracing::error!(rootlessd_part = Part::Network.as_str(), "{text}");
        self.tell(&Incident::Missing { part: Part::Network, at: clock::now_realtime(), text });
    }

    fn tell(&self, incident: &Incident) {
        if let Err(error) = incidents::append(self.dir, incident) {
            tracing::error!(
                rootlessd_part = Part::Shim.as_str(),
                "an incident cannot be written down: {error}"
            );
        }
    }

    fn child_pid(&self) -> PathBuf {
        self.plan.state_dir.join("child_pid")
    }

    /// Where a pasta says that it is ready.
    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("network-helper.pid")
    }
}

/// The next line, of whose lines come here.
async fn next_line(lines: &mut Option<Lines>) -> Option<String> {
    match lines {
        Some(lines) => lines.next().await,
        None => pending().await,
    }
}

/// Wait until something was written; who does not tell so by its end.
async fn is_written_to(mut pipe: pipe::Receiver) {
    if !matches!(pipe.read(&mut [0]).await, Ok(1..)) {
        pending().await
    }
}
