//! A moment as people name it: what journalctl and `docker events` take for `--since`.

use jiff::{
    Span, Timestamp, Zoned,
    civil::{DateTime, Time},
};

use crate::zone;

/// A moment of the past, by the machine's clock: in µs of CLOCK_REALTIME.
pub fn by_the_clock(text: &str) -> Result<u64, String> {
    let now = Timestamp::now().to_zoned(zone::local());
    let moment = parse(text.trim(), &now).ok_or(
        "not a moment, such as 10m, \"1 hour ago\", 09:30, yesterday, \"2026-11-24 23:05\" or \
         2026-11-24T23:05:00Z",
    )?;
    Ok(u64::try_from(moment.as_microsecond()).unwrap_or(0))
}

fn parse(text: &str, now: &Zoned) -> Option<Timestamp> {
    let today = now.start_of_day().ok()?;
    let day = match text {
        "now" => Some(now.clone()),
        "today" => Some(today.clone()),
        "yesterday" => Some(today.yesterday().ok()?),
        _ => None,
    };
    if let Some(day) = day {
        return Some(day.timestamp());
    }
    // Seconds since 1970, as date(1) prints with +%s, with or without a fraction.
    let seconds = text.strip_prefix('@').unwrap_or(text);
    if seconds.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(seconds) = seconds.parse::<f64>()
    {
        return Timestamp::from_microsecond((seconds * 1e6) as i64).ok();
    }
    // With a zone of its own.
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    let civil = text.parse::<DateTime>().ok().or_else(|| {
        let time = text.parse::<Time>().ok()?;
        Some(now.date().to_datetime(time))
    });
    if let Some(civil) = civil {
        return Some(civil.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    }
    ago(text, now)
}

/// So long before now, however the sign is written.
fn ago(text: &str, now: &Zoned) -> Option<Timestamp> {
    let span: Span = text.strip_prefix('+').unwrap_or(text).parse().ok()?;
    let span = if span.is_negative() { span.negate() } else { span };
    // A day is one of the calendar's, as the clock of this place counts.
    Some(now.checked_sub(span).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn moments_are_what_people_write() {
        // An hour east of Greenwich.
        let zone = TimeZone::posix("CET-1").unwrap();
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let now = now.to_zoned(zone);
        for (text, moment) in [
            ("now", Some("2026-11-24T12:00:00Z")),
            ("today", Some("2026-11-23T23:00:00Z")),
            ("yesterday", Some("2026-11-22T23:00:00Z")),
            ("2026-11-24T09:30:00Z", Some("2026-11-24T09:30:00Z")),
            ("2026-11-24T09:30:00.25+02:00", Some("2026-11-24T07:30:00.25Z")),
            ("2026-11-24 09:30:00", Some("2026-11-24T08:30:00Z")),
            ("2026-11-24T09:30", Some("2026-11-24T08:30:00Z")),
            ("2026-11-24", Some("2026-11-23T23:00:00Z")),
            ("09:30", Some("2026-11-24T08:30:00Z")),
            ("09:30:15", Some("2026-11-24T08:30:15Z")),
            ("1795521600", Some("2026-11-24T12:00:00Z")),
            ("1795521600.5", Some("2026-11-24T12:00:00.5Z")),
            ("@1795521600", Some("2026-11-24T12:00:00Z")),
            ("10m", Some("2026-11-24T11:50:00Z")),
            ("-10m", Some("2026-11-24T11:50:00Z")),
            ("1h30m", Some("2026-11-24T10:30:00Z")),
            ("1 hour ago", Some("2026-11-24T11:00:00Z")),
            ("10 min", Some("2026-11-24T11:50:00Z")),
            ("2 days ago", Some("2026-11-22T12:00:00Z")),
            ("1 week", Some("2026-11-17T12:00:00Z")),
            ("", None),
            ("soon", None),
            ("-", None),
            ("25:00", None),
            ("10 parsecs", None),
            ("2026-13-01", None),
        ] {
            let moment = moment.map(|moment| moment.parse::<Timestamp>().unwrap());
            assert_eq!(parse(text, &now), moment, "{text}");
        }
    }
}
