//! What `make install` installs, in a directory, for beds and for engines on this machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

/// The top of the project.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project")
}

/// Where the programs under test are: `ROOTLESSD_BIN_DIR`, or what `make build` built.
pub fn programs() -> PathBuf {
    let directory = std::env::var_os("ROOTLESSD_BIN_DIR").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| project().join("target/release"));
    assert!(directory.join("rootlessd").exists(), "run `make build` first");
    directory
}

/// A tree with everything installed below `/usr/local`, made once.
pub fn tree() -> &'static Path {
    static TREE: OnceLock<TempDir> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let tree = tempfile::tempdir().expect("a directory");
        let status = Command::new(project().join("scripts/install.sh"))
            .arg(tree.path())
            .arg("/usr/local")
            .env("ROOTLESSD_BIN_DIR", programs())
            .status()
            .expect("scripts/install.sh runs");
        assert!(status.success(), "scripts/install.sh fails");
        tree
    });
    tree.path()
}
