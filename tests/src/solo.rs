//! rootlessd on this machine itself, with its own Docker packages, and without systemd.
//!
//! The test program runs itself again as root in namespaces of its own (mounts, network, pids), so
//! that a test is plain code: its pids are the kernel's, its files the user's, and whatever happens,
//! all processes and mounts go with it. In there `/run`, the home directories, `/usr/local/bin` and
//! the lists of users are throw-away; everything else is the machine's.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        stat::{Mode, SFlag, makedev, mknod, umask},
    },
    unistd::Pid,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use serde_json::Value;

pub use crate::rounds;
use crate::{
    bed::{Output, Spawned, wait_for},
    install,
};

/// How long anything of the engine may take here before it counts as hanging.
pub const SOON: Duration = Duration::from_secs(30);

/// The image that [`User::load_image`] loads; its command serves a page on port 80.
pub const IMAGE: &str = "rootlessd/tiny";

/// Where the users' homes are. Not below `/run`, which RootlessKit copies, nor `/home`, where the
/// project may lie.
const HOMES: &str = "/srv";
/// Tells the program that it runs in its own namespaces: the mount namespace that it came from.
const CAME_FROM: &str = "ROOTLESSD_TEST_CAME_FROM";
/// Where a user's programs are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// What the users may have of our environment.
const PASSED_ON: [&str; 3] = ["ROOTLESSD_BIN_DIR", "ROOTLESSD_ROUNDS", "RUST_BACKTRACE"];

/// An ordinary user of this machine, made for one test. With it go its processes.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its uid, and its gid.
    pub uid: u32,
    /// `$HOME`
    pub home: PathBuf,
    /// `$XDG_RUNTIME_DIR`
    pub runtime: PathBuf,
    first_subid: u32,
}

impl User {
    /// A user with subordinate ids, a home and a runtime directory.
    pub fn new() -> Self {
        let user = Self::without_subids();
        for file in ["/etc/subuid", "/etc/subgid"] {
            append(file, &format!("{}:{}:65536\n", user.name, user.first_subid));
        }
        user
    }

