//! Privileges in a bed: who asks the helper for them, who agrees, and what the machine then has.

use std::time::Duration;

use rootlessd_api::helper::{BUS_NAME, OBJECT_PATH};
use serde_json::Value;

use crate::{
    bed::IMAGE,
    command::{Output, Spawned, wait_for},
    machine::{Machine, SOON, word},
};

/// The administrator of a bed, and the password.
pub const ADMINISTRATOR: (&str, &str) = ("chief", "correct horse");

/// A command with somebody at its terminal.
const AT_TERMINAL: &str = r#"echo "at $(tty)"; exec "$@""#;
/// polkit's own textual agent, for a process that runs already.
const AGENT_OF: &str = r#"
    echo "at $(tty)"
    ready=$(mktemp -u)
    mkfifo $ready
    { cat $ready; echo registered; } &
    exec pkttyagent --notify-fd 3 --process $1 3>$ready
"#;
/// A terminal without a user. The agent's questions end with a colon, not a line.
const SCRIPT: &str = r#"{ script -qec "$0" /dev/null; code=$?; echo; echo "ended with $code"; } | stdbuf -o0 tr : '\n'"#;

/// RootlessKit's program.
pub const ROOTLESSKIT: &str = "/usr/bin/rootlesskit";
/// Makes RootlessKit's installed package anew, as dpkg-repack(1) does, and installs it: a script of root's.
pub const REINSTALL: &str = r#"
    new=$(mktemp -d)
    mkdir $new/DEBIAN
    dpkg-query -Wf 'Package: ${Package}\nVersion: ${Version}\nArchitecture: ${Architecture}
Maintainer: a test <test@localhost>\nDescription: the same again\n' rootlesskit >$new/DEBIAN/control
    dpkg-query -L rootlesskit | while read -r file; do
        [ ! -f $file ] || cp --parents -P $file $new
    done
    chmod 755 $new
    dpkg-deb --root-owner-group -Znone --build $new $new.deb
    dpkg -i $new.deb
"#;

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The new grants.
    pub grants: Vec<String>,
    /// What is still needed.
    pub needs: Vec<String>,
    /// Sentences.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Of busctl's answer.
    #[track_caller]
    pub fn of(answer: &str) -> Self {
        let answer: Value = serde_json::from_str(answer).expect("JSON");
        let list = |key: &str| {
            let list = answer["data"][0][key]["data"].as_array().expect("a list");
            list.iter().map(word).collect()
        };
        Self { grants: list("grants"), needs: list("needs"), notes: list("notes") }
    }
}

/// Somebody who asks the helper.
pub trait Caller {
    /// Runs a command.
    fn run(&self, command: &[&str]) -> Output;

    /// Calls a method of the helper's. Nobody is asked.
    fn call(&self, method: &str, arguments: &[&str]) -> Output {
        self.run(&[&call(method), arguments].concat())
    }

    /// Calls a method that has to succeed.
    #[track_caller]
    fn grant(&self, method: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(&self.call(method, arguments).ok())
    }

    /// The caller's grants.
    #[track_caller]
    fn grants(&self) -> Vec<Value> {
        listed(&self.call("ListGrants", &[]).ok())
    }

    /// Takes all of the caller's grants back; what came of it.
    #[track_caller]
    fn revoke_all(&self) -> Vec<Outcome> {
        let ids = self.grants().into_iter().map(|grant| word(&grant["id"]["data"]));
        ids.map(|id| self.grant("Revoke", &["s", &id])).collect()
    }

    /// Runs a container that publishes these ports.
    fn publish(&self, name: &str, ports: &[&str]) -> Output {
        let mut command = vec!["docker", "run", "-d", "--restart", "unless-stopped"];
        command.extend(["--name", name]);
        command.extend(ports.iter().flat_map(|port| ["-p", port]));
        command.push("rootlessd/tiny");
        self.run(&command)
    }

    /// Tries to, which has to fail, with nothing left; what Docker says.
    #[track_caller]
    fn refused(&self, port: &str) -> String {
        let refusal = self.publish("refused", &[port]).fails();
        self.run(&["docker", "rm", "-f", "refused"]).ok();
        refusal
    }

    /// Removes a container.
    #[track_caller]
    fn remove(&self, name: &str) {
        self.run(&["docker", "rm", "-f", name]).ok();
    }
}

/// busctl's arguments for a call.
pub fn call(method: &str) -> [&str; 8] {
    ["busctl", "--json=short", "call", "--system", BUS_NAME, OBJECT_PATH, BUS_NAME, method]
}

/// Grants of busctl's answer.
#[track_caller]
pub fn listed(answer: &str) -> Vec<Value> {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    answer["data"][0].as_array().expect("a list").clone()
}

