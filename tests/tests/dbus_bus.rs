//! A session bus that comes, goes, is shared with another rootlessd, and has bad company on it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rootlessd::{
    engine::driver::Event,
    supervisor::{Shutdown, handle::Handle},
    varlink::server::Limits,
};
use rootlessd_api::{
    JobKind, JobOptions, Phase, State,
    client::Client,
    dbus::{EngineProxy, JobProxy},
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_PATH, OBJECT_PATH},
};
use rootlessd_tests::{
    BOUND,
    bus::TestBus,
    engine::{Engine, Setup, is, memory, reaches},
    front::Front,
    open_files, run, run_alone, until,
};
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream,
    fdo::{DBusProxy, RequestNameFlags},
    message::Flags,
    proxy::CacheProperties,
};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");

fn start(setup: Setup) -> (Handle, Engine, Front) {
    let (handle, engine) = setup.start();
    let front = Front::start(handle.clone(), Limits::default());
    (handle, engine, front)
}

/// Wait until somebody, or somebody else than `not`, has rootlessd's name.
async fn owned(client: &Connection, not: Option<&str>) {
    let bus = DBusProxy::new(client).await.unwrap();
    let owned = async {
        let mut changes = bus.receive_name_owner_changed_with_args(&[(0, BUS_NAME)]).await.unwrap();
        loop {
            match bus.get_name_owner(BUS_NAME.try_into().unwrap()).await {
                Ok(owner) if Some(owner.as_str()) != not => return,
                _ => drop(changes.next().await.unwrap()),
            }
        }
    };
    timeout(BOUND, owned).await.expect("rootlessd takes its name");
}

async fn state(client: &Connection) -> String {
    let engine = EngineProxy::builder(client).cache_properties(CacheProperties::No);
    engine.build().await.unwrap().state().await.unwrap()
}

#[test]
fn a_bus_may_come_and_go() {
    run_alone(async {
        let (handle, mut engine, front) = start(Setup::default());
        let mut varlink = Client::connect(&front.varlink()).await.unwrap();
        varlink.status().await.unwrap();
        let mut files = None;
        let states =
            [State::Stopped, State::Starting, State::Running, State::Stopping, State::Stopped];
        for (round, state) in states.into_iter().enumerate() {
            // What happens while there is no bus.
            match round {
                1 => drop(handle.request(JobKind::Start, JobOptions::default()).await.unwrap()),
                2 => engine.come_up().await,
                3 => drop(handle.request(JobKind::Stop, JobOptions::default()).await.unwrap()),
                4 => engine.go_down().await,
                _ => {}
            }
            is(&handle, state).await;
            let bus = TestBus::start(HELPER, &front.bus());
            let begin = Instant::now();
            let client = bus.connect().await;
            owned(&client, None).await;
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(2), "the name was ours only after {took:?}");
            assert_eq!(self::state(&client).await, state.as_str());
            // The jobs of before are there, as they are now.
            let jobs = handle.jobs().await.unwrap();
            assert_eq!(jobs.len(), [0, 2, 2, 4, 4][round]);
            for known in jobs {
                let job = JobProxy::builder(&client).path(format!("{JOB_PATH}/{}", known.id));
                let state = job.build().await.unwrap().state().await.unwrap();
                assert_eq!(state, known.state.as_str());
            }

            // One that asks for what is so, or on its way.
            let engine = EngineProxy::new(&client).await.unwrap();
            match state {
                State::Stopped | State::Stopping => engine.stop(HashMap::new()).await.unwrap(),
                State::Starting | State::Running => engine.start(HashMap::new()).await.unwrap(),
                other => panic!("{other}"),
            };
            bus.kill();
            client.closed().await;
            drop((engine, client));
            if round % 2 == 0 {
                std::fs::remove_file(front.bus()).unwrap();
            }
            assert_eq!(varlink.status().await.unwrap().state, state);
            let allowed = *files.get_or_insert_with(open_files);
            until("nothing is left open", || open_files() <= allowed).await;
            // A stale socket is in the way of a new one, which its bus removes first.
            let _ = std::fs::remove_file(front.bus());
        }
    });
}

#[test]
fn a_bus_in_a_directory_that_comes_later_is_found() {
    run(async {
        let (handle, _engine) = Engine::stopped();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/bus");
        let address = TestBus::address_at(&path);
        let _task = tokio::task::spawn_local(rootlessd::dbus::run(handle, address));
        tokio::task::yield_now().await;
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let bus = TestBus::start(HELPER, &path);
        let client = bus.connect().await;
        owned(&client, None).await;
    });
}

