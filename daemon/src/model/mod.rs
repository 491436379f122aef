//! The whole as a model, checked in every order of events: the production functions that decide (the
//! supervisor's [machine](crate::supervisor::machine) and [jobs](crate::supervisor::jobs), the
//! driver's [course](crate::engine::driver::course), engine-init's
//! [machine](crate::engine::init::machine), the [doorman](crate::doorman)'s door), with processes
//! around them that die, hang or answer late at every step.
//!
//! What is not production here stands for what production does with its effects: processes, the two
//! channels, the files that a new rootlessd finds. A time that runs is over when nothing else can
//! happen any more; that it is over before costs one of the faults that there may be. So each run of
//! [steps](actions::steps) and times ends, and where it ends all has to be well: that is what is
//! checked, beside what must never be.

mod actions;
mod driver;
mod engine;
mod outside;
mod rootlessd;
mod state;

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rootlessd_api::JobKind;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use self::{
    actions::{Action, Step, dues, steps},
    outside::{ASKED, Asked, FAULTS},
    state::{Client, Driver, Rootlessd, State, Supervisor},
};
use crate::{
    restart_policy::RestartPolicy,
    supervisor::machine::{Life, Machine, Policy},
};

const POLICY: Policy = Policy {
    restart: RestartPolicy {
        limit: 3,
        window: Duration::from_secs(60),
        delay: Duration::from_millis(200),
        max_delay: Duration::from_secs(1),
    },
    listens: true,
};

/// What a check has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    /// An engine is launched beside what is left of the last one.
    LaunchesBesideRemains,
    /// The supervisor is not told that an engine is gone that was to stop.
    LosesGone,
    /// A new supervisor does not go on with a delay.
    ForgetsDelay,
    /// A dockerd is killed since the one before it was needed by nobody.
    KillsTheNextAsIdle,
    /// Of the engine's deaths, only those of the window count.
    OnlyTheWindowCounts,
}

/// What is checked.
#[derive(Clone)]
struct Whole {
    /// How much breaks, and how much is asked for.
    faults: u8,
    requests: u8,
    /// Whether containers outlive dockerd.
    live_restore: bool,
    /// Whether it begins with an engine that is up; else with none.
    up: bool,
    /// Whether no dockerd gets ready that is started, and each takes longer to die than deaths count.
    slow: bool,
    /// What is broken on purpose.
    broken: Option<Broken>,
    /// What goes on by itself, from which state to which.
    edges: Edges,
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, requests, live_restore, up, slow, broken, .. } = self;
        write!(
            f,
            "{faults} faults, {requests} requests, up: {up}, live-restore: {live_restore}, "
        )?;
        write!(f, "slow: {slow}, broken: {broken:?}")
    }
}

impl Whole {
    fn begin(&self, machine: Machine) -> State {
        State {
            rootlessd: Rootlessd::Live(Supervisor::new(machine.clone(), Driver::Rest)),
            saved: machine,
            shim: None,
            kit: None,
            orphans: vec![],
            record: false,
            death: false,
            succeeded: false,
            client: Client::None,
            faults: self.faults,
            requests: self.requests,
            wanted: None,
            cut_off: false,
            wrong: None,
            slow: self.slow && !self.up,
            broken: self.broken,
        }
    }

    fn apply(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Goes(step) => next.go(step, self.live_restore),
            Action::Over { due, late } => {
                next.faults -= u8::from(late);
                next.come(due);
            }
            Action::Asked(asked) => {
                next.requests -= 1;
                next.ask(asked);
            }
            Action::Breaks(fault) => {
                next.faults -= 1;
                next.suffer(fault);
            }
        }
        next
    }
}