impl Caller for Machine {
    fn run(&self, command: &[&str]) -> Output {
        self.user(command)
    }
}

/// Another user of the same machine, with a systemd.
#[derive(Debug)]
pub struct Other<'a> {
    machine: &'a Machine,
    uid: String,
}

impl<'a> Other<'a> {
    /// Makes the account `other`.
    pub fn new(machine: &'a Machine, uid: u32) -> Self {
        let script = r#"
            useradd --uid $0 --user-group --shell /bin/bash --no-create-home other
            # Docker's overlays cannot lie on the bed's own.
            mkdir -p /var/lib/docker/other /home/other
            mount --bind /var/lib/docker/other /home/other
            chown other: /home/other
            loginctl enable-linger other
            systemctl start user@$0.service
        "#;
        machine.root(["sh", "-ec", script, &uid.to_string()]).ok();
        Self { machine, uid: uid.to_string() }
    }
}

impl Caller for Other<'_> {
    fn run(&self, command: &[&str]) -> Output {
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{}", self.uid);
        let bus = format!("DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{}/bus", self.uid);
        let docker = format!("DOCKER_HOST=unix:///run/user/{}/docker.sock", self.uid);
        let all = ["runuser", "-u", "other", "--", "env", "-C", "/home/other", "HOME=/home/other"];
        self.machine.root(
            all.iter().copied().chain([&*runtime, &bus, &docker]).chain(command.iter().copied()),
        )
    }
}

/// What only a machine with a helper has.
impl Machine {
    /// Has polkit decide by rules: `yes`, `no` or `auth_admin` for an action, such as `grant-ports`.
    pub fn decide(&self, actions: &[(&str, &str)]) {
        let rule = |(action, answer): &(&str, &str)| {
            format!(
                "if (action.id == '{BUS}.{action}') return polkit.Result.{};\n",
                answer.to_uppercase(),
                BUS = "org.rootlessd.helper1"
            )
        };
        let rules: String = actions.iter().map(rule).collect();
        let rules = format!("polkit.addRule(function (action, subject) {{\n{rules}}});\n");
        self.set_polkit_rules("/etc/polkit-1/rules.d/10-test.rules", &rules);
    }

    /// Has polkit go by such a file.
    pub fn set_polkit_rules(&self, file: &str, rules: &str) {
        // Whoever waits for polkit to notice by itself waits for no event. A unit that never ran has nothing to reset.
        let script = "printf %s \"$0\" >$1; systemctl reset-failed polkit 2>/dev/null; systemctl restart polkit";
        self.root(["sh", "-c", script, rules, file]).ok();
    }

    /// Makes the account of [`ADMINISTRATOR`].
    pub fn appoint(&self) {
        let (name, password) = ADMINISTRATOR;
        let script = "useradd --groups sudo $0 && echo \"$0:$1\" | chpasswd";
        self.root(["sh", "-c", script, name, password]).ok();
    }

    /// Has Docker know the tiny image.
    pub fn load(&self) {
        self.user(["docker", "load", "-qi", IMAGE]).ok();
    }

    /// What is served on a port of the machine, however long its container takes to serve it.
    #[track_caller]
    pub fn fetch(&self, url: &str) -> String {
        let retry = [
            "--retry",
            "300",
            "--retry-delay",
            "0",
            "--retry-max-time",
            "30",
            "--retry-all-errors",
        ];
        self.user(["curl", "-sgf"].iter().chain(&retry).chain(&[url])).ok()
    }

    /// The codes of the status's reasons, with their commands.
    pub fn reasons(&self) -> Vec<(String, String)> {
        let status = self.status();
        let reasons = status["reasons"].as_array().expect("a list").iter();
        reasons.map(|reason| (word(&reason["code"]), word(&reason["remedy"]))).collect()
    }

    /// The supervisor's ports, each as `80/tcp 0.0.0.0 grant`.
    pub fn ports(&self) -> Vec<String> {
        let name = "org.rootlessd.Supervisor1";
        let interface = "org.rootlessd.Supervisor1.Ports";
        let call = ["busctl", "--user", "--json=short", "call", name];
        let answer =
            self.user(call.into_iter().chain(["/org/rootlessd/Supervisor1", interface, "List"]));
        let ports = listed(&answer.ok());
        let text = |port: &Value| {
            let part = |key: &str| word(&port[key]["data"]);
            format!("{}/{} {} {}", part("port"), part("protocol"), part("address"), part("by"))
        };
        ports.iter().map(text).collect()
    }

    /// What is pinned of the users' grants, relative to the helper's directory.
    pub fn pinned(&self) -> String {
        self.root_sh("cd /sys/fs/bpf/rootlessd && find . -mindepth 1 | sort | xargs").ok()
    }