#[test]
fn the_name_is_taken_when_another_gives_it_up() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let bus = TestBus::start(HELPER, &path);
        let other = bus.connect().await;
        other.request_name_with_flags(BUS_NAME, RequestNameFlags::empty()).await.unwrap();

        let (handle, _engine) = Engine::stopped();
        let address = TestBus::address_at(&path);
        let _task = tokio::task::spawn_local(rootlessd::dbus::run(handle, address));
        let client = bus.connect().await;
        let bus = DBusProxy::new(&client).await.unwrap();
        // Whether the owner is in the list is not the same on all buses.
        let queued = async {
            loop {
                let queue = bus.list_queued_owners(BUS_NAME.try_into().unwrap()).await.unwrap();
                if queue.iter().any(|name| Some(name) != other.unique_name()) {
                    break;
                }
            }
        };
        timeout(BOUND, queued).await.unwrap();
        assert!(other.release_name(BUS_NAME).await.unwrap());
        owned(&client, other.unique_name().map(|name| name.as_str())).await;
        assert_eq!(state(&client).await, "stopped");
    });
}

#[test]
fn a_flood_is_survived() {
    run_alone(async {
        let (handle, engine, front) = start(Setup::default());
        let _obedient = engine.obey();
        let bus = TestBus::start(HELPER, &front.bus());
        let flooder = bus.connect().await;
        owned(&flooder, None).await;
        let call = |method: &'static str| {
            Message::method_call(OBJECT_PATH, method)
                .destination(BUS_NAME)
                .interface(ENGINE_INTERFACE)
        };
        let memory = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = memory();
        let flood = tokio::task::spawn_local(async move {
            for number in 0..20_000 {
                let method = if number % 2 == 0 { "Reload" } else { "ResetFailed" };
                let call = call(method).with_flags(Flags::NO_REPLY_EXPECTED);
                if flooder.send(&call.build(&()).unwrap()).await.is_err() {
                    return false;
                }
            }
            true
        });
        let mut varlink = Client::connect(&front.varlink()).await.unwrap();
        let mut longest = Duration::ZERO;
        while !flood.is_finished() {
            let begin = Instant::now();
            varlink.status().await.unwrap();
            longest = longest.max(begin.elapsed());
        }
        flood.await.unwrap();
        assert!(longest < Duration::from_secs(1), "varlink waited for {longest:?}");
        assert!(memory() < before + (64 << 20), "grew by {} bytes", memory() - before);

        let client = bus.connect().await;
        owned(&client, None).await;
        assert_eq!(state(&client).await, "stopped");
        // A stop gets through, however much was asked for before.
        handle.request(JobKind::Start, JobOptions::default()).await.unwrap();
        is(&handle, State::Running).await;
        handle.request(JobKind::Stop, JobOptions::default()).await.unwrap();
        is(&handle, State::Stopped).await;
    });
}

#[test]
fn calls_do_not_pile_up_before_a_supervisor_that_is_busy() {
    run(async {
        let (handle, mut engine, front) = start(Setup::of(memory("running".into())));
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        owned(&client, None).await;
        let proxy = EngineProxy::new(&client).await.unwrap();
        let mut calls: FuturesUnordered<_> = (0..1000).map(|_| proxy.reload()).collect();
        // The first ones wait, the others are told so at once.
        for _ in 128..1000 {
            match timeout(BOUND, calls.next()).await.unwrap().unwrap().unwrap_err() {
                zbus::Error::FDO(error) => {
                    assert!(matches!(*error, zbus::fdo::Error::LimitsExceeded(_)), "{error}");
                }
                other => panic!("{other}"),
            }
        }
        // What was published needs nobody's answer.
        assert_eq!(state(&client).await, "running");
        // Nor do they keep the engine from being stopped: one of them is on its way to it.
        let first = engine.take_reload().await;
        handle.request(JobKind::Stop, JobOptions::default()).await.unwrap();
        engine.take_stop().await;
        assert!(engine.is_left_alone());
        engine.tell(Event::Phase(Phase::Dockerd)).await;
        // All that came while the first was at work are served by the second.
        first.send(Ok(())).unwrap();
        engine.take_reload().await.send(Ok(())).unwrap();
        for _ in 0..128 {
            timeout(BOUND, calls.next()).await.unwrap().unwrap().unwrap();
        }
        assert!(engine.is_left_alone());
        engine.shut_down(Shutdown::LeaveEngine).await;
        assert_eq!(engine.ended().await, Shutdown::LeaveEngine);
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    run_alone(async {
        let (handle, engine, front) = start(Setup::of(memory("running".into())));
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        owned(&client, None).await;
        // A full queue of messages keeps zbus from reading.
        let slow = bus.connect().await;
        let rule = zbus::MatchRule::builder().sender(BUS_NAME).build().unwrap();
        DBusProxy::new(&slow).await.unwrap().add_match_rule(rule).await.unwrap();
        let _unread = MessageStream::from(&slow);

        let mut varlink = Client::connect(&front.varlink()).await.unwrap();
        for number in 0..300 {
            let text = format!("{number} {}", "x".repeat(50_000));
            engine.tell_unhealthy(&text).await;
            reaches(&handle, |status| status.reasons.iter().any(|it| it.text == text)).await;
            let status = timeout(BOUND, varlink.status()).await.unwrap().unwrap();
            assert_eq!(status.reasons[0].text, text);
            assert_eq!(timeout(BOUND, state(&client)).await.unwrap(), "degraded");
        }
    });
}
