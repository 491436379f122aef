//! A bed: a real systemd as PID 1, with the manager, the bus and the Docker packages of the user `tester`, in a container
//! on a throw-away file system. `tests/bed/bed.sh` does the work; this is its face for tests.
//!
//! Everything here panics when the bed itself fails: a test has no use for a half-working one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::command::{Output, Spawned, as_root};

/// The uid of the bed's user, `tester`.
pub const TESTER: u32 = 4242;

/// Where the image `rootlessd/tiny` is inside, for `docker load`; its command serves a page on port 80.
pub const IMAGE: &str = "/bed/image.tar";

/// How many seconds a single command may take.
const COMMAND_LIMIT: &str = "300";

/// The Debian release in a bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: systemd 252, Docker 20.10, rootlesskit 1.1.
    Bookworm,
    /// Debian 13: systemd 257, Docker 26.1, rootlesskit 2.0.
    Trixie,
    /// Debian 14, not yet released.
    Forky,
}

impl Suite {
    /// Debian's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A running bed. Dropped, it ends and leaves nothing; in a failing test it prints its journal first.
///
/// With `ROOTLESSD_BED_KEEP` in the environment it stays, to be looked at with `bed.sh`.
#[derive(Debug)]
pub struct Bed {
    name: String,
    script: &'static str,
}

/// The scripts that do the work, which understand the same.
const CONTAINER: &str = "bed/bed.sh";
const VIRTUAL: &str = "vm/vm.sh";

impl Bed {
    /// Boots a bed and returns when the user's manager is up. The first use of a suite takes a minute.
    pub fn boot(suite: Suite) -> Self {
        Self::boot_with(suite, &[])
    }

    /// The same, with the contents of these folders copied over the root file system: `DESTDIR`s of `make install`.
    pub fn boot_with(suite: Suite, trees: &[&Path]) -> Self {
        Self::boot_by(CONTAINER, suite, trees, &[])
    }

    /// The same with a kernel of its own: a virtual machine, of `tests/vm/vm.sh`. Its first use takes some
    /// minutes, and all that runs in it is some twenty times slower. It knows no units and no stock Docker.
    pub fn boot_virtual(suite: Suite, trees: &[&Path]) -> Self {
        Self::boot_by(VIRTUAL, suite, trees, &[])
    }

    /// A virtual machine that can [sleep](Self::sleep), and is slower for it.
    pub fn boot_virtual_that_sleeps(suite: Suite, trees: &[&Path]) -> Self {
        Self::boot_by(VIRTUAL, suite, trees, &["--can-sleep"])
    }

    fn boot_by(
        script: &'static str,
        suite: Suite,
        trees: &[&Path],
        options: &[&'static str],
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bed = Self { name: format!("{suite}-{}-{number}", process::id()), script };
        let mut args: Vec<OsString> = vec![suite.name().into(), bed.name.clone().into()];
        args.extend(options.iter().map(OsString::from));
        for tree in trees {
            args.extend(["--tree".into(), tree.into()]);
        }
        if !keep() {
            // Should this process be killed, the next boot sees that the owner is gone.
            args.extend(["--owner".into(), process::id().to_string().into()]);
        }
        // Without a limit: it may have to build, or to wait for another process that does.
        Output::of(&mut bed.sh(None, "boot", args)).ok();
        bed
    }

    /// The bed's name, for `bed.sh` and in messages; also its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command as root.
    pub fn root<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Output {
        self.run("root", command)
    }

    /// Runs a shell script as root.
    pub fn root_sh(&self, script: &str) -> Output {
        self.root(["sh", "-c", script])
    }

    /// Runs a command as the user, with what a login sets: the runtime directory, the bus; `DOCKER_HOST`, too.
    pub fn user<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Output {
        self.run("user", command)
    }

    /// Runs a shell script as the user.
    pub fn user_sh(&self, script: &str) -> Output {
        self.user(["sh", "-c", script])
    }

    /// Runs a command as a transient service of the user's manager.
    pub fn user_unit<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Output {
        self.run("unit", command)
    }

    /// Starts a command as root and lets it run.
    pub fn spawn_root<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Spawned {
        Spawned::new(&mut self.command(None, "root", command))
    }

    /// Starts a command as the user and lets it run.
    pub fn spawn_user<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Spawned {
        Spawned::new(&mut self.command(None, "user", command))
    }

    /// Copies a file to `to`, or what is in a folder into the folder `to`, as root.
    pub fn copy_in(&self, from: &Path, to: &str) {
        self.run("put", [from.as_os_str(), to.as_ref(), "root".as_ref()]).ok();
    }

    /// The same, as the user.
    pub fn copy_in_user(&self, from: &Path, to: &str) {
        self.run("put", [from.as_os_str(), to.as_ref(), "user".as_ref()]).ok();
    }

    /// Writes a file, with its folders, as the user.
    pub fn write(&self, to: &str, contents: impl AsRef<[u8]>) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(contents.as_ref()).expect("written");
        self.copy_in_user(file.path(), to);
    }

