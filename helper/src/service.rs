//! `org.rootlessd.Helper1` on the system bus: the only way in, for as long as there is work.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rootlessd_api::{
    Error,
    dbus::{Failure, helper as dict},
    helper::{Action, BUS_NAME, OBJECT_PATH, Outcome},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use zbus::{Connection, Variant, interface, message::Header};

use crate::{
    change::Change,
    gate::{Caller, Gate},
    helper::{Helper, journal_refusal, object},
    request::{Few, Request, short},
    user::User,
};

/// How long the helper stays without work.
const IDLE: Duration = Duration::from_secs(30);
/// How long it goes on answering after it gave its name back: what was sent before that is answered.
const DRAIN: Duration = Duration::from_millis(500);

type Dict = HashMap<&'static str, Variant<'static>>;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever polkit lets do this.
    Action(Action),
    /// Everybody: it is about what is the caller's own already.
    Own,
    /// Everybody, if it is the caller's own and nobody else's; else whoever polkit lets.
    OwnOrAction,
}

/// The access of every method there is.
pub const ACCESS: [(&str, Access); 11] = [
    ("GrantPorts", Access::Action(Action::GrantPorts)),
    ("GrantBindCapability", Access::Action(Action::GrantBindCapability)),
    ("SetUnprivilegedPortStart", Access::Action(Action::SetUnprivilegedPortStart)),
    ("SetPingRange", Access::Action(Action::SetPingRange)),
    ("DelegateControllers", Access::Action(Action::DelegateControllers)),
    ("AllocateSubIds", Access::Action(Action::AllocateSubIds)),
    ("AllowUserNamespaces", Access::Action(Action::AllowUserNamespaces)),
    ("AttachGrants", Access::Own),
    ("ListGrants", Access::Own),
    ("ListAllGrants", Access::Action(Action::ListAllGrants)),
    ("Revoke", Access::OwnOrAction),
];

/// Serves the helper until there is no work, or systemd says that it should end.
pub async fn run(helper: Helper, connection: &Connection) -> zbus::Result<()> {
    let gate = Gate::default();
    let service = Service::new(helper, gate.clone());
    connection.object_server().at(OBJECT_PATH, service).await?;
    connection.request_name(BUS_NAME).await?;
    notify(&[sd_notify::NotifyState::Ready]);
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        () = gate.idle(IDLE) => {}
        _ = end.recv() => {}
        () = connection.closed() => return Ok(()),
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    // From here on the bus starts another one for whoever calls.
    connection.release_name(BUS_NAME).await?;
    tokio::time::sleep(DRAIN).await;
    gate.idle(Duration::ZERO).await;
    Ok(())
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("systemd cannot be told how it goes: {error}");
    }
}

/// The object.
#[derive(Debug)]
pub struct Service {
    helper: Arc<Helper>,
    gate: Gate,
}

impl Service {
    /// The object, behind a gate.
    pub fn new(helper: Helper, gate: Gate) -> Self {
        Self { helper: Arc::new(helper), gate }
    }

    /// Every request for a grant: the arguments first, then whether there is anything to change,
    /// then whether somebody agrees.
    async fn grant(
        &self,
        header: &Header<'_>,
        connection: &Connection,
        request: Result<Request, Error>,
    ) -> Result<Dict, Failure> {
        let caller = self.gate.enter(connection, header).await?;
        let outcome = self.grant_to(&caller, request).await;
        Ok(dict::outcome(&told(header, caller.uid, outcome)?))
    }

    async fn grant_to(
        &self,
        caller: &Caller,
        request: Result<Request, Error>,
    ) -> Result<Outcome, Error> {
        let (user, request) = (User::of(caller.uid)?, request?);
        let changes = self.helper.consider(&user, &request).await?;
        if changes.is_empty() {
            return Ok(Outcome::default());
        }
        let (object, ports) = (object(&changes), ports(&changes));
        let details =
            HashMap::from([("user", user.name.as_str()), ("object", &object), ("ports", &ports)]);
        caller.authorize(request.verb().into(), &details).await?;
        self.helper.grant(&user, &request, Some(&object)).await
    }

    async fn revoke_for(&self, caller: &Caller, id: &str) -> Result<Outcome, Error> {
        let entry = self.helper.find(short(id)?).await?;
        let own = User::of(caller.uid).is_ok_and(|user| entry.is_of(user.uid, &user.name));
        if !(own && entry.change.is_own()) {
            let action = if own { Action::Revoke } else { Action::RevokeOthers };
            let object = entry.change.to_string();
            let details = HashMap::from([("user", entry.user.as_str()), ("object", &object)]);
            caller.authorize(action, &details).await?;
        }
        self.helper.revoke(id).await
    }
}

