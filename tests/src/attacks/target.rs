//! What is attacked: a bed with the real helper, the real polkit and system bus, and the attacker's
//! program.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    ops::Deref,
    path::Path,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bed::Suite,
    command::{Output, Spawned, wait_for},
    machine::{Machine, SOON},
};

/// Another user than `tester`, without subordinate ids.
pub const MALLORY: u32 = 4243;
/// Of the helper's file for kernel settings.
pub const CONF: &str = "/etc/sysctl.d/60-rootlessd.conf";
/// Where the ledger is.
pub const LEDGER: &str = "/var/lib/rootlessd/ledger.json";
const RULES: &str = "/etc/polkit-1/rules.d/10-attack.rules";

/// What the administrator's rule says about all that the helper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// There is none: an administrator is asked each time.
    Ask,
    /// Everybody may, for everything.
    Yes,
    /// Nobody may, root neither.
    No,
    /// It fails.
    Throws,
}

impl Rule {
    fn text(self) -> String {
        let body = match self {
            Self::Ask => return "// nothing\n".into(),
            Self::Yes => "return polkit.Result.YES;",
            Self::No => "return polkit.Result.NO;",
            Self::Throws => "throw new Error('attack');",
        };
        format!(
            "polkit.addRule(function (action) {{\n    \
             if (action.id.indexOf('org.rootlessd.helper1.') === 0) {{ {body} }}\n}});\n"
        )
    }
}

/// A bed to be attacked.
#[derive(Debug)]
pub struct Target {
    machine: Machine,
    _tree: TempDir,
}

impl Deref for Target {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Target {
    /// Boots it, with a second user. `attacker` is the program `rootlessd-attacker`.
    pub fn boot(suite: Suite, attacker: &str, rule: Rule) -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        let programs = tree.path().join("usr/local/bin");
        fs::create_dir_all(&programs).expect("made");
        fs::copy(attacker, programs.join("rootlessd-attacker")).expect("copied");
        let rules = tree.path().join(&RULES[1..]);
        fs::create_dir_all(rules.parent().expect("a folder")).expect("made");
        fs::write(rules, rule.text()).expect("written");
        let target = Self { machine: Machine::boot_with(suite, &[tree.path()]), _tree: tree };
        target.add_user("mallory", MALLORY);
        target
    }

    /// Adds a user who has no subordinate ids.
    pub fn add_user(&self, name: &str, uid: u32) {
        self.root_sh(&format!(
            "useradd --uid {uid} --no-create-home {name} && sed -i /^{name}:/d /etc/subuid /etc/subgid"
        ))
        .ok();
    }

    /// A unit of the user's like the engine's, without one in it, for as long as the value lives.
    pub fn engine_scope(&self, options: &str) -> Spawned {
        let run = format!(
            "exec systemd-run -q --user --scope {options} -u rootlessd-engine.scope \
             --slice=rootlessd.slice sh -c 'echo up; exec sleep infinity'"
        );
        let mut scope = self.spawn_user(["sh", "-c", &run]);
        scope.wait_line(SOON, |line| line == "up");
        scope
    }

    /// Has another rule hold.
    pub fn set_rule(&self, rule: Rule) {
        self.set_polkit_rules(RULES, &rule.text());
    }

    /// Has the machine have cgroup controllers to delegate, whatever it has.
    pub fn with_controllers(&self) {
        self.root_sh(
            "echo cpu memory pids >/run/all-controllers
             mount --bind /run/all-controllers /sys/fs/cgroup/cgroup.controllers",
        )
        .ok();
    }

    /// What the attacker, as `tester`, says.
    pub fn attack<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Output {
        self.user(attacker(words))
    }

    /// The same as root.
    pub fn attack_as_root<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Output {
        self.root(attacker(words))
    }

