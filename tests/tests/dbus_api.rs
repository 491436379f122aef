//! `org.rootlessd.Supervisor1` as a client meets it, before the supervisor of a fake engine.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::StreamExt;
use rootlessd::{
    config::Start,
    engine::driver::Event,
    supervisor::{Shutdown, handle::Handle},
    varlink::server::Limits,
};
use rootlessd_api::{
    Error, ErrorKind, JobKind, JobOptions, Part, State, Status,
    client::Client,
    dbus::{EngineProxy, JobProxy},
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_INTERFACE, JOB_PATH, OBJECT_PATH},
};
use rootlessd_tests::{
    BOUND,
    bus::TestBus,
    engine::{self, Engine, Setup, is, memory, obstacle, reaches},
    front::Front,
    run,
    status::status_over_dbus,
};
use serde_json::json;
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, OwnedVariant, Variant,
    fdo::{DBusProxy, IntrospectableProxy, PropertiesProxy},
    message::Type,
    proxy::CacheProperties,
};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");

type Dict = HashMap<String, OwnedVariant>;

/// Everything there is: a supervisor before an engine, its front ends, a bus, and a client on it.
struct World {
    handle: Handle,
    engine: Engine,
    front: Front,
    client: Connection,
    _bus: TestBus,
}

impl World {
    async fn start() -> Self {
        Self::of(Setup::default()).await
    }

    async fn of(setup: Setup) -> Self {
        let (handle, engine) = setup.start();
        let front = Front::start(handle.clone(), Limits::default());
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        named(&client).await;
        Self { handle, engine, front, client, _bus: bus }
    }

    async fn engine(&self) -> EngineProxy<'static> {
        EngineProxy::new(&self.client).await.unwrap()
    }

    async fn job(&self, path: zbus::OwnedObjectPath) -> JobProxy<'static> {
        let job = JobProxy::builder(&self.client).path(path);
        job.cache_properties(CacheProperties::No).build().await.unwrap()
    }

    /// All properties of the engine but the processes, which are never the same.
    async fn properties(&self) -> Dict {
        let properties = PropertiesProxy::new(&self.client, BUS_NAME, OBJECT_PATH).await.unwrap();
        let mut all = properties.get_all(ENGINE_INTERFACE.try_into().unwrap()).await.unwrap();
        assert!(all.remove("Processes").is_some());
        all
    }

    /// The messages that come from rootlessd after this call, in their order.
    async fn messages(&self) -> MessageStream {
        for interface in [ENGINE_INTERFACE, JOB_INTERFACE, "org.freedesktop.DBus.Properties"] {
            let rule = zbus::MatchRule::builder()
                .msg_type(Type::Signal)
                .interface(interface)
                .build()
                .unwrap();
            DBusProxy::new(&self.client).await.unwrap().add_match_rule(rule).await.unwrap();
        }
        MessageStream::from(&self.client)
    }
}

/// Wait until rootlessd has its name.
async fn named(client: &Connection) {
    let bus = DBusProxy::new(client).await.unwrap();
    let named = async {
        let mut changes = bus.receive_name_owner_changed_with_args(&[(0, BUS_NAME)]).await.unwrap();
        while !bus.name_has_owner(BUS_NAME.try_into().unwrap()).await.unwrap() {
            changes.next().await.unwrap();
        }
    };
    timeout(BOUND, named).await.expect("rootlessd takes its name");
}

async fn next(messages: &mut MessageStream) -> Message {
    timeout(BOUND, messages.next()).await.expect("a message in time").unwrap().unwrap()
}

/// What a message is, in short.
fn summary(message: &Message) -> String {
    let header = message.header();
    let member = header.member().map_or("", |member| member.as_str());
    let body = message.body();
    match (header.message_type(), member) {
        (Type::MethodReturn, _) => "reply".into(),
        (_, "PropertiesChanged") => {
            let (interface, changed, _): (String, Dict, Vec<String>) = body.deserialize().unwrap();
            let names: BTreeSet<&str> = changed.keys().map(String::as_str).collect();
            let names = Vec::from_iter(names).join(" ");
            format!("{} changed {names}", interface.rsplit_once('.').unwrap().1)
        }
        (_, "JobNew") => {
            let (id, path, kind): (u32, zbus::OwnedObjectPath, String) =
                body.deserialize().unwrap();
            format!("JobNew {id} {} {kind}", path.as_str().rsplit_once('/').unwrap().1)
        }
        (_, "JobRemoved") => {
            let (id, path, kind, result): (u32, zbus::OwnedObjectPath, String, String) =
                body.deserialize().unwrap();
            format!("JobRemoved {id} {} {kind} {result}", path.as_str().rsplit_once('/').unwrap().1)
        }
        (kind, member) => format!("{kind:?} {member}"),
    }
}

