//! What a client is told of the engine, and of its changes.

use super::{Dict, World, next, summary};
use std::{collections::BTreeSet, time::Duration};

use rootlessd::engine::driver::Event;
use rootlessd_api::{JobKind, JobOptions, Part, State, Status, client::Client, dbus::EngineProxy};
use rootlessd_tests::{
    engine::{Setup, is, memory, plan, reaches},
    run,
    status::status_over_dbus,
};
use serde_json::json;
use zbus::proxy::CacheProperties;

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
        let mut another = plan();
        another.versions.runc = Some("another".into());
        world.engine.tell(Event::Launched { plan: Box::new(another), shim: 1 }).await;
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