impl Model for Whole {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        if !self.up {
            return [Machine::default(), Machine::listening()].map(|it| self.begin(it)).into();
        }
        let mut state = self.begin(Machine::default());
        state.ask(Asked::Start);
        state.wanted = None;
        while let Some(&step) = steps(&state).first() {
            state.go(step, self.live_restore);
        }
        state.slow = self.slow;
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        let steps = steps(state);
        // What waits for a disk may do so for longer than any time.
        let late = steps.iter().any(|&step| step != Step::Unstick);
        actions.extend(steps.into_iter().map(Action::Goes));
        if !late || state.faults > 0 {
            actions.extend(dues(state).into_iter().map(|due| Action::Over { due, late }));
        }
        if state.faults > 0 {
            let may = FAULTS.into_iter().filter(|&fault| state.may_suffer(fault));
            actions.extend(may.map(Action::Breaks));
        }
        if state.requests > 0 {
            let may = ASKED.into_iter().filter(|&asked| state.may_ask(asked));
            actions.extend(may.map(Action::Asked));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.apply(state, action);
        let goes = match action {
            // Who asks more often goes no other rounds.
            _ if self.requests > 1 => false,
            Action::Goes(_) => true,
            // What waits for a disk is killed again and again.
            Action::Over { late, .. } => !late && !state.is_stuck(),
            _ => false,
        };
        if goes {
            lock(&self.edges).entry(hash(state)).or_default().push((action, hash(&next)));
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two dockerds on one data-root", |_, it: &State| {
                it.dockerds() <= 1
            }),
            Property::always("nobody is cut off because nobody was there", |_, it: &State| {
                !it.cut_off
            }),
            Property::always("nothing is done that must not be", |_, it: &State| {
                it.wrong.is_none()
            }),
            Property::always("each death ends in running, back-off or failed", |_, it: &State| {
                at_rest(it, |_, life| {
                    let rests = [Life::Stopped, Life::Listening, Life::Running, Life::Failed];
                    rests.contains(&life) || life == Life::Degraded
                })
            }),
            Property::always("it is as it is told", |whole: &Self, it: &State| {
                at_rest(it, |_, life| match life {
                    Life::Running => it.is_well(),
                    Life::Degraded => {
                        let hangs = |kit: &state::Kit| kit.dockerd.is_some_and(|it| it.hung);
                        !whole.live_restore && it.kit.as_ref().is_some_and(hangs)
                    }
                    _ => !it.has_processes() && !it.record,
                })
            }),
            Property::always("each stop ends stopped", |_, it: &State| {
                it.wanted != Some(JobKind::Stop) || at_rest(it, |_, life| life == Life::Stopped)
            }),
            Property::always("each start ends running or failed", |_, it: &State| {
                it.wanted.is_none_or(|kind| kind == JobKind::Stop)
                    || at_rest(it, |_, life| {
                        matches!(life, Life::Running | Life::Degraded | Life::Failed)
                    })
            }),
            Property::always("each job has an end", |_, it: &State| {
                at_rest(it, |supervisor, _| supervisor.job.is_none())
            }),
            Property::always("no client waits for ever", |_, it: &State| {
                at_rest(it, |_, _| it.client == Client::None)
            }),
            Property::sometimes("dead too often", |_, it: &State| lives(it, Life::Failed)),
            Property::sometimes("in a back-off", |_, it: &State| lives(it, Life::Backoff)),
            Property::sometimes("not well", |_, it: &State| lives(it, Life::Degraded)),
            Property::sometimes("stopped since nobody needs it", |_, it: &State| {
                lives(it, Life::Listening) && it.saved != Machine::listening()
            }),
        ]
    }
}

/// Whether `holds`, if nothing goes on any more by itself.
fn at_rest(state: &State, holds: impl FnOnce(&Supervisor, Life) -> bool) -> bool {
    let Some(supervisor) = state.supervisor() else { return true };
    let waits = supervisor.commands.is_empty() && supervisor.events.is_empty();
    if !waits || !steps(state).is_empty() || !dues(state).is_empty() {
        return true;
    }
    holds(supervisor, supervisor.machine.life())
}

fn lives(state: &State, life: Life) -> bool {
    state.supervisor().is_some_and(|it| it.machine.life() == life)
}