fn nothing() -> HashMap<&'static str, Variant<'static>> {
    HashMap::new()
}

/// The name of an error reply.
fn name<T: std::fmt::Debug>(result: zbus::Result<T>) -> String {
    match result.unwrap_err() {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        zbus::Error::FDO(error) => zbus::DBusError::name(&*error).to_string(),
        other => panic!("no error reply: {other}"),
    }
}

/// The status over both transports, without what a second look finds changed.
async fn both(world: &World) -> [Status; 2] {
    let uncached = EngineProxy::builder(&world.client).cache_properties(CacheProperties::No);
    let uncached = uncached.build().await.unwrap();
    let mut varlink = Client::connect(&world.front.varlink()).await.unwrap();
    let mut both = [status_over_dbus(&uncached).await, varlink.status().await.unwrap()];
    for status in &mut both {
        status.processes.iter_mut().for_each(|process| process.memory = 0);
        // This process is the engine, too; its children are other tests', and come and go.
        status.processes.retain(|process| process.pid == std::process::id());
        assert!(!status.processes.is_empty());
    }
    // The bus takes no NUL.
    for line in both[1].deaths.iter_mut().flat_map(|death| &mut death.log) {
        *line = line.replace('\0', "\u{fffd}");
    }
    both
}

#[test]
fn both_apis_tell_the_same_status() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 2;
        setup.config.engine.restart.delay = Duration::from_secs(3600);
        setup.config.engine.restart.max_delay = Duration::from_secs(3600);
        let mut world = World::of(setup).await;
        let mut told = Vec::new();
        let mut look = async |world: &World, state| {
            is(&world.handle, state).await;
            let [dbus, varlink] = both(world).await;
            assert_eq!(dbus, varlink);
            assert_eq!(dbus.state, state);
            told.push(dbus);
        };
        look(&world, State::Stopped).await;
        world.handle.request(JobKind::Start, JobOptions::default()).await.unwrap();
        look(&world, State::Starting).await;
        world.engine.come_up().await;
        world.engine.tell(Event::MainPid(4711)).await;
        look(&world, State::Running).await;
        world.engine.tell_lost(Part::Dockerd).await;
        world.engine.tell_replaced(Part::Dockerd).await;
        world.engine.tell_unhealthy("it\0hangs").await;
        reaches(&world.handle, |status| !status.reasons.is_empty()).await;
        // The bus takes no NUL there either, but who does not write any has none.
        world.engine.tell_unhealthy("it hangs").await;
        reaches(&world.handle, |status| status.reasons.iter().all(|it| it.text == "it hangs"))
            .await;
        look(&world, State::Degraded).await;
        world.engine.tell_died().await;
        look(&world, State::Backoff).await;
        world.handle.request(JobKind::Start, JobOptions::default()).await.unwrap();
        world.engine.take_start().await;
        world.engine.tell_died().await;
        look(&world, State::Failed).await;
        // Each field was told at least once: the comparison was about something.
        let seen = |is: fn(&Status) -> bool| assert!(told.iter().any(is));
        seen(|it| it.phase.is_some());
        seen(|it| it.next_attempt.is_some());
        seen(|it| it.reasons.iter().any(|reason| reason.remedy.is_some()));
        seen(|it| {
            it.deaths.len() == 2 && it.deaths[0].log.is_empty() && !it.deaths[1].log.is_empty()
        });
        seen(|it| it.incidents.len() == 2 && it.incidents[1].took.is_some());
        seen(|it| it.main_pid == Some(4711));
        seen(|it| it.version.is_some() && it.containerd_version.is_some());
        seen(|it| it.runc_version.is_some() && it.rootlesskit_version.is_some());
        seen(|it| it.data_root.is_some() && it.state_dir.is_some());
        seen(|it| it.network_driver.is_some() && it.port_driver.is_some());
        seen(|it| it.storage_driver.is_some() && it.cgroup_driver.is_some());
        seen(|it| !it.controllers.is_empty() && it.containers_running == Some(3));
    });
}

