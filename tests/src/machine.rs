//! A bed with rootlessd installed, and what its tests ask of it again and again.

use std::{
    collections::BTreeMap,
    fs,
    ops::Deref,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;

pub use crate::rounds;
use crate::{
    bed::{Bed, IMAGE, Suite},
    command::{Output, Spawned, wait_for},
    install,
};

/// How long anything may take before it counts as hanging.
pub const SOON: Duration = Duration::from_secs(30);

/// How long what is dead may be seen.
const PASSES: Duration = Duration::from_secs(5);

/// Where the served page is.
pub const PAGE: &str = "http://127.0.0.1:8080/";

/// `$XDG_RUNTIME_DIR` of the user.
pub const RUNTIME: &str = "/run/user/4242";

/// Runs a scenario in both Debians, one after the other, and says how long each took.
pub fn on_both(scenario: impl Fn(Suite)) {
    for suite in [Suite::Trixie, Suite::Bookworm] {
        let begin = std::time::Instant::now();
        scenario(suite);
        eprintln!("{suite}: {:.1} s", begin.elapsed().as_secs_f64());
    }
}

/// A bed with rootlessd installed as `make install` does.
#[derive(Debug)]
pub struct Machine {
    bed: Bed,
    /// The Debian release in it.
    pub suite: Suite,
}

impl Deref for Machine {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

impl Machine {
    /// Boots it. Nothing of rootlessd runs.
    pub fn boot(suite: Suite) -> Self {
        Self::boot_with(suite, &[])
    }

    /// The same, with more trees over it.
    pub fn boot_with(suite: Suite, trees: &[&Path]) -> Self {
        let mut all = vec![install::tree(), controllers()];
        all.extend(trees);
        Self { bed: Bed::boot_with(suite, &all), suite }
    }

    /// A virtual machine of Debian 13, with a kernel of its own. Nothing of rootlessd runs.
    pub fn boot_virtual() -> Self {
        let suite = Suite::Trixie;
        Self { bed: Bed::boot_virtual(suite, &[install::tree()]), suite }
    }

    /// The same; it can sleep.
    pub fn boot_virtual_that_sleeps() -> Self {
        let suite = Suite::Trixie;
        Self { bed: Bed::boot_virtual_that_sleeps(suite, &[install::tree()]), suite }
    }

    /// Boots it, enables rootlessd, and returns when the engine runs.
    pub fn running(suite: Suite) -> Self {
        let machine = Self::boot(suite);
        machine.enable();
        machine
    }

    /// The same, with a configuration.
    pub fn running_with(suite: Suite, config: &str) -> Self {
        let machine = Self::boot(suite);
        machine.configure(config);
        machine.enable();
        machine
    }

    /// Writes rootlessd's configuration; it is read at the next start.
    pub fn configure(&self, config: &str) {
        self.write("/home/tester/.config/rootlessd/config.toml", config);
    }

    /// Enables and starts rootlessd as the manual says, and waits until the engine runs.
    pub fn enable(&self) {
        self.user(["systemctl", "--user", "enable", "--now", "rootlessd"]).ok();
        self.ctl(["start"]);
    }

    /// Loads the tiny image and runs it as the container `web`, which serves [`PAGE`], is to run
    /// always, and writes the signal that stops it into the volume `data`.
    pub fn serve(&self) {
        self.user(["docker", "load", "-qi", IMAGE]).ok();
        let run = "docker run -d --name web -p 8080:80 -v data:/data --restart unless-stopped";
        self.user_sh(&format!("{run} rootlessd/tiny")).ok();
        self.wait_page();
    }

    /// The page, if it is served.
    pub fn page(&self) -> Option<String> {
        let page = self.user(["curl", "-sf", "-m", "5", PAGE]);
        page.status.success().then_some(page.stdout)
    }

    /// Starts an engine that counts nothing of what was before: after so many losses or changes within a minute,
    /// which no machine has but one on which trials follow each other, it takes its time.
    pub fn begin_anew(&self) {
        self.ctl(["restart"]);
        self.wait_page();
    }

    /// Waits until the page is served.
    pub fn wait_page(&self) {
        // curl itself asks again: there is no event for a container that listens.
        let wait = "curl -sf --retry 300 --retry-delay 0 --retry-max-time 30 --retry-all-errors";
        assert_eq!(self.user_sh(&format!("{wait} {PAGE}")).ok(), "hello from a container");
    }

    /// The host's pid of the first process in the container `web`.
    pub fn web_pid(&self) -> String {
        self.user(["docker", "inspect", "-f", "{{.State.Pid}}", "web"]).ok()
    }

    /// Calls rootlessctl, which has to succeed; its output.
    #[track_caller]
    pub fn ctl<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.try_ctl(arguments).ok()
    }

    /// Calls rootlessctl.
    pub fn try_ctl<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.user(["rootlessctl"].iter().chain(&arguments))
    }

    /// The status.
    #[track_caller]
    pub fn status(&self) -> Value {
        // It ends with 3 if the engine does not run, which is no error here.
        let output = self.try_ctl(["status", "--json"]);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "no status: {output}");
        serde_json::from_str(&output.stdout).expect("JSON")
    }

    /// The state.
    #[track_caller]
    pub fn state(&self) -> String {
        word(&self.status()["state"])
    }

    /// Follows the status. Returns when the present one was seen.
    pub fn watch(&self) -> Watch {
        let spawned = self.spawn_user(["rootlessctl", "watch", "--json"]);
        let mut watch = Watch { spawned, now: Value::Null, states: vec![] };
        watch.now = watch.next_status();
        watch
    }

    /// Waits until the engine is in a state, if it is not yet.
    #[track_caller]
    pub fn wait_state(&self, state: &str) -> Value {
        self.wait_status(|status| status["state"] == state)
    }

    /// Waits until the engine runs and everything is known of it: a rootlessd that has taken it
    /// over asks dockerd first.
    #[track_caller]
    pub fn wait_known(&self) -> Value {
        self.wait_status(|status| {
            status["state"] == "running" && !status["storageDriver"].is_null()
        });
        self.status()
    }

    /// Waits until the status is as wanted, if it is not yet.
    #[track_caller]
    pub fn wait_status(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut watch = self.watch();
        // Each may come in time, and never the one.
        let deadline = Instant::now() + SOON * 4;
        while !wanted(&watch.now) {
            assert!(Instant::now() < deadline, "not the status waited for: {}", watch.now);
            watch.next_status();
        }
        watch.now
    }

    /// The state of a unit of the user's manager.
    pub fn unit_state(&self, unit: &str) -> String {
        self.user(["systemctl", "--user", "show", "-P", "ActiveState", unit]).ok()
    }

    /// What of an engine is left where there is none: processes, units, mounts, files and ports, a
    /// line each.
    pub fn leftovers(&self) -> String {
        // Who has ended is reaped a moment later, and systemd forgets their units another one later.
        let passes = |line: &str| line.starts_with("zombie ") || line.starts_with("unit ");
        what_stays(|| self.root_sh(include_str!("leftovers.sh")).ok(), passes)
    }

    /// A varlink client that nobody wrote a library for: it sends a call, listens on, and prints each
    /// reply as a line.
    pub fn raw_client(&self, socket: &str, call: &str) -> Spawned {
        // Its input stays open, for as long as it is to listen.
        let client =
            "(printf '%s\\0' \"$0\"; cat) | socat - UNIX-CONNECT:$1 | stdbuf -o0 tr '\\0' '\\n'";
        self.spawn_user(["sh", "-c", client, call, socket])
    }

    /// Kills a process of the bed at once.
    pub fn kill(&self, pid: &str) {
        self.root(["kill", "-KILL", pid]).ok();
    }

    /// Waits until a file in the bed has a line that is this.
    pub fn wait_line_in(&self, path: &str, line: &str) {
        wait_for(&format!("{line:?} in {path}"), SOON, || {
            self.root(["grep", "-qxF", line, path]).status.success().then_some(())
        });
    }
}

