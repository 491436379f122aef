//! Who answers Docker's clients when dockerd cannot. The listening socket is open in every state:
//! a client of a starting engine waits in its queue, and the first one of a listening engine is what
//! starts it; one of an engine that will not come, or whose dockerd does not come back, is told so in
//! Docker's own form.

mod in_vain;

use std::{convert::Infallible, io, os::fd::AsFd, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rootlessd_api::{Part, Reason, State, Status};
use serde_json::json;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinSet, spawn_local},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{config::Loaded, reasons::Code, supervisor::handle::Handle, sys::fd};

/// How long a client may take to ask its question.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where a file is lacking, as it may be for anybody.
const PAUSE: Duration = Duration::from_secs(1);
/// How many clients are answered at a time; more wait in the queue.
const CLIENTS: usize = 64;

/// What is done with a client that connects now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// It waits in the queue: for ever if dockerd answers, else for so long.
    Queue(Option<Duration>),
    /// It waits in the queue, and the engine is started for it.
    Start,
    /// It is told this.
    Answer(String),
}

/// Answer on `listener` whenever dockerd does not, for ever.
pub async fn keep(
    listener: std::os::unix::net::UnixListener,
    handle: Handle,
    loaded: watch::Receiver<Loaded>,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let mut statuses = handle.watch();
    let mut waiting_since = None;
    let mut old_death = None;
    let mut clients = JoinSet::new();
    loop {
        let status = statuses.borrow_and_update().clone();
        if status.state.is_settled() && loss_of(Part::Dockerd, &status).is_none() {
            waiting_since = None;
            old_death = status.deaths.last().map(|death| death.at);
        }
        let waited = waiting_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        let client_wait = loaded.borrow().config.engine.client_wait;
        match door(&status, waited, client_wait, old_death) {
            Door::Queue(left) => {
                let until = left.map(|left| Instant::now() + left);
                // The time begins with the first who waits.
                let is_first = left.is_some() && waiting_since.is_none();
                tokio::select! {
                    changed = statuses.changed() => if changed.is_err() { std::future::pending().await },
                    () = until_somebody_comes(&listener), if is_first => {
                        waiting_since = Some(Instant::now());
                    }
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() && !is_first => {}
                }
            }
            Door::Start => tokio::select! {
                biased;
                changed = statuses.changed() => if changed.is_err() { std::future::pending().await },
                Some(_) = clients.join_next() => {}
                () = until_somebody_comes(&listener) => {
                    // Whatever comes of it, the status tells.
                    let _ = handle.client().await;
                    if statuses.changed().await.is_err() {
                        std::future::pending().await
                    }
                }
            },
            Door::Answer(message) => tokio::select! {
                // The news first: nobody is told of a state that is over.
                biased;
                changed = statuses.changed() => if changed.is_err() { std::future::pending().await },
                client = listener.accept(), if clients.len() < CLIENTS => match client {
                    Ok((client, _)) => {
                        clients.spawn_local(timeout(CLIENT_TIMEOUT, answer(client, message)));
                    }
                    Err(error) => {
                        tracing::warn!("a Docker client cannot be answered: {error}");
                        sleep(PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            },
        }
    }
}

/// Wait until a client is in the queue. None is taken out of it: dockerd is to find them.
async fn until_somebody_comes(listener: &UnixListener) {
    loop {
        // A file of its own, so that it tells what is in the queue now, whoever took others out of it.
        match listener.as_fd().try_clone_to_owned().and_then(fd::watch) {
            Ok(queue) if queue.readable().await.is_ok() => return,
            Ok(_) => {}
            Err(error) => tracing::warn!("Docker's clients cannot be waited for: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// What is done with a client, when clients have waited for `waited` already. `old_death`: when the last
/// death was of those that are not why they wait.
pub(crate) fn door(
    status: &Status,
    waited: Duration,
    client_wait: Duration,
    old_death: Option<u64>,
) -> Door {
    let may_wait = match status.state {
        State::Running => return Door::Queue(None),
        State::Listening => return Door::Start,
        State::Degraded if loss_of(Part::Dockerd, status).is_none() => return Door::Queue(None),
        State::Starting | State::Stopping | State::Degraded => true,
        // How long a shortage lasts, nobody knows.
        State::Backoff => !status.reasons.iter().any(Code::passes),
        State::Stopped | State::Failed | State::Unknown => false,
    };
    match client_wait.checked_sub(waited) {
        Some(left) if may_wait && !left.is_zero() => Door::Queue(Some(left)),
        _ => Door::Answer(in_vain::told(status, old_death)),
    }
}

/// Why an engine that is up does without this part, if it does.
fn loss_of(part: Part, status: &Status) -> Option<&Reason> {
    let losses = [Code::PartBeingReplaced, Code::KilledForMemory, Code::PartMissing];
    let is_loss =
        |reason: &&Reason| reason.part == part && losses.iter().any(|code| code.is(reason));
    status.reasons.iter().find(is_loss).filter(|_| status.state == State::Degraded)
}

/// Answer one client with a 503 in Docker's form (`ErrorResponse` of its API).
async fn answer(client: UnixStream, message: String) {
    let body = Bytes::from(json!({ "message": message }).to_string());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let body = body.clone();
        // Whoever sends much (`docker load`) reads no answer before that if the connection breaks meanwhile.
        let mut sent = request.into_body();
        spawn_local(async move { while let Some(Ok(_)) = sent.frame().await {} });
        async move {
            Response::builder()
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
        }
    });
    let served =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(client), service);
    // A client that does not speak HTTP, or goes away, misses nothing.
    let _ = served.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::Events, supervisor::handle::Command, testing};
    use rootlessd_api::LogLocation;
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::LocalSet,
    };

    /// However long nobody came before.
    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_first_client_waits_as_long_as_any() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let now = |state| Status { state, ..testing::status() };
        let logs = LogLocation { directory: None };
        let events = Events::new(directory.path().into(), 0);
        let (handle, mut mailbox) = Handle::new(now(State::Listening), logs, events);
        let (_loaded, loads) = watch::channel(Loaded::default());
        let client = async {
            spawn_local(keep(listener, handle, loads));
            sleep(Duration::from_secs(3600)).await;
            assert!(mailbox.commands.try_recv().is_err());
            let mut client = UnixStream::connect(&socket).await.unwrap();
            client.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").await.unwrap();
            let Some(Command::Client(reply)) = mailbox.commands.recv().await else { panic!() };
            let begun = Instant::now();
            mailbox.status.send_replace(Arc::new(now(State::Starting)));
            reply.send(()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.0 503 "), "{answer}");
            assert_eq!(begun.elapsed().as_secs(), 30);
        };
        LocalSet::new().run_until(client).await;
    }

    #[test]
    fn doors() {
        let wait = Duration::from_secs(30);
        let second = Duration::from_secs(1);
        let with = |state| {
            let reason = Reason {
                code: "x".into(),
                part: Part::Host,
                text: "no tun".into(),
                remedy: Some("modprobe tun".into()),
            };
            Status { state, reasons: vec![reason], ..testing::status() }
        };
        for state in [State::Running, State::Degraded] {
            assert_eq!(door(&with(state), Duration::ZERO, wait, None), Door::Queue(None));
        }
        assert_eq!(door(&with(State::Listening), second, wait, None), Door::Start);
        for state in [State::Starting, State::Stopping, State::Backoff] {
            assert_eq!(door(&with(state), second, wait, None), Door::Queue(Some(wait - second)));
            assert!(matches!(door(&with(state), wait, wait, None), Door::Answer(_)));
        }
        let short = Code::DataRootFull.reason("/d is full");
        let short = Status { reasons: vec![short], ..with(State::Backoff) };
        assert!(
            matches!(door(&short, second, wait, None), Door::Answer(text) if text.contains("is full"))
        );
        assert_eq!(
            door(&with(State::Stopped), second, wait, None),
            Door::Answer("rootless Docker is stopped: start it with `rootlessctl start`".into())
        );
        assert_eq!(
            door(&with(State::Failed), second, wait, None),
            Door::Answer(
                "rootless Docker cannot be started: no tun (to mend it: modprobe tun, then rootlessctl \
                 start); \
                 `rootlessctl status` tells more"
                    .into()
            )
        );
    }

    #[test]
    fn nobody_waits_for_ever_for_a_dockerd_that_is_lost() {
        let wait = Duration::from_secs(30);
        let second = Duration::from_secs(1);
        let rows = [
            (Code::PartBeingReplaced, Part::Dockerd, true),
            (Code::KilledForMemory, Part::Dockerd, true),
            (Code::PartMissing, Part::Dockerd, true),
            // It is there, and may answer yet.
            (Code::DockerdNotAnswering, Part::Dockerd, false),
            (Code::PartMissing, Part::Network, false),
            (Code::PartBeingReplaced, Part::Containerd, false),
        ];
        for (code, part, is_bounded) in rows {
            let reason = Reason { part, ..code.reason("no space is left") };
            let reasons = vec![Code::ControllersMissing.reason("advice"), reason];
            let status = Status { state: State::Degraded, reasons, ..testing::status() };
            let left = is_bounded.then_some(wait - second);
            assert_eq!(door(&status, second, wait, None), Door::Queue(left), "{code:?} {part}");
            let then = match is_bounded {
                true => Door::Answer(
                    "rootless Docker is not up yet (it is degraded): no space is left; \
                     `rootlessctl status` tells more"
                        .into(),
                ),
                false => Door::Queue(None),
            };
            assert_eq!(door(&status, wait, wait, None), then, "{code:?} {part}");
        }
    }
}
