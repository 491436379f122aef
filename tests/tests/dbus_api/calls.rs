//! Calls that are refused, by which names, and what tells which calls there are.

use super::{World, name, nothing};
use std::collections::HashMap;

use rootlessd::{engine::driver::Event, supervisor::Shutdown};
use rootlessd_api::{
    Error, ErrorKind, State,
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_INTERFACE, JOB_PATH, OBJECT_PATH},
};
use rootlessd_tests::{
    engine::{is, obstacle},
    run,
};
use zbus::{
    Variant,
    fdo::{IntrospectableProxy, PropertiesProxy},
};

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
