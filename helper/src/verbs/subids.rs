//! Subordinate ids: subuid(5), subgid(5). usermod(8) writes them, under shadow's own locks.

use std::{fmt, io};

use rootlessd_api::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{change::Change, root::Root, user::User};

/// What images count on: nobody is 65534.
const COUNT: u32 = 65536;
const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";
const USERMOD: &str = "/usr/sbin/usermod";
const GETSUBIDS: &str = "/usr/bin/getsubids";
/// What login.defs(5) has where it says nothing.
const DEFAULT_LIMITS: (u32, u32) = (100_000, 600_100_000);
/// Below are people and what useradd(8) gives out, and a home of systemd-homed has no place for more; what
/// follows systemd leaves to containers (its `docs/UIDS-GIDS.md`).
const FIRST: u32 = 524_288;
/// Of nobody's: systemd-homed's users and its dynamic ones (systemd: `docs/UIDS-GIDS.md`).
const RESERVED: [Range; 2] =
    [Range { start: 60_001, count: 513 }, Range { start: 61_184, count: 4336 }];

/// A range that was given to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubIds {
    /// Whose.
    pub user: String,
    /// The first id.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// Whether it is user ids.
    pub uids: bool,
    /// Whether it is group ids.
    pub gids: bool,
}

impl SubIds {
    /// What it changes, file by file.
    pub fn describe(&self) -> Vec<String> {
        let files = [(self.uids, SUBUID), (self.gids, SUBGID)];
        let files = files.into_iter().filter(|(is, _)| *is);
        files
            .map(|(_, file)| {
                format!(
                    "{file}: {}:{}:{}; undone by taking it out",
                    self.user, self.start, self.count
                )
            })
            .collect()
    }

    fn range(&self) -> Range {
        Range { start: self.start, count: self.count }
    }

    /// usermod's options, of those to add or to take away.
    fn options(&self, action: &str) -> Vec<String> {
        let range = format!("{}-{}", self.start, self.start + (self.count - 1));
        let kinds = [(self.uids, "subuids"), (self.gids, "subgids")];
        kinds
            .into_iter()
            .filter(|(is, _)| *is)
            .flat_map(|(_, kind)| [format!("--{action}-{kind}"), range.clone()])
            .collect()
    }
}

impl fmt::Display for SubIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = match (self.uids, self.gids) {
            (true, true) => "user and group ids",
            (true, false) => "user ids",
            _ => "group ids",
        };
        write!(f, "the {kinds} {}-{}", self.start, self.start + (self.count - 1))
    }
}

/// A range for a user who has none, or too few.
pub async fn plan(root: &Root, user: &User) -> Result<Option<Change>, Error> {
    let (subuid, subgid) = (read(root, SUBUID)?, read(root, SUBGID)?);
    let has = async |text: &str, options: &[&str]| {
        total(text, user) >= u64::from(COUNT)
            || by_tool(root, user, options).await >= u64::from(COUNT)
    };
    let uids = !has(&subuid, &[]).await;
    let gids = !has(&subgid, &["-g"]).await;
    if !uids && !gids {
        return Ok(None);
    }
    refuse_other_sources(root)?;
    let definitions = read(root, "/etc/login.defs")?;
    let taken: Vec<_> = ranges(&subuid).chain(ranges(&subgid)).map(|(_, range)| range).collect();
    let (min, max) = limits(&definitions);
    let high = free_range(&taken, (min.max(FIRST), max));
    let start = high.or_else(|| free_range(&taken, (min, max))).ok_or_else(|| {
        Error::new(
            ErrorKind::Conflict,
            format!("no {COUNT} ids in a row are free between SUB_UID_MIN and SUB_UID_MAX"),
        )
        .with_remedy("raise SUB_UID_MAX in /etc/login.defs")
    })?;
    Ok(Some(Change::AllocateSubIds(SubIds {
        user: user.name.clone(),
        start,
        count: COUNT,
        uids,
        gids,
    })))
}

