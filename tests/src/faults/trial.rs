//! A trial of a fault: what is done, what is waited for, and what was seen.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    bed::{Bed, IMAGE, Suite},
    command::Output,
    machine::{Machine, PAGE, RUNTIME, SOON, Watch, victims, what_stays, word},
};

/// rootlessd's configuration for most rows.
pub const CONFIG: &str = "[engine.restart]\nlimit = 0\n";

/// For how long a stock engine is watched that does not recover.
const PATIENCE: u32 = 20;

/// What makes a command of root's one of the user's.
pub const AS_USER: &str = "setpriv --reuid 4242 --regid 4242 --clear-groups env HOME=/home/tester \
    XDG_RUNTIME_DIR=/run/user/4242 DOCKER_HOST=unix:///run/user/4242/docker.sock";

/// Does `$0`, and then tries `$1` until it works for half a second on end, for at most `$2` seconds: prints when it began, and
/// when it worked again for the first time. Times are µs of the clock. A fault that wants a moment of its own sets `begin` when
/// it has come.
const TIMED: &str = r#"
now() { echo "${EPOCHREALTIME/./}"; }
begin=$(now)
eval "$0" >/dev/null 2>&1
done=$(now) well=
while now=$(now); ((now - done < $2 * 1000000)); do
    if ! eval "$1" >/dev/null 2>&1; then
        well=
        sleep 0.002
    elif [ -z "$well" ]; then
        well=$(now)
    elif ((now - well > 500000)); then
        echo "$begin $well"
        exit
    fi
done
echo "$begin never"
"#;

/// What was seen of a fault.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// How soon it was told.
    pub detected: Option<Duration>,
    /// How soon what it broke worked again.
    pub recovered: Option<Duration>,
    /// What became of them; `None` if nobody looked.
    pub containers: Option<Containers>,
    /// Processes, mounts, files, ports and zombies that nobody needs any more.
    pub left: Vec<String>,
    /// What else is not as promised.
    pub broken: Vec<String>,
    /// Why it was not tried here.
    pub absent: Option<&'static str>,
}

impl Trial {
    /// One that could not be ended.
    pub fn cut_off(why: String) -> Self {
        Self { broken: vec![why], ..Self::default() }
    }

    /// One that is not tried here, for this reason.
    pub fn absent(why: &'static str) -> Self {
        Self { absent: Some(why), ..Self::default() }
    }

    /// Notes that something is not as promised.
    pub fn check(&mut self, holds: bool, or: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(or());
        }
    }
}

/// How many containers live how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    /// The same process goes on.
    pub kept: usize,
    /// It was started anew.
    pub restarted: usize,
    /// It does not run.
    pub lost: usize,
}

/// Curl's look at the page, as a command of a shell.
pub fn page() -> String {
    format!("curl -sf -m 5 {PAGE}")
}

/// What of each container is another after its restart, by name; nothing of one that does not run.
pub type Alive = BTreeMap<String, String>;

/// The containers that there are.
pub fn alive(bed: &Bed) -> Alive {
    let list = "docker ps -aq | xargs -r docker inspect -f \
                '{{.Name}} {{if .State.Running}}{{.State.Pid}} {{.State.StartedAt}}{{end}}'";
    let list = bed.user_sh(list).ok();
    let entries = list.lines().filter_map(|line| line.split_once(' '));
    entries.map(|(name, life)| (name.to_owned(), life.to_owned())).collect()
}

/// What became of those that ran.
pub fn compare(before: &Alive, after: &Alive) -> Containers {
    let mut count = Containers::default();
    for (name, life) in before.iter().filter(|(_, life)| !life.is_empty()) {
        *match after.get(name) {
            Some(now) if now == life => &mut count.kept,
            Some(now) if !now.is_empty() => &mut count.restarted,
            _ => &mut count.lost,
        } += 1;
    }
    count
}

/// Whether the first process of a container is there still.
fn is_there(bed: &Bed, life: &str) -> bool {
    let pid = life.split(' ').next().unwrap_or_default();
    bed.root(["kill", "-0", pid]).status.success()
}

