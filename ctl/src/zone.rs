//! The user's time zone, by the rules of tzset(3): `$TZ`, or else `/etc/localtime`.
//!
//! One file is read. jiff's own search wants an index of the whole database first, which takes
//! longer than everything else that `status` does.

use std::{env, fs, path::Path};

use jiff::tz::TimeZone;

const DATABASE: &str = "/usr/share/zoneinfo";

/// The time zone that times are shown in; UTC where none is set or it cannot be read.
pub fn local() -> TimeZone {
    let zone = match env::var("TZ") {
        Ok(name) => named(&name, Path::new(DATABASE)),
        Err(_) => file("", Path::new("/etc/localtime")),
    };
    zone.unwrap_or(TimeZone::UTC)
}

/// What `$TZ` names: a file of the database, any other file, or rules such as `CET-1CEST`.
fn named(name: &str, database: &Path) -> Option<TimeZone> {
    let name = name.strip_prefix(':').unwrap_or(name);
    if name.is_empty() {
        return None;
    }
    // Joining an absolute path gives that path.
    file(name, &database.join(name)).or_else(|| TimeZone::posix(name).ok())
}

fn file(name: &str, path: &Path) -> Option<TimeZone> {
    TimeZone::tzif(name, &fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn zones_are_files_or_rules() {
        let noon = |zone: Option<TimeZone>| {
            let zone = zone?;
            let noon: Timestamp = "2026-11-24T12:00:00Z".parse().ok()?;
            Some(noon.to_zoned(zone).strftime("%H:%M %Z").to_string())
        };
        let database = tempfile::tempdir().unwrap();
        // Version 1 of tzfile(5): no transitions, one type an hour east of Greenwich.
        let mut tzif = b"TZif".to_vec();
        tzif.resize(20, 0);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            tzif.extend(count.to_be_bytes());
        }
        tzif.extend(3_600_i32.to_be_bytes());
        tzif.extend([0, 0]);
        tzif.extend(b"XYZ\0");
        fs::write(database.path().join("Mine"), tzif).unwrap();
        let absolute = database.path().join("Mine");
        for (name, shown) in [
            ("Mine", Some("13:00 XYZ")),
            (":Mine", Some("13:00 XYZ")),
            (absolute.to_str().unwrap(), Some("13:00 XYZ")),
            ("CET-1CEST,M3.5.0,M10.5.0/3", Some("13:00 CET")),
            ("", None),
            ("Nowhere/Land", None),
        ] {
            assert_eq!(noon(named(name, database.path())).as_deref(), shown, "{name}");
        }
    }
}
