//! Who answers Docker's clients when dockerd cannot. The listening socket is open in every state:
//! a client of a starting engine waits in its queue, and the first one of a listening engine is what
//! starts it; one of an engine that will not come is told so in Docker's own form.

use std::{convert::Infallible, io, os::fd::AsFd, time::Duration};

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rootlessd_api::{State, Status};
use serde_json::json;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
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
    let mut clients = JoinSet::new();
    loop {
        let status = statuses.borrow_and_update().clone();
        let waited = if status.state.is_settled() {
            waiting_since = None;
            Duration::ZERO
        } else {
            waiting_since.get_or_insert_with(Instant::now).elapsed()
        };
        let client_wait = loaded.borrow().config.engine.client_wait;
        match door(&status, waited, client_wait) {
            Door::Queue(left) => {
                let until = left.map(|left| Instant::now() + left);
                tokio::select! {
                    changed = statuses.changed() => if changed.is_err() { std::future::pending().await },
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
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

/// What is done with a client, when clients have waited for `waited` already.
pub(crate) fn door(status: &Status, waited: Duration, client_wait: Duration) -> Door {
    let text = match status.state {
        State::Running | State::Degraded => return Door::Queue(None),
        State::Listening => return Door::Start,
        // Nobody knows how long that will be.
        State::Backoff if status.reasons.first().is_some_and(Code::passes) => {
            "rootless Docker cannot be started for now".to_owned()
        }
        State::Starting | State::Stopping | State::Backoff => match client_wait.checked_sub(waited)
        {
            Some(left) if !left.is_zero() => return Door::Queue(Some(left)),
            _ => format!("rootless Docker is not up yet (it is {})", status.state),
        },
        State::Stopped => {
            "rootless Docker is stopped: start it with `rootlessctl start`".to_owned()
        }
        State::Failed | State::Unknown => "rootless Docker cannot be started".to_owned(),
    };
    let reasons = status.reasons.first().map_or(String::new(), |reason| {
        let remedy = reason.remedy.as_ref().map_or(String::new(), |remedy| {
            // A failed engine is not tried again until somebody says so.
            let is_said = status.state != State::Failed || remedy.ends_with("rootlessctl start");
            let then = if is_said { "" } else { ", then rootlessctl start" };
            format!(" (to mend it: {remedy}{then})")
        });
        format!(": {}{remedy}", reason.text)
    });
    Door::Answer(match status.state {
        State::Stopped => text,
        _ => format!("{text}{reasons}; `rootlessctl status` tells more"),
    })
}

/// Answer one client with a 503 in Docker's form (`ErrorResponse` of its API).
async fn answer(client: UnixStream, message: String) {
    let body = Bytes::from(json!({ "message": message }).to_string());
    let service = service_fn(|_: hyper::Request<Incoming>| {
        let body = body.clone();
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
    use rootlessd_api::{LogLocation, Part, Reason};
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::{LocalSet, spawn_local},
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
            assert_eq!(door(&with(state), Duration::ZERO, wait), Door::Queue(None));
        }
        assert_eq!(door(&with(State::Listening), second, wait), Door::Start);
        for state in [State::Starting, State::Stopping, State::Backoff] {
            assert_eq!(door(&with(state), second, wait), Door::Queue(Some(wait - second)));
            assert!(matches!(door(&with(state), wait, wait), Door::Answer(_)));
        }
        let short = Code::DataRootFull.reason("/d is full");
        let short = Status { reasons: vec![short], ..with(State::Backoff) };
        assert!(
            matches!(door(&short, second, wait), Door::Answer(text) if text.contains("is full"))
        );
        assert_eq!(
            door(&with(State::Stopped), second, wait),
            Door::Answer("rootless Docker is stopped: start it with `rootlessctl start`".into())
        );
        assert_eq!(
            door(&with(State::Failed), second, wait),
            Door::Answer(
                "rootless Docker cannot be started: no tun (to mend it: modprobe tun, then rootlessctl \
                 start); \
                 `rootlessctl status` tells more"
                    .into()
            )
        );
    }
}
