//! The logs in the user's journal, read by journalctl: its format on disk is journald's own.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use jiff::Timestamp;
use rootlessd_api::names;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Sink,
    line::{Line, split_time},
    parts,
};
use crate::{
    cli::{Lines, Logs},
    failure::{Failure, reason},
    human::printable,
    output,
};

/// Show the last lines, and with `--follow` what is added.
pub fn show(wanted: &Logs, sink: &Sink) -> Result<(), Failure> {
    let program = find("journalctl").ok_or_else(|| Failure::NoLogs {
        message: "the logs are in the journal, and journalctl is not in PATH".to_owned(),
        remedy: None,
    })?;
    let child = Command::new(&program)
        .args(arguments(wanted))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Failure::NoLogs {
            message: format!("cannot run {}: {}", program.display(), reason(&source)),
            remedy: None,
        })?;
    let mut journal = Journal(child);
    let shown = journal.copy(sink);
    // When nobody reads us, nobody reads journalctl.
    if shown.is_err() {
        let _ = journal.0.kill();
    }
    let error = journal.finish()?;
    match (shown?, error) {
        (_, Some(error)) => Err(unreadable(&error)),
        (count, None) => {
            if count == 0 {
                output::note("the journal of this user has no such lines");
            }
            Ok(())
        }
    }
}

/// journalctl's arguments: lines of any of the parts.
fn arguments(wanted: &Logs) -> Vec<String> {
    let lines = match wanted.lines {
        Lines::All => "all".to_owned(),
        Lines::Last(count) => count.to_string(),
    };
    let mut arguments = vec![
        "--user".to_owned(),
        "--quiet".to_owned(),
        "--no-pager".to_owned(),
        "--all".to_owned(),
        "--output=json".to_owned(),
        format!("--output-fields=MESSAGE,{}", names::LOG_PART),
        format!("--lines={lines}"),
    ];
    if wanted.follow {
        arguments.push("--follow".to_owned());
    }
    arguments.extend(parts(wanted).iter().map(|part| format!("{}={part}", names::LOG_PART)));
    arguments
}

/// A journalctl at work.
struct Journal(Child);

impl Journal {
    /// Copy its lines; how many there were.
    fn copy(&mut self, sink: &Sink) -> Result<usize, Failure> {
        let Some(output) = self.0.stdout.take() else { return Ok(0) };
        let mut count = 0;
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|source| Failure::Io {
                action: "read what journalctl writes".to_owned(),
                source,
            })?;
            if let Some(line) = parse(&line) {
                sink.put(&[line])?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Wait for its end; what it says if it failed.
    fn finish(&mut self) -> Result<Option<String>, Failure> {
        self.try_finish()
            .map_err(|source| Failure::Io { action: "wait for journalctl".to_owned(), source })
    }

    fn try_finish(&mut self) -> io::Result<Option<String>> {
        let mut error = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut error)?;
        }
        let status = self.0.wait()?;
        Ok((!status.success()).then(|| error.trim().to_owned()))
    }
}

fn unreadable(error: &str) -> Failure {
    let denied = error.to_lowercase().contains("permission");
    Failure::NoLogs {
        message: format!("journalctl cannot read the journal of this user: {}", printable(error)),
        remedy: denied.then(|| {
            "sudo usermod --append --groups systemd-journal \"$(id -un)\", then log in again"
                .to_owned()
        }),
    }
}

/// An entry of the journal, as journalctl writes it.
fn parse(entry: &str) -> Option<Line> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        time: String,
        #[serde(rename = "MESSAGE")]
        message: Value,
        #[serde(rename = "ROOTLESSD_PART")]
        part: String,
    }
    let entry: Entry = serde_json::from_str(entry).ok()?;
    let message = match entry.message {
        Value::String(text) => text,
        // Bytes that are not UTF-8 come as numbers.
        Value::Array(bytes) => {
            let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            String::from_utf8_lossy(&bytes.iter().filter_map(byte).collect::<Vec<_>>()).into_owned()
        }
        _ => return None,
    };
    let time = entry.time.parse().ok().and_then(|time| Timestamp::from_microsecond(time).ok());
    Some(Line { time, part: entry.part, message: split_time(&message).1.to_owned() })
}

/// The absolute path of a program. Relative entries of `PATH` are not asked: what stands in the
/// current directory is not what is meant.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/bin")])
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Patience;
    use rootlessd_api::Part;

    #[test]
    fn journalctl_is_asked_for_the_parts() {
        let wanted = Logs {
            follow: true,
            lines: Lines::Last(5),
            parts: vec![Part::Dockerd, Part::Network],
            patience: Patience { timeout: None },
        };
        let arguments = arguments(&wanted).join(" ");
        let end = "--lines=5 --follow ROOTLESSD_PART=dockerd ROOTLESSD_PART=network";
        assert!(arguments.ends_with(end), "{arguments}");
    }

    #[test]
    fn entries() {
        let line = |part: &str, message: &str| {
            let time = Some(Timestamp::from_microsecond(1_764_025_545_123_456).unwrap());
            Some(Line { time, part: part.into(), message: message.into() })
        };
        let rows = [
            (r#""ROOTLESSD_PART":"init","MESSAGE":"up""#, line("init", "up")),
            (
                r#""ROOTLESSD_PART":"dockerd","MESSAGE":"time=\"2026-11-24T23:05:45Z\" level=info""#,
                line("dockerd", "level=info"),
            ),
            (r#""ROOTLESSD_PART":"init","MESSAGE":[104,105,255]"#, line("init", "hi\u{fffd}")),
            (r#""ROOTLESSD_PART":"init","MESSAGE":null"#, None),
        ];
        for (fields, line) in rows {
            let entry = format!(r#"{{"__REALTIME_TIMESTAMP":"1764025545123456",{fields}}}"#);
            assert_eq!(parse(&entry), line, "{entry}");
        }
        assert_eq!(parse("-- No entries --"), None);
    }

    #[test]
    fn a_journal_that_is_closed_to_us_says_what_to_do() {
        let failure = unreadable("No journal files were opened due to insufficient permissions.");
        assert!(failure.remedy().unwrap().contains("systemd-journal"));
        assert!(unreadable("something else").remedy().is_none());
    }

    #[test]
    fn programs_are_found_by_their_absolute_path() {
        assert!(find("sh").unwrap().is_absolute());
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