/// Provokes a fault by a script of the user's, and waits until `check` works.
pub fn provoke(
    machine: &Machine,
    fault: &str,
    check: &str,
    is_told: &dyn Fn(&Value) -> bool,
) -> Trial {
    follow(machine, &|| {}, &|| machine.user(timed(fault, check)), Some(is_told))
}

/// The same of an engine that `prepare` stops, or whatever it does to it, before the fault.
pub fn provoke_after(
    machine: &Machine,
    prepare: &dyn Fn(),
    fault: &str,
    check: &str,
    is_told: &dyn Fn(&Value) -> bool,
) -> Trial {
    follow(machine, prepare, &|| machine.user(timed(fault, check)), Some(is_told))
}

/// The same of a fault that nobody is to be told of.
pub fn provoke_unseen(machine: &Machine, fault: &str, check: &str) -> Trial {
    follow(machine, &|| {}, &|| machine.user(timed(fault, check)), None)
}

/// The same as [`provoke`], by a script of root's.
pub fn provoke_by_root(
    machine: &Machine,
    fault: &str,
    check: &str,
    is_told: &dyn Fn(&Value) -> bool,
) -> Trial {
    follow(machine, &|| {}, &|| machine.root(timed(fault, check)), Some(is_told))
}

fn timed<'a>(fault: &'a str, check: &'a str) -> [&'a str; 6] {
    ["bash", "-c", TIMED, fault, check, "60"]
}

fn follow(
    machine: &Machine,
    prepare: &dyn Fn(),
    provoke: &dyn Fn() -> Output,
    is_told: Option<&dyn Fn(&Value) -> bool>,
) -> Trial {
    // What an earlier trial did is none of this one's.
    machine.ctl(["reset-failed"]);
    machine.wait_known();
    let before = alive(machine);
    prepare();
    let mut watch = machine.watch();
    let (begin, recovered) = times(&provoke().ok());
    let detected = is_told.and_then(|is_told| told_after(&mut watch, begin, is_told));
    machine.wait_state("running");
    Trial {
        detected,
        recovered,
        containers: Some(compare(&before, &settled(machine, &before))),
        left: zombies(machine),
        ..Trial::default()
    }
}

/// The containers, once all of those that there were run again, or it is clear that they do not.
pub fn settled(machine: &Machine, before: &Alive) -> Alive {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = alive(machine);
        let all = before.keys().all(|name| now.get(name).is_some_and(|life| !life.is_empty()));
        if all || Instant::now() > deadline {
            return now;
        }
    }
}

/// What [`TIMED`] printed: when it began, and how soon all was well.
fn times(printed: &str) -> (SystemTime, Option<Duration>) {
    let (begin, end) = printed.trim().split_once(' ').expect("two words");
    let begin: u64 = begin.parse().expect("µs");
    let end: Option<u64> = end.parse().ok();
    let recovered = end.map(|end| Duration::from_micros(end.saturating_sub(begin)));
    (UNIX_EPOCH + Duration::from_micros(begin), recovered)
}

/// How long after the fault a status came that tells it.
fn told_after(
    watch: &mut Watch,
    begin: SystemTime,
    is_told: &dyn Fn(&Value) -> bool,
) -> Option<Duration> {
    while let Some((at, status)) = watch.try_next_at(SOON) {
        if is_told(&status) {
            return Some(at.duration_since(begin).unwrap_or_default());
        }
    }
    None
}

/// Kills or stops a process of the engine.
pub fn signal(machine: &Machine, signal: &str, victim: &str) -> String {
    let pid = &victims(&machine.wait_known())[victim];
    match signal {
        // Until it is dead, all may seem well. Whoever only waits leaves the processors to the others.
        "KILL" => format!("kill -KILL {pid}; tail --pid={pid} -s 0.002 -f /dev/null"),
        _ => format!("kill -{signal} {pid}"),
    }
}

