//! What an engine leaves, or had better not.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::User;

impl User {
    /// What is there of an engine, or of a rootlessd if that is to be gone too: processes, mounts,
    /// sockets, files.
    pub fn leftovers(&self, with_rootlessd: bool) -> Vec<String> {
        let mut found: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|process| with_rootlessd || process.part() != "rootlessd")
            .map(|process| process.to_string())
            .collect();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let below = |line: &&str| line.contains(&format!("{}/", self.home.display()));
        found.extend(mounts.lines().filter(below).map(|line| format!("mount {line}")));
        let stays: &[&str] = match with_rootlessd {
            // `runc features` makes its directory whatever it does, and dockerd asks it since 23.0.
            true => &["runc", "rootlessd", "rootlessd/lock", "rootlessd/engine.lock"],
            false => &[
                "runc",
                "rootlessd",
                "rootlessd/lock",
                "rootlessd/engine.lock",
                "rootlessd/state.json",
                "rootlessd/org.rootlessd.Supervisor",
                // Its second name, to give it the first again.
                "rootlessd/docker.sock",
                "docker.sock",
            ],
        };
        let stays: Vec<_> = stays.iter().map(|name| self.runtime.join(name)).collect();
        let mut files = vec![];
        list(&self.runtime, &mut files);
        found.extend(
            files
                .into_iter()
                .filter(|path| !stays.contains(path))
                .map(|path| format!("file {}", path.display())),
        );
        found
    }

    /// Nothing is left of an engine, nor of rootlessd if that is to be gone. What has ended is
    /// reaped as soon as its parent hears of it, which is a moment later.
    #[track_caller]
    pub fn assert_clean(&self, with_rootlessd: bool) {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let left = self.leftovers(with_rootlessd);
            // The arguments are the first that a process loses when it ends.
            // What only was to tell its version is not waited for.
            let ended = left.iter().all(|it| {
                it.starts_with("process ")
                    && [": ", "--version", "--help"].iter().any(|end| it.ends_with(end))
            });
            if ended && !left.is_empty() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            assert_eq!(left, [""; 0], "left over");
            return;
        }
    }
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}
