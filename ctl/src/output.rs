//! What goes to standard output and standard error, and in which form.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tabwriter::TabWriter;

use crate::{failure::Failure, journal};

/// The styles in use: all of them plain where there is no terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Palette {
    /// What is as it should be.
    pub good: Style,
    /// What is on its way, or limps.
    pub warning: Style,
    /// What is broken.
    pub bad: Style,
    /// Headings.
    pub strong: Style,
    /// Labels and what is of less weight.
    pub faint: Style,
}

impl Palette {
    /// No styles at all.
    pub const PLAIN: Self = Self {
        good: Style::new(),
        warning: Style::new(),
        bad: Style::new(),
        strong: Style::new(),
        faint: Style::new(),
    };

    /// The styles of a terminal.
    pub const COLOUR: Self = Self {
        good: AnsiColor::Green.on_default().bold(),
        warning: AnsiColor::Yellow.on_default().bold(),
        bad: AnsiColor::Red.on_default().bold(),
        strong: Style::new().bold(),
        faint: Style::new().dimmed(),
    };

    /// What suits standard output: `NO_COLOR`, `CLICOLOR_FORCE` and `TERM` are respected.
    pub fn of_stdout() -> Self {
        Self::of(AutoStream::choice(&io::stdout()))
    }

    fn of_stderr() -> Self {
        Self::of(AutoStream::choice(&io::stderr()))
    }

    fn of(choice: ColorChoice) -> Self {
        if choice == ColorChoice::Never { Self::PLAIN } else { Self::COLOUR }
    }
}

/// Print text to standard output, as it is.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|source| Failure::Io { action: "write the output".to_owned(), source })
}

/// Print one JSON value over several lines, for verbs that answer once.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    text(&format!("{}\n", encoded(serde_json::to_string_pretty(value))?))
}

/// Print one JSON value on one line, for verbs that go on answering.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    text(&format!("{}\n", encoded(serde_json::to_string(value))?))
}

/// Lay tab-separated text out in columns that are `padding` apart.
pub fn aligned(text: &str, padding: usize) -> String {
    let mut writer = TabWriter::new(Vec::new()).minwidth(0).padding(padding);
    let aligned = writer.write_all(text.as_bytes()).ok().and_then(|()| writer.into_inner().ok());
    // Writing to memory does not fail; if it did, the text itself is better than nothing.
    aligned.map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Tell a failure: as JSON on standard output, or to a person on standard error; a service tells the
/// journal.
pub fn failure(failure: &Failure, as_json: bool) {
    if as_json {
        // Nothing is left to be done when even this cannot be written.
        let _ = json_line(&failure.to_json());
        return;
    }
    if journal::failure(failure) {
        return;
    }
    let bad = Palette::of_stderr().bad;
    let mut lines = format!("{bad}error:{bad:#} {failure}\n");
    if let Some(remedy) = failure.remedy() {
        lines.push_str(&format!("  what to do: {remedy}\n"));
    }
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Tell a person what is no failure but should not pass in silence.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
}

/// End the line that a question began on standard error.
pub fn end_line() {
    let _ = writeln!(io::stderr());
}

/// One line on standard error that is written over again and again, where that is a terminal. Piped,
/// it says nothing: scripts read the exit status.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// What fits on every terminal.
    const WIDTH: usize = 79;

    /// A progress line, if anybody could see it.
    pub fn on_terminal() -> Option<Self> {
        io::stderr().is_terminal().then_some(Self { shown: false })
    }

    /// Show `line` in the place of what was there.
    pub fn show(&mut self, line: &str) {
        self.shown = true;
        // Only one line can be written over, so it must not wrap.
        let line: String = line.chars().take(Self::WIDTH).collect();
        let _ = write!(io::stderr(), "\r\x1b[2K{line}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

fn encoded(result: serde_json::Result<String>) -> Result<String, Failure> {
    result.map_err(|error| Failure::Io {
        action: "write the output".to_owned(),
        source: error.into(),
    })
}
