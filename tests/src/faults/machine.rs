//! The machine is not as it should be, or becomes another: rows 9 to 11, 15, 16, 20, 27 and 28. Rows 9 and 16 want a kernel
//! of their own, so all that is here of them is a line that says where they are.

use super::{
    Kept, Promise, Row, Trial, containers, elsewhere, ms,
    parts::in_and_out,
    trial::{
        AS_USER, CONFIG, again, alive, compare, has_reason, page, provoke, provoke_by_root, reason,
        settled, timed_by_root, told, zombies,
    },
    well_within, within,
};
use crate::{
    machine::{Machine, RUNTIME, pids, word},
    name_servers,
};

pub(super) fn rows() -> Vec<Row> {
    let full = |number, fault, ours| Row {
        number,
        fault,
        promise: within(1000, 15_000),
        ours,
        stock: None,
    };
    vec![
        elsewhere("9", "a part is killed for memory"),
        full("10a", "no space for Docker's data", |machine, _| {
            shrunk_data(machine, "size", "data-root-full")
        }),
        full("10b", "no inodes for Docker's data", |machine, _| {
            shrunk_data(machine, "nr_inodes", "data-root-inodes")
        }),
        full("10c", "no space in the runtime directory", |machine, _| {
            shrunk(machine, RUNTIME, "size", "runtime-dir-full")
        }),
        Row {
            number: "10d",
            fault: "no space for the configuration",
            // It is read, and nothing is written there.
            promise: well_within(5000).anew(),
            ours: |machine, _| full_configuration(machine),
            stock: None,
        },
        Row {
            number: "11a",
            fault: "the runtime directory is emptied",
            promise: within(1000, 15_000).anew(),
            ours: |machine, _| {
                let fault = format!("rm -rf {RUNTIME}/rootlessd {RUNTIME}/docker.sock");
                // While there is no socket, nobody is asked; it is there again when the next has begun.
                let check = format!("{AS_USER} timeout 5 docker exec web true");
                provoke_by_root(machine, &fault, &check, &has_reason("runtime-dir-gone"))
            },
            stock: Some(|stock| {
                // What stock has there of the same: RootlessKit's own directory, and Docker's socket.
                let fault = format!("rm -rf {RUNTIME}/dockerd-rootless {RUNTIME}/docker.sock");
                stock.provoke(&fault, "timeout 5 docker exec web true")
            }),
        },
        Row {
            number: "11b",
            fault: "the runtime directory is mounted over",
            promise: within(1000, 15_000).anew(),
            ours: |machine, _| mounted_over(machine),
            stock: None,
        },
        Row {
            number: "15a",
            fault: "a published port is in use",
            promise: Promise { detected: ms(30_000), ..Promise::NONE },
            ours: |machine, _| port(machine, "8080:80", &["8080"]),
            stock: None,
        },
        Row {
            number: "15b",
            fault: "a published port needs a privilege",
            promise: Promise { detected: ms(30_000), ..Promise::NONE },
            ours: |machine, _| port(machine, "81:80", &["81", "rootlessctl ports allow 81"]),
            stock: None,
        },
        elsewhere("16a", "the clock is set"),
        elsewhere("16b", "the machine sleeps"),
        Row {
            number: "20a",
            fault: "dockerd's program is replaced by a package",
            promise: within(1000, 3000),
            ours: |machine, _| upgraded(machine),
            stock: None,
        },
        Row {
            number: "20c",
            fault: "AppArmor's profile names another path",
            promise: Promise::NONE,
            ours: |_, _| Trial::absent("a bed has no AppArmor"),
            stock: None,
        },
        Row {
            number: "26b",
            fault: "no more processes for containers",
            promise: within(1000, 5000),
            ours: |machine, _| no_processes(machine),
            stock: None,
        },
        Row {
            number: "27a",
            fault: "the machine has another name server",
            promise: within(1000, 3000),
            ours: |machine, _| other_name_server(machine),
            stock: Some(|stock| {
                let _servers = name_servers::serve(stock.revived());
                let trial = stock.provoke_as_root(OTHER_SERVER, &asks_the_other());
                stock.revived().root_sh(USUAL_SERVER).ok();
                trial
            }),
        },
        Row {
            number: "27b",
            fault: "the machine has another default route",
            promise: within(1000, 3000),
            ours: |machine, _| other_route(machine),
            stock: None,
        },
        Row {
            number: "28",
            fault: "cgroup controllers are missing",
            promise: Promise { detected: ms(5000), recovered: None, containers: Kept::StartedAnew },
            ours: |machine, _| controllers_missing(machine),
            stock: None,
        },
    ]
}

