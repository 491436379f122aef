//! What was seen, as a table: a row a fault, with the median and the worst of its trials.

use std::{fmt, time::Duration};

use super::{Containers, Row, Trial};

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
    detected: Vec<Duration>,
    recovered: Vec<Duration>,
    containers: Option<Containers>,
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
        let mut broken: Vec<_> =
            trials.iter().flat_map(|trial| row.promise.broken_by(trial, self.slack)).collect();
        broken.sort();
        broken.dedup();
        self.lines.push(Line {
            number: row.number.to_owned(),
            fault: row.fault.to_owned(),
            detected: sorted(|trial| trial.detected),
            recovered: sorted(|trial| trial.recovered),
            containers: usual(trials),
            left: trials.iter().map(|trial| trial.left.len()).sum(),
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
            writeln!(
                f,
                "{:4}{:48}{:>18}{:>18}{:>12}{:>6}   {:22}{}",
                line.number,
                line.fault,
                spread(&line.detected),
                spread(&line.recovered),
                fates(line.containers),
                line.absent.map_or_else(|| line.left.to_string(), |_| "-".to_owned()),
                line.stock.as_ref().map_or_else(String::new, beside),
                line.result(),
            )?;
        }
        writeln!(
            f,
            "containers: untouched/started anew/lost; -: not measured; left in the end: {}",
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
    if !stock.broken.is_empty() {
        return "not measured".to_owned();
    }
    let time = stock.recovered.map_or_else(|| "never (20 s)".to_owned(), seconds);
    format!("{time}, {}", fates(stock.containers))
}

/// What became of the containers of a trial: the mean of those where it was seen, rounded up.
fn usual(trials: &[Trial]) -> Option<Containers> {
    let seen: Vec<_> = trials.iter().filter_map(|trial| trial.containers).collect();
    let mean =
        |of: fn(&Containers) -> usize| seen.iter().map(of).sum::<usize>().div_ceil(seen.len());
    (!seen.is_empty()).then(|| Containers {
        kept: mean(|it| it.kept),
        restarted: mean(|it| it.restarted),
        lost: mean(|it| it.lost),
    })
}

fn fates(containers: Option<Containers>) -> String {
    containers.map_or_else(
        || "-".to_owned(),
        |Containers { kept, restarted, lost }| format!("{kept}/{restarted}/{lost}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::within;

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
            containers: Some(Containers { kept: 2, ..Containers::default() }),
            ..Trial::default()
        };
        let late = Trial { recovered: Some(Duration::from_millis(601)), ..good.clone() };
        let silent = Trial { detected: None, ..good.clone() };
        let ended = Containers { restarted: 1, kept: 1, lost: 0 };
        let ended = Trial { containers: Some(ended), ..good.clone() };
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

    #[test]
    fn what_nobody_saw_has_no_figure() {
        let row = Row {
            number: "9",
            fault: "a part is killed for memory",
            promise: crate::faults::Promise::NONE,
            ours: |_, _| Trial::default(),
            stock: None,
        };
        let elsewhere = Trial { absent: Some("elsewhere"), ..Trial::default() };
        let cut_off = Trial::cut_off("the bed is gone".into());
        let seen = Trial {
            containers: Some(Containers { lost: 2, ..Containers::default() }),
            ..Trial::default()
        };
        for (trials, stock, cells) in [
            (vec![elsewhere], None, "- - - - elsewhere"),
            (vec![cut_off.clone(), seen.clone()], Some(cut_off), "- - 0/0/2 0 not measured BROKEN"),
            (vec![Trial::default()], Some(seen), "- - - 0 never (20 s), 0/0/2 ok"),
        ] {
            let mut table = Table::with_slack(1);
            table.add(&row, &trials, stock);
            let text = table.to_string();
            let line = text.lines().nth(1).expect("a line").split_whitespace();
            assert_eq!(line.skip(7).collect::<Vec<_>>().join(" "), cells);
        }
    }
}
