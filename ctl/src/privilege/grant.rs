//! A request for a grant, and what came of it.

use rootlessd_api::{
    Error, ErrorKind, JobKind, Port, State,
    dbus::helper::to_outcome,
    helper::{Need, Outcome},
};
use serde_json::json;

use super::{
    apply, ask,
    cli::How,
    helper::{self, Helper},
    request::Request,
    tell_supervisor,
};
use crate::{
    cli, exit::Exit, failure::Failure, human::printable, job, output, supervisor::Supervisor,
};

/// Asks for it, or shows what it would change.
pub async fn run(request: &Request, how: How, json: bool) -> Result<Exit, Failure> {
    if how.dry.dry_run {
        return dry_run(request, json).await;
    }
    if let Some(warning) = request.warning().filter(|_| !how.yes) {
        agree(warning).await?;
    }
    let words = request.words();
    let helper = Helper::connect().await.map_err(|error| helper::failure(error, &words))?;
    let answer = helper.asking(async |helper| request.send(helper).await).await;
    let outcome = answer.map_err(|asked| asked.failure(|error| helper::failure(error, &words)))?;
    let outcome = to_outcome(outcome).map_err(Failure::Api)?;
    if matches!(request, Request::Ports(_)) {
        tell_supervisor().await;
    }
    if json {
        output::json(&outcome)?;
        return Ok(Exit::Ok);
    }
    output::text(&(result(request, &outcome) + &told(&outcome)))?;
    if outcome.needs.contains(&Need::EngineRestart) && !how.yes {
        offer_restart().await?;
    }
    Ok(Exit::Ok)
}

/// Shows changes that are not made.
pub fn show_changes(changes: &[String], json: bool) -> Result<Exit, Failure> {
    if json {
        output::json(&json!({ "changes": changes }))?;
    } else if changes.is_empty() {
        output::text("Nothing would have to be changed.\n")?;
    } else {
        let lines = changes.iter().map(|change| format!("{}\n", printable(change)));
        output::text(&lines.collect::<String>())?;
    }
    Ok(Exit::Ok)
}

/// What a change still needs, and what else a person should know.
pub fn told(outcome: &Outcome) -> String {
    let mut text = String::new();
    for need in &outcome.needs {
        text.push_str(&format!("  still needed: {}\n", what_to_do(*need)));
    }
    for note in &outcome.notes {
        text.push_str(&format!("  note: {}\n", printable(note)));
    }
    text
}

/// Restarts the engine, if it is up and somebody says so.
pub async fn offer_restart() -> Result<(), Failure> {
    if ask::is_possible()
        && engine_is_up().await
        && ask::yes("Restart the engine now? Its containers are stopped for it.").await?
    {
        let request = cli::Request { wait: true, no_block: false, timeout: None };
        job::run(JobKind::Restart, request, false).await?;
    }
    Ok(())
}

async fn dry_run(request: &Request, json: bool) -> Result<Exit, Failure> {
    let words = match request {
        // The helper knows the ledger, which is root's alone.
        Request::Ports(ports) => match not_granted(ports).await {
            ports if ports.is_empty() => return show_changes(&[], json),
            ports => Request::Ports(ports).words(),
        },
        request => request.words(),
    };
    show_changes(&apply::dry_run(&words).await?, json)
}

/// Those that were not granted, as far as that is known.
async fn not_granted(ports: &[Port]) -> Vec<Port> {
    let grants = helper::grants_briefly().await.unwrap_or_default();
    let granted = |port: &Port| grants.iter().any(|grant| grant.ports.contains(port));
    ports.iter().copied().filter(|port| !granted(port)).collect()
}

/// Has a person agree to what affects others.
async fn agree(warning: &str) -> Result<(), Failure> {
    let first = || warning.replace('\n', " ");
    if !ask::is_possible() {
        return Err(Failure::Api(
            Error::new(ErrorKind::InteractionRequired, first())
                .with_remedy("the same with --yes, if that is what you want"),
        ));
    }
    if ask::yes(&format!("{warning}\nIs that what you want?")).await? {
        return Ok(());
    }
    Err(Failure::Api(Error::new(ErrorKind::AccessDenied, "you did not agree; nothing was changed")))
}

async fn engine_is_up() -> bool {
    let status = async { Supervisor::find(None)?.raw_status().await };
    let status = status.await.ok();
    let state = status.as_ref().and_then(|status| status["state"].as_str()?.parse::<State>().ok());
    state.is_some_and(State::is_up)
}

fn result(request: &Request, outcome: &Outcome) -> String {
    let done = request.done();
    if outcome.grants.is_empty() {
        return format!("{done} Nothing had to be changed.\n");
    }
    let mut text = format!("{done}\n");
    if let Request::Controllers(_) = request {
        text.push_str("  to verify it: rootlessctl status shows the engine's controllers\n");
    }
    let undo = match (request, &*outcome.grants) {
        (Request::Ports(ports), _) => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            format!("ports revoke {}", ports.join(" "))
        }
        (_, [id, ..]) => format!("privileges revoke {}", short(id)),
        (_, []) => return text,
    };
    text.push_str(&format!("  to undo it: rootlessctl {undo}\n"));
    text
}

/// As much of an id as a person types.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn what_to_do(need: Need) -> String {
    match need {
        Need::EngineRestart => "rootlessctl restart, unless the engine is stopped".to_owned(),
        Need::UserManagerRestart => format!(
            "log out everywhere and in again; or sudo systemctl restart user@{}.service, which ends \
             all services that you run, the engine among them",
            rustix::process::geteuid().as_raw()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(request: &Request, outcome: &Outcome) -> String {
        result(request, outcome) + &told(outcome)
    }

    #[test]
    fn what_was_done_and_what_is_still_needed() {
        let id = "3f2a91c0aaaaaaaaaaaaaaaaaaaaaaaa".to_owned();
        let ports = Request::Ports(vec!["80".parse().unwrap(), "443/udp".parse().unwrap()]);
        let outcome = Outcome {
            grants: vec![id.clone(), id.clone()],
            needs: Vec::new(),
            notes: vec![
                "no engine runs in rootlessd-engine.scope: the next one there has it".to_owned(),
            ],
        };
        assert_eq!(
            page(&ports, &outcome),
            "Your engine may listen on 80/tcp and 443/udp.\n  \
             to undo it: rootlessctl ports revoke 80/tcp 443/udp\n  \
             note: no engine runs in rootlessd-engine.scope: the next one there has it\n"
        );
        let outcome =
            Outcome { grants: vec![id], needs: Need::ALL.to_vec(), notes: vec!["a\x1bb".into()] };
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(
            page(&Request::BindCapability, &outcome),
            format!(
                "Every user's RootlessKit may listen on every port.\n  \
                 to undo it: rootlessctl privileges revoke 3f2a91c0\n  \
                 still needed: rootlessctl restart, unless the engine is stopped\n  \
                 still needed: log out everywhere and in again; or sudo systemctl restart \
                 user@{uid}.service, which ends all services that you run, the engine among them\n  \
                 note: a\\u{{1b}}b\n"
            )
        );
        assert_eq!(
            page(&Request::SubIds, &Outcome::default()),
            "You have subordinate user and group ids. Nothing had to be changed.\n"
        );
    }
}
