//! What the machine can run short of: space, inodes, open files, processes. That passes, and nobody has
//! to ask for a new start: who fails for it is tried again at a slow pace, however often.

use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::errno::Errno;
use rootlessd_api::{Death, Part, Reason};
use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{plan::DockerPlan, reasons::Code, sys::process};

/// How soon it is tried again what failed for a shortage.
pub const AGAIN: Duration = Duration::from_secs(10);

/// With less space on a file system it counts as full: dockerd and containerd write that much when they
/// start.
const LEAST_BYTES: u64 = 1 << 20;
/// The same of the runtime directory, in which are small files only.
const LEAST_RUNTIME_BYTES: u64 = 64 << 10;
/// With fewer inodes it counts as full.
const LEAST_INODES: u64 = 64;
/// Whose open files are so many percent of its limit has too many.
const MOST_FILES: u64 = 90;

/// What something was short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// Space or inodes.
    Space,
    /// Files that it may open.
    Files,
    /// Processes or threads.
    Processes,
}

impl Shortage {
    /// What a line complains about, in the words that C libraries, Go and the kernel have for it.
    pub fn in_line(line: &str) -> Option<Self> {
        // Each program writes them as it likes.
        let line = line.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if has(&["no space left on device", "disk quota exceeded"]) {
            Some(Self::Space)
        } else if has(&["too many open files"]) {
            Some(Self::Files)
        } else if has(&[
            "fork",
            "clone",
            "pthread_create",
            "newosproc",
            "new os thread",
            "cannot be started",
            "could not be looked at",
        ]) && has(&["resource temporarily unavailable", "errno=11", "newosproc"])
        {
            Some(Self::Processes)
        } else {
            None
        }
    }

    /// What an error of ours is about.
    pub fn of_error(error: &io::Error) -> Option<Self> {
        match Errno::from_raw(error.raw_os_error()?) {
            Errno::ENOSPC | Errno::EDQUOT => Some(Self::Space),
            Errno::EMFILE | Errno::ENFILE => Some(Self::Files),
            Errno::EAGAIN => Some(Self::Processes),
            _ => None,
        }
    }

    /// What a part died of that ended by itself, or could not be started, and said why.
    pub fn of_death(death: &Death) -> Option<Self> {
        death.signal.is_none().then(|| Self::in_line(&death.text)).flatten()
    }

    /// What it is that a reason is about which was seen on the machine.
    pub fn seen_in(reason: &Reason) -> Option<Self> {
        let is = |codes: &[Code]| codes.iter().any(|code| code.is(reason));
        if is(&[Code::DataRootFull, Code::DataRootInodes, Code::RuntimeDirFull]) {
            Some(Self::Space)
        } else if is(&[Code::FilesExhausted]) {
            Some(Self::Files)
        } else {
            None
        }
    }

    /// The reason that a part of a running engine complained of it, where it is not to be seen.
    pub fn complained_of(self) -> Reason {
        let what = match self {
            Self::Space => "space, or of the user's share of it",
            Self::Files => "files that may be open",
            Self::Processes => "processes or threads",
        };
        self.reason(&format!(
            "dockerd or containerd complained that it is short of {what}: rootlessctl logs tells at what"
        ))
    }

    /// The reason that something failed for it, if it is not to be seen any more or cannot be measured.
    pub fn reason(self, text: &str) -> Reason {
        let (code, remedy) = match self {
            Self::Space => {
                (Code::SpaceMissing, "make room; while the engine runs: docker system prune")
            }
            Self::Files => (Code::FilesExhausted, FILES_REMEDY),
            Self::Processes => (
                Code::ProcessesExhausted,
                "end some, or raise the limit: ulimit -u, TasksMax= of user-UID.slice",
            ),
        };
        code.reason_with_remedy(text, remedy)
    }
}

const FILES_REMEDY: &str = "a higher LimitNOFILE= (sudo systemctl edit user@.service), then log out everywhere and in again";

/// How often it was complained of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Complaints {
    space: u32,
    files: u32,
    processes: u32,
}

impl Complaints {
    /// Once more.
    pub const fn add(&mut self, shortage: Shortage) {
        let count = match shortage {
            Shortage::Space => &mut self.space,
            Shortage::Files => &mut self.files,
            Shortage::Processes => &mut self.processes,
        };
        *count = count.wrapping_add(1);
    }

    /// Of what it was complained since it was so often.
    pub fn since(self, before: Self) -> impl Iterator<Item = Shortage> {
        let counts = [
            (Shortage::Space, self.space, before.space),
            (Shortage::Files, self.files, before.files),
            (Shortage::Processes, self.processes, before.processes),
        ];
        counts.into_iter().filter(|(_, now, before)| now != before).map(|(shortage, ..)| shortage)
    }
}