/// Gives it. Whoever else gives out ranges may have taken it since it was seen to be free: then it is
/// given back, with [`ErrorKind::Busy`].
pub async fn apply(root: &Root, ids: &SubIds) -> Result<(), Error> {
    usermod(ids, "add").await?;
    let overlaps = |text: &str| {
        ranges(text).any(|(owner, range)| {
            range.overlaps(ids.range()) && (owner, range) != (ids.user.as_str(), ids.range())
        })
    };
    if overlaps(&read(root, SUBUID)?) || overlaps(&read(root, SUBGID)?) {
        usermod(ids, "del").await?;
        return Err(Error::new(
            ErrorKind::Busy,
            format!("somebody else was given {ids} at the same moment"),
        ));
    }
    Ok(())
}

/// Takes it away, if it is still there as it was given.
pub async fn undo(root: &Root, ids: &SubIds) -> Result<Vec<String>, Error> {
    let mut left = ids.clone();
    left.uids &= is_there(&read(root, SUBUID)?, ids);
    left.gids &= is_there(&read(root, SUBGID)?, ids);
    let mut notes = Vec::new();
    if (left.uids, left.gids) != (ids.uids, ids.gids) {
        notes.push(format!(
            "{ids} were changed by somebody else, and what is not as it was given is left alone"
        ));
    }
    if left.uids || left.gids {
        usermod(&left, "del").await?;
    }
    Ok(notes)
}

/// Where the files are not as the entry says.
pub fn drift(root: &Root, ids: &SubIds) -> Result<Vec<String>, Error> {
    let mut drift = Vec::new();
    for (is, file) in [(ids.uids, SUBUID), (ids.gids, SUBGID)] {
        if is && !is_there(&read(root, file)?, ids) {
            drift.push(format!("{file} does not have {}:{}:{}", ids.user, ids.start, ids.count));
        }
    }
    Ok(drift)
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    count: u32,
}

impl Range {
    fn end(self) -> u64 {
        u64::from(self.start) + u64::from(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        u64::from(self.start) < other.end() && u64::from(other.start) < self.end()
    }
}

/// Reads lines such as `alice:100000:65536`.
fn ranges(text: &str) -> impl Iterator<Item = (&str, Range)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((owner, Range { start, count }))
    })
}

fn total(text: &str, user: &User) -> u64 {
    let number = user.uid.to_string();
    ranges(text)
        .filter(|(owner, _)| *owner == user.name || *owner == number)
        .map(|(_, range)| u64::from(range.count))
        .sum()
}

fn is_there(text: &str, ids: &SubIds) -> bool {
    ranges(text).any(|(owner, range)| owner == ids.user && range == ids.range())
}

/// The lowest free range, as useradd(8) picks it.
fn free_range(taken: &[Range], (min, max): (u32, u32)) -> Option<u32> {
    let mut start = min;
    loop {
        let range = Range { start, count: COUNT };
        // The largest id is 2³²-2, since -1 means none.
        if range.end() > u64::from(max) + 1 || range.end() > u64::from(u32::MAX) {
            return None;
        }
        match taken
            .iter()
            .chain(&RESERVED)
            .filter(|other| other.overlaps(range))
            .map(|o| o.end())
            .max()
        {
            None => return Some(start),
            Some(end) => start = u32::try_from(end).ok()?,
        }
    }
}