/// A file system that is full as it is: what a container needs for its start has no place, and that is told while it
/// is so. Nobody has to do anything when there is room again.
fn shrunk(machine: &Machine, path: &str, limit: &str, code: &'static str) -> Trial {
    let used = match limit {
        "size" => format!("$(($(df --output=used -k {path} | tail -n1)))k"),
        _ => format!("$(($(df --output=iused {path} | tail -n1)))"),
    };
    let run = format!("{AS_USER} timeout 20 docker run --rm rootlessd/tiny true");
    let fault = format!(
        "before=$(findmnt -no OPTIONS {path} | grep -o '{limit}=[^,]*')
         mount -o remount,{limit}={used} {path}
         for i in $(seq 5); do
             {run}
             {AS_USER} rootlessctl status --json | grep -q {code} && break
         done
         mount -o remount,$before {path}"
    );
    provoke_by_root(machine, &fault, &run, &has_reason(code))
}

/// The same, with data of their own, on a small file system.
fn shrunk_data(machine: &Machine, limit: &str, code: &'static str) -> Trial {
    let path = "/home/tester/.local/share/docker";
    let options = "size=300m,nr_inodes=50k,mode=710,uid=4242,gid=4242";
    machine.ctl(["stop"]);
    machine.root_sh(&format!("mount -t tmpfs -o {options} small {path}")).ok();
    machine.ctl(["start"]);
    containers(machine);
    let trial = shrunk(machine, path, limit, code);
    machine.ctl(["stop"]);
    machine.root(["umount", path]).ok();
    machine.ctl(["start"]);
    machine.wait_page();
    trial
}

/// The configuration's file system is full, as it is.
fn full_configuration(machine: &Machine) -> Trial {
    let path = "/home/tester/.config/rootlessd";
    let fault = format!(
        "mount -t tmpfs -o size=64k,mode=700,uid=4242,gid=4242 small {path} &&
         printf '{config}' >{path}/config.toml && {{ cat /dev/zero >{path}/full; }}
         {AS_USER} rootlessctl reload && {AS_USER} rootlessctl restart",
        config = CONFIG.replace('\n', "\\n"),
    );
    let before = alive(machine);
    let mut trial = timed_by_root(machine, &fault, &page());
    let status = machine.wait_state("running");
    trial.check(!told(&status).contains("config"), || told(&status));
    let containers = compare(&before, &settled(machine, &before));
    trial.check(containers.restarted == before.len(), || "it was not started anew".into());
    trial.containers = Some(containers);
    let room = machine.root(["df", "--output=avail", path]).ok();
    trial.check(room.ends_with(" 0"), || format!("it is not full: {room}"));
    machine.root(["umount", path]).ok();
    machine.ctl(["reload"]);
    trial
}

/// All that is below is there, and nobody finds it any more.
fn mounted_over(machine: &Machine) -> Trial {
    let path = format!("{RUNTIME}/rootlessd");
    let shim = &pids(&machine.wait_known())["shim"][0];
    // Until it is gone, the engine that nobody finds any more would still answer.
    let fault = format!(
        "mount -t tmpfs -o mode=700,uid=4242,gid=4242 other {path}
         timeout 30 tail --pid={shim} -s 0.002 -f /dev/null"
    );
    let check = format!("{AS_USER} timeout 5 docker exec web true");
    let trial = provoke_by_root(machine, &fault, &check, &has_reason("runtime-dir-gone"));
    machine.user(["systemctl", "--user", "stop", "rootlessd"]).ok();
    machine.root(["umount", &path]).ok();
    machine.user(["systemctl", "--user", "start", "rootlessd"]).ok();
    machine.wait_page();
    trial
}

/// The machine's name server is the second of the two.
const OTHER_SERVER: &str = "echo nameserver 198.51.100.2 >/etc/resolv.conf";
/// It is the first again, as in every bed.
const USUAL_SERVER: &str = "echo nameserver 198.51.100.1 >/etc/resolv.conf";

/// The container `web` has its names from the second.
fn asks_the_other() -> String {
    let ask = "docker exec web timeout 1 nslookup -type=a world.example";
    format!("{AS_USER} {ask} | grep -q 192.0.2.2")
}

