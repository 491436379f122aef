//! The ledger: what was granted to whom, and what the machine was like before.
//!
//! It is read anew for each operation, under a lock, and written whole before and after the machine
//! is changed. An entry that is still marked as pending was cut short, and is undone by the next
//! operation.

use std::{
    fs::File,
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{Flock, FlockArg};
use rootlessd_api::{Error, ErrorKind, helper::Grant};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{change::Change, error::cannot, root::Root, user::User};

/// Where it is, in a directory that is root's alone.
const DIRECTORY: &str = "/var/lib/rootlessd";
const PATH: &str = "/var/lib/rootlessd/ledger.json";
const LOCK: &str = "lock";
const VERSION: u32 = 1;
/// The most entries of one user: each port is one, and of the rest there are few.
const MOST_ENTRIES: usize = 96;

/// What a ledger has of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// Who asked.
    pub uid: u32,
    /// The name that uid had then.
    pub user: String,
    /// When, in µs of CLOCK_REALTIME.
    pub since: u64,
    /// Whether the change was begun and has not been told to be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
}

impl Entry {
    /// Whether it is a user's. A uid that was given to somebody else since does not inherit it.
    pub fn is_of(&self, uid: u32, name: &str) -> bool {
        self.uid == uid && self.user == name
    }

    /// What callers see of it.
    pub fn to_grant(&self, drift: Vec<String>) -> Grant {
        Grant {
            id: self.id.clone(),
            uid: self.uid,
            user: self.user.clone(),
            verb: self.change.verb(),
            text: self.change.to_string(),
            since: self.since,
            ports: self.change.port().into_iter().collect(),
            changes: self.change.describe(),
            drift,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    entries: Vec<Entry>,
}

/// The ledger, locked: nobody else reads or changes it, or what it is about, meanwhile.
#[derive(Debug)]
pub struct Ledger<'a> {
    /// The entries, the oldest first.
    pub entries: Vec<Entry>,
    root: &'a Root,
    _lock: Flock<File>,
}

impl<'a> Ledger<'a> {
    /// Waits for the lock, and reads. What one that was killed left unfinished goes.
    pub fn open(root: &'a Root) -> Result<Self, Error> {
        root.make_directory(DIRECTORY, 0o700).map_err(|error| cannot("make", DIRECTORY, &error))?;
        let lock = lock(root).map_err(|error| cannot("lock", DIRECTORY, &error))?;
        root.remove_unfinished(PATH);
        Ok(Self { entries: read(root)?, root, _lock: lock })
    }

    /// Only reads, for a dry run, which changes nothing. To all but root it looks empty: what is in it
    /// is not theirs to see.
    pub fn look(root: &Root) -> Result<Vec<Entry>, Error> {
        match root.read(PATH) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Vec::new()),
            _ => read(root),
        }
    }

    /// Writes it.
    pub fn save(&self) -> Result<(), Error> {
        let content = Content { version: VERSION, entries: self.entries.clone() };
        serde_json::to_string_pretty(&content)
            .map_err(io::Error::from)
            .and_then(|text| self.root.replace(PATH, &(text + "\n"), 0o600))
            .map_err(|error| cannot("write", PATH, &error))
    }

    /// Adds what is about to be changed; the ids, in order.
    pub fn begin(&mut self, user: &User, changes: Vec<Change>) -> Result<Vec<String>, Error> {
        let own = self.entries.iter().filter(|entry| entry.is_of(user.uid, &user.name)).count();
        if own + changes.len() > MOST_ENTRIES {
            return Err(Error::new(
                ErrorKind::LimitsExceeded,
                format!("{} has {own} grants already, and {MOST_ENTRIES} are the most", user.name),
            )
            .with_remedy("rootlessctl privileges revoke ID"));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut ids = Vec::new();
        for change in changes {
            let id = random_id().map_err(|error| cannot("get", "random bits", &error))?;
            ids.push(id.clone());
            self.entries.push(Entry {
                id,
                uid: user.uid,
                user: user.name.clone(),
                since: since.as_micros() as u64,
                pending: true,
                change,
            });
        }
        self.save()?;
        Ok(ids)
    }
}

fn lock(root: &Root) -> io::Result<Flock<File>> {
    let directory = root.directory(DIRECTORY)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
    Flock::lock(file.into(), FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn read(root: &Root) -> Result<Vec<Entry>, Error> {
    let text = root.read(PATH).map_err(|error| cannot("read", PATH, &error))?;
    let Some(text) = text else { return Ok(Vec::new()) };
    let content: Content =
        serde_json::from_str(&text).map_err(|error| unreadable(&error.to_string()))?;
    match content.version {
        VERSION => Ok(content.entries),
        version => Err(unreadable(&format!("it has the version {version}, not {VERSION}"))),
    }
}

/// Nothing is guessed about a ledger: what it was to undo would be lost.
fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorKind::System,
        format!("{PATH} cannot be understood, and nothing was changed: {why}"),
    )
    .with_remedy(format!(
        "put {PATH} back from a backup, or move it away, and its grants stay as they are"
    ))
}

fn random_id() -> io::Result<String> {
    let mut bits = [0; 16];
    let mut filled = 0;
    while filled < bits.len() {
        filled +=
            rustix::rand::getrandom(&mut bits[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rootlessd_api::{Port, helper::Controller};

    use super::*;
    use crate::verbs::{
        capability::FileCapability,
        subids::SubIds,
        sysctl::{Key, Setting},
    };

    #[test]
    fn what_is_written_is_read() {
        let setting =
            |key, value: &str| vec![Setting { key, value: value.into(), before: "1024".into() }];
        let changes = vec![
            Change::GrantPorts { port: Port::new("udp", 443).unwrap() },
            Change::GrantBindCapability { files: vec![FileCapability { path: "/a".into() }] },
            Change::SetUnprivilegedPortStart { settings: setting(Key::PortStart, "80") },
            Change::SetPingRange { settings: setting(Key::PingRange, "0 1") },
            Change::DelegateControllers { controllers: BTreeSet::from([Controller::Cpu]) },
            Change::AllocateSubIds(SubIds {
                user: "alice".into(),
                start: 524_288,
                count: 65536,
                uids: true,
                gids: false,
            }),
            Change::AllowUserNamespaces { settings: setting(Key::UsernsClone, "1") },
        ];
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("var/lib")).unwrap();
        let root = Root::tree(tree.path()).unwrap();
        let alice = User { uid: 1000, gid: 1000, name: "alice".into() };
        let mut ledger = Ledger::open(&root).unwrap();
        ledger.begin(&alice, changes.clone()).unwrap();
        assert_eq!(ledger.entries.len(), changes.len());
        assert_eq!(Ledger::look(&root).unwrap(), ledger.entries);
    }
}
