//! Subordinate ids: subuid(5), subgid(5), getsubids(1).

use std::{collections::BTreeMap, fs, path::Path};

use rootlessd_api::Reason;

use super::probe;
use crate::{dirs::Dirs, reasons::Code};

/// What Docker's documentation asks for, and what images count on (nobody is 65534).
const ENOUGH: u64 = 65536;
/// Where the range of the remedy begins: below are people and what useradd(8) gave out; systemd
/// leaves what follows to containers (its `docs/UIDS-GIDS.md`).
const FIRST: u64 = 524_288;
/// The largest id is 2³²-2.
const LAST: u64 = u32::MAX as u64 - 1;

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: u64,
    count: u64,
}

/// Checks whether the user has subordinate ids, and enough of them. The error says, in a sentence,
/// why that could not be found out this time.
pub async fn check(
    dirs: &Dirs,
    getsubids: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<Reason>, String> {
    let read = |path| fs::read_to_string(dirs.on_system(path)).unwrap_or_default();
    let files = (read("/etc/subuid"), read("/etc/subgid"));
    let remedy = remedy(dirs, &files.0, &files.1);
    let ask = |arguments| ask_tool(getsubids, arguments, environment);
    let user = dirs.user.as_str();
    let (uids, gids) = tokio::join!(ask(vec![user]), ask(vec!["-g", user]));
    // RootlessKit does so as well: what the tool does not know may be in the file.
    let uids = or_in_file(uids, &files.0, dirs)?;
    let gids = or_in_file(gids, &files.1, dirs)?;
    let user_ids = judge(uids, "user", "/etc/subuid", dirs, &remedy);
    Ok(user_ids.into_iter().chain(judge(gids, "group", "/etc/subgid", dirs, &remedy)).collect())
}

fn judge(count: u64, kind: &str, file: &str, dirs: &Dirs, remedy: &str) -> Option<Reason> {
    let is_user = kind == "user";
    let (missing, small) = match is_user {
        true => (Code::SubuidMissing, Code::SubuidSmall),
        false => (Code::SubgidMissing, Code::SubgidSmall),
    };
    let user = &dirs.user;
    match count {
        0 => Some(missing.reason_with_remedy(
            format!("{user} has no subordinate {kind} ids in {file}, which containers run under"),
            remedy,
        )),
        count if count < ENOUGH => Some(small.reason_with_remedy(
            format!(
                "{user} has only {count} subordinate {kind} ids in {file}; images with ids up to \
                 65535 cannot be unpacked"
            ),
            remedy,
        )),
        _ => None,
    }
}

/// What the tool counted, or what is in the file where it counted none.
fn or_in_file(of_tool: Result<u64, String>, text: &str, dirs: &Dirs) -> Result<u64, String> {
    match (of_tool, count_in_file(text, dirs)) {
        (Ok(0), in_file) => Ok(in_file),
        (Ok(of_tool), _) => Ok(of_tool),
        // Of other sources we know nothing then.
        (Err(why), 0) => Err(why),
        (Err(_), in_file) => Ok(in_file),
    }
}

/// The ids that getsubids(1) counts, which knows other sources than the files; 0 if it knows none.
/// An error if it might answer the next time.
async fn ask_tool(
    getsubids: Option<&Path>,
    arguments: Vec<&str>,
    environment: &BTreeMap<String, String>,
) -> Result<u64, String> {
    let Some(getsubids) = getsubids else { return Ok(0) };
    let answer = probe::ask(getsubids, &arguments, environment).await?;
    Ok(answer.map_or(0, |text| total(&ranges_of_tool(&text))))
}

/// Reads lines such as `0: alice 100000 65536`.
fn ranges_of_tool(output: &str) -> Vec<Range> {
    output
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().rev().map(|word| word.parse().ok());
            let (count, start) = (numbers.next()??, numbers.next()??);
            Some(Range { start, count })
        })
        .collect()
}

fn count_in_file(text: &str, dirs: &Dirs) -> u64 {
    let number = dirs.uid.to_string();
    let own: Vec<_> = ranges_of_file(text)
        .filter(|(owner, _)| *owner == dirs.user || *owner == number)
        .map(|(_, range)| range)
        .collect();
    total(&own)
}

/// Reads lines such as `alice:100000:65536`. A name may itself hold a backslash (`DOMAIN\alice`).
fn ranges_of_file(text: &str) -> impl Iterator<Item = (&str, Range)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((owner, Range { start, count }))
    })
}

