//! What the machine is short of while an engine runs. It is looked when dockerd or containerd complain,
//! when engine-init finds that there is no room any more, when dockerd was asked how it is, and more often
//! for as long as something is missing. What cannot be seen, or is gone when it is looked, holds for a
//! while if it was complained of.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    rc::Rc,
    time::Duration,
};

use rootlessd_api::Reason;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{Event, World, probe::Probe};
use crate::{
    engine::shortage::{Complaints, DataRoot, Places, Shortage},
    plan::DockerPlan,
};

/// How often it is looked whether a shortage is over.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the file system of the data may take to tell.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what was complained of, and is not to be seen, is told.
const HOLD: Duration = Duration::from_secs(30);

/// Look again and again, and tell of each change.
pub(super) fn watch(
    docker: &DockerPlan,
    world: &World,
    probe: Rc<Probe>,
) -> impl Future<Output = ()> + use<> {
    go_on(Places::of(docker, &world.dirs.runtime), probe, world.events.clone())
}

async fn go_on(places: Places, probe: Rc<Probe>, events: mpsc::Sender<Event>) {
    let mut told = vec![];
    let mut heard = Heard::from(probe.init().complaints_of);
    let data_root = DataRoot::of(places.clone());
    loop {
        let init = probe.init();
        let mut seen = Vec::from_iter(data_root.full(PATIENCE).await);
        seen.extend(places.full_runtime());
        seen.extend(init.too_many_files());
        let found = heard.beside(seen, init.complaints_of, Instant::now());
        if is_news(&told, &found) {
            told.clone_from(&found);
            if events.send(Event::Short(found)).await.is_err() {
                return;
            }
        }
        let is_due = !told.is_empty() || data_root.is_looking();
        let pause = async { if is_due { sleep(INTERVAL).await } else { pending().await } };
        tokio::select! {
            () = pause => {}
            () = probe.occasion() => {}
        }
    }
}

/// What was complained of.
#[derive(Debug, Default)]
struct Heard {
    complaints: Complaints,
    /// Until when it is told.
    until: BTreeMap<Shortage, Instant>,
    /// What was seen at the last look.
    seen: BTreeSet<Shortage>,
}

impl Heard {
    /// From now on, after so many.
    fn from(complaints: Complaints) -> Self {
        Self { complaints, ..Self::default() }
    }

    /// What is to be told after a look that has `seen` something, before which there were so many complaints.
    fn beside(&mut self, seen: Vec<Reason>, complaints: Complaints, now: Instant) -> Vec<Reason> {
        let new = complaints.since(self.complaints).map(|shortage| (shortage, now + HOLD));
        self.until.extend(new);
        self.complaints = complaints;
        let kinds = seen.iter().filter_map(Shortage::seen_in).collect();
        let last = std::mem::replace(&mut self.seen, kinds);
        // What can be seen is over when it is not seen any more.
        let is_seen = |it: &Shortage| self.seen.contains(it) || last.contains(it);
        self.until.retain(|shortage, until| now < *until && !is_seen(shortage));
        seen.into_iter().chain(self.until.keys().map(|it| it.complained_of())).collect()
    }
}

/// Whether something came or went: that what is left is a little more or less is no news.
fn is_news(told: &[Reason], found: &[Reason]) -> bool {
    let about = |reasons: &[Reason]| -> Vec<_> {
        reasons.iter().map(|reason| (reason.code.clone(), reason.part)).collect()
    };
    about(told) != about(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Code;

    #[test]
    fn what_was_complained_of_is_told_for_a_while() {
        use Shortage::{Files, Processes, Space};
        /// After so many seconds: what was complained of, what is seen, and what is told.
        type Row<'a> = (u64, &'a [Shortage], &'a [Code], &'a [Code]);
        let rows: &[Row<'_>] = &[
            (0, &[], &[], &[]),
            // Nobody can see it.
            (1, &[Processes], &[], &[Code::ProcessesExhausted]),
            // The share of the space, or what another has removed by now.
            (6, &[Space], &[], &[Code::SpaceMissing, Code::ProcessesExhausted]),
            (30, &[Processes], &[], &[Code::SpaceMissing, Code::ProcessesExhausted]),
            (36, &[], &[], &[Code::ProcessesExhausted]),
            (60, &[], &[], &[]),
            // What is seen is told as it is seen, and is over when it is not seen any more, although the
            // last complaint was heard after that.
            (100, &[Space], &[Code::DataRootFull], &[Code::DataRootFull]),
            (105, &[Files], &[Code::DataRootInodes], &[Code::DataRootInodes, Code::FilesExhausted]),
            (110, &[Space], &[], &[Code::FilesExhausted]),
            (111, &[Space], &[], &[Code::SpaceMissing, Code::FilesExhausted]),
            (112, &[], &[Code::FilesExhausted], &[Code::FilesExhausted, Code::SpaceMissing]),
            (113, &[], &[], &[Code::SpaceMissing]),
            (141, &[], &[], &[]),
        ];
        let mut complaints = Complaints::default();
        complaints.add(Files);
        // Of an earlier one nobody knows whether it still holds.
        let mut heard = Heard::from(complaints);
        let begun = Instant::now();
        for (seconds, new, seen, told) in rows {
            new.iter().for_each(|&shortage| complaints.add(shortage));
            let seen = seen.iter().map(|code| code.reason("seen")).collect();
            let now = begun + Duration::from_secs(*seconds);
            let found = heard.beside(seen, complaints, now);
            let codes: Vec<_> = found.iter().map(|reason| reason.code.as_str()).collect();
            let expected: Vec<_> = told.iter().map(|code| code.as_str()).collect();
            assert_eq!(codes, expected, "after {seconds} s");
        }
    }

    #[test]
    fn news_is_what_comes_and_goes() {
        let full = |text: &str| vec![Code::DataRootFull.reason(text)];
        for (told, found, news) in [
            (vec![], vec![], false),
            (vec![], full("a"), true),
            (full("a"), full("b"), false),
            (full("a"), vec![Code::RuntimeDirFull.reason("a")], true),
            (full("a"), vec![], true),
        ] {
            assert_eq!(is_news(&told, &found), news, "{told:?} {found:?}");
        }
    }
}