    /// The same as somebody who has this uid, and nothing else of a user.
    pub fn attack_as<A: AsRef<OsStr>>(
        &self,
        uid: u32,
        words: impl IntoIterator<Item = A>,
    ) -> Output {
        let uid = uid.to_string();
        let mut command: Vec<OsString> =
            ["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]
                .map(Into::into)
                .into();
        command.extend(attacker(words));
        self.root(command)
    }

    /// The attacker at work, as `tester`.
    pub fn spawn_attack<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Spawned {
        self.spawn_user(attacker(words))
    }

    /// Calls a method as `tester`, which has to succeed: the ids of what was granted.
    #[track_caller]
    pub fn grant<const N: usize>(&self, call: [&str; N]) -> Vec<String> {
        let answer = self.attack(["call"].iter().chain(&call)).ok();
        let mut lines = answer.lines().map(str::to_owned);
        assert_eq!(lines.next().as_deref(), Some("ok"), "{call:?}: {answer}");
        lines.collect()
    }

    /// Calls a method as `tester`: the answer's first line. While the helper has enough of that user, after
    /// an attack, it is asked again.
    #[track_caller]
    pub fn answer<const N: usize>(&self, call: [&str; N]) -> String {
        wait_for("the helper hears the user again", SOON, || {
            let answer = self.attack(["call"].iter().chain(&call)).ok();
            let line = answer.lines().next().unwrap_or_default().to_owned();
            (!line.contains("LimitsExceeded")).then_some(line)
        })
    }

    /// The helper's process, started if it is not there.
    pub fn helper(&self) -> String {
        self.root_sh(
            "systemctl start rootlessd-helper && systemctl show -P MainPID rootlessd-helper",
        )
        .ok()
    }

    /// How many files it has open, and how much memory it had at most, in kB.
    pub fn helper_has(&self) -> (usize, usize) {
        let script = "pid=$(systemctl show -P MainPID rootlessd-helper)
                      ls /proc/$pid/fd | wc -l; sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status";
        let text = self.root_sh(script).ok();
        let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
        (numbers.next().expect("files"), numbers.next().expect("memory"))
    }

    /// The helper has not failed, and systemd has not had to start it again.
    #[track_caller]
    pub fn assert_well(&self) {
        let show = "systemctl show -P Result -P NRestarts rootlessd-helper
                    journalctl -q -o cat _SYSTEMD_UNIT=rootlessd-helper.service + UNIT=rootlessd-helper.service |
                    grep -E 'panicked|Failed with result|dumped core|oom' || true";
        let text = self.root_sh(show).ok();
        let mut words: Vec<_> = text.split_whitespace().collect();
        words.sort_unstable();
        assert_eq!(words, ["0", "success"], "{text}");
    }

    /// The first port that needs no privilege.
    pub fn port_start(&self) -> String {
        self.root(["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).ok()
    }

    /// The ledger's entries.
    pub fn ledger(&self) -> Vec<Value> {
        let text =
            self.root_sh(&format!("cat {LEDGER} 2>/dev/null || echo '{{\"entries\":[]}}'")).ok();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["entries"].as_array().expect("entries").clone()
    }

    /// What could be changed: files with their owners and contents, capabilities, kernel settings, and
    /// what is pinned in bpffs.
    pub fn snapshot(&self) -> Snapshot {
        // Of what the helper never writes to, the time of the last change tells enough.
        let script = r#"
            find /etc -type f -exec sha256sum {} + | sed 's/\([^ ]*\)  \(.*\)/\2 \1/'
            find /etc /usr -type d -printf '%p %m,%U:%G\n' | sed 's/^/meta /'
            find /etc /usr -not -type d -printf '%p %m,%U:%G,%l,%s\n' | sed 's/^/meta /'
            find /boot /home /opt /root /srv /usr -printf '%p %C@\n' | sed 's/^/changed /'
            getcap -r /usr /etc /home /tmp /var 2>/dev/null | sed 's/^/caps /'
            find /sys/fs/bpf/rootlessd -mindepth 1 2>/dev/null | sed 's/$/ there/'
            sysctl -a 2>/dev/null | grep -E '^(net.ipv4.(ip_|ping)|kernel.(core|unpriv)|user|fs.prot)' | sed 's/^/sysctl /'
        "#;
        let text = self.root_sh(script).ok();
        let line = |line: &str| {
            let (key, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            (key.to_owned(), value.to_owned())
        };
        Snapshot(text.lines().map(line).collect())
    }
}

/// What was there at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// What is not the same in another one.
    pub fn changes(&self, other: &Self) -> BTreeSet<String> {
        let keys = self.0.keys().chain(other.0.keys());
        keys.filter(|key| self.0.get(*key) != other.0.get(*key)).cloned().collect()
    }

    /// The same but for what is told of when something was changed: what it is.
    pub fn lasting(&self, other: &Self) -> BTreeSet<String> {
        let changes = self.changes(other).into_iter();
        changes.filter(|key| !key.starts_with("changed ")).collect()
    }
}

fn attacker<A: AsRef<OsStr>>(words: impl IntoIterator<Item = A>) -> Vec<OsString> {
    let program = Path::new("/usr/local/bin/rootlessd-attacker").as_os_str().to_owned();
    let words = words.into_iter().map(|word| word.as_ref().to_owned());
    [program].into_iter().chain(words).collect()
}

/// How long the helper may take to say no.
pub const AT_ONCE: Duration = Duration::from_secs(2);
