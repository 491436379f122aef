//! What happened to single parts of a running engine: `incidents.jsonl` in the engine's directory.
//!
//! engine-shim and engine-init append what they lose and what they mend. rootlessd reads along, and
//! one that comes later reads from the start, so that nobody has to be there to see it. Kinds are
//! only added: a line that a reader does not know is none of its business.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use nix::fcntl::{FallocateFlags, fallocate};
use rootlessd_api::{Death, Part};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::dir::EngineDir;

/// What happened to a part, while the engine as a whole lives on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Incident {
    /// It died, or was ended since it hung, and is being replaced.
    Lost(Death),
    /// It was replaced.
    Replaced {
        /// Which.
        part: Part,
        /// When, in µs of CLOCK_REALTIME.
        at: u64,
        /// How long after its loss, in µs.
        took: u64,
    },
    /// It, or something that it did, cannot be replaced for now: the engine goes on without that.
    Missing {
        /// Which.
        part: Part,
        /// When, in µs of CLOCK_REALTIME.
        at: u64,
        /// Why.
        text: String,
    },
    /// Something that it goes by has changed, such as the machine's network.
    Changed {
        /// Which.
        part: Part,
        /// When, in µs of CLOCK_REALTIME.
        at: u64,
        /// What, and what was done about it.
        text: String,
        /// How long it lasted, in µs, if that is over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        took: Option<u64>,
    },
}

impl Incident {
    /// The loss of a part. What it wrote last is in the log, and the file of incidents in memory for
    /// as long as the engine lives.
    pub fn lost(mut death: Death) -> Self {
        death.log.clear();
        Self::Lost(death)
    }

    /// The part that it is about.
    pub const fn part(&self) -> Part {
        match self {
            Self::Lost(death) => death.part,
            Self::Replaced { part, .. }
            | Self::Missing { part, .. }
            | Self::Changed { part, .. } => *part,
        }
    }

    /// As it is told.
    pub fn tell(&self) -> rootlessd_api::Incident {
        use rootlessd_api::IncidentKind;
        let (kind, at, text, took) = match self {
            Self::Lost(death) => (IncidentKind::Lost, death.at, death.text.clone(), None),
            Self::Replaced { part, at, took } => {
                let seconds = Duration::from_micros(*took).as_secs_f64();
                let text = format!("{part} was replaced after {seconds:.2} s");
                (IncidentKind::Replaced, *at, text, Some(*took))
            }
            Self::Missing { at, text, .. } => (IncidentKind::Missing, *at, text.clone(), None),
            Self::Changed { at, text, took, .. } => {
                (IncidentKind::Changed, *at, text.clone(), *took)
            }
        };
        rootlessd_api::Incident { at, part: self.part(), kind, text, took }
    }
}

/// How many bytes the file has in reserve, so that a loss can still be told when its file system is
/// full: else the clients of a dockerd that is gone with its containerd would wait without being told.
const RESERVE: nix::libc::off_t = 16 << 10;

/// Write an incident down. A line is one write, so that lines of two processes do not mix.
pub fn append(dir: &EngineDir, incident: &Incident) -> io::Result<()> {
    let mut line = serde_json::to_vec(incident)?;
    line.push(b'\n');
    open(dir)?.write_all(&line)
}

/// The incidents of an engine, from the first to those that are still to come.
pub struct Incidents {
    lines: BufReader<File>,
    /// What was read of a line that is not whole yet.
    begun: Vec<u8>,
    /// Tells of more, if there is inotify: its instances are limited.
    changes: Option<EventStream<[u8; 1024]>>,
}

