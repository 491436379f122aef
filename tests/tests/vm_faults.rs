//! Rows 9, 16 and 24 of the fault matrix, which want a kernel of their own: parts that the kernel kills for memory, leaps
//! of the clock, and a power cut.

use rootlessd_tests::{
    command::wait_for,
    grants::Caller as _,
    machine::{victims, word},
    virtual_machine::{SOON, Vm},
};
use serde_json::Value;

const PORT: u16 = 8080;

/// One that serves a page; the pid of its first process.
fn web(vm: &Vm) -> String {
    vm.docker_run("-d --name web -p 8080:80 --restart unless-stopped rootlessd/tiny").ok();
    vm.wait_page_on(PORT);
    vm.web_pid()
}

/// Waits until the history has such an event.
#[track_caller]
fn event(vm: &Vm, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, SOON, || {
        let events = vm.ctl(["events", "--json", "-n", "all"]);
        let mut events = events.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        events.find(|event| wanted(event))
    })
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn row_9_a_part_is_killed_for_memory() {
    let vm = Vm::running();
    let web = web(&vm);
    // The user's systemd gives the engine's cgroup the controller, with the first limit.
    let limit = ["systemctl", "--user", "set-property", "--runtime", "rootlessd-engine.scope"];
    vm.user(limit.iter().chain(&["MemoryMax=1G"])).ok();
    for part in ["dockerd", "containerd"] {
        let pid = &victims(&vm.status())[part];
        // Something takes all that there is. The part is the first to go, and that the second.
        let script = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/$0/cgroup)
            echo 1000 >/proc/$0/oom_score_adj
            echo $(($(cat memory.current) + (64 << 20))) >memory.max
            sh -c 'echo $$ >cgroup.procs; echo 500 >/proc/$$/oom_score_adj; exec tail /dev/zero'
            echo max >memory.max
            cat memory.events";
        eprintln!("{}", vm.root(["sh", "-c", script, pid]).ok());
        let text = format!("{part} was killed by SIGKILL, by the kernel for memory (oom)");
        event(&vm, &text, |event| event["text"] == text);
        event(&vm, &format!("{part} is replaced"), |event| {
            event["kind"] == "replaced" && event["part"] == part
        });
        vm.wait_state("running");
        assert_ne!(&victims(&vm.status())[part], pid);
        assert_eq!(vm.web_pid(), web);
        vm.wait_page_on(PORT);
    }
    assert_eq!(vm.status()["deaths"], Value::Array(vec![]));
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn row_16_the_clock_leaps() {
    let vm = Vm::boot();
    let web = slow_to_retry(&vm);
    let set = |seconds: i64| {
        vm.root(["sh", "-c", "date -s @$(($(date +%s) + $0))", &seconds.to_string()]).ok();
    };
    let leaps = [(3600, "set forward by"), (-7200, "set back by")];
    for (seconds, words) in leaps {
        nothing_comes_of(&vm, words, &web, || set(seconds));
    }
    for (seconds, _) in leaps {
        let lasted = backoff(&vm, || set(seconds));
        assert!((39..60).contains(&lasted), "{lasted} s");
    }
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn row_16_the_machine_sleeps() {
    let vm = Vm::that_sleeps();
    let web = slow_to_retry(&vm);
    nothing_comes_of(&vm, "the machine slept for", &web, || vm.sleep(50));
}

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn row_16_the_machine_sleeps_in_a_backoff() {
    let vm = Vm::that_sleeps();
    slow_to_retry(&vm);
    // It goes on meanwhile, and is over when the machine wakes.
    let lasted = backoff(&vm, || vm.sleep(50));
    assert!(lasted < 20, "{lasted} s");
}

/// What is written at that moment is the old or the new, and what was is there: the container that ran runs again.
#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn row_24_the_power_is_cut() {
    let vm = Vm::running();
    web(&vm);
    for action in ["set-unprivileged-port-start", "revoke"] {
        vm.agree_to(action);
    }
    // Grants are written down and undone, and events are, for as long as there is power.
    let writing = "while :; do
            rootlessctl ports allow --all-below-1024 --by sysctl --yes &&
            rootlessctl ports revoke --all-below-1024 &&
            rootlessctl reload &&
            echo >>rounds || exit
        done >writing.log 2>&1";
    let history = || {
        let events = vm.ctl(["events", "--json", "-n", "all"]);
        events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    for cut in 1..=3 {
        vm.user(["rm", "-f", "rounds"]).ok();
        let before = history();
        // Docker does not wait for the disk with an image that it loads, nor whoever wrote the rules above.
        vm.root(["sync"]).ok();
        vm.user(["systemd-run", "--user", "-q", "--collect", "sh", "-c", writing]).ok();
        wait_for("it is written", SOON, || {
            vm.user(["test", "-s", "rounds"]).status.success().then_some(())
        });
        vm.cut();
        vm.wait_page_on(PORT);
        vm.wait_state("running");
        let grants = vm.grants();
        let start = vm.read("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        eprintln!("cut {cut}: {} grants, ports from {start}", grants.len());
        // What is promised of a ledger that was ahead is that it is seen, and that the next call mends it.
        vm.revoke_all();
        assert_eq!(vm.read("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "1024");
        assert!(!vm.root_sh("ls /etc/sysctl.d").ok().contains("60-rootlessd"));
        let after = history();
        assert!(after.len() > before.len(), "{}", after.len());
        assert!(before.iter().all(|event| after.contains(event)));
    }
}

/// The engine, which starts again 40 s after a death, and [`web`].
fn slow_to_retry(vm: &Vm) -> String {
    vm.configure(
        "[engine]\nstart_timeout = \"5min\"\n[engine.restart]\ndelay = \"40s\"\nmax_delay = \"40s\"\n",
    );
    vm.enable();
    vm.user(["docker", "load", "-qi", rootlessd_tests::bed::IMAGE]).ok();
    web(vm)
}

/// A leap while the engine runs is told, and nothing else happens.
fn nothing_comes_of(vm: &Vm, words: &str, web: &str, leap: impl FnOnce()) {
    let before = victims(&vm.status());
    leap();
    let told =
        event(vm, words, |event| event["text"].as_str().is_some_and(|it| it.contains(words)));
    eprintln!("{}", told["text"]);
    assert_eq!((word(&told["kind"]).as_str(), word(&told["part"])), ("changed", "host".into()));
    vm.wait_page_on(PORT);
    vm.wait_state("running");
    assert_eq!(victims(&vm.status()), before);
    assert_eq!(vm.web_pid(), web);
    assert_eq!(vm.status()["deaths"], Value::Array(vec![]));
}

/// How long a back-off of 40 s with a leap in it lasts, as [`last_backoff`] counts. The page is back after it.
fn backoff(vm: &Vm, leap: impl FnOnce()) -> u64 {
    vm.kill(&victims(&vm.status())["rootlesskit"]);
    vm.wait_state("backoff");
    leap();
    vm.wait_state("running");
    let lasted = last_backoff(vm);
    eprintln!("a back-off of 40 s lasted {lasted} s");
    vm.wait_page_on(PORT);
    lasted
}

/// How long the last back-off lasted, in whole s of a clock that nobody sets and that stands still in a suspend:
/// journald notes that, too.
fn last_backoff(vm: &Vm) -> u64 {
    let fields = ["journalctl", "--user", "-o", "json", "ROOTLESSD_EVENT=state"];
    let lines = vm.user(fields).ok();
    let mut begin = None;
    let mut lasted = None;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let at: u64 = word(&line["__MONOTONIC_TIMESTAMP"]).parse().expect("µs");
        match word(&line["ROOTLESSD_STATE"]).as_str() {
            "backoff" => begin = Some(at),
            _ => lasted = begin.take().map(|begin| (at - begin) / 1_000_000).or(lasted),
        }
    }
    lasted.expect("a back-off that is over")
}
