//! The interfaces' XML: committed, installed, and equal to the code.

use std::{fs, path::Path, sync::Arc};

use rootlessd_api::{
    dbus::introspection::{is_file, members, snake_case, undocumented, xml},
    names::{BUS_NAME, ENGINE_INTERFACE, EVENTS_INTERFACE, JOB_INTERFACE, PORTS_INTERFACE},
    samples,
};
use tokio::sync::watch;

use super::{
    announce::Announcer, engine::Engine, events::Events, gate::Gate, job::JobObject, ports::Ports,
};
use crate::{events::Events as History, supervisor::handle::Handle};

fn gate() -> (Handle, Gate) {
    let events = History::new("/nowhere".into(), 0);
    let (handle, _) = Handle::new(samples::status(), samples::log_location(), events);
    (handle.clone(), Gate::new(handle))
}

fn engine() -> Engine {
    let (handle, gate) = gate();
    Engine::new(gate.clone(), Arc::new(Announcer::new(handle, gate)))
}

fn job() -> JobObject {
    JobObject::new(gate().1, watch::channel(samples::job()).1)
}

#[test]
fn the_files_are_those_of_the_code() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../units/dbus-1");
    let files = [
        (ENGINE_INTERFACE, xml(&engine())),
        (PORTS_INTERFACE, xml(&Ports::new(gate().1))),
        (EVENTS_INTERFACE, xml(&Events::new(gate().1))),
        (JOB_INTERFACE, xml(&job())),
    ];
    for (name, xml) in files {
        let path = units.join("interfaces").join(format!("{name}.xml"));
        assert!(is_file(&path, &xml), "{} is not what the code says", path.display());
        let node = zbus_xml::Node::from_reader(xml.as_bytes()).expect("it is XML");
        assert_eq!(node.interfaces()[0].name().as_str(), name);
    }
    let service = units.join("services").join(format!("{BUS_NAME}.service"));
    let service = fs::read_to_string(service).expect("the activation file is there");
    assert!(service.contains(&format!("\nName={BUS_NAME}\n")));
}

#[test]
fn every_member_is_documented_and_has_its_proxy() {
    let proxies = include_str!("../../../api/src/dbus/supervisor.rs");
    let gate = || gate().1;
    let (ports, events) = (xml(&Ports::new(gate())), xml(&Events::new(gate())));
    for xml in [xml(&engine()), ports, events, xml(&job())] {
        assert_eq!(undocumented(&xml), [""; 0]);
        for name in members(&xml) {
            assert!(proxies.contains(&format!("fn {}(", snake_case(name))), "{name}");
        }
    }
}