/// A status of this state.
pub fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["state"] == state
}

/// A status that has a reason with this code.
pub fn has_reason(code: &'static str) -> impl Fn(&Value) -> bool {
    move |status| reason(status, code).is_some()
}

/// The reason with this code.
pub fn reason<'a>(status: &'a Value, code: &str) -> Option<&'a Value> {
    status["reasons"].as_array()?.iter().find(|reason| reason["code"] == code)
}

/// A status that tells that something happened to a part once more than it had. What was told before may be forgotten
/// meanwhile.
pub fn again(machine: &Machine, kind: &'static str, part: &'static str) -> impl Fn(&Value) -> bool {
    let last = move |status: &Value| {
        let incidents = status["incidents"].as_array().into_iter().flatten();
        incidents
            .filter(|it| it["kind"] == kind && it["part"] == part)
            .map(|it| it["at"].as_u64())
            .max()
    };
    let before = last(&machine.status());
    move |status| last(status) > before
}

/// Dead processes that nobody asked for, but for a test's own commands, whose parent is outside; and but for the
/// network helper that RootlessKit started, for which it waits only at its own end (its `pkg/network`). Those that are
/// reaped a moment later are none.
pub fn zombies(bed: &Bed) -> Vec<String> {
    let list = "
        kit=$(pgrep -xo rootlesskit)
        ps -eo stat=,pid=,ppid=,comm= | awk -v kit=$kit '$1 ~ /^Z/ && $3 != 0 &&
            !($3 == kit && $4 ~ /^(slirp4netns|pasta)/)'
    ";
    let left = what_stays(|| bed.root_sh(list).ok(), |_| true);
    left.lines().map(|line| format!("zombie {line}")).collect()
}

/// What an engine has of processes, mounts, files and ports, a line each: without the harness's own, without the
/// numbers that are others after a start, and without the places of containers' network namespaces, which dockerd
/// removes once a minute (`gpmCleanupPeriod` of libnetwork's osl).
const FOOTPRINT: &str = r#"
    {
        ps -eo stat=,comm= | awk '$1 !~ /^Z/ { print "process", $2 }' |
            grep -E ' (rootlesskit|rootlessd$|exe$|slirp4netns|pasta|containerd|dockerd|docker-proxy|runc)'
        findmnt -rno TARGET | sed 's/^/mount /'
        find /run/user/4242 -maxdepth 3 \( -path '*/4242/systemd' -o -path '*/docker/netns/*' \) -prune \
            -o -printf 'file %p\n' 2>/dev/null
        find /tmp -maxdepth 1 -regex '.*/\(rootlesskit\|rksys\|runc-process\|pty\).*' -printf 'file %p\n'
        ss -Hltn | awk '$4 !~ /^198.51.100./ { print "port", $4 }'
    } | sed -E '/^port/!s/[0-9a-f]{8,}|[0-9]+/N/g' | sort
"#;

/// What an engine has now.
pub fn footprint(bed: &Bed) -> Vec<String> {
    bed.root_sh(FOOTPRINT).ok().lines().map(str::to_owned).collect()
}

/// What an engine has beyond what it had, and still has a moment later.
pub fn more_than(before: &[String], bed: &Bed) -> Vec<String> {
    let search = || {
        let mut now = footprint(bed);
        for line in before {
            if let Some(index) = now.iter().position(|it| it == line) {
                now.remove(index);
            }
        }
        now.join("\n")
    };
    what_stays(search, |_| true).lines().map(str::to_owned).collect()
}

/// Restarts rootlessd with other lines in its unit, as a drop-in; none: as it was.
pub fn unit_with(machine: &Machine, lines: &str) {
    let directory = "/home/tester/.config/systemd/user/rootlessd.service.d";
    match lines {
        "" => drop(machine.user(["rm", "-rf", directory]).ok()),
        _ => machine.write(&format!("{directory}/fault.conf"), format!("[Service]\n{lines}\n")),
    }
    machine.user_sh("systemctl --user daemon-reload && systemctl --user restart rootlessd").ok();
}

