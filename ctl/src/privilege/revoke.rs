//! Giving back what was granted.

use rootlessd_api::{
    Error, ErrorKind, Port,
    dbus::helper::to_outcome,
    helper::{Grant, Need, Outcome, Verb},
};

use super::{
    cli::DryRun,
    grant::{offer_restart, short, show_changes, told},
    helper::{Helper, failure},
    request::list,
    tell_supervisor,
};
use crate::{exit::Exit, failure::Failure, human::printable, output};

/// How long an id is.
const ID: usize = 32;

/// What is given back.
#[derive(Clone, Debug)]
pub enum Which {
    /// The caller's own grants of these ports.
    Ports(Vec<Port>),
    /// The caller's own grants of all ports, by either means.
    AllBelow1024,
    /// A grant whose id begins so.
    Id(String),
}

/// Gives it back, or shows what that would undo.
pub async fn run(which: &Which, dry: DryRun, json: bool) -> Result<Exit, Failure> {
    let lookup = ["list".to_owned()];
    let helper = Helper::connect().await.map_err(|error| failure(error, &lookup))?;
    let grants = helper.grants().await.map_err(|error| failure(error, &lookup))?;
    let found = find(which, &grants).map_err(Failure::Api)?;
    if dry.dry_run {
        let changes = found.iter().flat_map(|found| match found {
            Found::Own(grant) => grant.changes.clone(),
            Found::Others(id) => vec![format!("grant {id}: it is not yours to look at")],
        });
        return show_changes(&changes.collect::<Vec<_>>(), json);
    }
    let mut outcome = Outcome::default();
    for found in &found {
        let one = revoke(&helper, found).await?;
        for need in one.needs {
            if !outcome.needs.contains(&need) {
                outcome.needs.push(need);
            }
        }
        outcome.notes.extend(one.notes);
    }
    tell_supervisor().await;
    if json {
        output::json(&outcome)?;
        return Ok(Exit::Ok);
    }
    let what: Vec<_> = found.iter().map(Found::text).collect();
    output::text(&format!("Given back: {}.\n{}", list(&what), told(&outcome)))?;
    if outcome.needs.contains(&Need::EngineRestart) {
        offer_restart().await?;
    }
    Ok(Exit::Ok)
}

/// A grant that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found<'a> {
    Own(&'a Grant),
    /// Of another user, by its whole id: an administrator may.
    Others(&'a str),
}

impl Found<'_> {
    fn id(&self) -> &str {
        match self {
            Self::Own(grant) => &grant.id,
            Self::Others(id) => id,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Own(grant) => format!("{} ({})", printable(&grant.text), grant.verb),
            Self::Others(id) => short(id).to_owned(),
        }
    }
}

async fn revoke(helper: &Helper, found: &Found<'_>) -> Result<Outcome, Failure> {
    let words = ["revoke".to_owned(), found.id().to_owned()];
    let answer = match found {
        // Of one's own ports nobody is asked.
        Found::Own(grant) if grant.verb == Verb::GrantPorts => {
            let answer = helper.quietly(helper.proxy().revoke(found.id())).await;
            answer.map_err(|error| failure(error, &words))?
        }
        _ => {
            let answer = helper.asking(async |helper| helper.revoke(found.id()).await).await;
            answer.map_err(|asked| asked.failure(|error| failure(error, &words)))?
        }
    };
    to_outcome(answer).map_err(Failure::Api)
}

fn find<'a>(which: &'a Which, grants: &'a [Grant]) -> Result<Vec<Found<'a>>, Error> {
    match which {
        Which::Ports(ports) => {
            let grant_of = |port: &Port| {
                let grant = grants.iter().find(|grant| grant.ports.contains(port));
                grant.ok_or_else(|| none(format!("port {port} was not granted to you")))
            };
            let mut found: Vec<Found<'_>> = Vec::new();
            for port in ports {
                let grant = Found::Own(grant_of(port)?);
                if !found.contains(&grant) {
                    found.push(grant);
                }
            }
            Ok(found)
        }
        Which::AllBelow1024 => {
            let is_such = |grant: &&Grant| {
                matches!(grant.verb, Verb::GrantBindCapability | Verb::SetUnprivilegedPortStart)
            };
            let found: Vec<_> = grants.iter().filter(is_such).map(Found::Own).collect();
            match found.is_empty() {
                true => Err(none("you had no grant of all ports".to_owned())),
                false => Ok(found),
            }
        }
        Which::Id(id) => {
            let found: Vec<_> = grants.iter().filter(|grant| grant.id.starts_with(id)).collect();
            match *found {
                [grant] => Ok(vec![Found::Own(grant)]),
                [] if id.len() == ID => Ok(vec![Found::Others(id)]),
                [] => Err(none(format!(
                    "no grant of yours has an id that begins with {id}; to undo another user's, \
                     give the whole id"
                ))),
                _ => Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "{} grants have ids that begin with {id}: give more of it",
                        found.len()
                    ),
                )),
            }
        }
    }
}

fn none(text: String) -> Error {
    Error::new(ErrorKind::NoSuchGrant, text)
        .with_remedy("rootlessctl privileges shows those there are")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn ids(which: &Which) -> Result<Vec<String>, ErrorKind> {
        let grants = samples::grants();
        let found = find(which, &grants).map_err(|error| error.kind)?;
        Ok(found.iter().map(|found| short(found.id()).to_owned()).collect())
    }

    #[test]
    fn grants_are_found_by_port_by_kind_and_by_id() {
        let ports =
            |words: &[&str]| Which::Ports(words.iter().map(|word| word.parse().unwrap()).collect());
        let id = |id: &str| Which::Id(id.to_owned());
        let whole = "0123456789abcdef0123456789abcdef";
        for (which, expected) in [
            (ports(&["80"]), Ok(vec!["3f2a91c0"])),
            (ports(&["443/udp", "80", "80/tcp"]), Ok(vec!["3f2ab000", "3f2a91c0"])),
            // All or nothing.
            (ports(&["80", "81"]), Err(ErrorKind::NoSuchGrant)),
            (ports(&["443"]), Err(ErrorKind::NoSuchGrant)),
            (Which::AllBelow1024, Ok(vec!["c0ffee00"])),
            (id("3f2a9"), Ok(vec!["3f2a91c0"])),
            (id("c"), Ok(vec!["c0ffee00"])),
            (id("3f2a"), Err(ErrorKind::InvalidArgument)),
            (id("dead"), Err(ErrorKind::NoSuchGrant)),
            (id(whole), Ok(vec!["01234567"])),
        ] {
            let expected = expected.map(|ids| ids.iter().map(ToString::to_string).collect());
            assert_eq!(ids(&which), expected, "{which:?}");
        }
    }
}
