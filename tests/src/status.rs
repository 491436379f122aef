//! The status as a D-Bus client sees it.

use std::collections::HashMap;

use rootlessd_api::{
    Death, Incident, Port, Process, Reason, Status, Supervisor,
    dbus::{EngineProxy, PortsProxy},
};
use zbus::{OwnedVariant, proxy::CacheProperties};

const GOOD: &str = "what is documented";

type Dict = HashMap<String, OwnedVariant>;

/// The status, put together from the properties as they are documented.
///
/// Panics if one is not.
pub async fn status_over_dbus(engine: &EngineProxy<'_>) -> Status {
    fn known(text: String) -> Option<String> {
        (!text.is_empty()).then_some(text)
    }
    fn get<T>(dict: &Dict, key: &str) -> Option<T>
    where
        T: TryFrom<OwnedVariant>,
    {
        dict.get(key).map(|value| T::try_from(value.try_clone().expect(GOOD)).ok().expect(GOOD))
    }
    let mut versions = engine.versions().await.expect(GOOD);
    Status {
        state: engine.state().await.expect(GOOD).parse().expect(GOOD),
        phase: known(engine.phase().await.expect(GOOD)).map(|phase| phase.parse().expect(GOOD)),
        since: engine.since().await.expect(GOOD),
        reasons: (engine.reasons().await.expect(GOOD).iter())
            .map(|reason| Reason {
                code: get(reason, "code").expect(GOOD),
                part: get::<String>(reason, "part").expect(GOOD).parse().expect(GOOD),
                text: get(reason, "text").expect(GOOD),
                remedy: get(reason, "remedy"),
            })
            .collect(),
        next_attempt: Some(engine.next_attempt().await.expect(GOOD)).filter(|&time| time > 0),
        deaths: (engine.deaths().await.expect(GOOD).iter())
            .map(|death| Death {
                at: get(death, "at").expect(GOOD),
                part: get::<String>(death, "part").expect(GOOD).parse().expect(GOOD),
                exit_code: get(death, "exit_code"),
                signal: get(death, "signal"),
                out_of_memory: get(death, "out_of_memory").unwrap_or_default(),
                text: get(death, "text").expect(GOOD),
                log: get(death, "log").expect(GOOD),
            })
            .collect(),
        incidents: (engine.incidents().await.expect(GOOD).iter())
            .map(|incident| Incident {
                at: get(incident, "at").expect(GOOD),
                part: get::<String>(incident, "part").expect(GOOD).parse().expect(GOOD),
                kind: get::<String>(incident, "kind").expect(GOOD).parse().expect(GOOD),
                text: get(incident, "text").expect(GOOD),
                took: get(incident, "took"),
            })
            .collect(),
        main_pid: Some(engine.main_pid().await.expect(GOOD)).filter(|&pid| pid > 0),
        supervisor: Supervisor {
            version: engine.supervisor_version().await.expect(GOOD),
            pid: engine.supervisor_pid().await.expect(GOOD),
            since: engine.supervisor_since().await.expect(GOOD),
            systemd: engine.systemd().await.expect(GOOD),
        },
        version: known(engine.version().await.expect(GOOD)),
        containerd_version: versions.remove("containerd"),
        runc_version: versions.remove("runc"),
        rootlesskit_version: versions.remove("rootlesskit"),
        socket_path: engine.socket_path().await.expect(GOOD),
        data_root: known(engine.data_root().await.expect(GOOD)),
        state_dir: known(engine.state_dir().await.expect(GOOD)),
        network_driver: known(engine.network_driver().await.expect(GOOD)),
        port_driver: known(engine.port_driver().await.expect(GOOD)),
        storage_driver: known(engine.storage_driver().await.expect(GOOD)),
        cgroup_driver: known(engine.cgroup_driver().await.expect(GOOD)),
        controllers: engine.controllers().await.expect(GOOD),
        granted_ports: granted(engine).await,
        containers_running: Some(engine.containers_running().await.expect(GOOD))
            .filter(|&count| count != u32::MAX),
        demand_starts: engine.demand_starts().await.expect(GOOD),
        last_demand_start: Some(engine.last_demand_start().await.expect(GOOD))
            .filter(|&time| time > 0),
        processes: (engine.processes().await.expect(GOOD).iter())
            .map(|process| Process {
                part: get::<String>(process, "part").expect(GOOD).parse().expect(GOOD),
                pid: get(process, "pid").expect(GOOD),
                name: get(process, "name").expect(GOOD),
                memory: get(process, "memory").expect(GOOD),
            })
            .collect(),
    }
}

/// Of the other interface of the same object.
async fn granted(engine: &EngineProxy<'_>) -> Vec<Port> {
    let ports = PortsProxy::builder(engine.inner().connection())
        .cache_properties(CacheProperties::No)
        .build()
        .await
        .expect(GOOD);
    let granted = ports.granted().await.expect(GOOD);
    granted.iter().map(|(protocol, port)| Port::new(protocol, *port).expect(GOOD)).collect()
}