/// What there is room for on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// For who is not root; `None` where there is no limit, as of a tmpfs with `size=0` (tmpfs(5)).
    bytes: Option<u64>,
    /// `None` where they are made as they are needed, or have no limit.
    inodes: Option<u64>,
}

impl Room {
    fn at(path: &Path) -> io::Result<Self> {
        let found = statvfs(path)?;
        let inodes = (found.f_files > 0).then_some(found.f_favail);
        let left = found.f_bavail.saturating_mul(found.f_frsize);
        let bytes = (found.f_blocks > 0).then_some(left);
        Ok(Self { bytes, inodes })
    }
}

/// The directories that the engine writes to.
#[derive(Clone, Debug)]
pub struct Places {
    data_root: PathBuf,
    runtime: PathBuf,
}

impl Places {
    /// Those of a dockerd, with `$XDG_RUNTIME_DIR`.
    pub fn of(docker: &DockerPlan, runtime: &Path) -> Self {
        Self { data_root: docker.data_root.clone(), runtime: runtime.to_owned() }
    }

    /// Which of them are full. What cannot be seen is not.
    pub fn full(&self) -> Vec<Reason> {
        self.full_data_root().into_iter().chain(self.full_runtime()).collect()
    }

    /// Whether the file system of the engine's data is, which may be slow, or not answer at all.
    pub fn full_data_root(&self) -> Option<Reason> {
        full(
            &self.data_root,
            LEAST_BYTES,
            Code::DataRootFull,
            Code::DataRootInodes,
            "make room on its file system; while the engine runs: docker system prune",
        )
    }

    /// Whether that of `$XDG_RUNTIME_DIR` is, which is in memory.
    pub fn full_runtime(&self) -> Option<Reason> {
        full(
            &self.runtime,
            LEAST_RUNTIME_BYTES,
            Code::RuntimeDirFull,
            Code::RuntimeDirFull,
            "remove what fills it: du -xh --max-depth=2 \"$XDG_RUNTIME_DIR\"",
        )
    }
}

/// The file system of an engine's data, which may take its time to tell. While it does not answer, what
/// it said last holds, and nothing else waits for it.
#[derive(Debug)]
pub struct DataRoot {
    places: Places,
    looking: RefCell<Option<JoinHandle<Option<Reason>>>>,
    known: RefCell<Option<Reason>>,
}

impl DataRoot {
    /// The one among these places.
    pub const fn of(places: Places) -> Self {
        Self { places, looking: RefCell::new(None), known: RefCell::new(None) }
    }

    /// Look whether it is full, for at most so long. The next look waits for the same answer.
    pub async fn full(&self, within: Duration) -> Option<Reason> {
        let mut looking = self.looking.take().unwrap_or_else(|| {
            let places = self.places.clone();
            spawn_blocking(move || places.full_data_root())
        });
        match timeout(within, &mut looking).await {
            Ok(found) => drop(self.known.replace(found.unwrap_or_default())),
            Err(_) => drop(self.looking.replace(Some(looking))),
        }
        self.known.borrow().clone()
    }

    /// Whether it has not answered yet.
    pub fn is_looking(&self) -> bool {
        self.looking.borrow().is_some()
    }
}

fn full(path: &Path, least: u64, full: Code, no_inodes: Code, remedy: &str) -> Option<Reason> {
    // It may still have to be made.
    let there = path.ancestors().find(|path| path.exists())?;
    let (code, text) = lack(Room::at(there).ok()?, least, path, full, no_inodes)?;
    Some(code.reason_with_remedy(text, remedy))
}

fn lack(
    room: Room,
    least: u64,
    path: &Path,
    full: Code,
    no_inodes: Code,
) -> Option<(Code, String)> {
    let path = path.display();
    match room {
        Room { bytes: Some(bytes), .. } if bytes < least => {
            Some((full, format!("{path} is full: {} KiB are left", bytes / 1024)))
        }
        Room { inodes: Some(inodes), .. } if inodes < LEAST_INODES => {
            Some((no_inodes, format!("{path} can take no more files: {inodes} inodes are left")))
        }
        _ => None,
    }
}

/// Whether a part is about to have as many files open as it may.
pub fn too_many_files(part: Part, pid: u32) -> Option<Reason> {
    let open = process::open_files(pid)?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let limit = file_limit(&limits)?;
    (open.saturating_mul(100) >= limit.saturating_mul(MOST_FILES)).then(|| {
        let text = format!("{part} has {open} files open, of the {limit} that it may");
        Reason { part, ..Code::FilesExhausted.reason_with_remedy(text, FILES_REMEDY) }
    })
}

