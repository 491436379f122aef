//! The interface's XML: committed, installed, and equal to the code; and the gate in front of it.

use std::{fs, path::Path};

use rootlessd_api::{
    dbus::introspection::{is_file, members, snake_case, undocumented, xml},
    helper::{Action, BUS_NAME, INTERFACE},
};

use crate::{
    helper::Helper,
    root::Root,
    service::{ACCESS, Access, Service},
    systemd::Systemd,
};

fn text() -> String {
    let root = Root::tree(Path::new("/")).unwrap();
    xml(&Service::new(Helper::new(root, Systemd::new(None)), Default::default()))
}

fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_file_is_that_of_the_code() {
    let (path, xml) = (project(&format!("units/dbus-1/interfaces/{INTERFACE}.xml")), text());
    assert!(is_file(&path, &xml), "{} is not what the code says", path.display());
    assert_eq!(undocumented(&xml), [""; 0]);
    let proxies = include_str!("../../api/src/dbus/helper.rs");
    for name in members(&xml) {
        assert!(proxies.contains(&format!("fn {}(", snake_case(name))), "{name}");
    }
    let service = project(&format!("units/dbus-1/system-services/{BUS_NAME}.service"));
    assert!(fs::read_to_string(service).unwrap().contains(&format!("\nName={BUS_NAME}\n")));
}

/// Attack 2: a method without an action, or a property, would be a way past the gate.
#[test]
fn attack_02_every_method_has_its_access_and_there_are_no_properties() {
    let xml = text();
    assert!(!xml.contains("<property ") && !xml.contains("<signal "));
    let named: Vec<_> = ACCESS.iter().map(|(name, _)| *name).collect();
    assert_eq!(members(&xml), named);
    let node = zbus_xml::Node::from_reader(xml.as_bytes()).unwrap();
    assert_eq!(node.interfaces().len(), 1);

    // And each action is one that polkit knows.
    let policy = fs::read_to_string(project("polkit/org.rootlessd.helper1.policy")).unwrap();
    for action in Action::ALL {
        assert!(policy.contains(&format!("<action id=\"{}\">", action.id())), "{action}");
    }
    assert_eq!(policy.matches("<action id=").count(), Action::ALL.len());
    for (name, access) in ACCESS {
        if let Access::Action(action) = access {
            // The method and its action say the same in their own spelling.
            assert_eq!(
                snake_case(name).replace('_', "-").replace("sub-ids", "subids"),
                action.as_str()
            );
        }
    }
}

/// Attacks 12, 15, 16, 22, 23, 30, 31: there is no argument for a path, an open file, a capability,
/// a user, a unit or a lease.
#[test]
fn attack_16_the_arguments_are_words_and_numbers() {
    let allowed =
        [("ports", "a(sq)"), ("start", "q"), ("range", "s"), ("controllers", "as"), ("grant", "s")];
    let xml = text();
    for line in xml.lines().filter(|line| line.contains("direction=\"in\"")) {
        let known = |(name, kind): &(&str, &str)| {
            line.contains(&format!("name=\"{name}\" type=\"{kind}\""))
        };
        assert!(allowed.iter().any(known), "{line}");
    }
    assert!(!xml.contains("type=\"h\"") && !xml.contains("a{sv}\" direction=\"in\""));
}
