//! Kill storms: dockerd, rootlessd, or whatever comes, is killed again and again at random moments, while ten containers run
//! and somebody asks how they are, who is answered. No container is lost, but by what holds its namespaces; and what rootlessd
//! writes down, its state and its history, can be read after each.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use rootlessd_tests::{
    attacks::random::Random,
    bed::Suite,
    command::Spawned,
    faults::{Containers, alive, compare},
    machine::{Machine, RUNTIME, pids, rounds, word},
};
use serde_json::Value;

/// No death is one too many, and no delay grows.
const PATIENT: &str = "[engine.restart]\nlimit = 0\nmax_delay = \"200ms\"\n";

/// How many containers run.
const CONTAINERS: usize = 10;

/// Of whoever asks, so many are answered at least. In a long storm it was 98 of 100; those that a death cuts off are more
/// in a short one on a busy machine.
const ANSWERED: f64 = 0.6;

/// The longest pause between two kills, in ms: longer than a dockerd takes to be ready.
const PAUSE: usize = 1200;

/// Asks Docker and rootlessd in turn for as long as there is `/tmp/storm`, each with its patience, and prints how often
/// each answered, and who did not in time.
const CLIENT: &str = r#"
    asked=0 answered=0
    echo begun
    while [ -e /tmp/storm ]; do
        asked=$((asked + 2))
        timeout 30 docker ps -q >/dev/null 2>&1 && answered=$((answered + 1))
        [ $? != 124 ] || echo "docker ps hangs"
        timeout 30 rootlessctl status >/dev/null 2>&1 && answered=$((answered + 1))
        [ $? != 124 ] || echo "rootlessctl status hangs"
    done
    echo "$answered of $asked answered"
"#;

struct Storm {
    machine: Machine,
    random: Random,
    client: Spawned,
}

impl Storm {
    fn begin() -> Self {
        let machine = Machine::running_with(Suite::Trixie, PATIENT);
        machine.serve();
        for number in 1..CONTAINERS {
            let run = format!("docker run -d --name c{number} --restart always rootlessd/tiny");
            machine.user_sh(&run).ok();
        }
        machine.user(["touch", "/tmp/storm"]).ok();
        let mut client = machine.spawn_user(["sh", "-c", CLIENT]);
        client.wait_line(Duration::from_secs(30), |line| line == "begun");
        let seed = Random::seed();
        eprintln!("seed {seed}");
        Self { machine, random: Random::new(seed), client }
    }

    fn pause(&mut self) {
        sleep(Duration::from_millis(self.random.below(PAUSE) as u64));
    }

    /// Kills a part of the engine, or rootlessd; whether there was one.
    fn kill(&self, part: &str) -> bool {
        let killed = match part {
            "supervisor" => {
                self.machine.user_sh(&format!("kill -KILL $(head -n1 {RUNTIME}/rootlessd/lock)"))
            }
            "init" => self.machine.user_sh("kill -KILL $(pgrep -of 'rootlessd engine-init')"),
            "shim" => self.machine.user_sh("kill -KILL $(pgrep -of 'rootlessd engine-shim')"),
            part => self.machine.user_sh(&format!("kill -KILL $(pgrep -xo {part})")),
        };
        killed.status.success()
    }

    /// What is written down can be read at any time: by whoever looks into the files, and by who asks for it.
    fn assert_readable(&self) {
        // The engine's own file goes with it.
        let files = format!(
            "cat {RUNTIME}/rootlessd/state.json && echo || exit
             cat {RUNTIME}/rootlessd/engine/incidents.jsonl 2>/dev/null || :"
        );
        values(&self.machine.user_sh(&files).ok());
        let history = "cd /home/tester/.local/state/rootlessd || exit
             cat events.jsonl.1 2>/dev/null || :
             cat events.jsonl";
        let recorded = numbers(&self.machine.user_sh(history).ok());
        let told = numbers(&self.machine.ctl(["events", "--json", "-n", "all"]));
        assert!(told.starts_with(&recorded), "{recorded:?} are recorded, {told:?} told");
    }

