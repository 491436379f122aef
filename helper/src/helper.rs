//! What the helper does, whoever asks: considers, grants, lists, revokes. Who may is decided before.

use rootlessd_api::{
    Error, ErrorKind, Port,
    helper::{Grant, Need, Outcome},
};
use tokio::sync::{Mutex, MutexGuard};
use tracing::{error, info};

use crate::{
    change::Change,
    ledger::{Entry, Ledger},
    request::Request,
    root::Root,
    systemd::Systemd,
    user::User,
    verbs::{capability, delegation, ports, subids, sysctl},
};

/// How often a range of ids is chosen anew when somebody else takes it at the same moment.
const RETRIES: u32 = 5;

/// The helper, on one machine.
#[derive(Debug)]
pub struct Helper {
    root: Root,
    systemd: Systemd,
    /// One operation at a time in this process; the ledger's lock is about other processes.
    turn: Mutex<()>,
}

/// The right to operate: the ledger is ours for as long as this lives.
struct Turn<'a> {
    ledger: Ledger<'a>,
    _turn: MutexGuard<'a, ()>,
}

impl Helper {
    /// The helper of a machine, or of a tree that stands for one.
    pub fn new(root: Root, systemd: Systemd) -> Self {
        Self { root, systemd, turn: Mutex::default() }
    }

    /// What a request would change: nothing, where everything is as it asks.
    pub async fn consider(&self, user: &User, request: &Request) -> Result<Vec<Change>, Error> {
        let turn = self.turn().await?;
        self.plan(user, request, &turn.ledger.entries).await
    }

    /// The same without the right to write anything.
    pub async fn look(&self, user: &User, request: &Request) -> Result<Vec<Change>, Error> {
        self.plan(user, request, &Ledger::look(&self.root)?).await
    }

