//! Where log lines go: to the journal, with structured fields, or to one bounded file a part.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use clap::Args;
use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use rootlessd_api::{Part, names};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry, filter::filter_fn, layer::Context, prelude::*, registry::LookupSpan,
};

/// The field of an event that says which part a line is from, if not from this process:
/// [`names::LOG_PART`] once the journal has it.
const PART: &str = "rootlessd_part";

/// How long a log file gets before it is put aside.
const FILE_BYTES: usize = 10 << 20;
/// How many log files of a part are kept beside the present one.
const KEPT_FILES: usize = 2;

/// Where to log to; told to every process of the engine.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LogArgs {
    /// Log to a file a part in this directory, instead of the journal.
    #[arg(long = "log-directory", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The least grave messages to log: error, warn, info, debug, trace.
    #[arg(long = "log-level", value_name = "LEVEL", default_value_t = LevelFilter::INFO)]
    pub level: LevelFilter,
}

impl LogArgs {
    /// The same as arguments.
    pub fn as_args(&self) -> Vec<String> {
        let directory = self.directory.iter();
        directory
            .flat_map(|path| ["--log-directory".to_owned(), path.to_string_lossy().into_owned()])
            .chain(["--log-level".to_owned(), self.level.to_string()])
            .collect()
    }
}

/// Log what this process has to say as `part`. With `terminal`, say it on standard error too.
///
/// Where the journal is asked for and not there, standard error is all there is.
pub fn init(args: &LogArgs, part: Part, terminal: bool) {
    let files = args.directory.as_deref().map(|directory| Files::new(directory, part));
    let journal = match files {
        Some(_) => None,
        None => journal(part).ok(),
    };
    let terminal = (terminal || (files.is_none() && journal.is_none())).then(|| {
        tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr).compact()
    });
    let registry = Registry::default().with(args.level).with(journal).with(files).with(terminal);
    // A second call, as in tests, changes nothing.
    let _ = registry.try_init();
}

/// The journal's layer. Each line has [`names::LOG_PART`] once: its own where it was written by
/// another part, else that of this process.
fn journal<S>(part: Part) -> io::Result<impl Layer<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = || {
        // Our fields have our prefix already.
        let layer = tracing_journald::layer()?.with_field_prefix(None);
        io::Result::Ok(layer.with_syslog_identifier(format!("rootlessd-{part}")))
    };
    let own = layer()?.with_custom_fields([(names::LOG_PART, part.as_str())]);
    Ok(own
        .with_filter(filter_fn(|metadata| !tells_part(metadata)))
        .and_then(layer()?.with_filter(filter_fn(tells_part))))
}

fn tells_part(metadata: &Metadata<'_>) -> bool {
    metadata.fields().field(PART).is_some()
}

/// One file a part, of bounded size.
struct Files {
    directory: PathBuf,
    part: Part,
    open: Mutex<HashMap<String, FileRotate<AppendCount>>>,
}

impl Files {
    fn new(directory: &Path, part: Part) -> Self {
        Self { directory: directory.to_owned(), part, open: Mutex::default() }
    }
}

impl<S: Subscriber> Layer<S> for Files {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let part = line.part.unwrap_or_else(|| self.part.to_string());
        let text = format!(
            "{} {} {}{}\n",
            jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ"),
            event.metadata().level(),
            line.message,
            line.fields,
        );
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = open.entry(part).or_insert_with_key(|part| {
            FileRotate::new(
                self.directory.join(format!("{part}.log")),
                AppendCount::new(KEPT_FILES),
                ContentLimit::BytesSurpassed(FILE_BYTES),
                Compression::None,
                Some(private()),
            )
        });
        // There is nowhere to say that a log cannot be written.
        let _ = file.write_all(text.as_bytes());
    }
}

/// Log lines can hold what is nobody else's business.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).create(true).append(true).mode(0o600);
    options
}

/// An event's fields as a line has them.
#[derive(Default)]
struct Line {
    part: Option<String>,
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            PART => self.part = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_a_part() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path(), Part::Supervisor);
        tracing::subscriber::with_default(Registry::default().with(files), || {
            tracing::info!("hello");
            tracing::warn!(rootlessd_part = "dockerd", "level=warning {}", 1);
            tracing::info!(rootlessd_state = "running", "the engine runs");
        });
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let supervisor = read("supervisor.log");
        let lines: Vec<_> = supervisor.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(lines[0].1, "INFO hello");
        assert_eq!(lines[1].1, "INFO the engine runs rootlessd_state=\"running\"");
        assert_eq!(lines[0].0.len(), "2026-11-24T23:05:45.123456Z".len());
        assert!(read("dockerd.log").ends_with("WARN level=warning 1\n"));
    }
}
