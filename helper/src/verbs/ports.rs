//! Ports below 1024 for one user's engine, by BPF programs on its scope: see [`crate::bpf`].

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use rootlessd_api::{
    Error, ErrorKind, Port,
    helper::MOST_PORTS,
    names::{ENGINE_SCOPE, SLICE},
};
use rustix::fs::OFlags;

use crate::{bpf, change::Change, ledger::Entry, root::Root, user::User, verbs::sysctl::Key};

/// Where the links are pinned, so that they outlive the helper.
const BPFFS: &str = "/sys/fs/bpf/rootlessd";
/// The root of all cgroups, where systemd mounts it.
const CGROUP: &str = "/sys/fs/cgroup";

/// The ports that the user has not been granted yet, and that are privileged here.
pub fn plan(
    root: &Root,
    user: &User,
    ports: &BTreeSet<Port>,
    entries: &[Entry],
) -> Result<Vec<Change>, Error> {
    let start: u16 = Key::PortStart.read(root)?.and_then(|text| text.parse().ok()).unwrap_or(1024);
    let granted = granted(user.uid, &user.name, entries);
    let missing: Vec<_> = ports
        .iter()
        .copied()
        .filter(|port| port.number < start && !granted.contains(port))
        .collect();
    if granted.len() + missing.len() > MOST_PORTS {
        return Err(Error::new(
            ErrorKind::LimitsExceeded,
            format!("{} ports are granted already, and {MOST_PORTS} are the most", granted.len()),
        )
        .with_remedy("rootlessctl ports revoke PORT"));
    }
    if !missing.is_empty() {
        let cgroup = open(root, CGROUP)?;
        let cgroup = cgroup.ok_or_else(|| {
            unsupported(bpf::Error::Unsupported(format!("there are no cgroups at {CGROUP}")))
        })?;
        bpf::check_support(Path::new(BPFFS), cgroup.as_fd()).map_err(unsupported)?;
    }
    Ok(missing.into_iter().map(|port| Change::GrantPorts { port }).collect())
}

/// Lets the user's engine listen on what the entries grant, and on nothing else. Whether there is an
/// engine: one that starts later is given it then.
pub fn attach(root: &Root, uid: u32, name: &str, entries: &[Entry]) -> Result<bool, Error> {
    let ports = granted(uid, name, entries);
    let scope = scope(root, uid)?;
    match &scope {
        Some(scope) if !ports.is_empty() => {
            bpf::attach_ports(Path::new(BPFFS), uid, scope.as_fd(), &ports).map_err(unsupported)?;
        }
        _ => bpf::detach(Path::new(BPFFS), uid).map_err(unsupported)?,
    }
    Ok(scope.is_some())
}

/// Where the kernel does not have what the entries grant.
pub fn drift(root: &Root, entry: &Entry, entries: &[Entry]) -> Result<Vec<String>, Error> {
    let uid = entry.uid;
    let Some(scope) = scope(root, uid)? else { return Ok(Vec::new()) };
    let ports = granted(uid, &entry.user, entries);
    let attached =
        bpf::attached(Path::new(BPFFS), uid, scope.as_fd(), &ports).map_err(unsupported)?;
    Ok(match attached {
        true => Vec::new(),
        false => vec!["the running engine does not have it: the next start gives it".into()],
    })
}

/// What the entries grant to a user.
pub fn granted(uid: u32, name: &str, entries: &[Entry]) -> BTreeSet<Port> {
    let own = entries.iter().filter(|entry| entry.is_of(uid, name));
    own.filter_map(|entry| entry.change.port()).collect()
}

/// The cgroup of a user's systemd.
pub fn user_cgroup(uid: u32) -> String {
    format!("{CGROUP}/user.slice/user-{uid}.slice/user@{uid}.service")
}

/// The scope of the user's running engine, if it is the user's.
fn scope(root: &Root, uid: u32) -> Result<Option<File>, Error> {
    let path = format!("{}/{SLICE}/{ENGINE_SCOPE}", user_cgroup(uid));
    let Some(scope) = open(root, &path)? else { return Ok(None) };
    let owner = scope.metadata().map_err(|error| cannot_open(&path, &error))?.uid();
    match owner == uid {
        true => Ok(Some(scope)),
        false => {
            Err(Error::new(ErrorKind::Conflict, format!("{path} does not belong to user {uid}")))
        }
    }
}

/// Opens a cgroup, if it is there. Its mode does not matter so: it may be the user's own.
fn open(root: &Root, path: &str) -> Result<Option<File>, Error> {
    match root.open(path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(|error| cannot_open(path, &error)),
    }
}

fn cannot_open(path: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::System, format!("cannot open {path}: {error}"))
}

fn unsupported(error: bpf::Error) -> Error {
    match error {
        bpf::Error::Unsupported(_) => Error::new(ErrorKind::Unsupported, error.to_string())
            .with_remedy("rootlessctl ports allow --all-below-1024 --by capability"),
        _ => Error::new(ErrorKind::System, error.to_string()),
    }
}