    /// Does what a request asks, and writes it down: if that still is what somebody `agreed` to, the
    /// [`object`] of what was to be changed then.
    pub async fn grant(
        &self,
        user: &User,
        request: &Request,
        agreed: Option<&str>,
    ) -> Result<Outcome, Error> {
        let mut tries = 0;
        loop {
            match self.grant_once(user, request, agreed).await {
                Err(error) if error.kind == ErrorKind::Busy && tries < RETRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn grant_once(
        &self,
        user: &User,
        request: &Request,
        agreed: Option<&str>,
    ) -> Result<Outcome, Error> {
        let mut turn = self.turn().await?;
        let ledger = &mut turn.ledger;
        let changes = self.plan(user, request, &ledger.entries).await?;
        let Some(change) = changes.first().cloned() else { return Ok(Outcome::default()) };
        if agreed.is_some_and(|agreed| agreed != object(&changes)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "what would have to be changed is something else now than what was agreed to",
            )
            .with_remedy("try again"));
        }
        self.spare_systemd(&change)?;
        let before = ledger.entries.clone();
        let grants = ledger.begin(user, changes)?;
        match self.apply(user, &change, &before, &ledger.entries).await {
            Ok(mut outcome) => {
                // These alone: an earlier one may still be waiting for its undoing.
                for entry in &mut ledger.entries[before.len()..] {
                    entry.pending = false;
                }
                // Unless that is written down, the next operation undoes it.
                ledger.save()?;
                for entry in &ledger.entries[before.len()..] {
                    journal("granted", entry);
                }
                outcome.grants = grants;
                Ok(outcome)
            }
            Err(error) => {
                // Of a step that failed some may be done: a file is in its place, say, when the
                // directory cannot be synced.
                for entry in ledger.entries[before.len()..].to_vec() {
                    if self.undo(ledger, &entry).await.is_err() {
                        ledger.entries = before;
                        ledger.save()?;
                        break;
                    }
                }
                Err(error)
            }
        }
    }

    /// Undoes a grant, as far as nobody else changed the same.
    pub async fn revoke(&self, id: &str) -> Result<Outcome, Error> {
        let mut turn = self.turn().await?;
        let ledger = &mut turn.ledger;
        let entry = ledger.entries.iter_mut().find(|entry| entry.id == id);
        let Some(entry) = entry else { return Err(unknown(id)) };
        self.spare_systemd(&entry.change)?;
        // If this is cut short, the next operation goes on with it.
        entry.pending = true;
        let entry = entry.clone();
        ledger.save()?;
        let notes = self.undo(ledger, &entry).await?;
        journal("revoked", &entry);
        let needs = match entry.change {
            Change::GrantBindCapability { .. } => vec![Need::EngineRestart],
            Change::DelegateControllers { .. } => vec![Need::UserManagerRestart],
            _ => Vec::new(),
        };
        Ok(Outcome { grants: Vec::new(), needs, notes })
    }

    /// A grant.
    pub async fn find(&self, id: &str) -> Result<Entry, Error> {
        let turn = self.turn().await?;
        turn.ledger.entries.iter().find(|entry| entry.id == id).cloned().ok_or_else(|| unknown(id))
    }

    /// What was granted to a user, or to all, and whether the machine still has it.
    pub async fn list(&self, user: Option<&User>) -> Result<Vec<Grant>, Error> {
        let turn = self.turn().await?;
        let entries = &turn.ledger.entries;
        let shown = entries
            .iter()
            .filter(|entry| user.is_none_or(|user| entry.is_of(user.uid, &user.name)));
        let drift = |entry: &Entry| {
            // A look that fails says nothing about the others.
            self.drift(entry, entries).unwrap_or_else(|error| vec![error.to_string()])
        };
        Ok(shown.map(|entry| entry.to_grant(drift(entry))).collect())
    }

    /// Gives a user's engine, which is being started, the ports that the user was granted; which.
    pub async fn attach(&self, user: &User) -> Result<Vec<Port>, Error> {
        let turn = self.turn().await?;
        let ports = ports::granted(user.uid, &user.name, &turn.ledger.entries);
        ports::attach(&self.root, user.uid, &user.name, &turn.ledger.entries)?;
        Ok(ports.into_iter().collect())
    }

    /// Gives the capability again to programs that lost it, as in an upgrade of their package; which. It
    /// touches nothing else: it runs with the right to nothing else.
    pub async fn repair(&self) -> Result<Vec<String>, Error> {
        let _turn = self.turn.lock().await;
        let ledger = Ledger::open(&self.root)?;
        let mut repaired = Vec::new();
        for entry in ledger.entries.iter().filter(|entry| !entry.pending) {
            if let Change::GrantBindCapability { files } = &entry.change {
                for file in capability::lost(&self.root, files)? {
                    capability::apply(&self.root, std::slice::from_ref(&file))?;
                    journal("repaired", entry);
                    repaired.push(file.path);
                }
            }
        }
        Ok(repaired)
    }

    /// Waits for its turn. What an earlier operation left half done is undone first.
    async fn turn(&self) -> Result<Turn<'_>, Error> {
        let guard = self.turn.lock().await;
        let mut ledger = Ledger::open(&self.root)?;
        let pending: Vec<_> =
            ledger.entries.iter().filter(|entry| entry.pending).cloned().collect();
        for entry in pending {
            match self.undo(&mut ledger, &entry).await {
                Ok(_) => journal("undone, as it was cut short", &entry),
                // It is tried again the next time. Nobody else has to wait for it.
                Err(error) => journal_refusal("undoing", Some(entry.uid), &error),
            }
        }
        Ok(Turn { ledger, _turn: guard })
    }

    async fn plan(
        &self,
        user: &User,
        request: &Request,
        entries: &[Entry],
    ) -> Result<Vec<Change>, Error> {
        let root = &self.root;
        let change = match request {
            Request::Ports(ports) => return ports::plan(root, user, ports, entries),
            Request::BindCapability => capability::plan(root)?,
            Request::PortStart(start) => sysctl::plan_port_start(root, *start)?,
            Request::PingRange(range) => sysctl::plan_ping_range(root, user, *range)?,
            Request::Controllers(wanted) => {
                delegation::plan(root, &self.systemd, user, wanted, entries).await?
            }
            Request::SubIds => subids::plan(root, user).await?,
            Request::UserNamespaces => sysctl::plan_user_namespaces(root)?,
        };
        Ok(change.into_iter().collect())
    }

