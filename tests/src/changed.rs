//! The rootlessd of another release: what is here, with the next version, the next version of the
//! protocol between rootlessd and engine-init, and a field more in what they tell each other and in
//! what rootlessd remembers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::install::project;

/// Its version.
pub const VERSION: &str = "9.9.9";

/// What makes it another release: file, what is there, and what takes its place.
const CHANGES: [(&str, &str, &str); 8] = [
    ("Cargo.toml", ", \"tests\"]", "]"),
    ("Cargo.toml", "version = \"0.1.0\"", "version = \"9.9.9\""),
    (
        "daemon/Cargo.toml",
        "[dependencies]",
        "[[bin]]\nname = \"rootlessd-changed\"\npath = \"src/main.rs\"\n\n[dependencies]",
    ),
    ("daemon/src/engine/init/control.rs", "PROTOCOL: u32 = 4", "PROTOCOL: u32 = 5"),
    (
        "daemon/src/engine/init/control.rs",
        "pub struct InitStatus {",
        "pub struct InitStatus {\n    /// News.\n    #[serde(default)]\n    pub news: u32,",
    ),
    (
        "daemon/src/engine/init/control.rs",
        "            protocol: PROTOCOL,",
        "            news: 1,\n            protocol: PROTOCOL,",
    ),
    (
        "daemon/src/engine/init/mod.rs",
        "            protocol: PROTOCOL,",
        "            news: 1,\n            protocol: PROTOCOL,",
    ),
    (
        "daemon/src/supervisor/memory.rs",
        "pub struct Memory {",
        "pub struct Memory {\n    /// News.\n    #[serde(default)]\n    pub news: u32,",
    ),
];

/// The program, built once from a changed copy of the sources.
pub fn rootlessd() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    // Beside what cargo built for this test, so that it has to build two crates only.
    let own = std::env::current_exe().expect("a test has a path");
    let target = own.ancestors().nth(3).expect("…/target/debug/deps/a_test");
    let copy = target.join("changed");
    fs::create_dir_all(&copy).expect("a directory");
    for name in ["Cargo.toml", "Cargo.lock", "api", "ctl", "daemon", "helper", "units"] {
        synchronise(&project().join(name), &copy.join(name), Path::new(name));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(&copy)
        .args(["build", "--quiet", "--offline", "-p", "rootlessd", "--target-dir"])
        .arg(target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the changed rootlessd does not build");
    target.join("debug/rootlessd-changed")
}

/// Copies what differs, with the changes. What stays the same keeps its time, and is not built again.
fn synchronise(from: &Path, to: &Path, name: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a directory");
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry").file_name();
            synchronise(&from.join(&entry), &to.join(&entry), &name.join(&entry));
        }
        return;
    }
    let mut content = fs::read(from).expect("a file");
    for (_, before, after) in CHANGES.iter().filter(|(file, ..)| Path::new(file) == name) {
        let text = String::from_utf8(content).expect("text");
        assert!(text.contains(before), "{before:?} is not in {name:?} any more");
        content = text.replacen(before, after, 1).into_bytes();
    }
    // cargo itself brings the lock file up to date.
    let is_kept = name == Path::new("Cargo.lock") && to.exists();
    let is_same = fs::read(to).is_ok_and(|there| there == content);
    if !is_kept && !is_same {
        fs::write(to, content).expect("written");
    }
}
