//! Subordinate ids: subuid(5), subgid(5), getsubids(1).

use std::{collections::BTreeMap, fs, path::Path};

use rootlessd_api::Reason;

use super::probe;
use crate::{dirs::Dirs, reasons::Code};

/// What Docker's documentation asks for, and what images count on (nobody is 65534).
const ENOUGH: u64 = 65536;
/// What gives the user a range of both kinds that is nobody else's.
const REMEDY: &str = "rootlessctl subids allocate";

/// Checks whether the user has subordinate ids, and enough of them. The error says, in a sentence,
/// why that could not be found out this time.
pub async fn check(
    dirs: &Dirs,
    getsubids: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<Reason>, String> {
    let read = |path| fs::read_to_string(dirs.on_system(path)).unwrap_or_default();
    let files = (read("/etc/subuid"), read("/etc/subgid"));
    let ask = |arguments| ask_tool(getsubids, arguments, environment);
    let user = dirs.user.as_str();
    let (uids, gids) = tokio::join!(ask(vec![user]), ask(vec!["-g", user]));
    // RootlessKit does so as well: what the tool does not know may be in the file.
    let uids = or_in_file(uids, &files.0, dirs)?;
    let gids = or_in_file(gids, &files.1, dirs)?;
    let user_ids = judge(uids, "user", "/etc/subuid", dirs);
    Ok(user_ids.into_iter().chain(judge(gids, "group", "/etc/subgid", dirs)).collect())
}

fn judge(count: u64, kind: &str, file: &str, dirs: &Dirs) -> Option<Reason> {
    let is_user = kind == "user";
    let (missing, small) = match is_user {
        true => (Code::SubuidMissing, Code::SubuidSmall),
        false => (Code::SubgidMissing, Code::SubgidSmall),
    };
    let user = &dirs.user;
    match count {
        0 => Some(missing.reason_with_remedy(
            format!("{user} has no subordinate {kind} ids in {file}, which containers run under"),
            REMEDY,
        )),
        count if count < ENOUGH => Some(small.reason_with_remedy(
            format!(
                "{user} has only {count} subordinate {kind} ids in {file}; images with ids up to \
                 65535 cannot be unpacked"
            ),
            REMEDY,
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
    Ok(answer.map_or(0, |text| count_of_tool(&text)))
}

/// Counts in lines such as `0: alice 100000 65536`.
fn count_of_tool(output: &str) -> u64 {
    let count = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().rev().map(|word| word.parse::<u64>().ok());
        let (count, _start) = (numbers.next()??, numbers.next()??);
        Some(count)
    };
    total(output.lines().filter_map(count))
}

/// Counts in lines such as `alice:100000:65536`, of which some are the user's. A name may itself hold a
/// backslash (`DOMAIN\alice`).
fn count_in_file(text: &str, dirs: &Dirs) -> u64 {
    let number = dirs.uid.to_string();
    let count = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (_start, count) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse().ok()?);
        (owner == dirs.user || owner == number).then_some(count)
    };
    total(text.lines().filter_map(count))
}

fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
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
    fn the_tool_s_lines_are_read() {
        let output = "0: DOMAIN\\alice 100000 65536\n1: alice 300000 10\nError\n";
        assert_eq!(count_of_tool(output), 65546);
    }
}
