//! The recorded events: two files of JSON lines below `$XDG_STATE_HOME`, written by rootlessd alone.
//!
//! A line is an [`Event`]. What is no event (a line that a power cut tore, one of a later version)
//! is left out, and never keeps anybody from reading the others.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use crate::event::Event;

/// The file that is written to.
pub const FILE: &str = "events.jsonl";
/// The one before it, kept until the present one is full.
pub const OLDER_FILE: &str = "events.jsonl.1";

/// The directory of the history below `$XDG_STATE_HOME`.
pub fn directory(state_home: &Path) -> PathBuf {
    state_home.join("rootlessd")
}

/// All events that are recorded in `directory`, in the order of their numbers; none, if there is no
/// history. Fails if a file is there and cannot be opened; a file that breaks off ends early.
pub fn read(directory: &Path) -> io::Result<impl Iterator<Item = Event> + use<>> {
    // In this order: a file that becomes the older one meanwhile is read twice rather than never.
    let present = open(&directory.join(FILE))?;
    let older = open(&directory.join(OLDER_FILE))?;
    let lines = older
        .into_iter()
        .chain(present)
        .flat_map(|file| BufReader::new(file).split(b'\n').map_while(Result::ok));
    Ok(in_order(lines.filter_map(|line| serde_json::from_slice(&line).ok())))
}

/// These events without those that came before, or should have.
pub fn in_order(events: impl Iterator<Item = Event>) -> impl Iterator<Item = Event> {
    let mut last = 0;
    events.filter(move |event| {
        let is_next = event.seq > last;
        last = last.max(event.seq);
        is_next
    })
}

/// The last `count` of them.
pub fn newest(events: impl Iterator<Item = Event>, count: usize) -> Vec<Event> {
    let mut newest = VecDeque::new();
    for event in events {
        newest.push_back(event);
        if newest.len() > count {
            newest.pop_front();
        }
    }
    newest.into()
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::samples;

    fn line(seq: u64) -> String {
        serde_json::to_string(&Event { seq, ..samples::event() }).unwrap()
    }

    fn seqs(directory: &Path) -> Vec<u64> {
        read(directory).unwrap().map(|event| event.seq).collect()
    }

    #[test]
    fn what_is_no_event_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(seqs(directory.path()), [0; 0]);
        let torn = &line(3)[..40];
        let lines =
            format!("{torn}\n\n{}\nnull\n{{\"seq\":9}}\n\u{0}\n{}\n{torn}", line(4), line(5));
        fs::write(directory.path().join(FILE), lines).unwrap();
        fs::write(directory.path().join(OLDER_FILE), format!("{}\n{}\n", line(1), line(2)))
            .unwrap();
        assert_eq!(seqs(directory.path()), [1, 2, 4, 5]);
        // As when the files change places while they are read.
        fs::copy(directory.path().join(FILE), directory.path().join(OLDER_FILE)).unwrap();
        assert_eq!(seqs(directory.path()), [4, 5]);
    }

    #[test]
    fn the_newest_are_the_last() {
        let events = || (1..=5).map(|seq| Event { seq, ..samples::event() });
        let seqs = |count| newest(events(), count).iter().map(|it| it.seq).collect::<Vec<_>>();
        assert_eq!(seqs(2), [4, 5]);
        assert_eq!(seqs(9), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(0), [0; 0]);
    }
}