    /// A property of a unit of the machine's.
    pub fn system_unit(&self, property: &str, unit: &str) -> String {
        self.root(["systemctl", "show", "-P", property, unit]).ok()
    }

    /// Follows the journal of a unit of the machine's, and what its systemd says of it, from the last
    /// line on.
    pub fn follow_unit(&self, unit: &str) -> Spawned {
        let last = self.root(["journalctl", "-q", "-n1", "-o", "json"]).ok();
        let last: Value = serde_json::from_str(&last).expect("a journal entry");
        let after = format!("--after-cursor={}", last["__CURSOR"].as_str().expect("a cursor"));
        self.spawn_root(["journalctl", "-qf", "-o", "cat", &after, "-u", unit])
    }

    /// Waits until a unit of the machine's is in this state.
    #[track_caller]
    pub fn wait_system_unit(&self, unit: &str, state: &str, timeout: Duration) {
        let mut news = self.follow_unit(unit);
        let is =
            news.until(timeout, || (self.system_unit("ActiveState", unit) == state).then_some(()));
        assert!(is.is_some(), "{unit} is not {state} after {timeout:?}");
    }
}

/// A terminal at which the user sits, and polkit's agent asks.
#[derive(Debug)]
pub struct Terminal<'a> {
    machine: &'a Machine,
    spawned: Spawned,
    tty: String,
}

impl<'a> Terminal<'a> {
    /// Runs a command of tester's.
    pub fn run(machine: &'a Machine, command: &[&str]) -> Self {
        let command = ["sh", "-c", AT_TERMINAL, "sh"].iter().chain(command);
        Self::open(machine, command.copied())
    }

    /// Asks for a process of tester's. Returns when it is known to polkit.
    pub fn agent_of(machine: &'a Machine, pid: &str) -> Self {
        let mut terminal = Self::open(machine, ["sh", "-c", AGENT_OF, "sh", pid]);
        terminal.wait("registered");
        terminal
    }

    fn open<'b>(machine: &'a Machine, command: impl IntoIterator<Item = &'b str>) -> Self {
        let quoted: Vec<_> =
            command.into_iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        // Whoever runs the tests in the background of a shell ignores SIGINT, and so would all of them.
        let shell = ["env", "--default-signal=INT,QUIT", "bash", "-c", SCRIPT, &quoted.join(" ")];
        let mut spawned = machine.spawn_user(shell);
        let tty = spawned.wait_line(SOON, |line| line.starts_with("at "));
        let tty = tty["at ".len()..].trim().to_owned();
        Self { machine, spawned, tty }
    }

    /// Waits for a line with this text; the line.
    #[track_caller]
    pub fn wait(&mut self, text: &str) -> String {
        self.spawned.wait_line(SOON, |line| line.contains(text))
    }

    /// Waits until it is asked for a password; the question.
    #[track_caller]
    pub fn wait_question(&mut self) -> String {
        const BEGIN: &str = "Authentication is required";
        let line = self.wait(BEGIN);
        self.wait("Password");
        // It is coloured.
        line[line.find(BEGIN).unwrap_or_default()..].trim().to_owned()
    }

    /// Types a password, when it is asked for.
    #[track_caller]
    pub fn answer(&mut self, password: &str) {
        // What is typed before the agent reads without echo is thrown away. There is no event for that.
        wait_for("a terminal without echo", SOON, || {
            let state = self.machine.root(["stty", "-F", &self.tty, "-a"]).ok();
            state.contains(" -echo ").then_some(())
        });
        self.spawned.send(&format!("{password}\n"));
    }

    /// Whether there is a question, of those that were not waited for, until now.
    pub fn is_asked(&mut self) -> bool {
        let mut lines = std::iter::from_fn(|| self.spawned.next_line(Duration::ZERO));
        lines.any(|line| line.contains("Authentication is required"))
    }

    /// Leaves, as with Ctrl-C. Returns when the bus knows, which is before polkit is asked again.
    #[track_caller]
    pub fn leave(mut self) {
        self.spawned.send("\x03");
        self.wait("ended with ");
        // Not each polkit says so in its journal.
        wait_for("a bus without the agent", SOON, || {
            let there = self.machine.root_sh("busctl list --system --no-pager").ok();
            (!there.contains("pkttyagent")).then_some(())
        });
    }

    /// Waits until the command has ended; what it wrote.
    #[track_caller]
    pub fn end(mut self) -> (bool, String) {
        let status = self.wait("ended with ");
        // The colons are lost.
        (status.ends_with(" 0"), self.spawned.seen().join(":"))
    }
}
