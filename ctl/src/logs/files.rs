//! The logs in files: one `PART.log` a part, moved to `PART.log.1` when it has grown.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use inotify::{Inotify, WatchMask};
use jiff::Timestamp;

use super::{Sink, line::Line, parts};
use crate::{
    cli::{Lines, Logs},
    failure::Failure,
};

/// Show the last lines of all files in one order, and then what is added.
pub fn show(directory: &Path, wanted: &Logs, sink: &Sink) -> Result<(), Failure> {
    // Watched before it is read, so that nothing falls in between.
    let watch = if wanted.follow { Some(watch(directory)?) } else { None };
    let mut logs: Vec<Log> =
        parts(wanted).iter().map(|part| Log::new(directory, part.as_str())).collect();
    let mut lines = Vec::new();
    for log in &mut logs {
        lines.extend(log.last(wanted.lines)?);
    }
    in_order(&mut lines);
    sink.put(from_the_end(&lines, wanted.lines))?;
    let Some(mut watch) = watch else { return Ok(()) };
    let mut events = [0; 4096];
    loop {
        // What changed is not asked: there are few files, and reading at the end costs nothing.
        watch.read_events_blocking(&mut events).map_err(|source| unreadable(directory, source))?;
        let mut lines = Vec::new();
        for log in &mut logs {
            lines.extend(log.added()?);
        }
        in_order(&mut lines);
        sink.put(&lines)?;
    }
}

fn watch(directory: &Path) -> Result<Inotify, Failure> {
    let watch = || {
        let inotify = Inotify::init()?;
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVE;
        inotify.watches().add(directory, mask)?;
        Ok(inotify)
    };
    watch().map_err(|source| unreadable(directory, source))
}

/// By time; what has the same time stays as it was.
fn in_order(lines: &mut [Line]) {
    lines.sort_by_key(|line| line.time);
}

fn from_the_end(lines: &[Line], wanted: Lines) -> &[Line] {
    match wanted {
        Lines::All => lines,
        Lines::Last(count) => &lines[lines.len().saturating_sub(count)..],
    }
}

/// The log of a part, read up to some place.
struct Log {
    part: String,
    path: PathBuf,
    /// The file, as far as it is read, and its inode.
    open: Option<(File, u64)>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
    /// When the last line was written.
    time: Option<Timestamp>,
}

impl Log {
    fn new(directory: &Path, part: &str) -> Self {
        Self {
            part: part.to_owned(),
            path: directory.join(format!("{part}.log")),
            open: None,
            begun: Vec::new(),
            time: None,
        }
    }

    /// The last lines; from the older file too, if the present one is too short.
    fn last(&mut self, wanted: Lines) -> Result<Vec<Line>, Failure> {
        let mut bytes = Vec::new();
        self.read_on(&mut bytes)?;
        let present = bytes.iter().filter(|byte| **byte == b'\n').count();
        let enough = matches!(wanted, Lines::Last(count) if present >= count);
        if !enough {
            let older = PathBuf::from(format!("{}.1", self.path.display()));
            match fs::read(&older) {
                Ok(mut older) => {
                    older.append(&mut bytes);
                    bytes = older;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(unreadable(&older, source)),
            }
        }
        let lines = self.lines(bytes);
        Ok(from_the_end(&lines, wanted).to_vec())
    }

    /// What was added since the last look.
    fn added(&mut self) -> Result<Vec<Line>, Failure> {
        let mut bytes = Vec::new();
        self.read_on(&mut bytes)?;
        // The file that was read may have been moved away, and a new one begun.
        let inode = fs::metadata(&self.path).map(|found| found.ino()).ok();
        if self.open.as_ref().map(|(_, inode)| *inode) != inode && inode.is_some() {
            self.open = None;
            self.read_on(&mut bytes)?;
        }
        Ok(self.lines(bytes))
    }

    fn read_on(&mut self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        self.try_read_on(bytes).map_err(|source| unreadable(&self.path, source))
    }

    fn try_read_on(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if self.open.is_none() {
            let file = match File::open(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                file => file?,
            };
            let inode = file.metadata()?.ino();
            self.open = Some((file, inode));
        }
        if let Some((file, _)) = &mut self.open {
            // Emptied in place, it begins anew.
            if file.metadata()?.len() < file.stream_position()? {
                file.seek(SeekFrom::Start(0))?;
            }
            file.read_to_end(bytes)?;
        }
        Ok(())
    }

    /// The complete lines among the bytes; the rest waits for its end.
    fn lines(&mut self, bytes: Vec<u8>) -> Vec<Line> {
        let mut text = std::mem::take(&mut self.begun);
        text.extend(bytes);
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        self.begun = text.split_off(end);
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(|text| {
            let line = Line::of_file(&self.part, text, self.time);
            self.time = line.time;
            line
        });
        lines.collect()
    }
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    Failure::Io { action: format!("read {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn messages(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.message.as_str()).collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_reach_into_the_older_file() {
        let directory = tempfile::tempdir().unwrap();
        append(&directory.path().join("init.log.1"), "a\nb\n");
        append(&directory.path().join("init.log"), "c\nd\nhalf");
        let last = |wanted| Log::new(directory.path(), "init").last(wanted).unwrap();
        assert_eq!(messages(&last(Lines::Last(1))), ["d"]);
        assert_eq!(messages(&last(Lines::Last(3))), ["b", "c", "d"]);
        assert_eq!(messages(&last(Lines::All)), ["a", "b", "c", "d"]);
        assert!(last(Lines::Last(0)).is_empty());
    }

    #[test]
    fn what_is_added_survives_rotation_and_halves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("init.log");
        let mut log = Log::new(directory.path(), "init");
        assert!(log.last(Lines::All).unwrap().is_empty(), "no file yet");
        append(&path, "a\nb");
        assert_eq!(messages(&log.added().unwrap()), ["a"]);
        append(&path, "b\nc\n");
        fs::rename(&path, directory.path().join("init.log.1")).unwrap();
        append(&path, "d\n");
        assert_eq!(messages(&log.added().unwrap()), ["bb", "c", "d"]);
        File::create(&path).unwrap();
        assert!(log.added().unwrap().is_empty());
        append(&path, "e\n");
        assert_eq!(messages(&log.added().unwrap()), ["e"]);
    }

    #[test]
    fn lines_of_all_parts_are_in_one_order() {
        let directory = tempfile::tempdir().unwrap();
        append(
            &directory.path().join("dockerd.log"),
            "time=\"2026-11-24T23:00:02Z\" level=info\n\ttrace\n",
        );
        append(
            &directory.path().join("init.log"),
            "2026-11-24T23:00:01Z INFO first\n2026-11-24T23:00:03Z INFO last\n",
        );
        let mut lines = Vec::new();
        for part in ["dockerd", "init"] {
            lines.extend(Log::new(directory.path(), part).last(Lines::All).unwrap());
        }
        in_order(&mut lines);
        assert_eq!(messages(&lines), ["INFO first", "level=info", "\ttrace", "INFO last"]);
    }
}
