//! A line of a log.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    human::{Clock, printable},
    output::Palette,
};

/// What a part wrote, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, if it is known.
    pub time: Option<Timestamp>,
    /// The part's name.
    pub part: String,
    /// What it wrote.
    pub message: String,
}

impl Line {
    /// A line of a file. It begins with its time, or with `time="…"` where a Go program wrote it;
    /// one without a time belongs to the line before it, and gets its time from `before`.
    pub fn of_file(part: &str, text: &str, before: Option<Timestamp>) -> Self {
        let (time, message) = split_time(text);
        Self {
            // The order within a file is what happened, even where the clock was set back.
            time: time.map_or(before, |time| Some(before.map_or(time, |before| before.max(time)))),
            part: part.to_owned(),
            message: message.to_owned(),
        }
    }

    /// Write it for a person.
    pub fn render(&self, clock: &Clock, palette: Palette, text: &mut String) {
        let Palette { faint, strong, .. } = palette;
        let time = self.time.map(|time| clock.log_time(time)).unwrap_or_default();
        for message in self.message.lines() {
            text.push_str(&format!(
                "{faint}{time}{faint:#} {strong}{}{strong:#}: {}\n",
                printable(&self.part),
                printable(message)
            ));
        }
    }

    /// Write it for a program.
    pub fn to_json(&self) -> Value {
        json!({
            "time": self.time.map(Timestamp::as_microsecond),
            "part": self.part,
            "message": self.message,
        })
    }
}

/// A line's time and what follows it. The time is taken from where a Go program writes it, too: it
/// would stand there twice.
pub fn split_time(text: &str) -> (Option<Timestamp>, &str) {
    let split = match text.strip_prefix("time=\"") {
        Some(quoted) => quoted.split_once("\" "),
        None => text.split_once(' '),
    };
    match split.map(|(time, message)| (time.parse(), message)) {
        Some((Ok(time), message)) => (Some(time), message),
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn times_are_found_where_programs_write_them() {
        for (text, time, message) in [
            ("2026-11-24T23:05:45.123456Z INFO up", at("2026-11-24T23:05:45.123456Z"), "INFO up"),
            (
                "time=\"2026-11-24T23:05:45.123456789+01:00\" level=info msg=\"a b\"",
                at("2026-11-24T22:05:45.123456789Z"),
                "level=info msg=\"a b\"",
            ),
            ("goroutine 1 [running]:", None, "goroutine 1 [running]:"),
            ("time=\"soon\" level=info", None, "time=\"soon\" level=info"),
            ("", None, ""),
        ] {
            assert_eq!(split_time(text), (time, message), "{text}");
        }
    }

    #[test]
    fn a_line_is_never_earlier_than_the_one_before() {
        let before = at("2026-11-24T23:05:45Z");
        let line = |text| Line::of_file("dockerd", text, before).time;
        assert_eq!(line("panic: x"), before);
        assert_eq!(line("2026-11-24T23:05:40Z INFO x"), before);
        assert_eq!(line("2026-11-24T23:05:50Z INFO x"), at("2026-11-24T23:05:50Z"));
    }

    #[test]
    fn a_message_of_several_lines_has_the_time_on_each() {
        let line = Line {
            time: at("2026-11-24T23:05:45.5Z"),
            part: "init".to_owned(),
            message: "a\nb\x07".to_owned(),
        };
        let mut text = String::new();
        line.render(&Clock::at(Timestamp::UNIX_EPOCH), Palette::PLAIN, &mut text);
        assert_eq!(
            text,
            "2026-11-24 23:05:45.500 init: a\n2026-11-24 23:05:45.500 init: b\\u{7}\n"
        );
        assert_eq!(line.to_json()["time"], json!(1_795_561_545_500_000_i64));
    }
}