/// containerd can start nothing more. Nobody has to do anything when it can again.
fn no_processes(machine: &Machine) -> Trial {
    let run = format!("{AS_USER} timeout 5 docker run --rm rootlessd/tiny true");
    let fault = format!(
        "pid=$(pidof containerd)
         {AS_USER} prlimit --pid $pid --nproc=1:
         begin=$(now); {run}
         {AS_USER} prlimit --pid $pid --nproc=1000:"
    );
    provoke_by_root(machine, &fault, &run, &has_reason("processes-exhausted"))
}

/// What containers ask for names is what the machine asks, without a restart.
fn other_name_server(machine: &Machine) -> Trial {
    machine.begin_anew();
    let _servers = name_servers::serve(machine);
    let is_told = again(machine, "changed", "network");
    let trial = provoke_by_root(machine, OTHER_SERVER, &asks_the_other(), &is_told);
    change_back(machine, USUAL_SERVER);
    trial
}

/// The way out of containers is the machine's, whichever it takes.
fn other_route(machine: &Machine) -> Trial {
    machine.begin_anew();
    let usual = machine.root_sh("ip route show default").ok();
    let link = "ip link add wifi type veth peer name air; ip link set wifi up; ip link set air up";
    machine.root_sh(link).ok();
    let check = in_and_out(machine, &machine.web_pid());
    let is_told = again(machine, "changed", "network");
    let fault = "ip route replace default dev wifi";
    let trial = provoke_by_root(machine, fault, &check, &is_told);
    change_back(machine, &format!("ip route replace {usual}; ip link del wifi"));
    trial
}

/// Is told before the next trial begins, which is not to take it for its own.
fn change_back(machine: &Machine, script: &str) {
    let is_told = again(machine, "changed", "network");
    machine.root_sh(script).ok();
    machine.wait_status(is_told);
}

/// A container's port cannot be had, and Docker's own words say which, and what to do.
fn port(machine: &Machine, port: &str, words: &[&str]) -> Trial {
    let before = alive(machine);
    let begin = std::time::Instant::now();
    let run = ["docker", "run", "-d", "--name", "refused", "-p", port, "rootlessd/tiny"];
    let told = machine.user(run).fails();
    let mut trial = Trial { detected: Some(begin.elapsed()), ..Trial::default() };
    for word in words {
        trial.check(told.contains(word), || format!("no {word:?} in {told:?}"));
    }
    machine.user(["docker", "rm", "-f", "refused"]).ok();
    trial.check(machine.page().is_some(), || "no page".into());
    trial.containers = Some(compare(&before, &alive(machine)));
    trial
}

fn upgraded(machine: &Machine) -> Trial {
    let fault =
        "path=$(readlink -f $(command -v dockerd)) && cp -p $path $path.new && mv $path.new $path";
    let mut told = provoke_by_root(machine, fault, "true", &has_reason("upgrade-available"));
    let after = provoke(machine, "rootlessctl upgrade", &page(), &|status| {
        reason(status, "upgrade-available").is_none()
    });
    told.recovered = after.recovered;
    told.containers = after.containers;
    told
}

/// systemd keeps controllers to itself: it is told at the start, with the command that mends it.
fn controllers_missing(machine: &Machine) -> Trial {
    let before = alive(machine);
    // Whatever the machine has: a bed has no more. runc refuses a file that is mounted over.
    let user = "/sys/fs/cgroup/user.slice/user-4242.slice/user@4242.service";
    let files = format!("/sys/fs/cgroup/cgroup.controllers {user}/cgroup.controllers");
    let mount = "echo pids >/run/all; echo >/run/few
         mount --bind /run/all $1; mount --bind /run/few $2";
    machine.root_sh(&format!("set -- {files}; {mount}")).ok();
    let begin = std::time::Instant::now();
    machine.ctl(["restart"]);
    let status = machine.status();
    let told = reason(&status, "controllers-missing")
        .is_some_and(|it| word(&it["remedy"]) == "rootlessctl cgroup delegate");
    let detected = told.then(|| begin.elapsed());
    machine.root_sh(&format!("umount {files}")).ok();
    machine.ctl(["restart"]);
    machine.wait_page();
    let containers = Some(compare(&before, &settled(machine, &before)));
    Trial { detected, containers, left: zombies(machine), ..Trial::default() }
}
