//! Limits of containers, with a kernel's real controllers: what is promised is what the container's
//! cgroup has, not what systemd says.

use rootlessd_tests::virtual_machine::{MANAGER, Vm};
use serde_json::json;

/// What systemd gives every user.
const USUAL: &str = "cpu memory pids";
const ALL: &str = "cpu cpuset io memory pids";
const LIMITS: &str = "--memory 64m --cpus 0.5 --pids-limit 50 --cpuset-cpus 0";

#[test]
#[ignore = "needs the virtual machine: make test-vm"]
fn delegated_controllers_limit_containers() {
    let vm = Vm::running();
    vm.agree_to("delegate-controllers");
    vm.agree_to("revoke");
    let before = vm.tree("/etc/systemd/system");
    // systemd and the kernel each have an order of their own.
    let property =
        || sorted(&vm.root(["systemctl", "show", "-P", "DelegateControllers", MANAGER]).ok());
    let controllers = || sorted(&vm.controllers());
    assert_eq!(controllers(), USUAL);
    assert_eq!(property(), USUAL);

    // What the user's systemd has holds, and the rest does not; Docker says so.
    let without = vm.docker_run(&format!("--rm {LIMITS} rootlessd/tiny true"));
    assert!(without.stderr.contains("cpuset"), "{without}");
    let three = "--memory 64m --cpus 0.5 --pids-limit 50";
    let limits = limits(&vm, three);
    assert_eq!(limits["memory.max"], "67108864");
    assert_eq!(limits["cpu.max"], "50000 100000");
    assert_eq!(limits["pids.max"], "50");
    assert!(limits["cpuset.cpus.effective"].is_null(), "{limits}");

    let wanted = ["as", "5", "cpu", "cpuset", "io", "memory", "pids"];
    let (id, needs) = vm.grant("DelegateControllers", &wanted);
    assert_eq!(needs, json!(["user-manager-restart"]));
    // systemd says yes already; the cgroup, which counts, does not.
    assert_eq!(property(), ALL);
    assert_eq!(controllers(), USUAL);
    let text = vm.drift().to_string();
    assert!(text.contains("cpuset, io") && text.contains("started anew"), "{text}");

    vm.root(["systemctl", "restart", MANAGER]).ok();
    assert_eq!(controllers(), ALL);
    assert_eq!(vm.drift(), json!([]));
    assert_eq!(vm.helper("DelegateControllers", &wanted)["grants"], json!([]));
    vm.start();
    let limits = self::limits(&vm, LIMITS);
    assert_eq!(limits["memory.max"], "67108864");
    assert_eq!(limits["cpu.max"], "50000 100000");
    assert_eq!(limits["pids.max"], "50");
    assert_eq!(limits["cpuset.cpus.effective"], "0");
    let oom = vm.docker_run("--rm --memory 64m rootlessd/tiny tail /dev/zero");
    assert_eq!(oom.status.code(), Some(137));

    let outcome = vm.revoke(&id);
    assert_eq!(outcome["needs"], json!(["user-manager-restart"]));
    assert_eq!(vm.tree("/etc/systemd/system"), before);
    vm.root(["systemctl", "restart", MANAGER]).ok();
    assert_eq!(controllers(), USUAL);
    assert_eq!(property(), USUAL);
    vm.start();
}

/// The limits of a container's cgroup, as the kernel has them; null is none.
fn limits(vm: &Vm, options: &str) -> serde_json::Value {
    vm.docker_run(&format!("-d --name limited {options} rootlessd/tiny")).ok();
    let pid = vm.user(["docker", "inspect", "-f", "{{.State.Pid}}", "limited"]).ok();
    let script = "cd /sys/fs/cgroup$(sed -n s/^0:://p /proc/$0/cgroup)
                  for limit in memory.max cpu.max pids.max cpuset.cpus.effective io.max; do
                      [ ! -e $limit ] || echo \"$limit:$(cat $limit)\"
                  done
                  pwd >&2";
    let output = vm.root(["sh", "-c", script, &pid]);
    eprintln!("{output}");
    vm.user(["docker", "rm", "-f", "limited"]).ok();
    let text = output.ok();
    text.lines().filter_map(|line| line.split_once(':')).collect()
}

fn sorted(words: &str) -> String {
    let mut words: Vec<_> = words.split_ascii_whitespace().collect();
    words.sort_unstable();
    words.join(" ")
}