/// `SUB_UID_MIN` and `SUB_UID_MAX` of login.defs(5).
fn limits(definitions: &str) -> (u32, u32) {
    let value = |name: &str, default| {
        let mut lines = definitions.lines().map(str::split_ascii_whitespace);
        lines
            .find_map(|mut words| {
                (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
            })
            .unwrap_or(default)
    };
    let (min, max) = DEFAULT_LIMITS;
    (value("SUB_UID_MIN", min), value("SUB_UID_MAX", max))
}

/// Where another source than the files is asked for the ranges, what is written to them has no effect.
fn refuse_other_sources(root: &Root) -> Result<(), Error> {
    let sources = read(root, "/etc/nsswitch.conf")?;
    let line = sources.lines().find_map(|line| line.trim().strip_prefix("subid:"));
    match line.map(str::trim) {
        None | Some("files") => Ok(()),
        Some(source) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the subordinate ids of this machine come from {source:?} (/etc/nsswitch.conf), not from files"),
        )
        .with_remedy("ask whoever runs that directory for a range of 65536 ids")),
    }
}

/// What getsubids(1) counts, which knows other sources than the files; 0 where there is none.
async fn by_tool(root: &Root, user: &User, options: &[&str]) -> u64 {
    if root.open(GETSUBIDS, rustix::fs::OFlags::PATH).is_err() {
        return 0;
    }
    let output = Command::new(GETSUBIDS).args(options).arg(&user.name).env_clear().output().await;
    let lines = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // Lines such as `0: alice 100000 65536`.
    let count = |line: &str| line.split_ascii_whitespace().next_back()?.parse::<u32>().ok();
    lines.unwrap_or_default().lines().filter_map(count).map(u64::from).sum()
}

async fn usermod(ids: &SubIds, action: &str) -> Result<(), Error> {
    let output = Command::new(USERMOD)
        .args(ids.options(action))
        .arg("--")
        .arg(&ids.user)
        .env_clear()
        .output()
        .await
        .map_err(|error| cannot("run", USERMOD, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().escape_debug().to_string();
    Err(Error::new(ErrorKind::System, format!("{USERMOD} ended with {}: {why}", output.status)))
}

fn read(root: &Root, path: &str) -> Result<String, Error> {
    let text = root.read(path).map_err(|error| cannot("read", path, &error))?;
    Ok(text.unwrap_or_default())
}

fn cannot(action: &str, what: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::System, format!("cannot {action} {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_nobody_elses() {
        let range = |start, count| Range { start, count };
        let limits = (100_000, 600_100_000);
        type Row<'a> = (&'a [Range], (u32, u32), Option<u32>);
        let table: &[Row<'_>] = &[
            (&[], limits, Some(100_000)),
            (&[range(100_000, 65536)], limits, Some(165_536)),
            // A hole that is large enough, and one that is not.
            (&[range(100_000, 10), range(200_000, 10)], limits, Some(100_010)),
            (&[range(100_000, 10), range(150_000, 10)], limits, Some(150_010)),
            // Of two that overlap, both are in the way.
            (&[range(100_000, 500_000), range(150_000, 10)], limits, Some(600_000)),
            // systemd's own.
            (&[], (60_000, 600_100_000), Some(65_520)),
            // Full, and at the end of all ids.
            (&[range(0, u32::MAX)], limits, None),
            (&[range(100_000, 600_000_000)], limits, None),
            (
                &[range(100_000, u32::MAX - 100_000 - 65_536)],
                (100_000, u32::MAX),
                Some(u32::MAX - 65_536),
            ),
            (&[range(100_000, u32::MAX - 100_000 - 65_535)], (100_000, u32::MAX), None),
        ];
        for (taken, limits, start) in table {
            assert_eq!(free_range(taken, *limits), *start, "{taken:?}");
        }
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(limits(""), DEFAULT_LIMITS);
        let text = "# SUB_UID_MIN 1\nSUB_UID_MIN\t\t200000\nSUB_UID_MAX x\nSUB_UID_COUNT 65536\n";
        assert_eq!(limits(text), (200_000, DEFAULT_LIMITS.1));
    }

    #[test]
    fn a_users_ids_are_counted() {
        let user = User { uid: 1000, gid: 1000, name: "alice".into() };
        let text = "alice:100000:65535\n1000:1:1\nalice2:1:1\nalice:x:1\n\n:::\n";
        assert_eq!(total(text, &user), 65536);
    }
}
