//! The interfaces' XML: committed, installed, and equal to the code.

use std::{fs, path::Path, sync::Arc};

use rootlessd_api::{
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_INTERFACE},
    samples,
};
use tokio::sync::watch;
use zbus::object_server::Interface;

use super::{announce::Announcer, engine::Engine, gate::Gate, job::JobObject};
use crate::supervisor::handle::Handle;

const HEAD: &str = "\
<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"
 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">
<!-- Made from the code; cargo test compares it, and writes it anew with ROOTLESSD_BLESS=1. -->
";

fn gate() -> (Handle, Gate) {
    let (handle, _) = Handle::new(samples::status(), samples::log_location());
    (handle.clone(), Gate::new(handle))
}

fn engine() -> Engine {
    let (handle, gate) = gate();
    Engine::new(gate.clone(), Arc::new(Announcer::new(handle, gate)))
}

fn job() -> JobObject {
    JobObject::new(gate().1, watch::channel(samples::job()).1)
}

fn xml(interface: &impl Interface) -> String {
    let mut xml = format!("{HEAD}<node>\n");
    interface.introspect_to_writer(&mut xml, 2);
    xml + "</node>\n"
}

#[test]
fn the_files_are_those_of_the_code() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../units/dbus-1");
    for (name, xml) in [(ENGINE_INTERFACE, xml(&engine())), (JOB_INTERFACE, xml(&job()))] {
        let path = units.join("interfaces").join(format!("{name}.xml"));
        if std::env::var_os("ROOTLESSD_BLESS").is_some() {
            fs::write(&path, &xml).expect("the file can be written");
        }
        let file = fs::read_to_string(&path).unwrap_or_default();
        assert!(file == xml, "{} is not what the code says", path.display());
        let node = zbus_xml::Node::from_reader(xml.as_bytes()).expect("it is XML");
        assert_eq!(node.interfaces()[0].name().as_str(), name);
    }
    let service = units.join("services").join(format!("{BUS_NAME}.service"));
    let service = fs::read_to_string(service).expect("the activation file is there");
    assert!(service.contains(&format!("\nName={BUS_NAME}\n")));
}

#[test]
fn every_member_is_documented() {
    for xml in [xml(&engine()), xml(&job())] {
        let mut last = "";
        for line in xml.lines() {
            let member = ["<method ", "<property ", "<signal "]
                .iter()
                .any(|start| line.trim_start().starts_with(start));
            assert!(!member || last.ends_with("-->"), "not documented: {line}");
            // The arguments are told apart by their names.
            let argument = line.trim_start().starts_with("<arg ");
            assert!(!argument || line.contains(" name=\""), "no name: {line}");
            last = line;
        }
    }
}

#[test]
fn every_member_has_its_proxy() {
    let proxies = include_str!("../../../api/src/dbus.rs");
    for xml in [xml(&engine()), xml(&job())] {
        let node = zbus_xml::Node::from_reader(xml.as_bytes()).expect("it is XML");
        let interface = &node.interfaces()[0];
        let methods = interface.methods().map(|method| method.name().to_string());
        let signals = interface.signals().map(|signal| signal.name().to_string());
        let properties = interface.properties().map(|property| property.name().to_string());
        for name in methods.chain(signals).chain(properties) {
            let function = format!("fn {}(", snake_case(&name));
            assert!(proxies.contains(&function), "{name}");
        }
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
