//! rootlessd on this machine itself, with its own Docker packages, and without systemd.
//!
//! The test program runs itself again as root in namespaces of its own (mounts, network, pids), so
//! that a test is plain code: its pids are the kernel's, its files the user's, and whatever happens,
//! all processes and mounts go with it. In there `/run`, `/etc`, the home directories and
//! `/usr/local/bin` are throw-away; everything else is the machine's. rootlessd is told to start the
//! engine at once; a user's configuration overrules that.

mod clients;
mod leftovers;
mod namespaces;
mod process;

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::process::{Gid, Uid};
use serde_json::Value;

use self::namespaces::{HOMES, append};
pub use self::{
    clients::{Knocker, Watch, get, listening_inode, page},
    namespaces::{bind, enter, mount_tmpfs},
    process::{Process, exists, signal, wait_gone},
};
pub use crate::rounds;
use crate::{
    apart::outer_pid,
    command::{Output, Spawned, wait_for},
    install,
};

/// How long anything of the engine may take here before it counts as hanging.
pub const SOON: Duration = Duration::from_secs(30);

/// A configuration by which the engine starts only when it is asked for, so that everything can be made ready first.
pub const ON_DEMAND: &str = "engine.start = \"demand\"\n";

/// The image that [`User::load_image`] loads; its command serves a page on port 80.
pub const IMAGE: &str = "rootlessd/tiny";

/// Where a user's programs are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
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

    /// Write such a script that is to be run in the place of one of the system's programs: its path, and the
    /// line of the configuration by which it is found first.
    pub fn script_before(&self, program: &str, script: &str) -> (PathBuf, String) {
        let path = self.script(Path::new("bin").join(program), script);
        let bin = path.parent().expect("a directory").display();
        let line = format!("environment.PATH = \"{bin}:/usr/local/bin:/usr/bin:/usr/sbin:/bin\"\n");
        (path, line)
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
        // Ports of its own: Docker would give each user the same, and one that is published again
        // after its dockerd died could have become another's.
        let first = 16_384 + self.uid % 1000 * 16;
        let ports = format!("127.0.0.1:{first}-{}:80", first + 15);
        let id = self.docker(&format!("run -d --init {more} -p {ports} {IMAGE}")).ok();
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