#[test]
fn exactly_what_changed_is_announced_in_one_signal() {
    run(async {
        let mut setup = Setup::of(memory(json!("running")));
        setup.config.engine.restart.delay = Duration::from_millis(10);
        let mut world = World::of(setup).await;
        let mut known = world.properties().await;
        let mut messages = world.messages().await;
        let mut announced = BTreeSet::new();
        let mut changed = async |expected: &str| {
            let message = next(&mut messages).await;
            assert_eq!(summary(&message), format!("Engine changed {expected}"));
            let (_, changed, invalidated): (String, Dict, Vec<String>) =
                message.body().deserialize().unwrap();
            assert!(invalidated.is_empty());
            for (name, value) in changed {
                announced.insert(name.clone());
                assert_ne!(known.insert(name, value.try_clone().unwrap()), Some(value));
            }
        };
        world.engine.tell_launched().await;
        changed("DataRoot NetworkDriver PortDriver StateDir Version Versions").await;
        world.engine.tell(Event::MainPid(1)).await;
        changed("MainPid").await;
        world.engine.tell_healthy(3).await;
        changed("CgroupDriver ContainersRunning Controllers StorageDriver").await;
        // What changes nothing is not told.
        world.engine.tell_healthy(3).await;
        world.engine.tell_healthy(4).await;
        changed("ContainersRunning").await;
        world.engine.tell_unhealthy("it hangs").await;
        changed("Reasons Since State").await;
        world.engine.tell_replaced(Part::Network).await;
        changed("Incidents").await;
        let mut plan = engine::plan();
        plan.versions.runc = Some("another".into());
        world.engine.tell(Event::Launched { plan: Box::new(plan), shim: 1 }).await;
        changed(
            "CgroupDriver ContainersRunning Controllers MainPid Reasons StorageDriver Versions",
        )
        .await;
        world.engine.tell_died().await;
        changed(
            "DataRoot Deaths NetworkDriver NextAttempt PortDriver Since State StateDir Version \
             Versions",
        )
        .await;
        world.engine.take_start().await;
        changed("NextAttempt Phase Since State").await;
        world.engine.tell(Event::Idle).await;
        changed("Phase Since State").await;
        world.engine.tell(Event::Gone).await;
        changed("Phase Since State").await;
        world.handle.client().await.unwrap();
        changed("DemandStarts LastDemandStart Phase Since State").await;

        // Every property that is said to be announced was, with the value that can be read.
        let all = world.properties().await;
        assert_eq!(known, all);
        let silent = ["SupervisorPid", "SupervisorSince", "SupervisorVersion", "Systemd"];
        // The path of the socket does not change while a supervisor runs.
        let silent = silent.iter().chain(&["SocketPath"]).map(|&name| name.to_owned());
        let named: BTreeSet<_> = announced.into_iter().chain(silent).collect();
        assert_eq!(named, all.into_keys().collect());
    });
}

#[test]
fn a_job_is_announced_before_the_reply_and_ends_in_order() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 1;
        setup.config.engine.start = Start::Boot;
        let mut world = World::of(setup).await;
        let mut messages = world.messages().await;
        let options = HashMap::from([("timeout", Variant::U64(3_600_000_000))]);
        let path = world.engine().await.start(options).await.unwrap();
        assert_eq!(path.as_str(), format!("{JOB_PATH}/1"));
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(summary(&next(&mut messages).await));
        }
        // What the job brings about is told when it happens, before the reply or behind it.
        first.retain(|message| message != "Engine changed Phase Since State");
        assert_eq!(first, ["JobNew 1 1 start", "reply"]);

        let job = world.job(path).await;
        let told = (job.id().await, job.kind().await, job.state().await, job.result().await);
        let told = (told.0.unwrap(), told.1.unwrap(), told.2.unwrap(), told.3.unwrap());
        assert_eq!(told, (1, "start".into(), "running".into(), String::new()));
        assert!(job.error().await.unwrap().is_empty());

        let mut messages = world.messages().await;
        world.engine.take_start().await;
        world.engine.tell_died().await;
        for expected in [
            "Engine changed Deaths Phase Reasons Since State",
            "Job changed Error Result State",
            "JobRemoved 1 1 start failed",
        ] {
            assert_eq!(summary(&next(&mut messages).await), expected);
        }
        assert_eq!(job.state().await.unwrap(), "finished");
        assert_eq!(job.result().await.unwrap(), "failed");
        let error = job.error().await.unwrap();
        assert_eq!(error["name"], "org.rootlessd.Error.EngineDied");
        assert_eq!(error["message"], "the engine died: dockerd was killed.");
        assert_eq!(error["remedy"], "rootlessctl logs --part dockerd");

        // What there is no need to do is over before the reply.
        let engine = world.engine().await;
        engine.reset_failed().await.unwrap();
        is(&world.handle, State::Stopped).await;
        let mut messages = world.messages().await;
        engine.stop(nothing()).await.unwrap();
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "reply") {
            let message = summary(&next(&mut messages).await);
            if !message.starts_with("Engine changed") {
                all.push(message);
            }
        }
        let changed = "Job changed Error Result State";
        assert_eq!(all, ["JobNew 2 2 stop", changed, "JobRemoved 2 2 stop skipped", "reply"]);
    });
}

