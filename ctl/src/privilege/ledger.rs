//! `privileges`: what was granted, what that changed, and where the machine is not so any more.

use rootlessd_api::{dbus::helper::to_grants, helper::Grant};
use serde_json::json;

use super::{
    grant::short,
    helper::{Helper, failure, failure_for_all},
};
use crate::{
    exit::Exit,
    failure::Failure,
    human::{Clock, printable, timestamp},
    output::{self, Palette},
};

/// Shows the caller's grants, or everybody's.
pub async fn list(all: bool, json: bool) -> Result<Exit, Failure> {
    let words = ["list".to_owned()];
    let failed = |error| match all {
        true => failure_for_all(error, &words),
        false => failure(error, &words),
    };
    let helper = Helper::connect().await.map_err(failed)?;
    let grants = match all {
        true => {
            let answer = helper.asking(async |helper| helper.list_all_grants().await).await;
            to_grants(answer.map_err(|asked| asked.failure(failed))?).map_err(Failure::Api)?
        }
        false => helper.grants().await.map_err(failed)?,
    };
    if json {
        output::json(&json!({ "grants": grants }))?;
    } else {
        output::text(&render(&grants, all, &Clock::system(), Palette::of_stdout()))?;
    }
    Ok(Exit::Ok)
}

/// The grants for a person, the oldest first.
fn render(grants: &[Grant], all: bool, clock: &Clock, palette: Palette) -> String {
    if grants.is_empty() {
        let whom = if all { "anybody" } else { "you" };
        return format!("Nothing was granted to {whom}.\n");
    }
    let Palette { faint, warning, .. } = palette;
    let mut text = String::new();
    for grant in grants {
        // Of others' grants the whole id is needed.
        let id = if all { &grant.id } else { short(&grant.id) };
        let whom = if all {
            format!("  {} ({})", printable(&grant.user), grant.uid)
        } else {
            String::new()
        };
        text.push_str(&format!("{id}{whom}  {}: {}\n", grant.verb, printable(&grant.text)));
        let since = timestamp(grant.since);
        text.push_str(&format!(
            "    {faint}since {}, {}{faint:#}\n",
            clock.date(since),
            clock.ago(since)
        ));
        for change in &grant.changes {
            text.push_str(&format!("    {}\n", printable(change)));
        }
        for drift in &grant.drift {
            text.push_str(&format!("    {warning}!{warning:#} {}\n", printable(drift)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn one_s_own() {
        let page = render(&samples::grants(), false, &samples::clock(), Palette::PLAIN);
        assert_eq!(
            page,
            "\
3f2a91c0  grant-ports: TCP port 80
    since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago
    a BPF program lets the engine listen on TCP port 80; undone by taking it off
    ! the running engine does not have it
3f2ab000  grant-ports: UDP port 443
    since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago
    a BPF program lets the engine listen on UDP port 443; undone by taking it off
c0ffee00  set-unprivileged-port-start: net.ipv4.ip_unprivileged_port_start = 0
    since Mon 2025-11-24 23:02:40 UTC, 3 min 5 s ago
    net.ipv4.ip_unprivileged_port_start: 1024 → 0
"
        );
    }

    #[test]
    fn everybody_s_have_whole_ids_and_names() {
        let mut grants = samples::grants();
        grants.truncate(1);
        grants[0].user = "u\x1b[2J".to_owned();
        let page = render(&grants, true, &samples::clock(), Palette::PLAIN);
        let first = page.lines().next().unwrap();
        assert_eq!(
            first,
            "3f2a91c0aaaaaaaaaaaaaaaaaaaaaaaa  u\\u{1b}[2J (1000)  grant-ports: TCP port 80"
        );
    }

    #[test]
    fn nothing() {
        let of = |all| render(&[], all, &samples::clock(), Palette::COLOUR);
        assert_eq!(of(false), "Nothing was granted to you.\n");
        assert_eq!(of(true), "Nothing was granted to anybody.\n");
    }
}