/// How often it is looked for more where nobody tells of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Incidents {
    /// Begin with the first.
    pub fn of(dir: &EngineDir) -> io::Result<Self> {
        let lines = BufReader::new(open(dir)?);
        let changes = changes_of(&dir.incidents())
            .inspect_err(|error| tracing::warn!("incidents are looked for each second: {error}"));
        Ok(Self { lines, begun: vec![], changes: changes.ok() })
    }

    /// Those that were not read yet. Waits for none.
    pub fn unread(&mut self) -> Vec<Incident> {
        self.next().now_or_never().flatten().unwrap_or_default()
    }

    /// Those that were not read yet; waits for one. `None` if the file cannot be read any more.
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Vec<Incident>> {
        loop {
            let mut unread = vec![];
            while let Some(line) = self.next_line()? {
                match serde_json::from_slice(&line) {
                    Ok(incident) => unread.push(incident),
                    Err(error) => tracing::debug!("an incident of another release: {error}"),
                }
            }
            if !unread.is_empty() {
                return Some(unread);
            }
            match &mut self.changes {
                Some(changes) => drop(changes.next().await?.ok()?),
                None => sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// A whole line that is there already; `Some(None)`: not yet.
    #[expect(clippy::option_option, reason = "the end of all lines, and the end for now")]
    fn next_line(&mut self) -> Option<Option<Vec<u8>>> {
        self.lines.read_until(b'\n', &mut self.begun).ok()?;
        Some(self.begun.ends_with(b"\n").then(|| std::mem::take(&mut self.begun)))
    }
}

/// All that an engine left, which nobody adds to any more.
pub fn left_in(dir: &EngineDir) -> Vec<Incident> {
    let is_there = dir.incidents().exists();
    let incidents = is_there.then(|| Incidents::of(dir).ok()).flatten();
    incidents.map(|mut incidents| incidents.unread()).unwrap_or_default()
}

fn changes_of(path: &Path) -> io::Result<EventStream<[u8; 1024]>> {
    let inotify = Inotify::init()?;
    inotify.watches().add(path, WatchMask::MODIFY)?;
    inotify.into_event_stream([0; 1024])
}

fn open(dir: &EngineDir) -> io::Result<File> {
    let options = &mut OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(dir.incidents())?;
    let length = file.metadata()?.len().try_into().map_err(io::Error::other)?;
    // Where there is no room for it any more, the reserve of before is what is left.
    let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, length, RESERVE);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn incidents_are_read_from_the_first_and_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = EngineDir::at(temporary.path().join("engine"));
        dir.make().unwrap();
        let replaced = |took| Incident::Replaced { part: Part::Dockerd, at: 1, took };
        append(&dir, &replaced(1)).unwrap();
        let mut incidents = Incidents::of(&dir).unwrap();
        append(&dir, &replaced(2)).unwrap();
        assert_eq!(incidents.next().await, Some(vec![replaced(1), replaced(2)]));

        // A kind of a later release, and a line that comes in two pieces.
        let line = serde_json::to_string(&replaced(3)).unwrap();
        let (head, tail) = line.split_at(9);
        open(&dir).unwrap().write_all(format!("{{\"healed\":1}}\n{head}").as_bytes()).unwrap();
        let writing = async {
            tokio::task::yield_now().await;
            open(&dir).unwrap().write_all(format!("{tail}\n").as_bytes()).unwrap();
        };
        let (incident, ()) = tokio::join!(incidents.next(), writing);
        assert_eq!(incident, Some(vec![replaced(3)]));
        assert_eq!(incidents.unread(), []);
        append(&dir, &replaced(4)).unwrap();
        assert_eq!(incidents.unread(), [replaced(4)]);
        assert_eq!(left_in(&dir), [1, 2, 3, 4].map(replaced));
        dir.remove().unwrap();
        assert_eq!(left_in(&dir), []);
        assert!(!dir.incidents().exists());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn incidents_are_seen_without_inotify() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = EngineDir::at(temporary.path().join("engine"));
        dir.make().unwrap();
        let mut incidents = Incidents { changes: None, ..Incidents::of(&dir).unwrap() };
        let replaced = Incident::Replaced { part: Part::Dockerd, at: 1, took: 1 };
        let writing = async {
            sleep(LOOK_INTERVAL * 3).await;
            append(&dir, &replaced).unwrap();
        };
        let (told, ()) = tokio::join!(incidents.next(), writing);
        assert_eq!(told, Some(vec![replaced]));
    }
}