#[test]
fn a_job_without_time_ends_and_the_engine_goes_on() {
    run(async {
        let mut world = World::start().await;
        let engine = world.engine().await;
        let mut removed = engine.receive_job_removed().await.unwrap();
        let options = HashMap::from([("timeout", Variant::U64(1))]);
        let path = engine.start(options).await.unwrap();
        let signal = timeout(BOUND, removed.next()).await.unwrap().unwrap();
        assert_eq!(signal.args().unwrap().result, "timeout");
        let error = world.job(path).await.error().await.unwrap();
        assert_eq!(error["name"], "org.rootlessd.Error.Timeout");
        world.engine.come_up().await;
        is(&world.handle, State::Running).await;
    });
}

#[test]
fn jobs_can_be_cancelled_and_stay_readable_for_a_while() {
    run(async {
        let mut world = World::start().await;
        for number in 1..=20 {
            let engine = world.engine().await;
            let mut removed = engine.receive_job_removed().await.unwrap();
            let path = engine.start(nothing()).await.unwrap();
            let job = JobProxy::builder(&world.client).path(path).build().await.unwrap();
            job.cancel().await.unwrap();
            let signal = timeout(BOUND, removed.next()).await.unwrap().unwrap();
            let signal = signal.args().unwrap();
            assert_eq!((signal.id, signal.result), (number, "canceled"));
            let error =
                world.job(job.inner().path().to_owned().into()).await.error().await.unwrap();
            assert_eq!(error["name"], "org.rootlessd.Error.Canceled");
            assert_eq!(name(job.cancel().await), "org.rootlessd.Error.NoSuchJob");
            // It is undone.
            world.engine.take_start().await;
            world.engine.go_down().await;
            is(&world.handle, State::Stopped).await;
        }
        world.engine().await.restart(nothing()).await.unwrap();
        let parent = IntrospectableProxy::builder(&world.client).destination(BUS_NAME);
        let parent = parent.path(JOB_PATH).build().await.unwrap();
        let xml = parent.introspect().await.unwrap();
        let node = zbus_xml::Node::from_reader(xml.as_bytes()).unwrap();
        let listed: BTreeSet<u32> =
            node.nodes().iter().map(|node| node.name().unwrap().parse().unwrap()).collect();
        assert_eq!(listed, BTreeSet::from_iter(5..=21));
    });
}