    /// One whom nobody gave subordinate ids.
    pub fn without_subids() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        enter();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // What the kernel counts by uid is shared with whoever runs the same tests elsewhere.
        let slot = (outer_pid().wrapping_mul(64) + number) % 16_000;
        let uid = 100_000_000 + slot;
        let name = format!("rootlessd-test-{number}");
        let home = Path::new(HOMES).join(&name);
        append("/etc/passwd", &format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home.display()));
        append("/etc/group", &format!("{name}:x:{uid}:\n"));
        let runtime = PathBuf::from(format!("/run/user/{uid}"));
        let user = Self { name, uid, home, runtime, first_subid: 1_073_741_824 + slot * 65536 };
        user.make_directory(&user.home);
        user.make_directory(&user.runtime);
        user
    }

    /// Make a directory that is this user's alone.
    pub fn make_directory(&self, path: &Path) {
        fs::create_dir_all(path).expect("a directory");
        self.give(path, 0o700);
    }

    /// Write a file of this user's, with its directories; `path` is below the home, or absolute.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.join(path);
        let mut missing: Vec<_> =
            path.ancestors().skip(1).take_while(|directory| !directory.exists()).collect();
        missing.reverse();
        missing.into_iter().for_each(|directory| self.make_directory(directory));
        fs::write(&path, content).expect("written");
        self.give(&path, 0o600);
        path
    }

    /// Write a program of this user's: a shell script.
    pub fn script(&self, path: impl AsRef<Path>, script: &str) -> PathBuf {
        let path = self.write(path, format!("#!/bin/sh\n{script}\n"));
        self.give(&path, 0o755);
        path
    }

    fn give(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        chown(path, Some(self.uid), Some(self.uid)).expect("chown");
    }

    /// Write `~/.config/rootlessd/config.toml`.
    pub fn configure(&self, toml: &str) {
        self.write(".config/rootlessd/config.toml", toml);
    }

    /// A command as this user types it, in a session of theirs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .uid(self.uid)
            .gid(self.uid)
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("PATH", PATH)
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("DOCKER_HOST", format!("unix://{}", self.docker_socket().display()))
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }

    /// The same on another machine: one to which root did this, a shell script, before. Nobody else
    /// sees it.
    pub fn command_after(&self, script: &str, words: &[&str]) -> Command {
        let own = self.command("");
        let uid = self.uid.to_string();
        let script = format!("set -e\n{script}\nexec \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", "sh", "-c", &script, "sh"])
            .args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
            .args(words)
            .env_clear()
            .envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(&self.home);
        command
    }

    /// Run a command to its end.
    pub fn run<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Output {
        let mut words = command.into_iter();
        let program = words.next().expect("a program");
        Output::of(self.command(program).args(words))
    }

    /// Run a command that was put together to its end.
    pub fn run_command(command: &mut Command) -> Output {
        Output::of(command)
    }

    /// Run a shell script to its end.
    pub fn sh(&self, script: &str) -> Output {
        self.run(["sh", "-c", script])
    }

    /// Run `rootlessctl`, the arguments given as words in one string.
    pub fn ctl(&self, arguments: &str) -> Output {
        self.run(["rootlessctl"].into_iter().chain(arguments.split_ascii_whitespace()))
    }

    /// Run `docker`, the arguments given as words in one string.
    pub fn docker(&self, arguments: &str) -> Output {
        self.run(["docker"].into_iter().chain(arguments.split_ascii_whitespace()))
    }

    /// Start `rootlessd` in the background; returns when it is ready.
    pub fn daemonize(&self) {
        self.run(["rootlessd", "--daemonize"]).ok();
    }

    /// The same, and wait until the engine runs.
    pub fn start(&self) {
        self.daemonize();
        self.wait_state("running");
    }

    /// `rootlessctl status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = self.ctl("status --json");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// The state that the status tells.
    #[track_caller]
    pub fn state(&self) -> String {
        text(&self.status()["state"])
    }

    /// Follow the status: `rootlessctl watch --json`, the present one first.
    pub fn watch(&self) -> Watch {
        Watch(self.spawn(["rootlessctl", "watch", "--json"]))
    }

    /// Start a command and let it run.
    pub fn spawn<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Spawned {
        let mut words = command.into_iter();
        let program = words.next().expect("a program");
        Spawned::new(self.command(program).args(words))
    }

    /// Wait until the engine is in a state; its status then.
    #[track_caller]
    pub fn wait_state(&self, state: &str) -> Value {
        self.watch().until(|status| status["state"] == state)
    }

    /// The socket of Docker's API.
    pub fn docker_socket(&self) -> PathBuf {
        self.runtime.join("docker.sock")
    }

    /// The socket of the control API.
    pub fn varlink_socket(&self) -> PathBuf {
        self.runtime.join("rootlessd/org.rootlessd.Supervisor")
    }

    /// The engine's directory.
    pub fn engine_directory(&self) -> PathBuf {
        self.runtime.join("rootlessd/engine")
    }

    /// What a part has logged.
    pub fn log(&self, part: &str) -> String {
        let path = self.home.join(format!(".local/state/rootlessd/log/{part}.log"));
        fs::read(path).map_or(String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Load [`IMAGE`].
    pub fn load_image(&self) {
        let image = File::open(image()).expect("the image");
        Output::of_reading(self.command("docker").args(["load", "-q"]), image).ok();
    }

    /// Run a container that serves a page, and wait for the page: its id and port.
    #[track_caller]
    pub fn serve_page(&self, more: &str) -> (String, u16) {
        let id = self.docker(&format!("run -d --init {more} -p 127.0.0.1::80 {IMAGE}")).ok();
        let port = self.port(&id);
        wait_for("the container's page", SOON, || page(port));
        (id, port)
    }

    /// The port at which a container serves its page; it can be another after each of its starts.
    #[track_caller]
    pub fn port(&self, container: &str) -> u16 {
        let published = self.docker(&format!("port {container} 80/tcp")).ok();
        let port = published.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port: {published}"))
    }

    /// The processes of this user, containers and zombies included, but for those that the machine's
    /// first process is about to reap.
    pub fn processes(&self) -> Vec<Process> {
        Process::all()
            .filter(|process| self.owns(process.uid))
            .filter(|process| process.state != 'Z' || process.parent != 1)
            .collect()
    }

    fn owns(&self, uid: u32) -> bool {
        uid == self.uid || (self.first_subid..self.first_subid + 65536).contains(&uid)
    }

    /// The process of a part, if there is one; see [`Process::part`].
    pub fn find(&self, part: &str) -> Option<u32> {
        self.processes().iter().find(|process| process.part() == part).map(|process| process.pid)
    }

    /// The process of a part.
    #[track_caller]
    pub fn pid(&self, part: &str) -> u32 {
        self.find(part).unwrap_or_else(|| panic!("no {part} in {:#?}", self.processes()))
    }

    /// rootlessd itself, which says so in its lock file. (A process that it is about to start looks
    /// like it for a moment.)
    #[track_caller]
    pub fn rootlessd(&self) -> u32 {
        let path = self.runtime.join("rootlessd/lock");
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| panic!("{text:?} in {}", path.display()))
    }

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

    /// Run something in a thread that is this user, as far as the kernel asks: who connects to a
    /// socket, whose file it is.
    pub fn act<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let uid = self.uid;
        let acted = thread::scope(|scope| {
            let acting = scope.spawn(move || {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
                rustix::thread::set_thread_groups(&[]).expect("no groups");
                rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
                rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
                act()
            });
            acting.join()
        });
        acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// End all of this user's processes for good.
    pub fn kill_all(&self) {
        wait_for("the user's processes end", SOON, || {
            let alive: Vec<_> =
                self.processes().into_iter().filter(|process| process.state != 'Z').collect();
            alive.iter().for_each(|process| signal(process.pid, Signal::SIGKILL));
            alive.is_empty().then_some(())
        });
    }
}

