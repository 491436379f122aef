//! What the [machine](super::machine) says, done.

use std::{collections::VecDeque, fs, time::Duration};

use rootlessd_api::{Death, Error, ErrorKind, Part};
use tokio::{task::spawn_local, time::Instant};

use super::{
    End, Init, Stage,
    machine::{Effect, Event, Fault, Killing, Limit, Loss, Refusal, Timer, Verdict, Why},
    network_probe, parts,
};
use crate::{
    engine::{
        incidents::{self, Incident},
        shim,
        shortage::Shortage,
    },
    sys::{
        clock::{self, Alarm},
        files,
    },
};

/// How long a part may take to end that is to be replaced. Both are done in milliseconds, but dockerd
/// then waits for clients that hold a connection, such as `docker events`.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// What containerd gets of a stop's time at the least; it is stopped in milliseconds.
const CONTAINERD_SHARE: Duration = Duration::from_secs(2);
/// How long dockerd may take to read its configuration again; it takes milliseconds, or a second if it
/// is being replaced.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

impl Init {
    /// Let the machine take an event, and do what it says. `cause`: the death that the event is.
    pub(super) async fn take(&mut self, event: Event, mut cause: Option<Death>) -> Option<End> {
        let mut effects: VecDeque<_> = self.decide(event).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Start(part) => {
                    match self.start(part).await {
                        Err(death) => {
                            let event = Event::NotStarted(part, fault_of(&death));
                            cause = Some(death);
                            effects.extend(self.decide(event));
                        }
                        Ok(()) if part == Part::Dockerd && self.is_to_be_configured() => {
                            effects.extend(self.decide(Event::Configured));
                        }
                        Ok(()) => {}
                    }
                    self.publish();
                }
                Effect::Configure => {
                    if let Err(error) = self.configure() {
                        tracing::warn!("dockerd goes on by the configuration before: {error}");
                    }
                }
                Effect::Signal(part, signal) => {
                    if let Some(running) = self.slot(part) {
                        running.signal(signal);
                    }
                }
                // A suspend counts for it, as for any delay between two tries.
                Effect::Time(Timer::Pause, Limit::Pause(delay)) => {
                    self.pause = Some(Alarm::after(delay));
                }
                Effect::Time(timer, limit) => {
                    let moment = self.moment(limit);
                    self.timers.insert(timer, moment);
                }
                Effect::EndTimer(Timer::Pause) => self.pause = None,
                Effect::EndTimer(timer) => drop(self.timers.remove(&timer)),
                Effect::TellLost(part, Loss::Ended(why)) => self.tell_lost(ended(part, why)),
                Effect::TellLost(part, Loss::Died) => {
                    self.tell_lost(cause.take().unwrap_or_else(|| ended(part, Why::Asked)));
                }
                Effect::TellReplaced(part) => self.tell_replaced(part),
                Effect::AnswerWaiting => self.answer_waiting(),
                Effect::Refuse(refusal) => {
                    if let Some(reply) = self.waiting.pop() {
                        // Whoever stopped waiting needs no answer.
                        let _ = reply.send(Err(refused(refusal)));
                    }
                }
                Effect::NoteHung(part, why) => {
                    if let Some(running) = self.slot(part) {
                        running.hung = Some(why);
                    }
                }
                Effect::TellLeft(part, why) => self.tell_left(part, &why),
                Effect::Watch => self.watch(),
                Effect::EndLiveRestore => self.reading = self.end_live_restore().into(),
                Effect::DropLiveRestore => self.reading = None.into(),
                Effect::DropWaiting => self.waiting.clear(),
                Effect::TellKilled(killing) => {
                    let why = match killing {
                        Killing::NotRead => "dockerd does not read its configuration".to_owned(),
                        Killing::Lost(verdict) => self.given_up(verdict, cause.take()).text,
                    };
                    tracing::warn!("{why}: containers are killed");
                }
                Effect::GiveUp(verdict) => {
                    return Some(End::Died(self.given_up(verdict, cause.take())));
                }
                Effect::EndAll => return Some(End::Stopped),
            }
        }
        None
    }

    /// What is decided is told before it is done.
    fn decide(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.machine.next(event, clock::now_boottime(), &self.plan.restart);
        self.publish();
        effects
    }

    fn watch(&mut self) {
        spawn_local(network_probe::watch(self.dir.clone(), self.plan.clone()));
        if let Some(probe) = self.part_probe.take() {
            spawn_local(probe.go_on());
        }
    }

    async fn start(&mut self, part: Part) -> Result<(), Death> {
        let is_first = self.machine.stage() == Stage::Starting;
        if part == Part::Dockerd {
            if is_first {
                let configured = self.configure_first().await;
                configured
                    .map_err(|error| shim::death(Part::Config, None, error.message, vec![]))?;
            } else {
                self.clear_after_dockerd();
                self.configure_next().await;
            }
        }
        let started = match part {
            Part::Containerd => parts::start_containerd(self),
            _ => parts::start_dockerd(self),
        };
        let running = started.map_err(|error| {
            let again = if is_first { "" } else { " again" };
            let text = format!("{part} cannot be started{again}: {error}");
            shim::death(part, None, text, vec![])
        })?;
        *self.slot(part) = Some(running);
        Ok(())
    }

    /// Remove what a dockerd that did not end by itself leaves: the pid file, over which its successor
    /// stumbles, and the socket that each has for runc's hooks (libnetwork's `sandbox_externalkey`).
    fn clear_after_dockerd(&self) {
        let docker = &self.plan.docker;
        let sockets = fs::read_dir(docker.exec_root.join("libnetwork")).into_iter().flatten();
        let sockets = sockets.flatten().map(|entry| entry.path());
        let sockets = sockets.filter(|path| path.extension().is_some_and(|it| it == "sock"));
        for path in sockets.chain([docker.pid_file.clone()]) {
            if let Err(error) = files::remove(&path) {
                tracing::warn!("{} stays: {error}", path.display());
            }
        }
        // The containers run on, and so the new one publishes the same ports.
        self.port_proxy.keep();
    }

    fn moment(&self, limit: Limit) -> Instant {
        let now = Instant::now();
        match limit {
            Limit::Start => now + self.plan.start_timeout,
            Limit::End => now + END_TIMEOUT,
            Limit::Pause(delay) => now + delay,
            Limit::Reading => self.stop_by.min(now + RELOAD_TIMEOUT),
            Limit::Stop(Part::Dockerd) => {
                self.stop_by.checked_sub(CONTAINERD_SHARE).unwrap_or(self.stop_by)
            }
            Limit::Stop(_) => self.stop_by,
        }
    }

    fn tell_lost(&mut self, death: Death) {
        let part = death.part;
        tracing::warn!(rootlessd_part = part.as_str(), "{}; it is replaced", death.text);
        self.lost.entry(part).or_insert_with(Instant::now);
        self.note(&Incident::lost(death));
    }

    fn tell_replaced(&mut self, part: Part) {
        let took = self.lost.remove(&part).map_or(Duration::ZERO, |since| since.elapsed());
        tracing::info!(rootlessd_part = part.as_str(), "{part} is replaced, after {took:.2?}");
        let took = clock::micros(took);
        self.note(&Incident::Replaced { part, at: clock::now_realtime(), took });
    }

    /// It is found again and again for as long as it hangs.
    fn tell_left(&mut self, part: Part, why: &str) {
        let Some(running) = self.slot(part).as_mut().filter(|it| it.left.is_none()) else { return };
        running.left = Some(Instant::now());
        let text = format!(
            "{part} hangs: {why}; it is left, since containers would end with it: live-restore is off"
        );
        tracing::warn!(rootlessd_part = part.as_str(), "{text}");
        self.note(&Incident::Missing { part, at: clock::now_realtime(), text });
    }

    /// It was left at this moment, and is well.
    pub(super) fn tell_answers(&self, part: Part, since: Instant) {
        let text = format!("{part} answers again");
        tracing::info!(rootlessd_part = part.as_str(), "{text}");
        let took = Some(clock::micros(since.elapsed()));
        self.note(&Incident::Changed { part, at: clock::now_realtime(), text, took });
    }

    fn answer_waiting(&mut self) {
        for reply in self.waiting.drain(..) {
            // Whoever stopped waiting needs no answer.
            let _ = reply.send(Ok(()));
        }
    }

    pub(super) fn note(&self, incident: &Incident) {
        if let Err(error) = incidents::append(&self.dir, incident) {
            tracing::warn!("{} cannot be written: {error}", self.dir.incidents().display());
        }
    }

    /// The death that the engine is given up for.
    fn given_up(&self, verdict: Verdict, cause: Option<Death>) -> Death {
        let unknown = || shim::death(Part::Init, None, "a part died".to_owned(), vec![]);
        let mut death = cause.unwrap_or_else(unknown);
        match verdict {
            Verdict::TooYoung => {}
            Verdict::KeepsNothing => {
                death.text +=
                    "; no other takes its place in this engine, since live-restore is off";
            }
            Verdict::TooMany(count) => {
                let window = self.plan.restart.window;
                death.text = format!(
                    "{}; parts died {count} times within {window:?} or since none was lost",
                    death.text
                );
            }
        }
        death
    }
}

/// Whose fault a death was.
pub(super) fn fault_of(death: &Death) -> Fault {
    let is_short = death.out_of_memory || Shortage::of_death(death).is_some();
    if is_short { Fault::Shortage } else { Fault::Own }
}

/// The loss of a part that was ended.
fn ended(part: Part, why: Why) -> Death {
    let why = match why {
        Why::Asked => "to be replaced, as was asked",
        Why::Blind => "since it does not see what happens while containerd is away",
    };
    shim::death(part, None, format!("{part} was ended {why}"), vec![])
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotUp => Error::new(ErrorKind::Busy, "the engine is not up yet"),
        Refusal::KeepsNothing => {
            let text = "containers do not outlive dockerd here, since live-restore is off: see \
                        rootlessctl status, engine.live_restore and daemon.json";
            Error::new(ErrorKind::Unsupported, text).with_remedy("rootlessctl restart")
        }
    }
}
