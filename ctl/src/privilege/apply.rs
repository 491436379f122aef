//! `rootlessd-helper apply`: the same without a bus, as root; and, as anybody, what would be changed.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use rootlessd_api::{Error, ErrorKind, helper::NO_CHANGE};
use tokio::process::Command;

use crate::failure::Failure;

/// The program.
const NAME: &str = "rootlessd-helper";
/// Where it is if it is not installed beside us. Never looked for in `PATH`, which is anybody's.
const DIRECTORIES: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];

/// The command line by which root does what was asked for, for whoever runs this.
pub fn line(words: &[String]) -> String {
    format!("{} --for {}", line_for_all(words), user())
}

/// The same, for everybody.
pub fn line_for_all(words: &[String]) -> String {
    format!("sudo {NAME} apply {}", words.join(" "))
}

/// Whether it is there at all.
pub fn is_installed() -> bool {
    find(std::env::current_exe().ok().as_deref(), &DIRECTORIES.map(Path::new)).is_some()
}

/// What would be changed, a sentence for each file and setting.
pub async fn dry_run(words: &[String]) -> Result<Vec<String>, Failure> {
    let own = std::env::current_exe().ok();
    let program = find(own.as_deref(), &DIRECTORIES.map(Path::new)).ok_or_else(|| {
        let error = Error::new(
            ErrorKind::HelperMissing,
            format!("{NAME}, which knows what would be changed, is not installed"),
        );
        Failure::Api(error.with_remedy("install it, as `make install` does"))
    })?;
    let output = Command::new(&program)
        .arg("apply")
        .args(words)
        .args(["--for", &user(), "--dry-run"])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|source| Failure::Io { action: format!("run {}", program.display()), source })?;
    if !output.status.success() {
        return Err(Failure::Api(error(&String::from_utf8_lossy(&output.stderr))));
    }
    Ok(changes(&String::from_utf8_lossy(&output.stdout)))
}

/// Who runs this, as the user database has it.
fn user() -> String {
    let uid = rustix::process::geteuid();
    let account = nix::unistd::User::from_uid(uid.as_raw().into()).ok().flatten();
    match account {
        // Nothing is granted to root.
        Some(account) if !uid.is_root() => account.name,
        _ => "USER".to_owned(),
    }
}

/// The program, installed as we are (`bin` and `sbin` side by side) or where it usually is.
fn find(own: Option<&Path>, directories: &[&Path]) -> Option<PathBuf> {
    let beside = own.and_then(|own| Some(own.parent()?.parent()?.join("sbin")));
    let places = beside.into_iter().chain(directories.iter().map(|&place| place.to_owned()));
    places.map(|place| place.join(NAME)).find(|program| program.is_file())
}

fn changes(stdout: &str) -> Vec<String> {
    stdout.lines().filter(|line| *line != NO_CHANGE).map(str::to_owned).collect()
}

/// The last thing that it said.
fn error(stderr: &str) -> Error {
    let last = stderr.trim_end().lines().last().unwrap_or_default();
    let text = last.strip_prefix(&format!("{NAME}: ")).unwrap_or(last);
    match text {
        "" => Error::new(ErrorKind::System, format!("{NAME} failed")),
        text => Error::from_text(ErrorKind::System, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_us_first_and_never_in_path() {
        let tree = tempfile::tempdir().unwrap();
        let own = tree.path().join("bin/rootlessctl");
        let (beside, usual) = (tree.path().join("sbin"), tree.path().join("usr"));
        let find = || find(Some(&own), &[&usual]);
        assert_eq!(find(), None);
        for directory in [&usual, &beside] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join(NAME), "").unwrap();
            assert_eq!(find(), Some(directory.join(NAME)));
        }
    }

    #[test]
    fn what_it_says_is_read() {
        assert_eq!(changes("nothing has to be changed\n"), [""; 0]);
        assert_eq!(changes("/etc/a: b\n/etc/c: d\n"), ["/etc/a: b", "/etc/c: d"]);
        let failed =
            error("WARN something\nrootlessd-helper: no cgroups (to mend it: boot anew)\n");
        assert_eq!(failed.message, "no cgroups");
        assert_eq!(failed.remedy.as_deref(), Some("boot anew"));
        assert_eq!(error("").message, "rootlessd-helper failed");
    }
}
