//! What was seen, as a table: a row a fault, with the median and the worst of its trials.

use std::{fmt, time::Duration};

use super::{Row, Trial};

/// The trials of one Debian.
#[derive(Debug)]
pub struct Table {
    slack: u32,
    lines: Vec<Line>,
    leftovers: Vec<String>,
}

#[derive(Debug)]
struct Line {
    number: String,
    fault: String,
    trials: usize,
    detected: Vec<Duration>,
    recovered: Vec<Duration>,
    containers: [usize; 3],
    left: usize,
    stock: Option<Trial>,
    broken: Vec<String>,
    absent: Option<&'static str>,
}

impl Table {
    /// One whose times may be so many times what is promised.
    pub fn with_slack(slack: u32) -> Self {
        Self { slack, lines: vec![], leftovers: vec![] }
    }

    /// Adds the trials of a row, and the one of stock rootless Docker.
    pub fn add(&mut self, row: &Row, trials: &[Trial], stock: Option<Trial>) {
        let sorted = |of: fn(&Trial) -> Option<Duration>| {
            let mut times: Vec<_> = trials.iter().filter_map(of).collect();
            times.sort();
            times
        };
        let sum = |of: fn(&Trial) -> usize| trials.iter().map(of).sum();
        let mut broken: Vec<_> =
            trials.iter().flat_map(|trial| row.promise.broken_by(trial, self.slack)).collect();
        broken.sort();
        broken.dedup();
        self.lines.push(Line {
            number: row.number.to_owned(),
            fault: row.fault.to_owned(),
            trials: trials.len(),
            detected: sorted(|trial| trial.detected),
            recovered: sorted(|trial| trial.recovered),
            containers: [
                sum(|trial| trial.containers.kept),
                sum(|trial| trial.containers.restarted),
                sum(|trial| trial.containers.lost),
            ],
            left: sum(|trial| trial.left.len()),
            stock,
            broken,
            absent: trials.iter().find_map(|trial| trial.absent),
        });
    }

    /// Notes what was left when the engine was stopped after all of it, a line each.
    pub fn end(&mut self, leftovers: &str) {
        self.leftovers = leftovers.lines().map(str::to_owned).collect();
    }

    /// What is not as promised, a sentence a row.
    pub fn broken(&self) -> Vec<String> {
        let broken = self.lines.iter().filter(|line| !line.broken.is_empty());
        broken
            .map(|line| format!("{} {}: {}", line.number, line.fault, line.broken.join("; ")))
            .chain(self.leftovers.iter().map(|line| format!("left in the end: {line}")))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:4}{:48}{:>18}{:>18}{:>12}{:>6}   {:22}result",
            "",
            "median (worst)",
            "told after",
            "well after",
            "containers",
            "left",
            "stock: well after"
        )?;
        for line in &self.lines {
            let [kept, restarted, lost] =
                line.containers.map(|count| count.div_ceil(line.trials.max(1)));
            writeln!(
                f,
                "{:4}{:48}{:>18}{:>18}{:>12}{:>6}   {:22}{}",
                line.number,
                line.fault,
                spread(&line.detected),
                spread(&line.recovered),
                format!("{kept}/{restarted}/{lost}"),
                line.left,
                line.stock.as_ref().map_or_else(String::new, beside),
                line.result(),
            )?;
        }
        writeln!(
            f,
            "containers: untouched/started anew/lost; left in the end: {}",
            self.leftovers.len()
        )
    }
}

impl Line {
    const fn result(&self) -> &'static str {
        match (self.absent, self.broken.is_empty()) {
            (Some(absent), _) => absent,
            (None, true) => "ok",
            (None, false) => "BROKEN",
        }
    }
}

fn spread(sorted: &[Duration]) -> String {
    match sorted {
        [] => "-".to_owned(),
        [.., worst] => format!("{} ({})", seconds(sorted[sorted.len() / 2]), seconds(*worst)),
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 1.0 => format!("{:.0} ms", short * 1e3),
        long => format!("{long:.2} s"),
    }
}

fn beside(stock: &Trial) -> String {
    let time = stock.recovered.map_or_else(|| "never (20 s)".to_owned(), seconds);
    let super::Containers { kept, restarted, lost } = stock.containers;
    format!("{time}, {kept}/{restarted}/{lost}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Containers, within};

    #[test]
    fn a_row_that_is_worse_than_its_promise_is_told() {
        let row = Row {
            number: "3",
            fault: "dockerd killed",
            promise: within(100, 600),
            ours: |_, _| Trial::default(),
            stock: None,
        };
        let good = Trial {
            detected: Some(Duration::from_millis(20)),
            recovered: Some(Duration::from_millis(400)),
            containers: Containers { kept: 2, ..Containers::default() },
            ..Trial::default()
        };
        let late = Trial { recovered: Some(Duration::from_millis(601)), ..good.clone() };
        let silent = Trial { detected: None, ..good.clone() };
        let ended =
            Trial { containers: Containers { restarted: 1, kept: 1, lost: 0 }, ..good.clone() };
        let left = Trial { left: vec!["zombie 7".into()], ..good.clone() };
        for (trials, broken) in [
            (vec![good.clone(), good.clone()], ""),
            (vec![good.clone(), late], "3 dockerd killed: well after 601ms of 600ms"),
            (vec![silent], "3 dockerd killed: not told in 100ms, nor later"),
            (vec![ended], "3 dockerd killed: 1 containers ended"),
            (vec![left], "3 dockerd killed: left: zombie 7"),
        ] {
            let mut table = Table::with_slack(1);
            table.add(&row, &trials, None);
            assert_eq!(table.broken().join("\n"), broken);
            assert_eq!(table.to_string().contains("BROKEN"), !broken.is_empty());
        }
    }
}