/// What a search finds, a line each, and still finds a moment later if all of that may pass.
pub fn what_stays(search: impl Fn() -> String, passes: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PASSES;
    let mut left = search();
    while !left.is_empty() && left.lines().all(&passes) && Instant::now() < deadline {
        left = search();
    }
    left
}

/// The changes of a status.
#[derive(Debug)]
pub struct Watch {
    spawned: Spawned,
    now: Value,
    states: Vec<String>,
}

impl Watch {
    /// The status that was seen last.
    pub const fn now(&self) -> &Value {
        &self.now
    }

    /// The next status.
    #[track_caller]
    pub fn next_status(&mut self) -> Value {
        self.try_next(SOON).unwrap_or_else(|| panic!("no news after {}", self.now))
    }

    /// The next status, if there is one in time and the supervisor stays.
    pub fn try_next(&mut self, timeout: Duration) -> Option<Value> {
        self.try_next_at(timeout).map(|(_, status)| status)
    }

    /// The same, with the time when it came.
    pub fn try_next_at(&mut self, timeout: Duration) -> Option<(SystemTime, Value)> {
        let (at, line) = self.spawned.next_line_at(timeout)?;
        self.now = serde_json::from_str(&line).expect("JSON");
        let state = word(&self.now["state"]);
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
        Some((at, self.now.clone()))
    }

