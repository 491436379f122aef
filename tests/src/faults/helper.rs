//! What root does for a user goes wrong: rows 18 to 20.

use std::time::Instant;

use super::{
    Promise, Row, Trial, ms,
    trial::{AS_USER, alive, compare, settled, timed_by_root},
};
use crate::{
    grants::{Caller as _, REINSTALL, ROOTLESSKIT, call},
    machine::Machine,
};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            number: "18a",
            fault: "nobody to ask",
            promise: Promise { detected: ms(2000), ..Promise::NONE },
            ours: |machine, _| refused(machine, "true", "true"),
            stock: None,
        },
        Row {
            number: "18b",
            fault: "polkitd is gone",
            promise: Promise { detected: ms(10_000), ..Promise::NONE },
            ours: |machine, _| {
                refused(
                    machine,
                    "systemctl mask -q --runtime polkit; systemctl stop polkit",
                    "systemctl unmask -q --runtime polkit; systemctl start polkit",
                )
            },
            stock: None,
        },
        Row {
            number: "19",
            fault: "the helper is killed at work",
            promise: Promise { recovered: ms(5000), ..Promise::NONE },
            ours: killed,
            stock: None,
        },
        Row {
            number: "20b",
            fault: "a package takes RootlessKit's capability",
            promise: Promise { recovered: ms(5000), ..Promise::NONE },
            ours: |machine, _| without_capability(machine),
            stock: None,
        },
    ]
}

/// Without somebody who agrees the answer is no, soon, and nothing has changed.
fn refused(machine: &Machine, take: &str, give_back: &str) -> Trial {
    let before = alive(machine);
    machine.root_sh(take).ok();
    let begin = Instant::now();
    let told = machine.try_ctl(["ports", "allow", "81"]).fails();
    let mut trial = Trial { detected: Some(begin.elapsed()), ..Trial::default() };
    trial.check(!told.is_empty(), || "it says nothing".into());
    let grants = machine.root_sh("cat /var/lib/rootlessd/ledger.json 2>/dev/null || :").ok();
    trial.check(!grants.contains("81"), || grants);
    machine.root_sh(give_back).ok();
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

/// Killed at some moment of a grant, the next call finds it done or undone, and never half.
fn killed(machine: &Machine, round: u32) -> Trial {
    let before = alive(machine);
    machine.decide(&[("set-unprivileged-port-start", "yes"), ("revoke", "yes")]);
    // A call with a fresh helper takes some 10 ms.
    let after = 1 + round * 700 % 12_000;
    let script = format!(
        "{AS_USER} {} q 80 >/dev/null 2>&1 &
         perl -e 'select undef, undef, undef, {after} / 1e6'; systemctl kill -s KILL rootlessd-helper; wait",
        call("SetUnprivilegedPortStart").join(" ")
    );
    machine.root_sh(&script).ok();
    let begin = Instant::now();
    let grants = machine.grants().len();
    let mut trial = Trial { recovered: Some(begin.elapsed()), ..Trial::default() };
    let is = || {
        machine.root_sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /etc/sysctl.d").ok()
    };
    let now = is();
    let has = |is: &str| (is.starts_with("80"), is.contains("60-rootlessd.conf"));
    trial.check(has(&now) == (grants == 1, grants == 1), || format!("{grants} grants, and {now}"));
    machine.revoke_all();
    let now = is();
    trial.check(has(&now) == (false, false), || format!("nothing granted, and {now}"));
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}

/// What was granted is given to the new file, too.
fn without_capability(machine: &Machine) -> Trial {
    let before = alive(machine);
    machine.decide(&[("grant-bind-capability", "yes"), ("revoke", "yes")]);
    machine.grant("GrantBindCapability", &[]);
    let check = format!("getcap {ROOTLESSKIT} | grep -q cap_net_bind_service");
    let fault = format!("{REINSTALL}\nbegin=$(now)");
    let inode = || machine.root(["stat", "-c", "%i", ROOTLESSKIT]).ok();
    let old = inode();
    let mut trial = timed_by_root(machine, &fault, &check);
    trial.check(inode() != old, || "there is no new file".into());
    let drift = machine.grants()[0]["drift"]["data"].clone();
    trial.check(drift == serde_json::json!([]), || drift.to_string());
    // A helper that was started before the new file was there sees the old one only, and refuses to take it back.
    machine.root(["systemctl", "stop", "rootlessd-helper"]).ok();
    machine.revoke_all();
    trial.check(!machine.root_sh(&check).status.success(), || "it is not taken back".into());
    trial.containers = Some(compare(&before, &settled(machine, &before)));
    trial
}