    /// Waits until all is well, and says what became of the containers.
    fn settle(&self, before: &BTreeMap<String, String>) -> Containers {
        self.machine.wait_known();
        let mut now = Containers::default();
        rootlessd_tests::command::wait_for("all containers run", Duration::from_secs(60), || {
            now = compare(before, &alive(&self.machine));
            (now.lost == 0).then_some(())
        });
        now
    }

    fn end(mut self) {
        self.machine.user(["rm", "/tmp/storm"]).ok();
        let last =
            self.client.wait_line(Duration::from_secs(70), |line| line.ends_with("answered"));
        let hanging = self.client.seen().iter().filter(|line| line.ends_with("hangs")).count();
        eprintln!("{last}");
        assert_eq!(hanging, 0, "clients were left waiting");
        let counts: Vec<_> = last.split(' ').filter_map(|word| word.parse::<u32>().ok()).collect();
        let [answered, asked] = counts[..] else { panic!("{last}") };
        assert!(f64::from(answered) >= f64::from(asked) * ANSWERED, "{last}");
        self.machine.wait_page();
        self.machine.ctl(["stop"]);
        assert_eq!(self.machine.leftovers(), "");
    }
}

/// Each line, of which there is one at least.
#[track_caller]
fn values(lines: &str) -> Vec<Value> {
    let lines = lines.lines().filter(|line| !line.is_empty());
    let read =
        |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let values: Vec<Value> = lines.map(read).collect();
    assert!(!values.is_empty(), "nothing is written down");
    values
}

/// The numbers of events, of which none comes twice.
#[track_caller]
fn numbers(events: &str) -> Vec<u64> {
    let number = |event: &Value| event["seq"].as_u64().expect("a number");
    let numbers: Vec<_> = values(events).iter().map(number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    numbers
}

const UNTOUCHED: Containers = Containers { kept: CONTAINERS, restarted: 0, lost: 0 };

fn storm(part: &str) {
    let mut storm = Storm::begin();
    let before = alive(&storm.machine);
    let (mut killed, wanted) = (0, rounds(5));
    while killed < wanted {
        storm.pause();
        killed += u32::from(storm.kill(part));
        storm.assert_readable();
    }
    assert_eq!(storm.settle(&before), UNTOUCHED, "{killed} × {part}");
    storm.end();
}

#[test]
fn dockerd() {
    storm("dockerd");
}

#[test]
fn rootlessd() {
    storm("supervisor");
}

#[test]
fn whatever_comes() {
    let mut storm = Storm::begin();
    let parts = [
        "dockerd",
        "containerd",
        "slirp4netns",
        "supervisor",
        "dockerd",
        "containerd",
        "slirp4netns",
        "supervisor",
        "rootlesskit",
        "init",
        "shim",
    ];
    let mut before = alive(&storm.machine);
    let mut count = BTreeMap::<_, u32>::new();
    while count.values().sum::<u32>() < rounds(8) {
        storm.pause();
        let part = *storm.random.pick(&parts);
        // They hold the namespaces: whatever runs in them ends with them, and all of it comes back.
        let holds = matches!(part, "rootlesskit" | "init" | "shim");
        if holds {
            assert_eq!(storm.settle(&before), UNTOUCHED, "{count:?}");
        }
        let shim = word(&storm.machine.status()["mainPid"]);
        if !storm.kill(part) {
            continue;
        }
        *count.entry(part).or_default() += 1;
        storm.assert_readable();
        if holds {
            storm.machine.wait_status(|status| {
                status["state"] == "running" && word(&status["mainPid"]) != shim
            });
            assert_eq!(storm.settle(&before).lost, 0, "{part}");
            before = alive(&storm.machine);
        }
    }
    eprintln!("{count:?}");
    assert_eq!(storm.settle(&before), UNTOUCHED, "{count:?}");
    assert_eq!(pids(&storm.machine.status())["network"].len(), 1);
    storm.end();
}