/// Stock rootless Docker in a bed, with the same containers.
#[derive(Debug)]
pub struct Stock {
    bed: Bed,
    suite: Suite,
}

impl Stock {
    /// Boots and starts it.
    pub fn boot(suite: Suite) -> Self {
        let bed = Bed::boot(suite);
        bed.stock_install();
        bed.user(["docker", "load", "-qi", IMAGE]).ok();
        bed.user_sh("docker run -d --name web -p 8080:80 --restart unless-stopped rootlessd/tiny")
            .ok();
        bed.user_sh("docker run -d --name other --restart always rootlessd/tiny").ok();
        Self { bed, suite }
    }

    /// Its bed, in which it runs.
    pub fn revived(&mut self) -> &Bed {
        self.revive();
        &self.bed
    }

    /// Provokes a fault by a script of root's, and watches until `check` works for the user. Whatever becomes of it, the
    /// engine runs before the next.
    pub fn provoke(&mut self, fault: &str, check: &str) -> Trial {
        self.provoke_as_root(fault, &format!("{AS_USER} {check}"))
    }

    /// The same, with a check of root's.
    pub fn provoke_as_root(&mut self, fault: &str, check: &str) -> Trial {
        let bed = self.revived();
        let before = alive(bed);
        let patience = PATIENCE.to_string();
        let printed = bed.root(["bash", "-c", TIMED, fault, check, &patience]).ok();
        let (_, recovered) = times(&printed);
        let left = zombies(bed);
        let answers = bed.user(["timeout", "5", "docker", "version"]).status.success();
        let after = match answers {
            true => alive(bed),
            // Nobody tells it, but a process is there or not.
            false => before
                .iter()
                .filter(|(_, life)| is_there(bed, life))
                .map(|(name, life)| (name.clone(), life.clone()))
                .collect(),
        };
        let containers = Some(compare(&before, &after));
        Trial { recovered, containers, left, ..Trial::default() }
    }

    /// Starts it anew if it is not what it was; boots another if even that does not help.
    fn revive(&mut self) {
        let works = format!("timeout 5 docker exec web true && {}", page());
        if self.bed.user_sh(&works).status.success() {
            return;
        }
        self.bed
            .root_sh(
                "pidof slirp4netns dockerd containerd rootlesskit exe | xargs -r kill -CONT; true",
            )
            .ok();
        // What it stumbles over for ever stays until somebody removes it.
        let anew = format!(
            "systemctl --user stop docker; systemctl --user reset-failed docker
             rm -f {RUNTIME}/docker.pid {RUNTIME}/docker/containerd/containerd.pid
             systemctl --user start docker"
        );
        let wait =
            "until docker exec web true && docker exec other true; do sleep 0.1; done 2>/dev/null";
        if !self.bed.user_sh(&anew).status.success()
            || !self.bed.user(["timeout", "60", "sh", "-c", wait]).status.success()
        {
            eprintln!("stock does not come back: another is booted");
            *self = Self::boot(self.suite);
        }
    }
}

/// The words of a status, for a message.
pub fn told(status: &Value) -> String {
    let codes = status["reasons"].as_array().into_iter().flatten().map(|it| word(&it["code"]));
    format!("{}: {}", word(&status["state"]), codes.collect::<Vec<_>>().join(", "))
}

/// The times of a fault by a script of the user's, whoever is there to tell it.
pub fn timed_by_user(machine: &Machine, fault: &str, check: &str) -> Trial {
    trial_of(machine, machine.user(timed(fault, check)))
}

/// The same, by a script of root's.
pub fn timed_by_root(machine: &Machine, fault: &str, check: &str) -> Trial {
    trial_of(machine, machine.root(timed(fault, check)))
}

fn trial_of(machine: &Machine, output: Output) -> Trial {
    let (_, recovered) = times(&output.ok());
    Trial { recovered, left: zombies(machine), ..Trial::default() }
}