fn hash(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// What goes on from which state, and where it leads.
type Ways = HashMap<u64, Vec<(Action, u64)>>;
type Edges = Arc<Mutex<Ways>>;

fn lock(edges: &Edges) -> MutexGuard<'_, Ways> {
    edges.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A way that goes on for ever by itself.
fn cycle(edges: &Ways) -> Option<Vec<Action>> {
    let (mut begun, mut done) = (HashSet::new(), HashSet::new());
    for &root in edges.keys() {
        let mut way = vec![(root, 0)];
        while let Some((state, next)) = way.pop() {
            if next == 0 && !begun.insert(state) {
                continue;
            }
            match edges.get(&state).and_then(|nexts| nexts.get(next)) {
                Some(&(_, to)) => {
                    way.push((state, next + 1));
                    if begun.contains(&to) && !done.contains(&to) {
                        let round = way.iter().skip_while(|(state, _)| *state != to);
                        return Some(round.map(|(state, next)| edges[state][next - 1].0).collect());
                    }
                    way.push((to, 0));
                }
                None => drop(done.insert(state)),
            }
        }
    }
    None
}

/// Check all of it: what is not so.
fn check(whole: Whole) -> Vec<&'static str> {
    let begun = Instant::now();
    let edges = Arc::clone(&whole.edges);
    let is_rich = whole.up && whole.requests > 0 && whole.faults + whole.requests > 2;
    let until = HasDiscoveries::AnyFailures;
    let checker = whole.checker().threads(2).finish_when(until).spawn_bfs().join();
    let mut wrong = vec![];
    for property in checker.model().properties() {
        match checker.discovery(property.name) {
            Some(path) if property.expectation == Expectation::Always => {
                let end = path.last_state().clone();
                println!("{}: not so after {:?}: {end:#?}", property.name, path.into_actions());
                wrong.push(property.name);
            }
            // So that it is not only so because nothing happens.
            None if property.expectation == Expectation::Sometimes && is_rich => {
                wrong.push(property.name);
            }
            _ => {}
        }
    }
    if let Some(round) = cycle(&lock(&edges)) {
        println!("for ever: {round:?}");
        wrong.push("nothing goes on for ever");
    }
    println!(
        "{:?}: {} states, {} deep, {:.1?}",
        checker.model(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    wrong
}

/// That of an engine that is up, and whose containers outlive dockerd.
fn up(faults: u8, requests: u8) -> Whole {
    Whole {
        faults,
        requests,
        live_restore: true,
        up: true,
        slow: false,
        broken: None,
        edges: Edges::default(),
    }
}

#[test]
fn an_engine_that_is_up() {
    assert_eq!(check(up(2, 1)), [""; 0]);
}

#[test]
fn an_engine_that_is_needed_and_not() {
    assert_eq!(check(up(1, 2)), [""; 0]);
}

#[test]
fn an_engine_of_which_much_breaks() {
    assert_eq!(check(up(3, 0)), [""; 0]);
}

#[test]
fn an_engine_that_is_started() {
    assert_eq!(check(Whole { up: false, ..up(1, 2) }), [""; 0]);
}

#[test]
fn an_engine_whose_containers_end_with_dockerd() {
    assert_eq!(check(Whole { live_restore: false, ..up(1, 1) }), [""; 0]);
    assert_eq!(check(Whole { live_restore: false, ..up(2, 0) }), [""; 0]);
}

/// A clock is not in the model. Here it goes so fast that no death is within the window any more when
/// the next one comes; else it stands.
#[test]
fn an_engine_that_never_gets_ready_again() {
    for live_restore in [true, false] {
        for up in [true, false] {
            assert_eq!(check(Whole { slow: true, live_restore, up, ..self::up(1, 1) }), [""; 0]);
        }
    }
    assert_eq!(check(Whole { slow: true, ..up(2, 0) }), [""; 0]);
}

/// The check finds what is broken.
#[test]
fn what_is_broken_is_found() {
    for (broken, faults, requests, property) in [
        (Broken::LaunchesBesideRemains, 2, 0, "never two dockerds on one data-root"),
        (Broken::LosesGone, 0, 1, "each stop ends stopped"),
        (Broken::ForgetsDelay, 2, 0, "each death ends in running, back-off or failed"),
        (Broken::KillsTheNextAsIdle, 1, 2, "nobody is cut off because nobody was there"),
        (Broken::OnlyTheWindowCounts, 1, 0, "nothing goes on for ever"),
    ] {
        let slow = broken == Broken::OnlyTheWindowCounts;
        let wrong = check(Whole { slow, broken: Some(broken), ..up(faults, requests) });
        assert!(wrong.contains(&property), "{broken:?}: {wrong:?}");
    }
}