fn total(ranges: &[Range]) -> u64 {
    ranges.iter().fold(0, |sum, range| sum.saturating_add(range.count))
}

/// The command that gives the user a range that is nobody else's, the same for users and groups.
fn remedy(dirs: &Dirs, subuid: &str, subgid: &str) -> String {
    let mut taken: Vec<_> =
        ranges_of_file(subuid).chain(ranges_of_file(subgid)).map(|(_, range)| range).collect();
    taken.sort_unstable();
    match free_range(&taken) {
        Some(Range { start, count }) => {
            let (end, user) = (start + count - 1, &dirs.user);
            format!("sudo usermod --add-subuids {start}-{end} --add-subgids {start}-{end} {user}")
        }
        None => "make room in /etc/subuid and /etc/subgid: no 65536 ids in a row are free".into(),
    }
}

/// The first 65536 ids that are in none of the ranges, which are sorted.
fn free_range(taken: &[Range]) -> Option<Range> {
    let start = taken.iter().fold(FIRST, |start, range| {
        let end = range.start.saturating_add(range.count);
        let overlaps = range.start < start.saturating_add(ENOUGH) && end > start;
        if overlaps { end } else { start }
    });
    (start <= LAST + 1 - ENOUGH).then_some(Range { start, count: ENOUGH })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Machine;

    async fn codes(machine: &Machine, tool: Option<&Path>) -> Vec<String> {
        let environment = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
        let reasons = check(&machine.dirs(), tool, &environment).await.expect("an answer");
        reasons.into_iter().map(|reason| reason.code).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn files_count_by_name_and_by_number() {
        let machine = Machine::bare();
        assert_eq!(codes(&machine, None).await, ["subuid-missing", "subgid-missing"]);
        machine.write("/etc/subuid", "bob:100000:65536\nalice:165536:65536\n");
        let uid = machine.uid();
        machine.write("/etc/subgid", &format!("{uid}:100000:1000\n# x\n{uid}:200000:1000\n"));
        assert_eq!(codes(&machine, None).await, ["subgid-small"]);
        machine.write("/etc/subgid", "alice:100000:32768\nalice:200000:32768\n");
        assert_eq!(codes(&machine, None).await, [""; 0]);
        machine.write("/etc/subuid", "alicex:1:65536\nalice:\nalice:x:65536\nalice:1\n");
        assert_eq!(codes(&machine, None).await, ["subuid-missing"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_tool_knows_more_than_the_files() {
        let machine = Machine::bare();
        let script = "[ \"$1\" = -g ] && exit 1; [ \"$1\" = alice ] && echo '0: alice 1 65536'";
        let tool = machine.program("/usr/bin/getsubids", script);
        assert_eq!(codes(&machine, Some(&tool)).await, ["subgid-missing"]);
        machine.write("/etc/subgid", "alice:100000:65536\n");
        assert_eq!(codes(&machine, Some(&tool)).await, [""; 0]);
    }

    #[test]
    fn the_remedy_overlaps_nobody() {
        let machine = Machine::bare();
        let rows = [
            ("", "", Some(524_288)),
            ("bob:100000:65536", "", Some(524_288)),
            ("bob:524288:65536", "", Some(589_824)),
            ("bob:524288:65536", "eve:589824:65536", Some(655_360)),
            ("bob:589823:10", "", Some(589_833)),
            ("bob:600000:65536", "", Some(524_288)),
            ("bob:0:4294967295", "", None),
            ("bob:524288:18446744073709551615", "", None),
        ];
        for (subuid, subgid, start) in rows {
            let remedy = remedy(&machine.dirs(), subuid, subgid);
            let expected = start.map_or("make room".to_owned(), |start: u64| {
                let end = start + 65535;
                format!(
                    "sudo usermod --add-subuids {start}-{end} --add-subgids {start}-{end} alice"
                )
            });
            assert!(remedy.starts_with(&expected), "{subuid} {subgid}: {remedy}");
        }
    }

    #[test]
    fn the_tool_s_lines_are_read() {
        let ranges = ranges_of_tool("0: DOMAIN\\alice 100000 65536\n1: alice 300000 10\nError\n");
        assert_eq!(ranges.iter().map(|range| range.count).collect::<Vec<_>>(), [65536, 10]);
    }
}
