//! The history on disk, as [`rootlessd_api::history`] describes and reads it.
//!
//! It is bounded: two files of at most [`FILE_BYTES`]. They are written to while something happens
//! and never else, and no file stays open. There is no fsync: a killed rootlessd loses nothing that
//! the kernel has, and a power cut the last seconds.
//!
//! file-rotate, which has the logs, is not used: it does not know how much of a line it wrote to a
//! disk that was full, nor that the last line of a file is a torn one.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rootlessd_api::{
    Event,
    history::{self, FILE, OLDER_FILE},
};

/// How long a file of the history gets before it becomes the older one.
pub const FILE_BYTES: u64 = 512 << 10;

/// How many events wait for a disk that takes none, at most; it is less than a file of them.
pub(super) const WAITING: u64 = 512;

/// The history, and what is still to be written of it.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    waiting: Mutex<VecDeque<Event>>,
    writer: Mutex<Writer>,
}

/// Who writes, of which there is one at a time.
#[derive(Debug, Default)]
struct Writer {
    /// Whether it was told that the history cannot be written.
    failing: bool,
}

impl History {
    /// In `directory`, which is made if need be.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, waiting: Mutex::default(), writer: Mutex::default() }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Put an event behind those that wait. Whether somebody has to [`write`](Self::write) now.
    pub fn push(&self, event: Event) -> bool {
        let mut waiting = locked(&self.waiting);
        // The writer takes all of them at a time, and a failed one tries again with the next event.
        let is_due = waiting.is_empty() || locked_now(&self.writer).is_some_and(|it| it.failing);
        if waiting.len() as u64 == WAITING {
            waiting.pop_front();
        }
        waiting.push_back(event);
        is_due
    }

    /// Write what waits. What cannot be written goes on waiting, and is told once.
    pub fn write(&self) {
        self.write_as(&mut locked(&self.writer));
    }

    fn write_as(&self, writer: &mut Writer) {
        let batch: Vec<Event> = locked(&self.waiting).drain(..).collect();
        if batch.is_empty() {
            return;
        }
        let written = append(&self.directory, &batch);
        match written {
            Ok(()) if writer.failing => tracing::info!("the history is recorded again"),
            Ok(()) => {}
            Err(ref error) if !writer.failing => tracing::warn!(
                "the history in {} cannot be written, which changes nothing else: {error}",
                self.directory.display()
            ),
            Err(_) => {}
        }
        writer.failing = written.is_err();
        if written.is_err() {
            let mut waiting = locked(&self.waiting);
            let room = (WAITING as usize).saturating_sub(waiting.len());
            let kept = batch.into_iter().rev().take(room);
            kept.for_each(|event| waiting.push_front(event));
        }
    }

    /// All there is, what waits for a disk that takes nothing included. Fails if nothing can be read.
    pub fn read(&self) -> io::Result<impl Iterator<Item = Event> + use<>> {
        let mut writer = locked(&self.writer);
        self.write_as(&mut writer);
        // Nobody writes before the files are open, so that it is in one of the two, or in both.
        let waiting = locked(&self.waiting).clone();
        let recorded = match history::read(&self.directory) {
            Ok(recorded) => Some(recorded),
            Err(error) if waiting.is_empty() => return Err(error),
            Err(_) => None,
        };
        Ok(history::in_order(recorded.into_iter().flatten().chain(waiting)))
    }
}

/// Add lines to the history, all of them or none.
fn append(directory: &Path, events: &[Event]) -> io::Result<()> {
    let mut lines = Vec::new();
    for event in events {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(FILE);
    let mut file = open(&path)?;
    let mut size = file.metadata()?.len();
    if size > 0 && size + lines.len() as u64 > FILE_BYTES {
        fs::rename(&path, directory.join(OLDER_FILE))?;
        file = open(&path)?;
        size = 0;
    }
    if size > 0 && !ends_a_line(&mut file)? {
        lines.insert(0, b'\n');
    }
    // Appended in one piece: whoever is killed in the middle leaves a torn line at the end at most.
    let written = file.write_all(&lines);
    if written.is_err() {
        let _ = file.set_len(size);
    }
    written
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn locked_now<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    mutex.try_lock().ok()
}
