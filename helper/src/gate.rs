//! The gate: every call comes through it. It says who calls, as the bus knows, keeps one user from
//! holding up the others, and asks polkit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use rootlessd_api::{Error, ErrorKind, helper::Action};
use tokio::{sync::watch, time::timeout};
use zbus::{
    Connection,
    fdo::DBusProxy,
    message::{Flags, Header},
    names::{UniqueName, WellKnownName},
    proxy::CacheProperties,
};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

/// How many requests of one user may be under way at a time.
const MOST_REQUESTS: u32 = 4;
/// How many of its calls are heard in a second: more than anybody has use for, and so few that the helper
/// has time for others.
const MOST_A_SECOND: u32 = 200;
/// How many callers' uids are remembered. A connection's uid never changes, and its name is never
/// given to another.
const MOST_CALLERS: usize = 1024;
/// How long polkit, and the bus, may take where nobody is asked.
const ANSWER: Duration = Duration::from_millis(800);
/// How long the bus may take to start polkit, for the first question since the machine was booted. Where it
/// runs, and hangs, the answer is no at once nevertheless.
const START: Duration = Duration::from_secs(10);
/// How long a person may take.
const PERSON: Duration = Duration::from_secs(120);

/// What is known of calls that are under way.
#[derive(Clone, Debug)]
pub struct Gate {
    shared: Arc<Mutex<Shared>>,
    active: Arc<watch::Sender<u32>>,
}

#[derive(Debug, Default)]
struct Shared {
    uids: HashMap<String, u32>,
    under_way: HashMap<u32, u32>,
    /// How many calls of each user there were since then.
    calls: HashMap<u32, u32>,
    since: Option<Instant>,
    checks: u64,
}

/// A call that was let in.
#[derive(Debug)]
pub struct Caller {
    /// Whose it is.
    pub uid: u32,
    connection: Connection,
    sender: UniqueName<'static>,
    subject: Subject,
    /// Whether it allows that somebody is asked.
    interactive: bool,
    gate: Gate,
}

impl Default for Gate {
    fn default() -> Self {
        Self { shared: Arc::default(), active: Arc::new(watch::Sender::new(0)) }
    }
}

impl Gate {
    /// Lets a call in, if its user has not too many under way.
    pub async fn enter(
        &self,
        connection: &Connection,
        header: &Header<'_>,
    ) -> Result<Caller, Error> {
        let sender = header.sender().ok_or_else(|| denied("the call has no sender"))?.to_owned();
        let subject = Subject::new_for_message_header(header)
            .map_err(|error| denied(&format!("the call has no sender: {error}")))?;
        let known = self.shared().uids.get(sender.as_str()).copied();
        let uid = match known {
            Some(uid) => uid,
            None => self.remember(&sender, uid_of(connection, &sender).await?),
        };
        {
            let mut shared = self.shared();
            shared.count(uid)?;
            let count = shared.under_way.entry(uid).or_default();
            if *count >= MOST_REQUESTS {
                return Err(Error::new(
                    ErrorKind::LimitsExceeded,
                    format!("{MOST_REQUESTS} requests of user {uid} are under way; wait for them"),
                ));
            }
            *count += 1;
        }
        self.active.send_modify(|active| *active += 1);
        Ok(Caller {
            uid,
            connection: connection.clone(),
            sender,
            subject,
            interactive: header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH),
            gate: self.clone(),
        })
    }

    /// Waits until no call has been under way for as long.
    pub async fn idle(&self, long: Duration) {
        let mut active = self.active.subscribe();
        loop {
            if active.wait_for(|active| *active == 0).await.is_err() {
                return;
            }
            if timeout(long, active.changed()).await.is_err() {
                return;
            }
        }
    }

    fn remember(&self, sender: &UniqueName<'_>, uid: u32) -> u32 {
        let mut shared = self.shared();
        if shared.uids.len() >= MOST_CALLERS {
            shared.uids.clear();
        }
        shared.uids.insert(sender.to_string(), uid);
        uid
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn count(&mut self, uid: u32) -> Result<(), Error> {
        if self.since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            self.since = Some(Instant::now());
            self.calls.clear();
        }
        let calls = self.calls.entry(uid).or_default();
        if *calls >= MOST_A_SECOND {
            return Err(Error::new(
                ErrorKind::LimitsExceeded,
                format!("{MOST_A_SECOND} calls of user {uid} in a second are the most"),
            ));
        }
        *calls += 1;
        Ok(())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut shared = self.gate.shared();
        if let Some(count) = shared.under_way.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                shared.under_way.remove(&self.uid);
            }
        }
        drop(shared);
        self.gate.active.send_modify(|active| *active -= 1);
    }
}