/// What rootless Docker needs root for, done for the calling user: for one who agrees where that is
/// an administrator's decision (polkit), written down, and undone on request.
///
/// What the methods that grant something answer, and how they fail, is said at the first of them.
#[interface(name = "org.rootlessd.Helper1")]
impl Service {
    /// Let the caller's engine, and nothing else, listen on ports that need privilege: at most 64, each
    /// "tcp" or "udp" and a number.
    ///
    /// outcome, as of every method that grants something: "grants" (as), the ids of what is now granted, empty
    /// where nothing had to be changed, and then nobody was asked; "needs" (as), what is still needed:
    /// "engine-restart", "user-manager-restart", and words may be added; "notes" (as), sentences for people. It
    /// fails with a name below org.rootlessd.Error, or with AccessDenied, InvalidArgs,
    /// InteractiveAuthorizationRequired or LimitsExceeded of org.freedesktop.DBus.Error.
    #[zbus(out_args("outcome"))]
    async fn grant_ports(
        &self,
        ports: Few<(String, u16)>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        let ports = ports.0.iter().map(|(protocol, number)| (protocol.as_str(), *number));
        self.grant(&header, connection, Request::ports(ports)).await
    }

    /// Let the distribution's RootlessKit listen on every port, whoever runs it: the file capability
    /// cap_net_bind_service.
    #[zbus(out_args("outcome"))]
    async fn grant_bind_capability(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        self.grant(&header, connection, Ok(Request::BindCapability)).await
    }

    /// Let everybody listen on every port from `start` on, which is below 1024:
    /// net.ipv4.ip_unprivileged_port_start.
    #[zbus(out_args("outcome"))]
    async fn set_unprivileged_port_start(
        &self,
        start: u16,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        self.grant(&header, connection, Request::port_start(start)).await
    }

    /// Let the caller's group ("own") or every group ("all") send ICMP echo requests:
    /// net.ipv4.ping_group_range.
    #[zbus(out_args("outcome"))]
    async fn set_ping_range(
        &self,
        range: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        self.grant(&header, connection, Request::ping_range(range)).await
    }

    /// Let the systemd of every user have cgroup controllers: "cpu", "cpuset", "io", "memory", "pids".
    #[zbus(out_args("outcome"))]
    async fn delegate_controllers(
        &self,
        controllers: Few<String>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        let controllers = controllers.0.iter().map(String::as_str);
        self.grant(&header, connection, Request::controllers(controllers)).await
    }

    /// Give the caller 65536 subordinate user and group ids that are nobody else's, if the caller has
    /// fewer.
    #[zbus(out_args("outcome"))]
    async fn allocate_sub_ids(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        self.grant(&header, connection, Ok(Request::SubIds)).await
    }

    /// Let everybody make user namespaces, where kernel.unprivileged_userns_clone or
    /// user.max_user_namespaces says no.
    #[zbus(out_args("outcome"))]
    async fn allow_user_namespaces(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        self.grant(&header, connection, Ok(Request::UserNamespaces)).await
    }

    /// Let the caller's engine, whose scope is new, listen on the ports that were granted before; which.
    /// Nobody is asked.
    #[zbus(out_args("ports"))]
    async fn attach_grants(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<(String, u16)>, Failure> {
        let caller = self.gate.enter(connection, &header).await?;
        let attach = async || self.helper.attach(&User::of(caller.uid)?).await;
        Ok(dict::ports(&told(&header, caller.uid, attach().await)?))
    }

    /// What was granted to the caller: a dictionary each, with `id` (s), `uid` (u), `user` (s), `verb` (s, such as
    /// "grant-ports"), `text` (s, what it is about), `since` (t, µs of CLOCK_REALTIME), `ports` (a(sq)), `changes`
    /// (as, what was changed and how it is undone), `drift` (as, where the machine is not as it says).
    #[zbus(out_args("grants"))]
    async fn list_grants(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Failure> {
        let caller = self.gate.enter(connection, &header).await?;
        let list = async || self.helper.list(Some(&User::of(caller.uid)?)).await;
        let grants = told(&header, caller.uid, list().await)?;
        Ok(grants.iter().map(dict::grant).collect())
    }

    /// The same of all users.
    #[zbus(out_args("grants"))]
    async fn list_all_grants(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Failure> {
        let caller = self.gate.enter(connection, &header).await?;
        let list = async || {
            // Root's own call names nobody whom the user database knows, and needs no question.
            let user = User::of(caller.uid).map_or_else(|_| "root".into(), |user| user.name);
            let details = HashMap::from([("user", user.as_str())]);
            caller.authorize(Action::ListAllGrants, &details).await?;
            self.helper.list(None).await
        };
        Ok(told(&header, caller.uid, list().await)?.iter().map(dict::grant).collect())
    }

    /// Undo what a grant changed, if nobody else changed the same since. For one's own ports nobody is
    /// asked.
    #[zbus(out_args("outcome"))]
    async fn revoke(
        &self,
        grant: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Failure> {
        let caller = self.gate.enter(connection, &header).await?;
        let outcome = self.revoke_for(&caller, grant).await;
        Ok(dict::outcome(&told(&header, caller.uid, outcome)?))
    }
}

/// The ports among them, for an administrator's rules: `80/tcp,443/udp`.
fn ports(changes: &[Change]) -> String {
    let ports = changes.iter().filter_map(|change| Some(change.port()?.to_string()));
    ports.collect::<Vec<_>>().join(",")
}

/// Every refusal is in the journal.
fn told<T>(header: &Header<'_>, uid: u32, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|error| {
        let method = header.member().map_or("?", |member| member.as_str());
        journal_refusal(method, Some(uid), error);
    })
}