/// The soft limit in a `/proc/PID/limits`; `None` for none.
fn file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::shim;

    #[test]
    fn complaints_of_all_kinds_of_programs() {
        use Shortage::{Files, Processes, Space};
        for (line, shortage) in [
            ("level=error msg=\"write /x: no space left on device\"", Some(Space)),
            ("mkdir: cannot create directory: No space left on device", Some(Space)),
            ("open /x: disk quota exceeded", Some(Space)),
            ("accept4: too many open files; retrying in 1s", Some(Files)),
            ("fork/exec /usr/bin/runc: resource temporarily unavailable", Some(Processes)),
            ("sh: fork: Resource temporarily unavailable", Some(Processes)),
            (
                "runtime/cgo: pthread_create failed: Resource temporarily unavailable",
                Some(Processes),
            ),
            ("runtime: failed to create new OS thread (have 7 already; errno=11)", Some(Processes)),
            ("fatal error: newosproc", Some(Processes)),
            (
                "dockerd cannot be started: Resource temporarily unavailable (os error 11)",
                Some(Processes),
            ),
            // A socket that has nothing to read.
            ("read unix: resource temporarily unavailable", None),
            ("level=info msg=\"Loading containers: done.\"", None),
        ] {
            assert_eq!(Shortage::in_line(line), shortage, "{line}");
        }
        let error = |errno| Shortage::of_error(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(error(Errno::EAGAIN), Some(Processes));
        assert_eq!(error(Errno::ENOENT), None);
        let death = |signal, text: &str| {
            let death = shim::death(Part::Dockerd, None, text.to_owned(), vec![]);
            Shortage::of_death(&Death { signal, ..death })
        };
        let text = "dockerd exited with status 1: x: no space left on device";
        assert_eq!(death(None, text), Some(Space));
        assert_eq!(death(Some(9), text), None);
    }

    #[test]
    fn complaints_are_told_apart() {
        use Shortage::{Files, Processes, Space};
        let rows: [&[Shortage]; 4] = [&[], &[Space], &[Space, Processes], &[Files, Processes]];
        for new in rows {
            let before = Complaints { space: u32::MAX, ..Complaints::default() };
            let mut now = before;
            new.iter().for_each(|&shortage| now.add(shortage));
            assert_eq!(now.since(before).collect::<Vec<_>>(), new);
        }
        // Of a release that knows fewer, or more.
        let told = serde_json::json!({ "space": 3, "air": 1 });
        let read: Complaints = serde_json::from_value(told).unwrap();
        assert_eq!(read, Complaints { space: 3, ..Complaints::default() });
    }

    #[test]
    fn a_file_system_is_full_without_space_or_inodes() {
        let lack = |bytes, inodes| {
            let bytes = Some(bytes).filter(|&bytes| bytes != u64::MAX);
            lack(
                Room { bytes, inodes },
                LEAST_BYTES,
                Path::new("/d"),
                Code::DataRootFull,
                Code::DataRootInodes,
            )
        };
        let text = "/d is full: 1023 KiB are left".to_owned();
        assert_eq!(lack(LEAST_BYTES - 1, Some(0)), Some((Code::DataRootFull, text)));
        assert_eq!(lack(LEAST_BYTES, Some(LEAST_INODES)), None);
        let text = "/d can take no more files: 63 inodes are left".to_owned();
        assert_eq!(lack(LEAST_BYTES, Some(63)), Some((Code::DataRootInodes, text)));
        // btrfs has as many as it has space for.
        assert_eq!(lack(LEAST_BYTES, None), None);
        assert_eq!(lack(u64::MAX, None), None);
    }

    #[test]
    fn the_limit_of_open_files() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(file_limit(limits), Some(1024));
        let none = "Max open files            unlimited            unlimited            files";
        assert_eq!(file_limit(none), None);
        assert_eq!(too_many_files(Part::Dockerd, std::process::id()), None);
        assert!(process::open_files(std::process::id()).unwrap() >= 3);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_data_root_that_does_not_answer_is_as_it_was() {
        let places = Places { data_root: "/proc".into(), runtime: "/proc".into() };
        let patience = Duration::from_secs(2);
        for known in [None, Some(Code::DataRootFull.reason("it is"))] {
            let data_root = DataRoot::of(places.clone());
            data_root.known.replace(known.clone());
            data_root.looking.replace(Some(tokio::spawn(std::future::pending())));
            for _ in 0..2 {
                assert_eq!(data_root.full(patience).await, known);
                assert!(data_root.is_looking());
            }
            let answer = Some(Code::DataRootInodes.reason(""));
            data_root.looking.replace(Some(tokio::spawn(std::future::ready(answer.clone()))));
            assert_eq!(data_root.full(patience).await, answer);
            assert!(!data_root.is_looking());
        }
    }
}
