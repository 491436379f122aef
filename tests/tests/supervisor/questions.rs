//! Who asks is answered, whatever the engine does.

use super::{SECOND, request, run_timeless};
use rootlessd::{doorman, engine::driver::Event, supervisor::handle::Handle};
use rootlessd_api::{ErrorKind, JobKind, Part, Reason, State};
use rootlessd_tests::{
    BOUND,
    engine::{Engine, Setup, death, is, obstacle, reaches},
    run,
};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::spawn_local,
    time::timeout,
};

#[test]
fn an_engine_that_never_answers_holds_up_no_question() {
    run_timeless(async {
        let (handle, engine) = Engine::stopped();
        request(&handle, JobKind::Start).await;
        let asked = spawn_local({
            let handle = handle.clone();
            async move { handle.reload().await }
        });
        let job = request(&handle, JobKind::Stop).await;
        for _ in 0..1000 {
            let (status, jobs) = tokio::join!(handle.full_status(), handle.jobs());
            assert_eq!(status.unwrap().state, State::Stopping);
            assert_eq!(jobs.unwrap().last(), Some(&job));
        }
        assert!(!asked.is_finished());
        drop(engine);
        assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::Busy);
        assert_eq!(handle.wait_job(job.id).await.unwrap_err().kind, ErrorKind::Busy);
    });
}

/// A client of Docker's: its connection, on which it has asked something.
fn docker_client(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).unwrap();
    client.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").unwrap();
    client
}

async fn answer(mut client: UnixStream) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    });
    timeout(BOUND, read).await.expect("an answer in time").unwrap().unwrap()
}

/// Has Docker's clients answered at this socket; what a dockerd would listen with.
fn keep_door(socket: &Path, handle: &Handle, engine: &Engine) -> UnixListener {
    let listener = UnixListener::bind(socket).unwrap();
    let docker = listener.try_clone().unwrap();
    spawn_local(doorman::keep(listener, handle.clone(), engine.loads()));
    docker
}

#[test]
fn docker_clients_are_answered_in_every_state() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 1;
        setup.config.engine.client_wait = Duration::from_millis(200);
        let (handle, mut engine) = setup.start();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let docker = keep_door(&socket, &handle, &engine);

        let told = answer(docker_client(&socket)).await;
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(told.contains("rootlessctl start"), "{told}");

        // While it comes up, a client waits for dockerd, which gets it when it is there.
        request(&handle, JobKind::Start).await;
        let client = docker_client(&socket);
        engine.come_up().await;
        is(&handle, State::Running).await;
        docker.set_nonblocking(true).unwrap();
        let docker = tokio::net::UnixListener::from_std(docker).unwrap();
        let accepted = timeout(BOUND, docker.accept()).await;
        let (mut served, _) = accepted.expect("the client is still in the queue").unwrap();
        assert!(served.read(&mut [0; 1024]).await.unwrap() > 0);
        served.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
        drop(served);
        assert!(answer(client).await.starts_with("HTTP/1.1 200 "));

        // But not for ever; and of what failed it is told why.
        request(&handle, JobKind::Stop).await;
        let told = answer(docker_client(&socket)).await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("it is stopping"), "{told}");
        engine.go_down().await;
        is(&handle, State::Stopped).await;
        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&handle, State::Failed).await;
        let told = answer(docker_client(&socket)).await;
        assert!(
            told.contains("there are no ids (to mend it: sudo usermod, then rootlessctl start)"),
            "{told}"
        );
    });
}

/// Clients of an engine that is not up, or does without a part, are told why when they have waited.
#[test]
fn docker_clients_are_told_why_they_waited_in_vain() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.client_wait = Duration::from_millis(200);
        setup.config.engine.restart.delay = 3600 * SECOND;
        setup.config.engine.restart.max_delay = 3600 * SECOND;
        let (handle, mut engine) = setup.start();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let docker = keep_door(&socket, &handle, &engine);
        request(&handle, JobKind::Start).await;
        engine.come_up().await;
        is(&handle, State::Running).await;

        // dockerd is lost, and does not come back.
        engine.tell_lost(Part::Dockerd).await;
        is(&handle, State::Degraded).await;
        let begun = Instant::now();
        let told = answer(docker_client(&socket)).await;
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(told.contains("(it is degraded): dockerd was killed."), "{told}");
        assert!(begun.elapsed() >= Duration::from_millis(150), "it did not wait");

        // Another part is none of theirs: dockerd gets who comes.
        engine.tell_replaced(Part::Dockerd).await;
        engine.tell_lost(Part::Network).await;
        engine.tell_healthy(0).await;
        let is_network = |reason: &Reason| reason.part == Part::Network;
        reaches(&handle, |status| status.reasons.iter().all(is_network)).await;
        assert_eq!(handle.status().state, State::Degraded);
        let client = docker_client(&socket);
        tokio::time::sleep(Duration::from_millis(400)).await;
        docker.set_nonblocking(true).unwrap();
        let docker = tokio::net::UnixListener::from_std(docker).unwrap();
        let accepted = timeout(BOUND, docker.accept()).await;
        accepted.expect("the client is still in the queue").unwrap();
        drop(client);

        // It died, and that is why it is not up; and so it is while it comes up again.
        engine.tell(Event::Died(death(Part::Dockerd))).await;
        is(&handle, State::Backoff).await;
        let told = answer(docker_client(&socket)).await;
        let died = "the engine died: dockerd was killed.";
        assert!(told.contains(&format!("(it is backoff): {died}")), "{told}");
        request(&handle, JobKind::Start).await;
        engine.take_start().await;
        is(&handle, State::Starting).await;
        let told = answer(docker_client(&socket)).await;
        assert!(told.contains(&format!("(it is starting): {died}")), "{told}");

        // Once it was up, that is an old story.
        engine.tell_healthy(0).await;
        is(&handle, State::Running).await;
        let connected = docker_client(&socket);
        timeout(BOUND, docker.accept()).await.expect("it is left to dockerd").unwrap();
        drop(connected);
        request(&handle, JobKind::Restart).await;
        is(&handle, State::Stopping).await;
        engine.take_stop().await;
        engine.tell(Event::Gone).await;
        engine.take_start().await;
        is(&handle, State::Starting).await;
        let told = answer(docker_client(&socket)).await;
        assert!(told.contains("(it is starting); `rootlessctl status`"), "{told}");
    });
}
