//! Cgroup controllers for the systemd of every user: `Delegate=` of systemd.resource-control(5).
//!
//! What counts is the user's own `cgroup.controllers`: after a reload systemd's property has the new
//! controllers already, while the cgroup gets them when the user's systemd is started anew.

use std::collections::BTreeSet;

use rootlessd_api::{
    Error, ErrorKind,
    helper::{Controller, Need},
};

use crate::{
    change::Change,
    error::{cannot, not_ours},
    ledger::Entry,
    root::Root,
    systemd::Systemd,
    user::User,
    verbs::ports,
};

/// The drop-in for every `user@UID.service`.
pub const FILE: &str = "/etc/systemd/system/user@.service.d/60-rootlessd-delegate.conf";
const DIRECTORY: &str = "/etc/systemd/system/user@.service.d";
const HEAD: &str = "# Written by rootlessd-helper from its ledger: \"rootlessctl privileges\" shows why, and undoes it.\n";
/// The first systemd that manages cpuset.
const CPUSET_SINCE: u32 = 244;

/// The controllers that the user does not have yet.
pub async fn plan(
    root: &Root,
    systemd: &Systemd,
    user: &User,
    wanted: &BTreeSet<Controller>,
    entries: &[Entry],
) -> Result<Option<Change>, Error> {
    let machine = read(root, "/sys/fs/cgroup/cgroup.controllers")?.unwrap_or_default();
    if let Some(missing) = wanted.iter().find(|controller| !machine.contains(controller)) {
        let text = format!(
            "this machine's cgroup v2 has no {missing} controller, so that there is none to delegate"
        );
        let remedy = match machine.is_empty() {
            true => "boot with systemd.unified_cgroup_hierarchy=1",
            false => "boot without cgroup_disable=, or a kernel that has it",
        };
        return Err(Error::new(ErrorKind::Unsupported, text).with_remedy(remedy));
    }
    let asked: BTreeSet<_> = granted(entries);
    let have = of_user(root, user.uid)?.unwrap_or_default();
    let missing: BTreeSet<_> =
        wanted.iter().copied().filter(|one| !have.contains(one) && !asked.contains(one)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let version = systemd.version().await?;
    if missing.contains(&Controller::Cpuset) && version < CPUSET_SINCE {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "systemd {version} does not know cpuset; {CPUSET_SINCE} is the first that does"
            ),
        ));
    }
    Ok(Some(Change::DelegateControllers { controllers: missing }))
}

/// Writes the drop-in and has systemd read it.
pub async fn apply(
    root: &Root,
    systemd: &Systemd,
    before: &[Entry],
    after: &[Entry],
) -> Result<(), Error> {
    root.make_directory(DIRECTORY, 0o755).map_err(|error| cannot("make", DIRECTORY, &error))?;
    if !put(root, &[render(before), render(after)], render(after))? {
        return Err(not_ours(FILE));
    }
    if let Err(error) = systemd.reload().await {
        take_back(root, &[render(after)], before)?;
        return Err(error);
    }
    Ok(())
}

/// Writes the drop-in without a removed entry's controllers.
pub async fn undo(
    root: &Root,
    systemd: &Systemd,
    with: &[Entry],
    without: &[Entry],
) -> Result<Vec<String>, Error> {
    if !take_back(root, &[render(with), render(without)], without)? {
        return Ok(vec![format!("{FILE} was edited by somebody else, and is left alone")]);
    }
    systemd.reload().await?;
    Ok(vec!["the controllers go with the next start of the user's systemd".into()])
}

/// Makes the drop-in as it is without something, if it is one of those `known`; whether it was.
fn take_back(root: &Root, known: &[Option<String>], without: &[Entry]) -> Result<bool, Error> {
    let is_ours = put(root, known, render(without))?;
    if is_ours && render(without).is_none() {
        // A directory that others use as well stays.
        root.remove_empty_directory(DIRECTORY)
            .map_err(|error| cannot("remove", DIRECTORY, &error))?;
    }
    Ok(is_ours)
}

/// What is needed before the user has the controllers.
pub fn needs(
    root: &Root,
    user: &User,
    controllers: &BTreeSet<Controller>,
) -> Result<Vec<Need>, Error> {
    // A user without a systemd gets them with it.
    let have = of_user(root, user.uid)?;
    let complete = have.is_none_or(|have| have.is_superset(controllers));
    Ok(if complete { Vec::new() } else { vec![Need::UserManagerRestart] })
}

/// Where the machine is not as the entry says.
pub fn drift(
    root: &Root,
    uid: u32,
    controllers: &BTreeSet<Controller>,
    entries: &[Entry],
) -> Result<Vec<String>, Error> {
    let mut drift = Vec::new();
    match root.read(FILE).map_err(|error| cannot("read", FILE, &error))? {
        None => drift.push(format!("{FILE} is gone")),
        text if text != render(entries) => drift.push(format!("{FILE} was edited")),
        Some(_) => {}
    }
    if let Some(have) = of_user(root, uid)? {
        let missing: BTreeSet<_> = controllers.difference(&have).copied().collect();
        if !missing.is_empty() {
            drift.push(format!(
                "user@{uid}.service does not have {} yet: it has to be started anew",
                words(&missing).replace(' ', ", ")
            ));
        }
    }
    Ok(drift)
}

/// The drop-in as the entries want it; `None` for no file.
pub fn render(entries: &[Entry]) -> Option<String> {
    let controllers = granted(entries);
    (!controllers.is_empty())
        .then(|| format!("{HEAD}[Service]\nDelegate={}\n", words(&controllers)))
}

/// Their names, with spaces.
pub fn words(controllers: &BTreeSet<Controller>) -> String {
    controllers.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(" ")
}

fn granted(entries: &[Entry]) -> BTreeSet<Controller> {
    let sets = entries.iter().filter_map(|entry| match &entry.change {
        Change::DelegateControllers { controllers } => Some(controllers),
        _ => None,
    });
    sets.flatten().copied().collect()
}

/// The controllers of the user's systemd; `None` while there is none.
fn of_user(root: &Root, uid: u32) -> Result<Option<BTreeSet<Controller>>, Error> {
    read(root, &format!("{}/cgroup.controllers", ports::user_cgroup(uid)))
}

fn read(root: &Root, path: &str) -> Result<Option<BTreeSet<Controller>>, Error> {
    let text = root.read(path).map_err(|error| cannot("read", path, &error))?;
    // The kernel has more controllers than containers use.
    Ok(text.map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect()))
}

fn put(root: &Root, known: &[Option<String>], wanted: Option<String>) -> Result<bool, Error> {
    root.put(FILE, known, wanted).map_err(|error| cannot("write", FILE, &error))
}