impl Caller {
    /// Asks polkit whether the caller may; an error if not, if nobody can be asked, or if there is no
    /// answer. `details` are what its question names.
    pub async fn authorize(
        &self,
        action: Action,
        details: &HashMap<&str, &str>,
    ) -> Result<(), Error> {
        self.start_polkit().await?;
        let authority = AuthorityProxy::builder(&self.connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(|error| unavailable(&error.to_string()))?;
        let id = action.id();
        // First without a person: a polkit that is not there is then known at once.
        let quiet = CheckAuthorizationFlags::empty();
        let check = authority.check_authorization(&self.subject, &id, details, quiet, "");
        let result = timeout(ANSWER, check)
            .await
            .map_err(|_| unavailable("it does not answer"))?
            .map_err(|error| unavailable(&error.to_string()))?;
        let result = match result {
            result if result.is_authorized => return self.recheck().await,
            result if result.is_challenge && self.interactive => {
                self.ask(&authority, &id, details).await?
            }
            result => result,
        };
        match (result.is_authorized, result.is_challenge) {
            (true, _) => self.recheck().await,
            (false, true) => Err(Error::new(
                ErrorKind::InteractionRequired,
                match self.interactive {
                    true => "an administrator has to agree, and there is nobody to ask: no polkit agent runs in this session",
                    false => "an administrator has to agree, and this call does not let anybody be asked",
                },
            )
            .with_remedy("run the same in a terminal with rootlessctl, or as root with rootlessd-helper apply")),
            (false, false) => Err(denied(&format!("polkit says no to {id}"))),
        }
    }

    /// Has polkit started, if it does not run.
    async fn start_polkit(&self) -> Result<(), Error> {
        let bus = DBusProxy::new(&self.connection).await.map_err(|error| lost(&error))?;
        let name = WellKnownName::from_static_str_unchecked("org.freedesktop.PolicyKit1");
        match timeout(ANSWER, bus.name_has_owner(name.clone().into())).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => return Err(unavailable(&error.to_string())),
            Err(_) => return Err(unavailable("the bus does not answer")),
        }
        match timeout(START, bus.start_service_by_name(name, 0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unavailable(&error.to_string())),
            Err(_) => Err(unavailable("it does not start")),
        }
    }

    /// Lets a person be asked, for as long as the caller is there.
    async fn ask(
        &self,
        authority: &AuthorityProxy<'_>,
        action: &str,
        details: &HashMap<&str, &str>,
    ) -> Result<zbus_polkit::policykit1::AuthorizationResult, Error> {
        let bus = DBusProxy::new(&self.connection).await.map_err(|error| lost(&error))?;
        let mut gone = bus
            .receive_name_owner_changed_with_args(&[(0, self.sender.as_str()), (2, "")])
            .await
            .map_err(|error| lost(&error))?;
        // One that went before that is not told of any more.
        self.recheck().await?;
        let cancellation = {
            let mut shared = self.gate.shared();
            shared.checks += 1;
            format!("rootlessd-{}", shared.checks)
        };
        let interactive = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
        let check = authority.check_authorization(
            &self.subject,
            action,
            details,
            interactive,
            &cancellation,
        );
        let why = tokio::select! {
            result = check => return result.map_err(|error| unavailable(&error.to_string())),
            _ = gone.next() => denied("the caller has gone"),
            () = tokio::time::sleep(PERSON) => denied("nobody answered the question in two minutes"),
        };
        // The question is taken back; polkit may have gone, too.
        let _ = authority.cancel_check_authorization(&cancellation).await;
        Err(why)
    }

    /// A caller that has gone has nothing done for it: polkit could not tell whom it was asked about.
    async fn recheck(&self) -> Result<(), Error> {
        match uid_of(&self.connection, &self.sender).await? {
            uid if uid == self.uid => Ok(()),
            _ => Err(denied("the caller is somebody else now")),
        }
    }
}

async fn uid_of(connection: &Connection, sender: &UniqueName<'_>) -> Result<u32, Error> {
    let bus = DBusProxy::new(connection).await.map_err(|error| lost(&error))?;
    let asked = bus.get_connection_unix_user(sender.clone().into());
    match timeout(ANSWER, asked).await {
        Ok(Ok(uid)) => Ok(uid),
        Ok(Err(_)) => Err(denied("the caller has gone")),
        Err(_) => Err(denied("the bus does not say who calls")),
    }
}

fn lost(error: &zbus::Error) -> Error {
    denied(&format!("the bus does not say who calls: {error}"))
}

fn denied(text: &str) -> Error {
    Error::new(ErrorKind::AccessDenied, text)
}

/// No answer is no.
fn unavailable(why: &str) -> Error {
    Error::new(ErrorKind::PolkitUnavailable, format!("polkit cannot be asked: {why}"))
        .with_remedy("systemctl status polkit; as root, rootlessd-helper apply does without it")
}
