//! An interface's XML as it is installed: for the tests that hold the files against the code.

use std::{env, fs, path::Path};

use zbus::object_server::Interface;

const HEAD: &str = "\
<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"
 \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">
<!-- Made from the code; cargo test compares it, and writes it anew with ROOTLESSD_BLESS=1. -->
";

/// The file of an interface.
pub fn xml(interface: &impl Interface) -> String {
    let mut xml = format!("{HEAD}<node>\n");
    interface.introspect_to_writer(&mut xml, 2);
    xml + "</node>\n"
}

/// Whether a file is `xml`; with `ROOTLESSD_BLESS` in the environment, it is made so first.
pub fn is_file(path: &Path, xml: &str) -> bool {
    if env::var_os("ROOTLESSD_BLESS").is_some() && fs::write(path, xml).is_err() {
        return false;
    }
    fs::read_to_string(path).is_ok_and(|text| text == xml)
}

/// The lines of members without a comment, and of arguments without a name.
pub fn undocumented(xml: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut last = "";
    for line in xml.lines() {
        let comment_missing = is_member(line) && !last.ends_with("-->");
        let name_missing = line.trim_start().starts_with("<arg ") && !line.contains(" name=\"");
        if comment_missing || name_missing {
            lines.push(line);
        }
        last = line;
    }
    lines
}

/// The names of methods, properties and signals.
pub fn members(xml: &str) -> Vec<&str> {
    let lines = xml.lines().filter(|line| is_member(line));
    lines
        .filter_map(|line| line.split_once(" name=\"")?.1.split_once('"').map(|(name, _)| name))
        .collect()
}

fn is_member(line: &str) -> bool {
    ["<method ", "<property ", "<signal "].iter().any(|word| line.trim_start().starts_with(word))
}

/// The name of a member's function in a proxy.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