    /// Installs Docker's own rootless set-up and starts it, with the tool that Docker has for it.
    pub fn stock_install(&self) {
        self.run("stock", [""; 0]).ok();
    }

    /// Reboots in order, and returns when the user's manager is up again. What is on the disks stays.
    pub fn reboot(&self) {
        self.run("reboot", [""; 0]).ok();
    }

    /// Cuts a virtual machine's power and gives it back: what was not on its disk yet is lost.
    pub fn cut(&self) {
        self.run("cut", [""; 0]).ok();
    }

    /// Suspends a virtual machine that can sleep to its memory for so many seconds, and returns when it is awake again. It
    /// can do so once.
    pub fn sleep(&self, seconds: u32) {
        self.run("sleep", [seconds.to_string()]).ok();
    }

    /// The last lines of the journal, of this boot and those before.
    pub fn journal(&self, lines: u32) -> String {
        let lines = format!("--lines={lines}");
        self.root(["journalctl", "-q", "-o", "short-precise", &lines]).ok()
    }

    /// Waits until a unit of the user's manager is in this state (`active`, `inactive`, `failed` …).
    pub fn wait_unit(&self, unit: &str, state: &str, timeout: Duration) {
        // The manager logs every change. What comes after this entry is news, however long the follower takes to start.
        let last = self.root(["journalctl", "-q", "-n1", "-o", "json"]).ok();
        let last: serde_json::Value = serde_json::from_str(&last).expect("a journal entry");
        let cursor = last["__CURSOR"].as_str().expect("a cursor");
        let after = format!("--after-cursor={cursor}");
        let about = format!("USER_UNIT={unit}");
        let mut news = self.spawn_root(["journalctl", "-qf", "-o", "cat", &after, &about]);
        let mut seen = String::new();
        news.until(timeout, || {
            let show = ["systemctl", "--user", "show", "-P", "ActiveState", unit];
            seen = self.user(show).ok();
            (seen == state).then_some(())
        })
        .unwrap_or_else(|| panic!("{unit} is {seen}, not {state}, after {timeout:?}"));
    }

    /// Waits until there is something at this path, whose folder exists.
    pub fn wait_path(&self, path: &str, timeout: Duration) {
        let folder = Path::new(path).parent().expect("a path in a folder");
        let watch = r#"exec inotifywait -m -e create,moved_to "$0" 2>&1"#;
        let mut news = self.spawn_root(["sh".as_ref(), "-c".as_ref(), watch.as_ref(), folder]);
        news.wait_line(timeout, |line| line.contains("established"));
        news.until(timeout, || {
            let there = self.root(["test", "-e", path]).status.success();
            there.then_some(())
        })
        .unwrap_or_else(|| panic!("no {path} after {timeout:?}"));
    }

    fn run<A: AsRef<OsStr>>(&self, verb: &str, args: impl IntoIterator<Item = A>) -> Output {
        Output::of(&mut self.command(Some(COMMAND_LIMIT), verb, args))
    }

    fn command<A: AsRef<OsStr>>(
        &self,
        limit: Option<&str>,
        verb: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = self.sh(limit, verb, [&self.name]);
        command.args(args);
        command
    }

    /// `bed.sh VERB ARGS`. The limit stands behind `sudo`, so that it may signal what it started.
    fn sh<A: AsRef<OsStr>>(
        &self,
        limit: Option<&str>,
        verb: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.script);
        let mut command = match limit {
            Some(seconds) => {
                let mut timeout = as_root("timeout");
                timeout.args(["--kill-after=5", seconds]).arg(script);
                timeout
            }
            None => as_root(script),
        };
        command.arg(verb).args(args);
        command
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.run("log", [""; 0]);
            eprintln!("---- bed {}\n{}{}----", self.name, log.stdout, log.stderr);
        }
        if keep() {
            eprintln!("{} stays, until: tests/{} stop {0}", self.name, self.script);
            return;
        }
        let stopped = self.run("stop", [""; 0]);
        if !thread::panicking() {
            stopped.ok();
        }
    }
}

fn keep() -> bool {
    env::var_os("ROOTLESSD_BED_KEEP").is_some()
}
