//! The faults that an engine has to live with, a row each, and what is promised for each. A row is provoked in a bed,
//! on rootlessd and, where it makes sense, on stock rootless Docker, and measured: how soon it is told, how soon
//! what users need works again, what became of the containers, and what is left.

mod files;
mod helper;
mod machine;
mod parts;
mod supervisor;
mod table;
mod trial;

pub use self::{
    table::Table,
    trial::{Containers, Stock, Trial, alive, compare},
};

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use crate::{bed::Suite, machine::Machine};

/// A fault.
pub struct Row {
    /// The row of the fault matrix, with a letter where there are several.
    pub number: &'static str,
    /// What happens.
    pub fault: &'static str,
    /// What is promised.
    pub promise: Promise,
    /// Provokes it, and sees what comes of it. The engine runs before and after.
    pub ours: fn(&Machine, u32) -> Trial,
    /// The same with stock rootless Docker, where there is something to compare.
    pub stock: Option<fn(&mut Stock) -> Trial>,
}

/// What a row may take at most. `None`: nothing is to be seen of it at all, or it is no matter of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// From the fault until the status tells it.
    pub detected: Option<Duration>,
    /// From the fault until what had been lost works again.
    pub recovered: Option<Duration>,
    /// The containers that run on, or come back, are all there are. Where not, they start anew.
    pub containers: Kept,
}

/// What containers live through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nothing: the same processes go on.
    #[default]
    Untouched,
    /// A start of their own, by their restart policies.
    StartedAnew,
}

const fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

/// Promises these times, in ms.
const fn within(detected: u64, recovered: u64) -> Promise {
    Promise { detected: ms(detected), recovered: ms(recovered), ..Promise::NONE }
}

/// Promises that all is well after so many ms, without anything to tell.
const fn well_within(recovered: u64) -> Promise {
    Promise { recovered: ms(recovered), ..Promise::NONE }
}

impl Promise {
    /// Of nothing, but that containers are untouched.
    pub const NONE: Self = Self { detected: None, recovered: None, containers: Kept::Untouched };

    /// The same, with containers that start anew.
    const fn anew(self) -> Self {
        Self { containers: Kept::StartedAnew, ..self }
    }

    /// Why a trial falls short of it, if times may be so many times longer; empty if it does not.
    pub fn broken_by(&self, trial: &Trial, slack: u32) -> Vec<String> {
        let late = |what: &str, limit: Option<Duration>, took: Option<Duration>| {
            let limit = limit?;
            match took {
                None => Some(format!("not {what} in {limit:?}, nor later")),
                Some(took) => {
                    (took > limit * slack).then(|| format!("{what} after {took:?} of {limit:?}"))
                }
            }
        };
        if trial.absent.is_some() {
            return vec![];
        }
        let Containers { kept: _, restarted, lost } = trial.containers.unwrap_or_default();
        let ended = lost + if self.containers == Kept::Untouched { restarted } else { 0 };
        [
            late("told", self.detected, trial.detected),
            late("well", self.recovered, trial.recovered),
            (ended > 0).then(|| format!("{ended} containers ended")),
            (!trial.left.is_empty()).then(|| format!("left: {}", trial.left.join("; "))),
        ]
        .into_iter()
        .flatten()
        .chain(trial.broken.iter().cloned())
        .collect()
    }
}

/// A row of `vm_faults`.
fn elsewhere(number: &'static str, fault: &'static str) -> Row {
    let ours = |_: &Machine, _| Trial::absent("not measured here: make test-vm");
    Row { number, fault, promise: Promise::NONE, ours, stock: None }
}

/// A name, and the rows that share a machine.
pub type Group = (&'static str, Vec<Row>);

/// All of them, or those that `ROOTLESSD_ROWS` names, as `3,4a`.
pub fn groups() -> Vec<Group> {
    let asked = std::env::var("ROOTLESSD_ROWS").ok();
    let is_asked = |row: &Row| {
        asked.as_ref().is_none_or(|rows| rows.split(',').any(|number| number == row.number))
    };
    let machine = files::rows().into_iter().chain(machine::rows()).collect();
    let all: [Group; 4] = [
        ("parts", parts::rows()),
        ("supervisor", supervisor::rows()),
        ("machine", machine),
        ("helper", helper::rows()),
    ];
    all.map(|(name, rows)| (name, rows.into_iter().filter(is_asked).collect())).into()
}

/// Where and how faults are provoked.
#[derive(Clone, Copy, Debug)]
pub struct Harness<'a> {
    /// On which Debian.
    pub suite: Suite,
    /// The program `rootlessd-load`.
    pub load: &'a Path,
    /// How often each.
    pub rounds: u32,
    /// How many times what is promised a time may be: beside others, on a busy machine, more than once.
    pub slack: u32,
}

impl Harness<'_> {
    /// Provokes the faults of these rows on a machine of their own, and each once on stock rootless Docker.
    pub fn run(&self, rows: &[Row], mut stock: Option<&mut Stock>) -> Table {
        let Self { suite, load, rounds, slack } = *self;
        let mut table = Table::with_slack(slack);
        let mut machine = prepared(suite, load);
        for row in rows {
            let begin = Instant::now();
            let mut trials = vec![];
            for round in 0..rounds {
                let trial = caught(|| {
                    // All of what the one before has started is there.
                    machine.wait_known();
                    let before = trial::footprint(&machine);
                    let mut trial = (row.ours)(&machine, round);
                    trial.left.extend(trial::more_than(&before, &machine));
                    trial
                });
                let trial = trial.unwrap_or_else(|why| {
                    // Whatever state that is, it is none for the others.
                    machine = prepared(suite, load);
                    Trial::cut_off(why)
                });
                trials.push(trial);
            }
            let beside = stock.as_deref_mut().zip(row.stock);
            let beside = beside.map(|(stock, provoke)| caught(|| provoke(stock)));
            table.add(row, &trials, beside.map(|trial| trial.unwrap_or_else(Trial::cut_off)));
            let took = begin.elapsed().as_secs_f64();
            eprintln!("{suite} {} {}: {took:.1} s", row.number, row.fault);
        }
        machine.ctl(["stop"]);
        table.end(&machine.leftovers());
        table
    }
}

/// A trial, or why it could not be ended.
fn caught(trial: impl FnOnce() -> Trial) -> Result<Trial, String> {
    catch_unwind(AssertUnwindSafe(trial)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}

/// A machine with an engine and two containers.
fn prepared(suite: Suite, load: &Path) -> Machine {
    let machine = Machine::boot(suite);
    machine.copy_in(load, "/usr/local/bin/rootlessd-load");
    // There are many deaths here, and none is one too many.
    machine.configure(trial::CONFIG);
    machine.enable();
    containers(&machine);
    machine
}

/// Runs two containers, of which one serves the page.
fn containers(machine: &Machine) {
    machine.serve();
    machine.user_sh("docker run -d --name other --restart always rootlessd/tiny").ok();
}