    /// The next status with one of these states, after the one that was seen last.
    #[track_caller]
    pub fn until(&mut self, states: &[&str]) -> Value {
        while !states.contains(&word(&self.next_status()["state"]).as_str()) {}
        self.now.clone()
    }

    /// The states that were seen, without repetitions in a row.
    pub fn states(&self) -> String {
        self.states.join(" ")
    }
}

/// A word or number of a status, as text; empty if it is absent.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The pids of a status, by part: several of a part in their order, RootlessKit's own first.
pub fn pids(status: &Value) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for process in status["processes"].as_array().expect("a list") {
        found.entry(word(&process["part"])).or_default().push(word(&process["pid"]));
    }
    found
}

/// The parts of the engine that can be killed, and the pid of each.
pub fn victims(status: &Value) -> BTreeMap<&'static str, String> {
    let pids = pids(status);
    BTreeMap::from([
        ("rootlesskit", pids["rootlesskit"][0].clone()),
        ("rootlesskit's child", pids["rootlesskit"][1].clone()),
        ("dockerd", pids["dockerd"][0].clone()),
        ("containerd", pids["containerd"][0].clone()),
        ("init", pids["init"][0].clone()),
        ("shim", pids["shim"][0].clone()),
    ])
}

/// What of a status stays the same when another rootlessd takes the engine over.
pub fn lasting(status: &Value) -> Value {
    let mut status = status.clone();
    let fields = status.as_object_mut().expect("an object");
    fields.remove("supervisor");
    // dockerd is asked for it once a minute, and by a new rootlessd at once.
    fields.remove("containersRunning");
    let processes = fields["processes"].as_array_mut().expect("a list");
    processes.retain(|process| process["part"] != "supervisor");
    for process in processes {
        process.as_object_mut().expect("an object").remove("memory");
    }
    status
}

/// Where the machine keeps its controllers to itself, dockerd believes that its user has one: it
/// gives containers their place among the cgroups only then, and a real machine's user has some.
fn controllers() -> &'static Path {
    static TREE: OnceLock<TempDir> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let tree = tempfile::tempdir().expect("a directory");
        let directory = tree.path().join("etc/systemd/system/user@.service.d");
        fs::create_dir_all(&directory).expect("made");
        let script = "controllers=/sys/fs/cgroup/user.slice/user-%i.slice/cgroup.controllers; \
                      grep -q . $$controllers || { echo pids >/run/controllers && \
                      mount --bind /run/controllers $$controllers; }";
        let unit = format!("[Service]\nExecStartPre=+sh -c '{script}'\n");
        fs::write(directory.join("controllers.conf"), unit).expect("written");
        tree
    });
    tree.path()
}