impl Default for User {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if thread::panicking() {
            for process in self.processes() {
                eprintln!("{process}");
            }
            let logs = self.home.join(".local/state/rootlessd/log");
            for log in fs::read_dir(logs).into_iter().flatten().flatten() {
                let text = fs::read(log.path()).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                eprintln!("---- {}", log.path().display());
                for line in &lines[lines.len().saturating_sub(20)..] {
                    eprintln!("{}", line.chars().take(400).collect::<String>());
                }
            }
        }
        self.kill_all();
    }
}

/// The status as it changes.
#[derive(Debug)]
pub struct Watch(Spawned);

impl Watch {
    /// The next status; `None` when the supervisor ends the connection.
    pub fn next_status(&mut self) -> Option<Value> {
        let line = self.0.next_line(SOON)?;
        let status: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        status["error"].is_null().then_some(status)
    }

    /// Wait for a status.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = vec![];
        while let Some(status) = self.next_status() {
            if wanted(&status) {
                return status;
            }
            seen.push(format!("{} {}", status["state"], status["phase"]));
        }
        panic!("not the status waited for: {seen:?}")
    }

    /// All states that have been seen so far, with their phases: `starting/network`.
    pub fn states(&self) -> Vec<String> {
        let name = |line: &String| -> Option<String> {
            let status: Value = serde_json::from_str(line).expect("JSON");
            let state = status["state"].as_str()?;
            Some(match status["phase"].as_str() {
                Some(phase) => format!("{state}/{phase}"),
                None => state.to_owned(),
            })
        };
        self.0.seen().iter().filter_map(name).collect()
    }
}

/// A process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Whose it is.
    pub uid: u32,
    /// Its name.
    pub name: String,
    /// Its state: `R`, `S`, `Z` …
    pub state: char,
    /// Its arguments; none for a zombie.
    pub arguments: Vec<String>,
}

