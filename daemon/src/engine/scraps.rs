//! What the engine's programs make for a moment in directories that they share with others, and leave
//! there if they are ended in between.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use crate::sys::{
    files,
    process::{self, Stat},
};

/// What a program makes for a moment: a random number ends its name.
struct Scrap {
    /// What its name begins with.
    prefix: &'static str,
    /// What it is.
    kind: Kind,
    /// The program that makes it, as the kernel names its processes.
    program: &'static str,
}

enum Kind {
    File,
    /// A directory, and the one file that may be in it: anything else would not be the program's.
    Directory(Option<&'static str>),
}

const SCRAPS: [Scrap; 4] = [
    // Mount points of RootlessKit's child, always in `/tmp` (`pkg/copyup/tmpfssymlink/`,
    // `pkg/child/child.go`).
    Scrap { prefix: "rootlesskit-b", kind: Kind::Directory(None), program: "rootlesskit" },
    Scrap { prefix: "rksys", kind: Kind::Directory(None), program: "rootlesskit" },
    // What `docker exec` is to run, environment and all, and the way to its terminal: in
    // `$XDG_RUNTIME_DIR`, by older versions in `$TMPDIR` or `/tmp` (go-runc's `Exec` and
    // `NewTempConsoleSocket`).
    Scrap { prefix: "runc-process", kind: Kind::File, program: SHIM },
    Scrap { prefix: "pty", kind: Kind::Directory(Some("pty.sock")), program: SHIM },
];

/// `containerd-shim-runc-v2`, of which the kernel keeps 15 bytes.
const SHIM: &str = "containerd-shim";

/// Remove what an engine that is gone has left in these directories. What may be another engine's
/// stays: that of a program which this user still runs. The kernel would even remove a mount point
/// from under what is mounted there in another namespace.
pub fn remove<'a>(directories: impl IntoIterator<Item = &'a Path>) {
    let mut known = HashMap::new();
    remove_unless(directories, |program| *known.entry(program).or_insert_with(|| runs(program)));
}

fn remove_unless<'a>(
    directories: impl IntoIterator<Item = &'a Path>,
    mut is_needed: impl FnMut(&'static str) -> bool,
) {
    let me = nix::unistd::getuid().as_raw();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Some(scrap) = SCRAPS.iter().find(|it| it.is_named(&entry.file_name())) else {
                continue;
            };
            let path = entry.path();
            let is_ours = fs::symlink_metadata(&path).is_ok_and(|it| it.uid() == me);
            if is_ours && !is_needed(scrap.program) {
                // What cannot be removed is not what it seemed to be.
                let _ = scrap.remove(&path);
            }
        }
    }
}

impl Scrap {
    fn is_named(&self, name: &OsStr) -> bool {
        let number = name.as_bytes().strip_prefix(self.prefix.as_bytes());
        number.is_some_and(|it| !it.is_empty() && it.iter().all(u8::is_ascii_digit))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.kind {
            Kind::File => files::remove(path),
            Kind::Directory(content) => {
                let entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
                if entries.iter().all(|entry| content.is_some_and(|it| entry.file_name() == it)) {
                    entries.iter().try_for_each(|entry| files::remove(&entry.path()))?;
                }
                fs::remove_dir(path)
            }
        }
    }
}

/// Whether this user runs such a program.
fn runs(program: &str) -> bool {
    let me = nix::unistd::getuid().as_raw();
    process::all().any(|pid| {
        Stat::of(pid).is_some_and(|stat| stat.name == program && stat.state != 'Z')
            && fs::metadata(format!("/proc/{pid}")).is_ok_and(|it| it.uid() == me)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn scraps_go_and_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        let tmp = temporary.path();
        for name in
            ["rootlesskit-b1", "rksys1", "rootlesskit-b2", "pty1", "pty2", "pty3", "pty", "other"]
        {
            fs::create_dir(tmp.join(name)).unwrap();
        }
        for name in [
            "rootlesskit-b2/file",
            "pty2/pty.sock",
            "pty3/pty.sock",
            "pty3/other",
            "rksys-file",
            "rksys2",
            "runc-process1",
            "runc-process",
            "runc-process1.json",
        ] {
            fs::write(tmp.join(name), "").unwrap();
        }
        let all = names(tmp);
        remove_unless([tmp], |_| true);
        assert_eq!(names(tmp), all);
        remove_unless([tmp], |program| program == SHIM);
        assert!(!tmp.join("rksys1").exists() && tmp.join("runc-process1").exists());
        remove_unless([tmp, Path::new("/does/not/exist")], |_| false);
        assert_eq!(
            names(tmp),
            [
                "other",
                "pty",
                "pty3",
                "rksys-file",
                "rksys2",
                "rootlesskit-b2",
                "runc-process",
                "runc-process1.json"
            ]
        );
        assert_eq!(names(&tmp.join("pty3")), ["other", "pty.sock"]);
    }
}
