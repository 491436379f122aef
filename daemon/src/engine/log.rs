//! What the engine's processes write: read line by line by their parent, which dies with them, so
//! that nobody's death breaks a pipe (Go programs do not survive that on their standard output).

use std::{collections::VecDeque, io, os::fd::OwnedFd};

use rootlessd_api::Part;
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// How many lines are kept to tell how a part died.
const KEPT_LINES: usize = 20;
/// How many bytes of a line are kept; what is longer is cut.
const LINE_BYTES: usize = 4096;

/// The last lines of a part.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// Take a line, and forget the oldest.
    pub fn push(&mut self, line: String) {
        if self.0.len() == KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    /// The lines, the oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// A pipe that a part writes to, and the lines that come out of it.
#[derive(Debug)]
pub struct Lines {
    pipe: pipe::Receiver,
    chunk: Box<[u8; 8192]>,
    splitter: Splitter,
    ready: VecDeque<String>,
}

impl Lines {
    /// A new pipe: the end to read lines from, and two handles of the end to write to, for a
    /// process's standard output and error.
    pub fn pipe() -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        let stdout = OwnedFd::from(writer);
        let stderr = stdout.try_clone()?;
        let lines = Self {
            pipe: pipe::Receiver::from_owned_fd(reader.into())?,
            chunk: Box::new([0; 8192]),
            splitter: Splitter::default(),
            ready: VecDeque::new(),
        };
        Ok((lines, stdout, stderr))
    }

    /// The next line; `None` when every writer is gone. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            match self.pipe.read(&mut self.chunk[..]).await {
                Ok(0) | Err(_) => return self.splitter.finish(),
                Ok(count) => self.splitter.feed(&self.chunk[..count], &mut self.ready),
            }
        }
    }

    /// The lines that were written already, without waiting for more. The pipe itself is read: the
    /// runtime may not know yet that there is something in it.
    pub fn drain(&mut self) -> Vec<String> {
        while let Ok(count @ 1..) = rustix::io::read(&self.pipe, &mut self.chunk[..]) {
            self.splitter.feed(&self.chunk[..count], &mut self.ready);
        }
        self.ready.drain(..).chain(self.splitter.finish()).collect()
    }
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    cut: usize,
}

impl Splitter {
    fn feed(&mut self, mut bytes: &[u8], lines: &mut VecDeque<String>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end]);
            lines.extend(self.finish());
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.cut += bytes.len() - room;
    }

    fn finish(&mut self) -> Option<String> {
        let mut line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        if self.cut > 0 {
            line.push_str(&format!(" … ({} more bytes)", self.cut));
        }
        *self = Self { line: std::mem::take(&mut self.line), cut: 0 };
        self.line.clear();
        (!line.is_empty()).then_some(line)
    }
}

/// Log a line that a part wrote, with the level that it gave it.
pub fn forward(part: Part, line: &str) {
    let part = part.as_str();
    match level(line) {
        tracing::Level::ERROR => tracing::error!(rootlessd_part = part, "{line}"),
        tracing::Level::WARN => tracing::warn!(rootlessd_part = part, "{line}"),
        tracing::Level::DEBUG => tracing::debug!(rootlessd_part = part, "{line}"),
        _ => tracing::info!(rootlessd_part = part, "{line}"),
    }
}

/// What a line complains about, if it does: the message of logrus's errors, and the plain last words
/// that these programs print when they give up.
pub fn complaint(line: &str) -> Option<&str> {
    let plain = ["failed to ", "error: ", "[rootlesskit:parent] error: ", "panic: "];
    if plain.iter().any(|start| line.starts_with(start)) {
        return Some(line);
    }
    if level(line) != tracing::Level::ERROR {
        return None;
    }
    let message = line.split_once("msg=\"").map_or(line, |(_, rest)| rest);
    Some(message.strip_suffix('"').unwrap_or(message))
}

/// The level that logrus, which all of these programs log with, puts into a line.
fn level(line: &str) -> tracing::Level {
    let word = line.split_once("level=").map_or("", |(_, rest)| rest);
    match word.split(|c: char| !c.is_ascii_alphabetic()).next() {
        Some("panic" | "fatal" | "error") => tracing::Level::ERROR,
        Some("warning" | "warn") => tracing::Level::WARN,
        Some("debug" | "trace") => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_bounded() {
        let mut splitter = Splitter::default();
        let mut lines = VecDeque::new();
        splitter.feed(b"one\n\ntw", &mut lines);
        splitter.feed(b"o\r\n", &mut lines);
        for _ in 0..10_000 {
            splitter.feed(&[b'x'; 1000], &mut lines);
            assert!(splitter.line.capacity() <= 2 * LINE_BYTES);
        }
        splitter.feed(b"\nlast", &mut lines);
        lines.extend(splitter.finish());
        assert_eq!(lines.len(), 4);
        assert_eq!(
            (lines[0].as_str(), lines[1].as_str(), lines[3].as_str()),
            ("one", "two", "last")
        );
        assert!(lines[2].ends_with(" … (9995904 more bytes)"), "{}", &lines[2][4090..]);
    }

    #[test]
    fn levels() {
        for (line, expected) in [
            ("time=\"x\" level=error msg=\"y\"", tracing::Level::ERROR),
            ("level=fatal msg=z", tracing::Level::ERROR),
            ("level=warning msg=z", tracing::Level::WARN),
            ("level=debug", tracing::Level::DEBUG),
            ("level=info", tracing::Level::INFO),
            ("a plain line", tracing::Level::INFO),
        ] {
            assert_eq!(level(line), expected, "{line}");
        }
    }

    #[test]
    fn complaints() {
        for (line, expected) in [
            ("time=\"x\" level=fatal msg=\"no \\\"y\\\"\"", Some("no \\\"y\\\"")),
            ("failed to start daemon: x", Some("failed to start daemon: x")),
            ("level=info msg=\"fine\"", None),
            ("chatter", None),
        ] {
            assert_eq!(complaint(line), expected, "{line}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_pipe_ends_with_its_writers() {
        let (mut lines, stdout, stderr) = Lines::pipe().unwrap();
        drop(stderr);
        std::fs::File::from(stdout).write_all(b"a\nb").unwrap();
        assert_eq!(lines.next().await.as_deref(), Some("a"));
        assert_eq!(lines.next().await.as_deref(), Some("b"));
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn last_words_are_read_in_the_turn_in_which_they_were_written() {
        let (mut lines, stdout, _stderr) = Lines::pipe().unwrap();
        let mut stdout = std::fs::File::from(stdout);
        stdout.write_all(b"first\n").unwrap();
        assert_eq!(lines.next().await.as_deref(), Some("first"));
        stdout.write_all(b"last\n").unwrap();
        assert_eq!(lines.drain(), ["last"]);
    }
}
