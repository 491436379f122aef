//! A bed: a real systemd as PID 1, with the manager, the bus and the Docker packages of the user `tester`, in a container
//! on a throw-away file system. `tests/bed/bed.sh` does the work; this is its face for tests.
//!
//! Everything here panics when the bed itself fails: a test has no use for a half-working one.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

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
        Self::boot_by(CONTAINER, suite, trees)
    }

    /// The same with a kernel of its own: a virtual machine, of `tests/vm/vm.sh`. Its first use takes some
    /// minutes, and all that runs in it is some twenty times slower. It knows no units and no stock Docker.
    pub fn boot_virtual(suite: Suite, trees: &[&Path]) -> Self {
        Self::boot_by(VIRTUAL, suite, trees)
    }

    fn boot_by(script: &'static str, suite: Suite, trees: &[&Path]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bed = Self { name: format!("{suite}-{}-{number}", process::id()), script };
        let mut args: Vec<OsString> = vec![suite.name().into(), bed.name.clone().into()];
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

/// What a command that has ended left.
#[derive(Clone, Debug)]
#[must_use = "it may have failed"]
pub struct Output {
    /// The command, as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// Its output, without the last newline. Panics with all there is to know if the command failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "failed: {self}");
        trimmed(self.stdout)
    }

    /// What it complained about. Panics with all there is to know if the command did not fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.status.success(), "did not fail: {self}");
        trimmed(self.stderr)
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        Self::of_reading(command, Stdio::null())
    }

    pub(crate) fn of_reading(command: &mut Command, stdin: impl Into<Stdio>) -> Self {
        let output = command.stdin(stdin).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            command: typed(command),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.command, self.status)?;
        writeln!(f, "-- stdout\n{}", self.stdout.trim_end())?;
        write!(f, "-- stderr\n{}", self.stderr.trim_end())
    }
}

/// A command that runs in a bed. Dropped, it gets SIGTERM.
#[derive(Debug)]
pub struct Spawned {
    command: String,
    child: Child,
    lines: Receiver<(SystemTime, String)>,
    seen: Vec<String>,
}

impl Spawned {
    pub(crate) fn new(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            forward(stdout, |line| sender.send((SystemTime::now(), line)).is_ok())
        });
        Self { command: typed(command), child, lines, seen: Vec::new() }
    }

    /// The next line of its output; `None` if there is none in time, or no more.
    pub fn next_line(&mut self, timeout: Duration) -> Option<String> {
        self.next_line_at(timeout).map(|(_, line)| line)
    }

    /// The same, with the time when it came.
    pub fn next_line_at(&mut self, timeout: Duration) -> Option<(SystemTime, String)> {
        let (at, line) = self.lines.recv_timeout(timeout).ok()?;
        self.seen.push(line.clone());
        Some((at, line))
    }

    /// The next line that is what is waited for. Panics, with all that came, if it does not come.
    #[track_caller]
    pub fn wait_line(&mut self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + timeout;
        while let Some(line) = self.next_line(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&line) {
                return line;
            }
        }
        let (command, seen) = (&self.command, self.seen.join("\n"));
        panic!("not the line waited for, in {timeout:?}: {command}\n{seen}")
    }

    /// Calls `check` now and after each line, and once a second in case a line told too little, until it gives a value.
    pub fn until<T>(
        &mut self,
        timeout: Duration,
        mut check: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = check() {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            if self.next_line(left.min(Duration::from_secs(1))).is_none() && self.ended() {
                return check();
            }
        }
    }

    /// Writes to its input.
    pub fn send(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// All lines that have been read from it so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Waits until it ends of itself.
    pub fn wait(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("a child of ours")
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !self.ended() {
            let pid = self.child.id().to_string();
            let killed = as_root("kill").args(["-TERM", &pid]).status();
            assert!(killed.is_ok_and(|s| s.success()) || self.ended() || thread::panicking());
            let _ = self.child.wait();
        }
    }
}

/// Calls `check` until it gives a value, with a short pause between. Only for what the system gives no event for: prefer
/// [`Spawned::until`], [`Bed::wait_unit`], [`Bed::wait_path`].
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in {timeout:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn forward(from: impl Read, mut to: impl FnMut(String) -> bool) {
    let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
    for line in lines {
        if !to(String::from_utf8_lossy(&line).into_owned()) {
            break;
        }
    }
}

fn keep() -> bool {
    env::var_os("ROOTLESSD_BED_KEEP").is_some()
}

fn as_root(program: impl AsRef<OsStr>) -> Command {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if root {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("ROOTLESSD_BED") || name.starts_with("ROOTLESSD_VM")
    };
    for (name, value) in env::vars_os().filter(|(name, _)| ours(name)) {
        let mut assignment = name;
        assignment.push("=");
        assignment.push(value);
        sudo.arg(assignment);
    }
    sudo.arg(program);
    sudo
}

fn trimmed(mut text: String) -> String {
    text.truncate(text.trim_end().len());
    text
}

fn typed(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}