#[test]
fn a_bad_call_is_told_what_is_wrong_and_does_nothing() {
    run(async {
        let mut world = World::start().await;
        let engine = world.engine().await;
        let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
        for (option, value) in [
            ("timeout", Variant::from("5s")),
            ("timeout", Variant::from(5_u32)),
            ("timeout", Variant::from(5_i64)),
            ("keep_containers", Variant::from(1_u32)),
            ("keep_everything", Variant::from(true)),
            ("", Variant::from(0_u64)),
        ] {
            let known = ("timeout", Variant::from(5_u64));
            let options = HashMap::from([known, (option, value)]);
            for result in [
                engine.start(options.clone_options()).await,
                engine.stop(options.clone_options()).await,
                engine.restart(options).await,
            ] {
                let text = result.as_ref().unwrap_err().to_string();
                assert!(text.contains(option), "{text}");
                assert_eq!(name(result), invalid);
            }
        }
        // Only a restart has containers to keep.
        let keep = HashMap::from([("keep_containers", Variant::from(true))]);
        let upgrade = engine.upgrade(keep.clone_options()).await;
        for result in [engine.start(keep.clone_options()).await, engine.stop(keep).await, upgrade] {
            assert_eq!(name(result), invalid);
        }
        assert_eq!(world.handle.jobs().await, Ok(vec![]));

        let engine = engine.inner();
        let calls: [(&str, &str); 4] = [
            ("Start", "org.freedesktop.DBus.Error.InvalidArgs"),
            ("Reload", "org.freedesktop.DBus.Error.InvalidArgs"),
            ("start", "org.freedesktop.DBus.Error.UnknownMethod"),
            ("Explode", "org.freedesktop.DBus.Error.UnknownMethod"),
        ];
        for (method, expected) in calls {
            let result = engine.call_method(method, &("x",)).await;
            let found = name(result);
            assert_eq!(found, expected, "{method}");
        }
        assert!(world.engine.is_left_alone());
        let properties = PropertiesProxy::new(&world.client, BUS_NAME, OBJECT_PATH).await.unwrap();
        let interface = || ENGINE_INTERFACE.try_into().unwrap();
        // zbus says so too of a property that can only be read.
        let set = properties.set(interface(), "State", &Variant::from("running")).await;
        assert_eq!(name(set.map_err(Into::into)), "org.freedesktop.DBus.Error.UnknownProperty");
        let get = properties.get(interface(), "Mood").await;
        assert_eq!(name(get.map_err(Into::into)), "org.freedesktop.DBus.Error.UnknownProperty");
    });
}

trait CloneOptions {
    fn clone_options(&self) -> Self;
}

impl CloneOptions for HashMap<&'static str, Variant<'static>> {
    fn clone_options(&self) -> Self {
        self.iter().map(|(&name, value)| (name, value.try_clone().unwrap())).collect()
    }
}

#[test]
fn errors_have_our_names() {
    run(async {
        let mut world = World::start().await;
        let engine = world.engine().await;
        // Whatever is the matter with the configuration.
        for &kind in ErrorKind::ALL {
            let error = Error::new(kind, "It\0rains.").with_remedy("open the umbrella");
            world.engine.set_config(Err(error));
            let result = engine.reload().await;
            let text = result.as_ref().unwrap_err().to_string();
            assert!(text.contains("rains. (to mend it: open the umbrella)"), "{text}");
            assert_eq!(name(result), kind.dbus_name());
        }
        engine.reset_failed().await.unwrap();

        engine.start(nothing()).await.unwrap();
        world.engine.take_start().await;
        world.engine.tell(Event::Refused(vec![obstacle()])).await;
        is(&world.handle, State::Failed).await;
        let job = world.job(format!("{JOB_PATH}/1").try_into().unwrap()).await;
        assert_eq!(job.error().await.unwrap()["name"], "org.rootlessd.Error.Preflight");

        // Nobody is let in any more while the engine is stopped for good.
        engine.start(nothing()).await.unwrap();
        world.engine.come_up().await;
        is(&world.handle, State::Running).await;
        world.engine.shut_down(Shutdown::StopEngine).await;
        is(&world.handle, State::Stopping).await;
        for result in [engine.start(nothing()).await, engine.restart(nothing()).await] {
            assert_eq!(name(result), "org.rootlessd.Error.Busy");
        }
        world.engine.go_down().await;
        assert_eq!(world.engine.ended().await, Shutdown::StopEngine);
        assert_eq!(name(engine.stop(nothing()).await), "org.rootlessd.Error.Busy");
    });
}

#[test]
fn all_nodes_can_be_introspected() {
    run(async {
        let world = World::start().await;
        world.engine().await.stop(nothing()).await.unwrap();
        let job = format!("{JOB_PATH}/1");
        for path in ["/", "/org", "/org/rootlessd", OBJECT_PATH, JOB_PATH, &job] {
            let node = IntrospectableProxy::builder(&world.client).destination(BUS_NAME);
            let node = node.path(path).build().await.unwrap();
            let xml = node.introspect().await.unwrap();
            let node = zbus_xml::Node::from_reader(xml.as_bytes()).unwrap();
            let ours = |name: &str| node.interfaces().iter().any(|known| known.name() == name);
            assert_eq!(ours(ENGINE_INTERFACE), path == OBJECT_PATH, "{path}");
            assert_eq!(ours(JOB_INTERFACE), path == job, "{path}");
        }
    });
}
