//! The way to the helper: the system bus, an agent where somebody can be asked, and an end to waiting.

use std::{future::Future, time::Duration};

use rootlessd_api::{
    Error, ErrorKind,
    dbus::helper::{HelperProxy, no_answer, to_grants},
    helper::Grant,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use zbus::{Connection, proxy::CacheProperties};

use super::{
    agent::{Agent, Rank},
    apply,
};
use crate::{failure::Failure, output};

/// How long the bus and the helper may take where nobody is asked. The bus gives a service 25 s to
/// start.
const ANSWER: Duration = Duration::from_secs(30);
/// How long they may take where a person is: the helper itself waits two minutes for one.
const PERSON: Duration = Duration::from_secs(180);
/// How long something may take that can be done without.
const BRIEFLY: Duration = Duration::from_secs(2);

/// The helper, on the system bus.
#[derive(Debug)]
pub struct Helper(HelperProxy<'static>);

impl Helper {
    /// Connects to the system bus. Whether there is a helper is known with the first call.
    pub async fn connect() -> Result<Self, Error> {
        let missing = |error: zbus::Error| {
            let why = error.to_string();
            // The number is for programmers only.
            let why = why.split(" (os error").next().unwrap_or_default();
            let text =
                format!("rootlessd-helper cannot be reached: there is no system bus ({why})");
            Error::new(ErrorKind::HelperMissing, text)
        };
        let connecting = timeout(ANSWER, Connection::system());
        let connection = connecting.await.map_err(late)?.map_err(missing)?;
        let proxy = HelperProxy::builder(&connection).cache_properties(CacheProperties::No);
        Ok(Self(proxy.build().await?))
    }

    /// What was granted to the caller. Nobody is asked.
    pub async fn grants(&self) -> Result<Vec<Grant>, Error> {
        to_grants(self.quietly(self.0.list_grants()).await?)
    }

    /// Makes a call for which nobody is asked.
    pub async fn quietly<T>(
        &self,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, Error> {
        timeout(ANSWER, call).await.map_err(late)?.map_err(missing_named)
    }

    /// Makes a call for which somebody may be asked: on this terminal, by an agent of ours, where no
    /// other one does. Ctrl-C ends it, and the helper then does nothing.
    pub async fn asking<T>(
        &self,
        call: impl AsyncFn(&HelperProxy<'static>) -> zbus::Result<T>,
    ) -> Result<T, Asked> {
        let mut agent = None;
        let answer = tokio::select! {
            // In this order, so that Ctrl-C is listened for before anybody is asked.
            biased;
            () = interrupted() => {
                if agent.is_some() {
                    // Behind the agent's question, in the middle of a line.
                    output::end_line();
                }
                Err(Asked::Interrupted)
            }
            answer = self.with_agent(&mut agent, &call) => answer.map_err(Asked::Refused),
        };
        stop(&mut agent).await;
        answer
    }

    async fn with_agent<T>(
        &self,
        agent: &mut Option<Agent>,
        call: &impl AsyncFn(&HelperProxy<'static>) -> zbus::Result<T>,
    ) -> Result<T, Error> {
        let call =
            async || timeout(PERSON, call(&self.0)).await.map_err(late)?.map_err(missing_named);
        *agent = Agent::start(Rank::Fallback).await;
        match call().await {
            // polkit does not ask by one that others go before if the caller is in no session, where
            // there cannot be others: then it has to be the only one.
            Err(error) if error.kind == ErrorKind::InteractionRequired && agent.is_some() => {
                stop(agent).await;
                *agent = Agent::start(Rank::First).await;
                call().await
            }
            answer => answer,
        }
    }

    /// The proxy itself.
    pub const fn proxy(&self) -> &HelperProxy<'static> {
        &self.0
    }
}

async fn stop(agent: &mut Option<Agent>) {
    if let Some(agent) = agent.take() {
        agent.stop().await;
    }
}

/// Why a call for which somebody may be asked did not succeed.
#[derive(Debug)]
pub enum Asked {
    /// Somebody or something said no.
    Refused(Error),
    /// Ctrl-C.
    Interrupted,
}

impl Asked {
    /// The failure, with root's command line as the remedy where that helps.
    pub fn failure(self, failure: impl FnOnce(Error) -> Failure) -> Failure {
        match self {
            Self::Refused(error) => failure(error),
            Self::Interrupted => Failure::Interrupted(
                "interrupted; rootlessctl privileges shows whether it was done before",
            ),
        }
    }
}

/// What was granted to the caller, if that is to be had easily.
pub async fn grants_briefly() -> Option<Vec<Grant>> {
    let grants = async { Helper::connect().await?.grants().await };
    timeout(BRIEFLY, grants).await.ok()?.ok()
}

/// A failure of the helper. Where nobody could be asked, or there is nobody to ask, root can do the
/// same: `words` is what stands after `rootlessd-helper apply`.
pub fn failure(error: Error, words: &[String]) -> Failure {
    failure_with(error, apply::line(words))
}

/// The same, of what is for everybody.
pub fn failure_for_all(error: Error, words: &[String]) -> Failure {
    failure_with(error, apply::line_for_all(words))
}

fn failure_with(mut error: Error, line: String) -> Failure {
    match error.kind {
        ErrorKind::HelperMissing if !apply::is_installed() => {
            error.remedy = Some(format!("install rootlessd-helper, then {line}"));
        }
        ErrorKind::HelperMissing
        | ErrorKind::PolkitUnavailable
        | ErrorKind::InteractionRequired
        | ErrorKind::AccessDenied => error.remedy = Some(line),
        _ => {}
    }
    Failure::Api(error)
}

/// Ctrl-C, or a request to end: both have the agent stopped first.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// An error of the bus, which does not know what it is that it cannot start.
fn missing_named(error: zbus::Error) -> Error {
    let mut error = Error::from(error);
    if error.kind == ErrorKind::HelperMissing {
        error.message = format!("rootlessd-helper cannot be reached: {}", error.message);
    }
    error
}

fn late<T>(_: T) -> Error {
    no_answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_s_line_is_the_remedy_where_root_can_do_what_was_not_agreed_to() {
        let words = ["grant-ports".to_owned(), "80/tcp".to_owned()];
        for &kind in ErrorKind::ALL {
            let failure = failure(Error::new(kind, "why").with_remedy("its own"), &words);
            let remedy = failure.remedy().unwrap();
            match failure.exit().code() {
                9 | 10 => {
                    // This machine may have it or not.
                    let line = remedy.strip_prefix("install rootlessd-helper, then ");
                    let line = line.filter(|_| kind == ErrorKind::HelperMissing).unwrap_or(remedy);
                    let expected = "sudo rootlessd-helper apply grant-ports 80/tcp --for ";
                    assert!(line.starts_with(expected), "{remedy}");
                }
                _ => assert_eq!(remedy, "its own"),
            }
        }
    }
}