impl Process {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::of)
    }

    /// One of them.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = cmdline.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        Some(Self {
            pid,
            parent: field("PPid:").parse().ok()?,
            uid: field("Uid:").split_ascii_whitespace().next()?.parse().ok()?,
            name: field("Name:"),
            state: field("State:").chars().next()?,
            arguments: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        })
    }

    /// The part of rootlessd or of the engine that it is: `rootlessd`, `shim`, `init`, `exec`
    /// (before it becomes a part), `rootlesskit`, `rootlesskit-child`, or its name.
    pub fn part(&self) -> &str {
        let word = |index: usize| self.arguments.get(index).map_or("", String::as_str);
        let program = word(0).rsplit('/').next().unwrap_or_default();
        match (program, word(1)) {
            ("rootlessd", "engine-shim") => "shim",
            ("rootlessd", "engine-init") => "init",
            ("rootlessd", "exec") => "exec",
            ("rootlessd", _) => "rootlessd",
            // It is asked what it can before it is started.
            ("rootlesskit", "--help" | "--version") => "probe",
            ("rootlesskit", _) => "rootlesskit",
            ("exe", _) if word(0) == "/proc/self/exe" && word(1).starts_with("--state-dir") => {
                "rootlesskit-child"
            }
            _ => &self.name,
        }
    }

    /// What it takes of memory that is its own, in KiB (`RssAnon`): what a file holds in memory is
    /// the machine's to drop.
    pub fn memory(pid: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        number.unwrap_or_else(|| panic!("process {pid} has no memory"))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, parent, uid, name, state, arguments } = self;
        write!(f, "process {pid} of {parent}, uid {uid}, {state} {name}: {}", arguments.join(" "))
    }
}

/// Send a signal. That nobody is there is no failure.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}

/// Whether a process is there, if only as a zombie.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Wait until a process is gone, or a zombie.
#[track_caller]
pub fn wait_gone(pid: u32) {
    wait_for("the process ends", SOON, || {
        Process::of(pid).is_none_or(|process| process.state == 'Z').then_some(())
    });
}

/// The page that a container serves on a port of this machine, if it does.
pub fn page(port: u16) -> Option<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let mut curl = Command::new("curl");
    let output = Output::of(curl.args(["-sS", "--max-time", "5", "--noproxy", "*", &url]));
    (output.status.success() && output.stdout == "hello from a container\n")
        .then_some(output.stdout)
}

/// The inode of the socket that listens on a path.
pub fn listening_inode(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let path = format!(" {}", path.display());
    let row = table.lines().find(|row| row.ends_with(&path) && row.contains(" 00010000 "))?;
    row.split_ascii_whitespace().nth(6).map(str::to_owned)
}

/// A string in JSON.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// [`IMAGE`] as `docker load` reads it, made once.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let path = PathBuf::from("/run/image.tar");
        let script = install::project().join("tests/bed/image.sh");
        Output::of(Command::new(script).arg(&path)).ok();
        path
    })
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        }
    }
}

/// Append to one of our copies of the lists of users.
fn append(path: &str, line: &str) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().expect("nobody panics here");
    let mut file = OpenOptions::new().append(true).open(path).expect(path);
    file.write_all(line.as_bytes()).expect(path);
}

/// Be root in namespaces of our own, from the first call on. In the program that was started it
/// does not return: it runs itself again, with the same arguments, and ends as that one ends.
pub fn enter() {
    static ENTERED: OnceLock<()> = OnceLock::new();
    ENTERED.get_or_init(|| match std::env::var(CAME_FROM) {
        Ok(outside) => {
            assert_ne!(outside, mount_namespace(), "{CAME_FROM} is not for people to set");
            furnish();
        }
        Err(_) => process::exit(run_inside()),
    });
}

fn mount_namespace() -> String {
    fs::read_link("/proc/self/ns/mnt").expect("namespaces").display().to_string()
}

fn outer_pid() -> u32 {
    std::env::var("ROOTLESSD_TEST_PID").ok().and_then(|pid| pid.parse().ok()).expect("set by us")
}

