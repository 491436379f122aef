//! The helper's API on the system bus.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant, proxy};

use crate::{
    Error, ErrorKind, Port,
    helper::{Grant, Outcome},
};

/// `rootlessd-helper`: does for the calling user what only root can.
///
/// What a grant changes is asked of polkit first, with the user's agent if the call allows
/// interaction. An outcome and a grant are dictionaries: see [`to_outcome`] and [`to_grant`].
#[proxy(
    interface = "org.rootlessd.Helper1",
    default_service = "org.rootlessd.Helper1",
    default_path = "/org/rootlessd/Helper1"
)]
pub trait Helper {
    /// Let the caller's engine listen on ports below 1024.
    #[zbus(allow_interactive_auth)]
    fn grant_ports(&self, ports: &[(&str, u16)]) -> zbus::Result<Dict>;
    /// Let everybody's RootlessKit listen on all of them.
    #[zbus(allow_interactive_auth)]
    fn grant_bind_capability(&self) -> zbus::Result<Dict>;
    /// Let everybody listen on all from a number on.
    #[zbus(allow_interactive_auth)]
    fn set_unprivileged_port_start(&self, start: u16) -> zbus::Result<Dict>;
    /// Let the caller's group, or all, ping.
    #[zbus(allow_interactive_auth)]
    fn set_ping_range(&self, range: &str) -> zbus::Result<Dict>;
    /// Let every user's systemd have cgroup controllers.
    #[zbus(allow_interactive_auth)]
    fn delegate_controllers(&self, controllers: &[&str]) -> zbus::Result<Dict>;
    /// Give the caller subordinate ids.
    #[zbus(allow_interactive_auth)]
    fn allocate_sub_ids(&self) -> zbus::Result<Dict>;
    /// Let everybody make user namespaces.
    #[zbus(allow_interactive_auth)]
    fn allow_user_namespaces(&self) -> zbus::Result<Dict>;
    /// Give the caller's engine, which is being started, the ports that were granted.
    fn attach_grants(&self) -> zbus::Result<Vec<(String, u16)>>;
    /// What was granted to the caller.
    fn list_grants(&self) -> zbus::Result<Vec<Dict>>;
    /// What was granted to anybody.
    #[zbus(allow_interactive_auth)]
    fn list_all_grants(&self) -> zbus::Result<Vec<Dict>>;
    /// Undo a grant.
    #[zbus(allow_interactive_auth)]
    fn revoke(&self, grant: &str) -> zbus::Result<Dict>;
}

/// A dictionary as it comes.
pub type Dict = HashMap<String, OwnedVariant>;

/// An outcome's dictionary: `grants as`, `needs as`, `notes as`, as [`Outcome`] has them.
pub fn outcome(outcome: &Outcome) -> HashMap<&'static str, Variant<'static>> {
    let needs: Vec<_> = outcome.needs.iter().map(|need| need.as_str()).collect();
    HashMap::from([
        ("grants", outcome.grants.clone().into()),
        ("needs", needs.into()),
        ("notes", outcome.notes.clone().into()),
    ])
}

/// A grant's dictionary: `id s`, `uid u`, `user s`, `verb s`, `text s`, `since t`, `ports a(sq)`,
/// `changes as`, `drift as`, as [`Grant`] has them.
pub fn grant(grant: &Grant) -> HashMap<&'static str, Variant<'static>> {
    HashMap::from([
        ("id", grant.id.clone().into()),
        ("uid", grant.uid.into()),
        ("user", grant.user.clone().into()),
        ("verb", grant.verb.as_str().into()),
        ("text", grant.text.clone().into()),
        ("since", grant.since.into()),
        ("ports", ports(&grant.ports).into()),
        ("changes", grant.changes.clone().into()),
        ("drift", grant.drift.clone().into()),
    ])
}

/// Ports as the bus has them.
pub fn ports(ports: &[Port]) -> Vec<(String, u16)> {
    ports.iter().map(|port| (port.protocol.to_string(), port.number)).collect()
}

/// Reads [`outcome`]. A need that is not known is left out: later versions may have more.
pub fn to_outcome(mut dict: Dict) -> Result<Outcome, Error> {
    let needs: Vec<String> = take(&mut dict, "needs")?;
    Ok(Outcome {
        grants: take(&mut dict, "grants")?,
        needs: needs.iter().filter_map(|need| need.parse().ok()).collect(),
        notes: take(&mut dict, "notes")?,
    })
}

/// Reads a list of [`grant`]s.
pub fn to_grants(dicts: Vec<Dict>) -> Result<Vec<Grant>, Error> {
    dicts.into_iter().map(to_grant).collect()
}

/// The helper's silence.
pub fn no_answer() -> Error {
    Error::new(ErrorKind::Timeout, "rootlessd-helper does not answer")
        .with_remedy("systemctl status rootlessd-helper")
}

/// Reads [`grant`].
pub fn to_grant(mut dict: Dict) -> Result<Grant, Error> {
    let verb: String = take(&mut dict, "verb")?;
    let ports: Vec<(String, u16)> = take(&mut dict, "ports")?;
    let port = |(protocol, number): &(String, u16)| Port::new(protocol, *number).map_err(strange);
    Ok(Grant {
        id: take(&mut dict, "id")?,
        uid: take(&mut dict, "uid")?,
        user: take(&mut dict, "user")?,
        verb: verb.parse().map_err(strange)?,
        text: take(&mut dict, "text")?,
        since: take(&mut dict, "since")?,
        ports: ports.iter().map(port).collect::<Result<_, _>>()?,
        changes: take(&mut dict, "changes")?,
        drift: take(&mut dict, "drift")?,
    })
}

fn take<T: TryFrom<OwnedVariant>>(dict: &mut Dict, key: &str) -> Result<T, Error> {
    let value = dict.remove(key).and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| strange(format!("its answer has no {key}")))
}

fn strange(why: String) -> Error {
    Error::new(ErrorKind::Internal, format!("the helper cannot be understood: {why}"))
}
