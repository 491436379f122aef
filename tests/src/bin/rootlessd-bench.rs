//! rootlessd beside stock rootless Docker, in one bed, in turn: how fast each is up and back, what
//! each takes, and how fast it can be asked how it is. Prints a table; judges nothing.

use std::{fmt::Write as _, process::ExitCode};

use rootlessd_tests::{
    bed::{Bed, Suite},
    install,
};

/// What both engines do in turn, as a script that prints microseconds, bytes or a number.
struct Measure {
    name: &'static str,
    unit: Unit,
    ours: String,
    stock: String,
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
    Megabytes,
    Number,
}

fn main() -> ExitCode {
    let rounds =
        std::env::var("ROOTLESSD_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(10);
    let suite = match std::env::var("ROOTLESSD_SUITE").as_deref() {
        Ok("bookworm") => Suite::Bookworm,
        Ok("forky") => Suite::Forky,
        _ => Suite::Trixie,
    };
    let bed = Bed::boot_with(suite, &[install::tree()]);
    bed.user_sh("systemctl --user enable -q --now rootlessd && rootlessctl start").ok();
    bed.user_sh("docker load -qi /bed/image.tar && docker run --rm rootlessd/tiny true").ok();
    bed.user_sh("systemctl --user disable -q --now rootlessd").ok();
    bed.stock_install();
    bed.user_sh("systemctl --user disable -q --now docker").ok();

    println!("{}", versions(&bed, suite));
    println!("{rounds} rounds, in turn; medians (least to most)\n");
    println!("{:36}{:>32}{:>32}{:>8}", "", "rootlessd", "stock", "ratio");
    for measure in measures() {
        let mut samples = [vec![], vec![]];
        for _ in 0..rounds {
            for (engine, script) in [(0, &measure.ours), (1, &measure.stock)] {
                let printed = bed.user(["bash", "-c", &format!("{PRELUDE}{script}")]).ok();
                let value = printed.trim().parse::<f64>();
                samples[engine].push(value.expect("a measure prints a number"));
            }
        }
        println!("{}", row(&measure, &mut samples));
    }
    ExitCode::SUCCESS
}

/// What the scripts have in common. Time is told in microseconds.
const PRELUDE: &str = r#"
set -eu
socket=$XDG_RUNTIME_DIR/docker.sock
now() { echo "${EPOCHREALTIME/./}"; }
answers() { curl -sf -o /dev/null --unix-socket "$socket" http://docker/_ping; }
until_it_answers() { until answers; do sleep 0.005; done; }
since() { echo $(($(now) - $1)); }
# The median of a command as a whole process.
of() {
    for i in $(seq 21); do
        t=$(now); "$@" >/dev/null 2>&1 || true; since "$t"
    done | sort -n | sed -n 11p
}
# All processes of some units.
pids() {
    for unit; do
        find /sys/fs/cgroup -path "*/$unit/*" -prune -o -path "*/$unit" -exec cat {}/cgroup.procs \; 2>/dev/null
    done | sort -u
}
# Their proportional set sizes.
pss() {
    pids "$@" | while read -r pid; do
        awk '/^Pss:/ { print $2 * 1024 }' "/proc/$pid/smaps_rollup"
    done | awk '{ sum += $1 } END { printf "%d\n", sum }'
}
"#;

/// The units of which ours may have processes.
const OURS: &str = "rootlessd.service rootlessd-engine.scope docker.service";

fn measures() -> Vec<Measure> {
    let both = |name, unit, start_ours: &str, start_stock: &str, rest: &str| Measure {
        name,
        unit,
        ours: format!("{start_ours}\n{rest}"),
        stock: format!("{start_stock}\n{rest}"),
    };
    let stop_all = "systemctl --user stop -q docker rootlessd";
    let ours = format!("{stop_all}; t=$(now); systemctl --user start --no-block rootlessd");
    let stock = format!("{stop_all}; t=$(now); systemctl --user start --no-block docker");
    let listening = format!("{stop_all}; systemctl --user start rootlessd");
    let up = |start: &str| format!("{start}; until_it_answers");
    let status = |name, ours: &str, stock: &str| Measure {
        name,
        unit: Unit::Milliseconds,
        ours: format!(
            "{}; rootlessctl start >/dev/null; of {ours}",
            up("systemctl --user stop -q docker; systemctl --user start rootlessd")
        ),
        stock: format!(
            "{}; of {stock}",
            up("systemctl --user stop -q rootlessd; systemctl --user start docker")
        ),
    };
    vec![
        both("start to ready", Unit::Seconds, &ours, &stock, "until_it_answers; since $t"),
        both(
            "start to the first container's end",
            Unit::Seconds,
            &ours,
            &stock,
            "until_it_answers; docker run --rm rootlessd/tiny true; since $t",
        ),
        both(
            "dockerd killed to answers",
            Unit::Seconds,
            &up(&ours),
            &up(&stock),
            "sleep 1; pid=$(pidof dockerd); t=$(now); kill -9 $pid; until_it_answers; since $t",
        ),
        both(
            "rootlesskit killed to answers",
            Unit::Seconds,
            &up(&ours),
            &up(&stock),
            "sleep 1; pid=$(pidof dockerd); t=$(now); kill -9 $(pgrep -xo rootlesskit)
             while kill -0 $pid 2>/dev/null; do :; done; until_it_answers; since $t",
        ),
        both(
            "containerd killed to docker exec",
            Unit::Seconds,
            &up(&ours),
            &up(&stock),
            "id=$(docker run -d --rm rootlessd/tiny); pid=$(pidof containerd); t=$(now); kill -9 $pid
             while kill -0 $pid 2>/dev/null; do :; done
             until docker exec $id true >/dev/null 2>&1; do sleep 0.005; done; since $t
             docker rm -f $id >/dev/null",
        ),
        both(
            "containerd killed to docker run",
            Unit::Seconds,
            &up(&ours),
            &up(&stock),
            "sleep 1; pid=$(pidof containerd); t=$(now); kill -9 $pid
             while kill -0 $pid 2>/dev/null; do :; done
             until docker run --rm rootlessd/tiny true >/dev/null 2>&1; do sleep 0.005; done; since $t",
        ),
        Measure {
            name: "docker version, with no engine",
            unit: Unit::Seconds,
            ours: format!("{listening}; t=$(now); docker version >/dev/null; since $t"),
            stock: format!("{stock}; until_it_answers; docker version >/dev/null; since $t"),
        },
        Measure {
            name: "processes of all of it, unused",
            unit: Unit::Number,
            ours: format!("{listening}; pids {OURS} | wc -l"),
            stock: format!("{}; pids docker.service | wc -l", up(&stock)),
        },
        Measure {
            name: "memory of all of it, unused",
            unit: Unit::Megabytes,
            ours: format!("{listening}; pss {OURS}"),
            stock: format!("{}; pss docker.service", up(&stock)),
        },
        Measure {
            name: "memory of all of it, idle",
            unit: Unit::Megabytes,
            ours: format!("{}; rootlessctl start >/dev/null; pss {OURS}", up(&ours)),
            stock: format!("{}; pss docker.service", up(&stock)),
        },
        Measure {
            name: "of that, the supervisor",
            unit: Unit::Megabytes,
            ours: format!("{}; rootlessctl start >/dev/null; pss rootlessd.service", up(&ours)),
            stock: "echo 0".to_owned(),
        },
        status("rootlessctl status : docker info", "rootlessctl status", "docker info"),
        status(
            "… : systemctl --user status docker",
            "rootlessctl status",
            "systemctl --user status docker",
        ),
        status(
            "busctl, a property of ours : theirs",
            "busctl --user get-property org.rootlessd.Supervisor1 /org/rootlessd/Supervisor1 \
             org.rootlessd.Supervisor1.Engine State",
            "busctl --user get-property org.freedesktop.systemd1 \
             /org/freedesktop/systemd1/unit/docker_2eservice org.freedesktop.systemd1.Unit ActiveState",
        ),
    ]
}

fn versions(bed: &Bed, suite: Suite) -> String {
    let printed = bed.user_sh(
        "rootlessd --version; dockerd --version; containerd --version; rootlesskit --version | tail -n1; \
         slirp4netns --version | head -n1; systemctl --version | head -n1; uname -r; nproc",
    );
    let printed = printed.ok();
    let mut lines: Vec<_> = printed.lines().map(str::to_owned).collect();
    if let Some(cores) = lines.pop() {
        lines.push(format!("{cores} cores"));
    }
    format!("{}: {}", suite.name(), lines.join(", "))
}

fn row(measure: &Measure, samples: &mut [Vec<f64>; 2]) -> String {
    let mut line = format!("{:36}", measure.name);
    let mut medians = vec![];
    for samples in samples {
        samples.sort_by(f64::total_cmp);
        let (least, median, most) =
            (samples[0], samples[samples.len() / 2], samples[samples.len() - 1]);
        medians.push(median);
        let show = |value: f64| match measure.unit {
            Unit::Seconds => format!("{:.2} s", value / 1e6),
            Unit::Milliseconds => format!("{:.1} ms", value / 1e3),
            Unit::Megabytes => format!("{:.1} MB", value / 1e6),
            Unit::Number => format!("{value:.0}"),
        };
        let cell = format!("{} ({} to {})", show(median), show(least), show(most));
        let _ = write!(line, "{cell:>32}");
    }
    match medians[..] {
        [ours, stock] if ours > 0.0 && stock > 0.0 => {
            let _ = write!(line, "{:>8.2}", stock / ours);
        }
        _ => line.push_str("       -"),
    }
    line
}
