//! Kill storms: dockerd, rootlessd, or whatever comes, is killed again and again at random moments, while ten containers run
//! and somebody asks how they are. No container is lost, but by what holds its namespaces; and what rootlessd writes down can be
//! read after each.

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

    /// What is written down can be read at any time.
    fn assert_readable(&self) {
        let files = format!(
            "cat {RUNTIME}/rootlessd/state.json; echo; cat {RUNTIME}/rootlessd/engine/incidents.jsonl 2>/dev/null || :"
        );
        let text = self.machine.user_sh(&files).ok();
        for line in text.lines().filter(|line| !line.is_empty()) {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        }
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
        self.machine.wait_page();
        self.machine.ctl(["stop"]);
        assert_eq!(self.machine.leftovers(), "");
    }
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
