//! `rootlessctl logs`: what the parts wrote, from the journal or from files, in one order of time.

mod files;
mod journal;
mod line;

use std::path::Path;

use rootlessd_api::{LogLocation, Part};

use crate::{
    cli::Logs,
    exit::Exit,
    failure::Failure,
    human::Clock,
    output::{self, Palette},
    supervisor::Supervisor,
};

use self::line::Line;

/// Show the lines that are wanted.
pub async fn run(wanted: &Logs, json: bool) -> Result<Exit, Failure> {
    let sink = Sink::new(json);
    match location(wanted).await?.directory {
        Some(directory) => files::show(Path::new(&directory), wanted, &sink)?,
        None => journal::show(wanted, &sink)?,
    }
    Ok(Exit::Ok)
}

/// Where the logs are. When rootlessd is not there, its log is what tells why; under systemd that
/// is the journal, and elsewhere only rootlessd knows the directory.
async fn location(wanted: &Logs) -> Result<LogLocation, Failure> {
    let asked = async {
        let supervisor = Supervisor::find(wanted.patience.timeout)?;
        let mut client = supervisor.connect().await?;
        supervisor.answer(client.log_location()).await
    };
    match asked.await {
        Err(Failure::NoSupervisor { .. }) if Path::new("/run/systemd/system").is_dir() => {
            Ok(LogLocation { directory: None })
        }
        answer => answer,
    }
}

/// The parts that are asked for: all of them, if none is named.
fn parts(wanted: &Logs) -> &[Part] {
    if wanted.parts.is_empty() { Part::ALL } else { &wanted.parts }
}

/// Where the lines go.
struct Sink {
    json: bool,
    clock: Clock,
    palette: Palette,
}

impl Sink {
    fn new(json: bool) -> Self {
        Self { json, clock: Clock::system(), palette: Palette::of_stdout() }
    }

    fn put(&self, lines: &[Line]) -> Result<(), Failure> {
        let mut text = String::new();
        for line in lines {
            if self.json {
                text.push_str(&format!("{}\n", line.to_json()));
            } else {
                line.render(&self.clock, self.palette, &mut text);
            }
        }
        output::text(&text)
    }
}
