//! Numbers, times and foreign text, as people read them.

use std::{borrow::Cow, time::Duration};

use jiff::{Timestamp, tz::TimeZone};

use crate::zone;

/// What time it is, and where: passed in, so that rendering is a pure function.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Now.
    pub now: Timestamp,
    zone: TimeZone,
}

impl Clock {
    /// The machine's clock. It reads the time zone's file: make one only where a time is shown.
    pub fn system() -> Self {
        Self { now: Timestamp::now(), zone: zone::local() }
    }

    /// A clock that stands still, in UTC.
    #[cfg(test)]
    pub fn at(now: Timestamp) -> Self {
        Self { now, zone: TimeZone::UTC }
    }

    /// A point of time as in `Tue 2026-11-24 23:05:45 CET`.
    pub fn date(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// A point of time as a line of a log begins with it: `2026-11-24 23:05:45.123`.
    pub fn log_time(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
    }

    /// How long ago a point of time is.
    pub fn ago(&self, at: Timestamp) -> String {
        match self.now.as_second() - at.as_second() {
            ..=0 => "just now".to_owned(),
            seconds => format!("{} ago", rough_seconds(seconds.unsigned_abs())),
        }
    }

    /// How long it is until a point of time.
    pub fn until(&self, at: Timestamp) -> String {
        let millis = at.as_millisecond() - self.now.as_millisecond();
        match u64::try_from(millis) {
            Ok(millis) if millis > 0 => format!("in {}", rough_seconds(millis.div_ceil(1000))),
            _ => "now".to_owned(),
        }
    }
}

/// The API's µs of CLOCK_REALTIME as a point of time.
pub fn timestamp(micros: u64) -> Timestamp {
    i64::try_from(micros)
        .ok()
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .unwrap_or(Timestamp::MAX)
}

/// A number of bytes as in `12.3 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    // 1023.95 would be rounded to 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A length of time as in `2 min 5 s`, `1.5 s` or `200 ms`.
pub fn duration(length: Duration) -> String {
    match length {
        _ if length < Duration::from_secs(1) => format!("{} ms", length.as_millis()),
        _ if length < Duration::from_secs(10) && length.subsec_millis() > 0 => {
            format!("{:.1} s", length.as_secs_f64())
        }
        _ => rough_seconds(length.as_secs()),
    }
}

/// Foreign text for a terminal: what would command it is escaped.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_dangerous(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

fn is_dangerous(c: char) -> bool {
    c.is_control() && c != '\t'
}

/// The two greatest units of a number of seconds.
fn rough_seconds(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut words = Vec::with_capacity(2);
    for (size, name) in UNITS {
        if rest >= size {
            words.push(format!("{} {name}", rest / size));
            rest %= size;
        } else if !words.is_empty() {
            break;
        }
        if words.len() == 2 {
            break;
        }
    }
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_digit_after_the_point() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12_897_485, "12.3 MiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn lengths_of_time_have_at_most_two_units() {
        for (millis, text) in [
            (0, "0 ms"),
            (200, "200 ms"),
            (1_500, "1.5 s"),
            (2_000, "2 s"),
            (59_999, "59 s"),
            (125_000, "2 min 5 s"),
            (3_600_000, "1 h"),
            (3_605_000, "1 h"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_clock_tells_past_and_future() {
        let clock = Clock::at(timestamp(1_764_025_545_500_000));
        assert_eq!(clock.date(clock.now), "Mon 2025-11-24 23:05:45 UTC");
        assert_eq!(clock.log_time(clock.now), "2025-11-24 23:05:45.500");
        assert_eq!(clock.ago(timestamp(1_764_025_360_000_000)), "3 min 5 s ago");
        assert_eq!(clock.ago(timestamp(1_764_025_546_000_000)), "just now");
        assert_eq!(clock.until(timestamp(1_764_025_549_400_000)), "in 4 s");
        assert_eq!(clock.until(timestamp(1)), "now");
        assert_eq!(timestamp(u64::MAX), Timestamp::MAX);
    }

    #[test]
    fn foreign_text_is_escaped_only_where_it_must_be() {
        assert!(matches!(printable("naïve\ttext"), Cow::Borrowed(_)));
        assert_eq!(printable("a\x1b]0;b\x07\r\n"), "a\\u{1b}]0;b\\u{7}\\r\\n");
        assert_eq!(printable("\u{9b}2J"), "\\u{9b}2J");
    }
}