fn run_inside() -> i32 {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        command.arg("env");
    }
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            command.arg(format!("{name}={value}"));
        }
    }
    command
        .arg(format!("{CAME_FROM}={}", mount_namespace()))
        .arg(format!("ROOTLESSD_TEST_PID={}", process::id()))
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .args(["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        // The first process of a pid namespace has to reap orphans, which a waiting shell does.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().expect("our own program"))
        .args(std::env::args_os().skip(1));
    let ended = command.status();
    let ended = ended.unwrap_or_else(|error| {
        panic!("these tests start engines as other users, so they need root, or sudo: {error}")
    });
    if !root && ended.code() == Some(1) {
        eprintln!("these tests start engines as other users, so they need root, or sudo");
    }
    ended.code().unwrap_or(1)
}

/// Make our namespaces a place for users to be made in.
fn furnish() {
    umask(Mode::from_bits_truncate(0o022));
    // A test may be a thousand clients; a login has as many files as it asks for.
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit { current: files.maximum, ..files };
    setrlimit(Resource::Nofile, most).expect("a limit below the hard one");
    // Among ourselves as the machine has it, since RootlessKit asks for it; to the outside private.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).expect("shared mounts");
    Output::of(Command::new("ip").args(["link", "set", "lo", "up"])).ok();
    let programs = install::programs();
    for directory in ["/run", HOMES] {
        mount_tmpfs(Path::new(directory), "mode=755");
    }
    for name in ["passwd", "group", "subuid", "subgid"] {
        let (file, copy) = (Path::new("/etc").join(name), Path::new("/run").join(name));
        fs::copy(&file, &copy).expect("a copy");
        bind(&copy, &file);
    }
    let own = Path::new("/run/programs");
    fs::create_dir(own).expect("a directory");
    for program in ["rootlessd", "rootlessctl"] {
        fs::copy(programs.join(program), own.join(program)).expect("a copy");
    }
    bind(own, Path::new("/usr/local/bin"));
    let tun = Path::new("/dev/net/tun");
    if fs::metadata(tun).is_ok_and(|found| found.mode() & 0o006 == 0o006) {
        return;
    }
    fs::create_dir_all("/dev/net").expect("/dev/net");
    mount_tmpfs(Path::new("/dev/net"), "mode=755");
    let all = Mode::from_bits_truncate(0o666);
    mknod(tun, SFlag::S_IFCHR, all, makedev(10, 200)).expect("/dev/net/tun");
    fs::set_permissions(tun, Permissions::from_mode(0o666)).expect("chmod");
}

/// Mount an empty file system.
pub fn mount_tmpfs(at: &Path, options: &str) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mount");
}

/// Show something at another place, too.
pub fn bind(from: &Path, at: &Path) {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind mount");
}

/// A client that connects to a socket again and again, until it is asked how that went.
#[derive(Debug)]
pub struct Knocker {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u32, Vec<String>)>,
}

impl Knocker {
    /// Begin. Each connection is closed at once.
    pub fn at(socket: &Path) -> Self {
        let (stop, socket) = (Arc::new(AtomicBool::new(false)), socket.to_owned());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (mut count, mut refusals) = (0, vec![]);
            while !stopped.load(Ordering::Relaxed) {
                match UnixStream::connect(&socket) {
                    Ok(_) => count += 1,
                    Err(error) => refusals.push(error.to_string()),
                }
                thread::sleep(Duration::from_micros(500));
            }
            (count, refusals)
        });
        Self { stop, thread }
    }

    /// Stop: how often it connected. Panics if it was ever refused.
    #[track_caller]
    pub fn never_refused(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let (count, refusals) = self.thread.join().expect("it does not panic");
        assert_eq!(refusals, [""; 0], "refused, {count} times not");
        count
    }
}

/// Ask Docker's API: the status and the body of what it answers, or what the system says.
pub fn get(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON * 2))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))?;
    Ok((status, body.to_owned()))
}
