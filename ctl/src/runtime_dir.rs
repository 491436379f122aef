//! The user's runtime directory: where the supervisor listens.
//!
//! `su` and `sudo` lose `$XDG_RUNTIME_DIR` or, worse, keep another user's. The directory that logind
//! makes is tried before a person is bothered.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// The runtime directory of the user who runs this process.
pub fn find() -> Result<PathBuf, Failure> {
    let variable = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    choose(variable.as_deref().map(Path::new), uid, Path::new("/run/user"))
}

fn choose(variable: Option<&Path>, uid: u32, logind: &Path) -> Result<PathBuf, Failure> {
    if let Some(directory) = variable
        && is_ours(directory, uid)
    {
        return Ok(directory.to_owned());
    }
    let usual = logind.join(uid.to_string());
    if is_ours(&usual, uid) {
        return Ok(usual);
    }
    let usual = usual.display();
    let message = match variable {
        Some(directory) => format!(
            "XDG_RUNTIME_DIR is {}, which is not a directory of this user, and {usual} does not \
             exist",
            directory.display()
        ),
        None => format!("XDG_RUNTIME_DIR is not set, and {usual} does not exist"),
    };
    let remedy = if uid == 0 {
        "run rootlessctl as an ordinary user, without sudo".to_owned()
    } else {
        "log in as this user itself (ssh or machinectl shell, not su or sudo), or have the \
         directory made without a login: sudo loginctl enable-linger \"$(id -un)\""
            .to_owned()
    };
    Err(Failure::NoRuntimeDir { message, remedy })
}

fn is_ours(directory: &Path, uid: u32) -> bool {
    directory.is_absolute()
        && fs::metadata(directory).is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn the_variable_comes_first_when_it_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let found = choose(Some(root.path()), uid(), Path::new("/nonexistent")).unwrap();
        assert_eq!(found, root.path());
    }

    #[test]
    fn logind_s_directory_is_tried_next() {
        let root = tempfile::tempdir().unwrap();
        let usual = root.path().join(uid().to_string());
        fs::create_dir(&usual).unwrap();
        for variable in [None, Some(Path::new("/nonexistent")), Some(Path::new("relative"))] {
            assert_eq!(choose(variable, uid(), root.path()).unwrap(), usual);
        }
    }

    #[test]
    fn without_either_the_failure_says_what_to_do() {
        let nowhere = Path::new("/nonexistent");
        let failure = choose(None, 4242, nowhere).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "XDG_RUNTIME_DIR is not set, and /nonexistent/4242 does not exist"
        );
        assert!(failure.remedy().unwrap().contains("enable-linger"));
        // Another user's directory, as `su` without `-` leaves it.
        let failure = choose(Some(Path::new("/")), 4242, nowhere).unwrap_err();
        assert!(failure.to_string().starts_with("XDG_RUNTIME_DIR is /, which is not"), "{failure}");
        assert!(choose(None, 0, nowhere).unwrap_err().remedy().unwrap().contains("without sudo"));
    }
}
