//! Who answers Docker's clients when dockerd cannot. The listening socket is open in every state:
//! a client of a starting engine waits in its queue, and the first one of a listening engine is what
//! starts it; one of an engine that will not come, or whose dockerd does not come back, is told so in
//! Docker's own form.

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
use rootlessd_api::{Part, Reason, State, Status};
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
    let mut old_death = None;
    let mut clients = JoinSet::new();
    loop {
        let status = statuses.borrow_and_update().clone();
        let waited = if status.state.is_settled() && loss_of(Part::Dockerd, &status).is_none() {
            waiting_since = None;
            old_death = status.deaths.last().map(|death| death.at);
            Duration::ZERO
        } else {
            waiting_since.get_or_insert_with(Instant::now).elapsed()
        };
        let client_wait = loaded.borrow().config.engine.client_wait;
        match door(&status, waited, client_wait, old_death) {
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

/// What is done with a client, when clients have waited for `waited` already. `old_death`: when the last
/// death was of those that are not why they wait.
pub(crate) fn door(
    status: &Status,
    waited: Duration,
    client_wait: Duration,
    old_death: Option<u64>,
) -> Door {
    let lost = loss_of(Part::Dockerd, status);
    let text = match status.state {
        State::Running => return Door::Queue(None),
        State::Degraded if lost.is_none() => return Door::Queue(None),
        State::Listening => return Door::Start,
        // Nobody knows how long that will be.
        State::Backoff if status.reasons.iter().any(Code::passes) => {
            "rootless Docker cannot be started for now".to_owned()
        }
        State::Starting | State::Stopping | State::Backoff | State::Degraded => {
            match client_wait.checked_sub(waited) {
                Some(left) if !left.is_zero() => return Door::Queue(Some(left)),
                _ => format!("rootless Docker is not up yet (it is {})", status.state),
            }
        }
        State::Stopped => {
            "rootless Docker is stopped: start it with `rootlessctl start`".to_owned()
        }
        State::Failed | State::Unknown => "rootless Docker cannot be started".to_owned(),
    };
    // Most reasons are only advice.
    let obstacle = status.reasons.iter().find(|it| Code::passes(it) || Code::RuntimeDirGone.is(it));
    let reason = match status.state {
        State::Failed => status.reasons.first(),
        // dockerd goes with containerd, and comes after it.
        State::Degraded => obstacle.or_else(|| loss_of(Part::Containerd, status)).or(lost),
        _ => obstacle,
    };
    let died = || {
        let is_tried = matches!(status.state, State::Starting | State::Backoff);
        let death = status.deaths.last().filter(|death| is_tried && Some(death.at) != old_death)?;
        Some(format!(": the engine died: {}", death.text))
    };
    let why = reason.map_or_else(
        || died().unwrap_or_default(),
        |reason| {
            let remedy = reason.remedy.as_ref().map_or(String::new(), |remedy| {
                // A failed engine is not tried again until somebody says so.
                let is_said =
                    status.state != State::Failed || remedy.ends_with("rootlessctl start");
                let then = if is_said { "" } else { ", then rootlessctl start" };
                format!(" (to mend it: {remedy}{then})")
            });
            format!(": {}{remedy}", reason.text)
        },
    );
    Door::Answer(match status.state {
        State::Stopped => text,
        _ => format!("{text}{why}; `rootlessctl status` tells more"),
    })
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
    use rootlessd_api::{Death, LogLocation};
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
    fn who_waited_is_told_why_in_vain_and_no_advice() {
        let wait = Duration::from_secs(30);
        let advice = Code::ControllersMissing.reason_with_remedy("controllers are missing", "mend");
        let full = Code::DataRootFull.reason("/d is full");
        let gone = Code::RuntimeDirGone.reason("/run/user/1 is gone");
        let death = |at| Death {
            at,
            part: Part::Dockerd,
            exit_code: Some(1),
            signal: None,
            out_of_memory: false,
            text: "dockerd exited with status 1".into(),
            log: vec![],
        };
        let died = ": the engine died: dockerd exited with status 1";
        // (state, what more there is, the deaths, which of them was before; what is told)
        let rows = [
            (State::Starting, None, vec![], None, " not up yet (it is starting)"),
            (State::Starting, None, vec![7], Some(7), " not up yet (it is starting)"),
            (State::Starting, None, vec![7, 8], Some(7), died),
            (State::Backoff, None, vec![8], None, died),
            (State::Backoff, Some(&full), vec![8], None, "cannot be started for now: /d is full"),
            (State::Starting, Some(&full), vec![8], None, "(it is starting): /d is full"),
            (State::Starting, Some(&gone), vec![], None, "(it is starting): /run/user/1 is gone"),
            (State::Stopping, None, vec![8], None, " not up yet (it is stopping)"),
        ];
        for (state, more, deaths, old, told) in rows {
            let reasons = more.into_iter().chain([&advice]).cloned().collect();
            let deaths = deaths.into_iter().map(death).collect();
            let status = Status { state, reasons, deaths, ..testing::status() };
            let Door::Answer(text) = door(&status, wait, wait, old) else { panic!("{state}") };
            let end = format!("{told}; `rootlessctl status` tells more");
            assert!(text.ends_with(&end), "{text}");
        }
    }

    #[test]
    fn of_a_lost_dockerd_the_cause_is_told() {
        let wait = Duration::from_secs(30);
        let lost = |part: Part| {
            let reason = Code::PartBeingReplaced.reason(format!("{part} is lost"));
            Reason { part, ..reason }
        };
        let network = lost(Part::Network);
        for (more, told) in [
            (network.clone(), "dockerd is lost"),
            (lost(Part::Containerd), "containerd is lost"),
            (Code::DataRootFull.reason("/d is full"), "/d is full"),
        ] {
            let reasons = vec![network.clone(), lost(Part::Dockerd), more];
            let status = Status { state: State::Degraded, reasons, ..testing::status() };
            let Door::Answer(text) = door(&status, wait, wait, None) else { panic!("{told}") };
            assert!(text.contains(&format!("(it is degraded): {told};")), "{text}");
        }
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