    /// Makes a change, of one verb, that is in the ledger `after` it. All of it, or nothing.
    async fn apply(
        &self,
        user: &User,
        change: &Change,
        before: &[Entry],
        after: &[Entry],
    ) -> Result<Outcome, Error> {
        let root = &self.root;
        let mut outcome = Outcome::default();
        match change {
            Change::GrantPorts { .. } => {
                if !ports::attach(root, user.uid, &user.name, after)? {
                    outcome.notes.push(
                        "no engine runs in rootlessd-engine.scope: the next one there has it"
                            .into(),
                    );
                }
            }
            Change::GrantBindCapability { files } => {
                capability::apply(root, files)?;
                outcome.notes = capability::watch_all(&self.systemd, files, true).await;
                outcome.needs.push(Need::EngineRestart);
            }
            Change::DelegateControllers { controllers } => {
                delegation::apply(root, &self.systemd, before, after).await?;
                outcome.needs = delegation::needs(root, user, controllers)?;
            }
            Change::AllocateSubIds(ids) => {
                subids::apply(root, ids).await?;
                outcome.needs.push(Need::EngineRestart);
            }
            _ => sysctl::apply(root, change.settings(), before, after)?,
        }
        Ok(outcome)
    }

    /// Undoes an entry and takes it out of the ledger.
    async fn undo(&self, ledger: &mut Ledger<'_>, entry: &Entry) -> Result<Vec<String>, Error> {
        let root = &self.root;
        let with = ledger.entries.clone();
        let mut without = with.clone();
        without.retain(|other| other.id != entry.id);
        let notes = match &entry.change {
            Change::GrantPorts { .. } => {
                ports::attach(root, entry.uid, &entry.user, &without)?;
                Vec::new()
            }
            Change::GrantBindCapability { files } => {
                let mut notes = capability::watch_all(&self.systemd, files, false).await;
                notes.extend(capability::undo(root, files)?);
                notes
            }
            Change::DelegateControllers { .. } => {
                delegation::undo(root, &self.systemd, &with, &without).await?
            }
            Change::AllocateSubIds(ids) => subids::undo(root, ids).await?,
            _ => sysctl::undo(root, entry, &with, &mut without)?,
        };
        ledger.entries = without;
        ledger.save()?;
        Ok(notes)
    }

    /// Whoever may have this done and undone again and again keeps systemd from its work.
    fn spare_systemd(&self, change: &Change) -> Result<(), Error> {
        match change {
            Change::GrantBindCapability { .. } | Change::DelegateControllers { .. } => {
                self.systemd.spare()
            }
            _ => Ok(()),
        }
    }

    fn drift(&self, entry: &Entry, entries: &[Entry]) -> Result<Vec<String>, Error> {
        let root = &self.root;
        match &entry.change {
            Change::GrantPorts { .. } => ports::drift(root, entry, entries),
            Change::GrantBindCapability { files } => capability::drift(root, files),
            Change::DelegateControllers { controllers } => {
                delegation::drift(root, entry.uid, controllers, entries)
            }
            Change::AllocateSubIds(ids) => subids::drift(root, ids),
            _ => sysctl::drift(root, entry, entries),
        }
    }
}

/// What a question about changes names.
pub fn object(changes: &[Change]) -> String {
    changes.iter().map(Change::object).collect::<Vec<_>>().join(", ")
}

/// Everything that is changed is in the journal, to be found by its fields.
fn journal(what: &str, entry: &Entry) {
    info!(
        rootlessd_verb = %entry.change.verb(),
        rootlessd_uid = entry.uid,
        rootlessd_grant = %entry.id,
        rootlessd_result = what,
        "{} of user {} ({}): {what}", entry.change, entry.uid, entry.user.escape_debug()
    );
}

/// So is everything that is not.
pub fn journal_refusal(what: &str, uid: Option<u32>, why: &Error) {
    error!(
        rootlessd_verb = what,
        rootlessd_uid = uid,
        rootlessd_result = %why.kind,
        "{what} of user {}: {}", uid.map_or_else(|| "?".into(), |uid| uid.to_string()),
        why.message.escape_debug()
    );
}

fn unknown(id: &str) -> Error {
    Error::new(ErrorKind::NoSuchGrant, format!("there is no grant {id:?}"))
        .with_remedy("rootlessctl privileges")
}
