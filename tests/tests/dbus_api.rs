//! `org.rootlessd.Supervisor1` as a client meets it, before a supervisor that does what it is told.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt;
use rootlessd::varlink::server::Limits;
use rootlessd_api::{
    Death, Error, ErrorKind, JobResult, Reason, State, Status,
    client::Client,
    dbus::{EngineProxy, JobProxy},
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_INTERFACE, JOB_PATH, OBJECT_PATH},
    samples,
};
use rootlessd_tests::{
    BOUND, bus::TestBus, driver::Driver, front::Front, run, status::status_over_dbus,
};
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, OwnedVariant, Variant,
    fdo::{DBusProxy, IntrospectableProxy, PropertiesProxy},
    message::Type,
};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");

type Dict = HashMap<String, OwnedVariant>;

/// Everything there is: a supervisor, its front ends, a bus, and a client on it.
struct World {
    driver: Driver,
    front: Front,
    client: Connection,
    _bus: TestBus,
}

impl World {
    async fn start() -> Self {
        let (handle, driver) = Driver::start();
        let front = Front::start(handle, Limits::default());
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        named(&client).await;
        Self { driver, front, client, _bus: bus }
    }

    async fn engine(&self) -> EngineProxy<'_> {
        EngineProxy::new(&self.client).await.unwrap()
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

#[test]
fn both_apis_tell_the_same_status() {
    run(async {
        let world = World::start().await;
        let engine = world.engine().await;
        let mut varlink = Client::connect(&world.front.varlink()).await.unwrap();
        let little = Status {
            reasons: vec![Reason { remedy: None, ..samples::reason() }],
            phase: None,
            next_attempt: None,
            deaths: vec![Death { exit_code: None, log: vec![], ..samples::death() }],
            main_pid: None,
            version: None,
            containerd_version: None,
            runc_version: None,
            rootlesskit_version: None,
            data_root: None,
            state_dir: None,
            network_driver: None,
            port_driver: None,
            storage_driver: None,
            cgroup_driver: None,
            controllers: vec![],
            containers_running: None,
            ..samples::status()
        };
        for mut status in [samples::status(), little] {
            // The bus takes no NUL.
            status.deaths[0].log.iter_mut().for_each(|line| *line = line.replace('\0', "\u{fffd}"));
            let mut changes = engine.receive_job_new().await.unwrap();
            world.driver.publish(|published| *published = status);
            // A round trip later, the change has been told.
            engine.start(nothing()).await.unwrap();
            timeout(BOUND, changes.next()).await.unwrap();
            assert_eq!(status_over_dbus(&engine).await, varlink.status().await.unwrap());
        }
    });
}

#[test]
fn exactly_what_changed_is_announced_in_one_signal() {
    run(async {
        let world = World::start().await;
        let mut messages = world.messages().await;
        world.driver.publish(|status| {
            status.state = State::Starting;
            status.since += 1;
        });
        assert_eq!(summary(&next(&mut messages).await), "Engine changed Since State");
        world.driver.publish(|_| {});
        world.driver.publish(|status| status.runc_version = Some("1.2".into()));
        assert_eq!(summary(&next(&mut messages).await), "Engine changed Versions");

        // Every property that is said to be announced is, with the value that can be read.
        world.driver.publish(|status| {
            let old = status.clone();
            *status = Status { supervisor: old.supervisor, ..samples::status() };
            status.since = old.since + 1;
            status.socket_path = "/elsewhere".into();
            status.main_pid = Some(1);
            for text in [
                &mut status.version,
                &mut status.data_root,
                &mut status.state_dir,
                &mut status.network_driver,
                &mut status.port_driver,
                &mut status.storage_driver,
                &mut status.cgroup_driver,
            ] {
                *text = Some("another".into());
            }
            status.controllers.pop();
            status.containers_running = Some(4);
            status.reasons.clear();
            status.deaths.clear();
        });
        let body = next(&mut messages).await;
        let (_, changed, invalidated): (String, Dict, Vec<String>) =
            body.body().deserialize().unwrap();
        assert!(invalidated.is_empty());
        let properties = PropertiesProxy::new(&world.client, BUS_NAME, OBJECT_PATH).await.unwrap();
        let mut all = properties.get_all(ENGINE_INTERFACE.try_into().unwrap()).await.unwrap();
        for silent in
            ["Processes", "SupervisorPid", "SupervisorSince", "SupervisorVersion", "Systemd"]
        {
            assert!(all.remove(silent).is_some(), "{silent} can be read");
        }
        assert_eq!(changed, all);
    });
}

#[test]
fn a_job_is_announced_before_the_reply_and_ends_in_order() {
    run(async {
        let world = World::start().await;
        let engine = world.engine().await;
        let mut messages = world.messages().await;
        let timeout = HashMap::from([("timeout", Variant::U64(5_000_000))]);
        let path = engine.start(timeout).await.unwrap();
        assert_eq!(path.as_str(), format!("{JOB_PATH}/1"));
        assert_eq!(world.driver.options(1).unwrap().timeout, Some(5_000_000));
        assert_eq!(summary(&next(&mut messages).await), "JobNew 1 1 start");
        assert_eq!(summary(&next(&mut messages).await), "reply");

        let job = JobProxy::builder(&world.client)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .unwrap();
        let told = (job.id().await, job.kind().await, job.state().await, job.result().await);
        let told = (told.0.unwrap(), told.1.unwrap(), told.2.unwrap(), told.3.unwrap());
        assert_eq!(told, (1, "start".into(), "running".into(), String::new()));
        assert!(job.error().await.unwrap().is_empty());

        let mut messages = world.messages().await;
        world.driver.publish(|status| status.state = State::Running);
        let failed = samples::job();
        world.driver.finish(1, JobResult::Failed, failed.error.clone());
        for expected in [
            "Engine changed State",
            "Job changed Error Result State",
            "JobRemoved 1 1 start failed",
        ] {
            assert_eq!(summary(&next(&mut messages).await), expected);
        }
        assert_eq!(job.state().await.unwrap(), "finished");
        assert_eq!(job.result().await.unwrap(), "failed");
        let error = job.error().await.unwrap();
        assert_eq!(error["name"], "org.rootlessd.Error.EngineDied");
        assert_eq!(error["message"], failed.error.as_ref().unwrap().message);
        assert_eq!(Some(&error["remedy"]), failed.error.unwrap().remedy.as_ref());

        // What there is no need to do is over before the reply.
        let mut messages = world.messages().await;
        engine.start(nothing()).await.unwrap();
        for expected in ["JobNew 2 2 start", "JobRemoved 2 2 start skipped", "reply"] {
            assert_eq!(summary(&next(&mut messages).await), expected);
        }
    });
}

#[test]
fn jobs_can_be_cancelled_and_stay_readable_for_a_while() {
    run(async {
        let world = World::start().await;
        let engine = world.engine().await;
        let mut removed = engine.receive_job_removed().await.unwrap();
        for number in 1..=20 {
            let path = engine.stop(nothing()).await.unwrap();
            let job = JobProxy::builder(&world.client).path(path).build().await.unwrap();
            job.cancel().await.unwrap();
            let signal = timeout(BOUND, removed.next()).await.unwrap().unwrap();
            let signal = signal.args().unwrap();
            assert_eq!((signal.id, signal.result), (number, "canceled"));
            assert_eq!(name(job.cancel().await), "org.rootlessd.Error.NoSuchJob");
        }
        engine.restart(nothing()).await.unwrap();
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
        let world = World::start().await;
        let engine = world.engine().await;
        let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
        for (option, value) in [
            ("timeout", Variant::from("5s")),
            ("timeout", Variant::from(5_u32)),
            ("timeout", Variant::from(5_i64)),
            ("keep_containers", Variant::from(true)),
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
        assert_eq!(world.driver.job_count(), 0);

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
        assert_eq!(world.driver.reloads_and_resets(), (0, 0));
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
        let world = World::start().await;
        let engine = world.engine().await;
        for &kind in ErrorKind::ALL {
            let error = Error::new(kind, "It\0rains.").with_remedy("open the umbrella");
            world.driver.fail(Some(error));
            assert_eq!(name(engine.reload().await), kind.dbus_name());
            let result = engine.reset_failed().await;
            let text = result.as_ref().unwrap_err().to_string();
            assert!(text.contains("rains. (to mend it: open the umbrella)"), "{text}");
            assert_eq!(name(result), kind.dbus_name());
            assert_eq!(name(engine.start(nothing()).await), kind.dbus_name());
        }
        world.driver.fail(None);
        engine.reload().await.unwrap();
        engine.reset_failed().await.unwrap();
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
