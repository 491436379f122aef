//! The machine runs short of something, without systemd: it is told of what, nothing is started again
//! and again, and all is well when that has passed.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rootlessd::engine::shortage;
use rootlessd_tests::{
    command::wait_for,
    solo::{ON_DEMAND, SOON, User, enter, mount_tmpfs, page, signal, wait_gone},
};
use serde_json::Value;

/// How soon a shortage is told after something failed for it.
const TOLD: Duration = Duration::from_secs(1);

/// Another one at each reading.
const UUID: &str = "/proc/sys/kernel/random/uuid";

fn has(status: &Value, code: &str) -> bool {
    status["reasons"].as_array().unwrap().iter().any(|reason| reason["code"] == code)
}

/// A file system of this user's that is soon full.
fn small(user: &User, path: &Path, options: &str) {
    if path != user.runtime {
        let mut missing: Vec<_> = path.ancestors().take_while(|it| !it.exists()).collect();
        missing.reverse();
        missing.into_iter().for_each(|directory| user.make_directory(directory));
    }
    mount_tmpfs(path, &format!("{options},mode=700,uid={0},gid={0}", user.uid));
}

/// Fill a file system up with one file.
fn fill(path: &Path) -> PathBuf {
    let filler = path.join("filler");
    let mut file = File::create(&filler).unwrap();
    for size in [1 << 20, 1 << 12] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    filler
}

fn data_root(user: &User) -> PathBuf {
    user.home.join(".local/share/docker")
}

#[test]
fn data_without_space_at_a_start() {
    let user = User::new();
    small(&user, &data_root(&user), "size=64m");
    let filler = fill(&data_root(&user));
    user.configure(ON_DEMAND);
    user.daemonize();
    let begun = Instant::now();
    let refused = user.ctl("start").fails();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(refused.contains("is full: 0 KiB are left"), "{refused}");
    let mut watch = user.watch();
    for _ in 0..2 {
        let status = watch.until(|status| status["state"] == "backoff");
        assert!(has(&status, "data-root-full"), "{status}");
        assert_eq!(status["deaths"], Value::Array(vec![]));
        let status = watch.until(|status| status["state"] == "starting");
        // It comes and goes with the shortage, not with each try.
        assert!(has(&status, "data-root-full"), "{status}");
    }
    fs::remove_file(filler).unwrap();
    let status = watch.until(|status| status["state"] == "running");
    assert!(!has(&status, "data-root-full"), "{status}");
    drop(watch);
    user.ctl("stop").ok();
}

#[test]
fn data_without_inodes_at_a_start() {
    let user = User::new();
    small(&user, &data_root(&user), "size=64m,nr_inodes=1000");
    let many = data_root(&user).join("many");
    fs::create_dir(&many).unwrap();
    for number in 0.. {
        if File::create(many.join(number.to_string())).is_err() {
            break;
        }
    }
    user.daemonize();
    let status = user.wait_state("backoff");
    assert!(has(&status, "data-root-inodes"), "{status}");
    assert_eq!(status["deaths"], Value::Array(vec![]));
    fs::remove_dir_all(many).unwrap();
    user.wait_state("running");
}

#[test]
fn data_without_space_while_it_runs() {
    let user = User::new();
    small(&user, &data_root(&user), "size=64m");
    user.start();
    let before = (user.pid("dockerd"), user.pid("containerd"));
    let mut watch = user.watch();
    watch.next_status();
    let filler = fill(&data_root(&user));
    let failed = user.sh("tar -cf - /usr/sbin/dockerd | docker import - x").fails();
    let begun = Instant::now();
    let status = watch.until(|status| has(status, "data-root-full"));
    eprintln!("told after {:?} ({failed})", begun.elapsed());
    assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
    assert_eq!(status["state"], "running");
    fs::remove_file(filler).unwrap();
    let begun = Instant::now();
    let status = watch.until(|status| !has(status, "data-root-full"));
    eprintln!("over after {:?}", begun.elapsed());
    assert_eq!(status["state"], "running");
    user.docker("volume create volume").ok();
    assert_eq!((user.pid("dockerd"), user.pid("containerd")), before);
    assert_eq!(status["incidents"], Value::Array(vec![]));
}

/// Nobody complains: a container writes, and no part has anything to do with it.
#[test]
fn data_that_is_filled_under_a_container() {
    let user = User::new();
    small(&user, &data_root(&user), "size=64m");
    user.start();
    user.load_image();
    user.serve_page("");
    // dockerd is asked when a container starts, and then not for a minute.
    thread::sleep(Duration::from_secs(3));
    let mut watch = user.watch();
    watch.next_status();
    let filler = fill(&data_root(&user));
    let begun = Instant::now();
    let status = watch.until(|status| has(status, "data-root-full"));
    eprintln!("told after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3) + TOLD, "{:?}", begun.elapsed());
    assert_eq!(status["state"], "running");
    fs::remove_file(filler).unwrap();
    watch.until(|status| !has(status, "data-root-full"));
}

#[test]
fn a_runtime_directory_without_space() {
    let user = User::new();
    small(&user, &user.runtime.clone(), "size=16m");
    user.configure(ON_DEMAND);
    user.daemonize();
    let filler = fill(&user.runtime);
    let refused = user.ctl("start").fails();
    assert!(refused.contains("is full"), "{refused}");
    let status = user.status();
    assert!(has(&status, "runtime-dir-full"), "{status}");
    fs::remove_file(filler).unwrap();
    user.wait_state("running");

    // One that runs goes on.
    let mut watch = user.watch();
    watch.next_status();
    let filler = fill(&user.runtime);
    user.load_image();
    let _ = user.docker("run rootlessd/tiny true");
    watch.until(|status| has(status, "runtime-dir-full"));
    fs::remove_file(filler).unwrap();
    let status = watch.until(|status| !has(status, "runtime-dir-full"));
    assert_eq!(status["deaths"], Value::Array(vec![]));
    let (_, port) = user.serve_page("-v data:/data");
    assert!(page(port).is_some());

    // A stop is as orderly as any.
    fill(&user.runtime);
    user.ctl("stop").ok();
    let signals = fs::read_to_string(data_root(&user).join("volumes/data/_data/signals"));
    assert_eq!(signals.unwrap(), "got SIGTERM\n", "the container's own stop");
}

/// A part dies and there is no room for its successor: containers go on, and so does the engine when
/// there is.
#[test]
fn no_space_for_a_successor() {
    let user = User::new();
    small(&user, &user.runtime.clone(), "size=16m");
    small(&user, &data_root(&user), "size=64m");
    user.configure("engine.restart.limit = 2\nengine.client_wait = \"1s\"\n");
    user.start();
    user.load_image();
    let (container, port) = user.serve_page("");
    let pid = || user.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}")).ok();
    let before = (user.pid("init"), pid());
    let mut watch = user.watch();
    watch.next_status();
    let fillers = [fill(&user.runtime), fill(&data_root(&user))];
    let dockerd = user.pid("dockerd");
    signal(user.pid("containerd"), Signal::SIGKILL);
    let status = watch.until(|status| has(status, "data-root-full"));
    assert!(has(&status, "runtime-dir-full"), "{status}");
    // It goes with its containerd, and would answer until then.
    wait_gone(dockerd);
    let told = user.docker("version").fails();
    assert!(told.contains("(it is degraded): ") && told.contains("full"), "{told}");
    // Long enough for more tries than there may be deaths.
    thread::sleep(shortage::AGAIN * 2);
    assert_eq!(user.pid("init"), before.0);
    fillers.iter().for_each(|filler| fs::remove_file(filler).unwrap());
    let status = watch.until(|status| status["state"] == "running");
    assert_eq!(status["deaths"], Value::Array(vec![]));
    assert_eq!((user.pid("init"), pid()), before);
    wait_for("the page is served", SOON, || page(port));
}

/// Limit a process of the user's to so much of something, as far as the user may undo that.
fn limit(user: &User, pid: u32, what: &str) {
    user.run(["prlimit", "--pid", &pid.to_string(), what]).ok();
}

#[test]
fn no_more_processes_at_a_start() {
    let user = User::new();
    user.configure(ON_DEMAND);
    user.daemonize();
    limit(&user, user.rootlessd(), "--nproc=1:");
    let refused = user.ctl("start").fails();
    assert!(refused.contains("esource temporarily unavailable"), "{refused}");
    let status = user.wait_state("backoff");
    assert!(has(&status, "processes-exhausted"), "{status}");
    assert_eq!(status["deaths"], Value::Array(vec![]));
    limit(&user, user.rootlessd(), "--nproc=1000:");
    let status = user.wait_state("running");
    assert!(!has(&status, "processes-exhausted"), "{status}");
}

#[test]
fn no_more_processes_for_a_container() {
    let user = User::new();
    user.start();
    user.load_image();
    let mut watch = user.watch();
    watch.next_status();
    limit(&user, user.pid("containerd"), "--nproc=1:");
    let refused = user.docker("run rootlessd/tiny true").fails();
    let begun = Instant::now();
    let status = watch.until(|status| has(status, "processes-exhausted"));
    eprintln!("told after {:?} ({refused})", begun.elapsed());
    assert!(begun.elapsed() < TOLD, "{:?}", begun.elapsed());
    // One that needs another thread of its own just then dies, and is replaced.
    assert_eq!(status["deaths"], Value::Array(vec![]));
    user.wait_state("running");
    limit(&user, user.pid("containerd"), "--nproc=1000:");
    // Nobody can see that it is over.
    let is_over = || (!has(&user.status(), "processes-exhausted")).then_some(());
    wait_for("it is told no more", SOON * 2, is_over);
    user.docker("run rootlessd/tiny true").ok();
}

#[test]
fn too_many_open_files() {
    let user = User::new();
    user.start();
    user.load_image();
    let (_, port) = user.serve_page("");
    let dockerd = user.pid("dockerd");
    let open = fs::read_dir(format!("/proc/{dockerd}/fd")).unwrap().count();
    // It may be seen at once.
    let mut watch = user.watch();
    watch.next_status();
    limit(&user, dockerd, &format!("--nofile={}:", open + 2));
    let socket = user.docker_socket();
    let clients: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let begun = Instant::now();
    let status = watch.until(|status| has(status, "files-exhausted"));
    eprintln!("told after {:?}: {}", begun.elapsed(), status["reasons"][0]["text"]);
    assert!(begun.elapsed() < TOLD + TOLD, "{:?}", begun.elapsed());
    // Another one would have no more, so it stays, although it does not answer.
    thread::sleep(Duration::from_secs(10));
    assert_eq!(user.pid("dockerd"), dockerd);
    limit(&user, dockerd, &format!("--nofile={}:", open + 1000));
    let status = watch.until(|status| !has(status, "files-exhausted"));
    drop(clients);
    assert_eq!(status["incidents"], Value::Array(vec![]));
    user.wait_state("running");
    assert!(page(port).is_some());
}

/// A memory cgroup of this test's, of either version.
struct Group {
    path: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl Group {
    fn new() -> Self {
        // Out there nobody would remove it.
        enter();
        // Others may run the same test, with the same pids.
        let name = format!("rootlessd-test-{}", fs::read_to_string(UUID).expect("a name").trim());
        let (parent, limit, usage) = match Path::new("/sys/fs/cgroup/memory").exists() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            false => {
                let control = "/sys/fs/cgroup/cgroup.subtree_control";
                fs::write(control, "+memory").expect("a memory controller");
                ("/sys/fs/cgroup", "memory.max", "memory.current")
            }
        };
        let path = Path::new(parent).join(name);
        fs::create_dir(&path).expect("a cgroup");
        Self { path, limit, usage }
    }

    fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// So many bytes more than now.
    fn limit_to(&self, more: u64) {
        let mut usage = String::new();
        File::open(self.path.join(self.usage)).unwrap().read_to_string(&mut usage).unwrap();
        let limit = usage.trim().parse::<u64>().unwrap() + more;
        fs::write(self.path.join(self.limit), limit.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_for("the cgroup is empty", SOON, || fs::remove_dir(&self.path).ok());
    }
}

#[test]
fn no_more_memory() {
    let group = Group::new();
    let user = User::new();
    user.configure(ON_DEMAND);
    user.daemonize();
    group.take(user.rootlessd());
    user.ctl("start").ok();
    user.load_image();
    let (container, port) = user.serve_page("");
    let pid = || user.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}")).ok();
    let before = pid();
    for part in ["dockerd", "containerd"] {
        let victim = user.pid(part);
        fs::write(format!("/proc/{victim}/oom_score_adj"), "1000").unwrap();
        group.limit_to(64 << 20);
        let mut watch = user.watch();
        watch.next_status();
        // It takes all that there is, and is the next to go.
        let script = format!(
            "echo $$ >{}; echo 500 >/proc/$$/oom_score_adj; exec tail /dev/zero",
            group.path.join("cgroup.procs").display()
        );
        let mut eater = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let status = watch.until(|status| has(status, "killed-for-memory"));
        let _ = eater.wait();
        group.limit_to(1 << 30);
        let incidents = status["incidents"].as_array().unwrap();
        let lost = incidents.iter().find(|it| it["part"] == part && it["kind"] == "lost").unwrap();
        let text = format!("{part} was killed by SIGKILL, by the kernel for memory (oom)");
        assert_eq!(lost["text"], text);
        user.wait_state("running");
        assert_eq!(pid(), before);
        assert!(page(port).is_some());
        user.ctl("reset-failed").ok();
    }
    // Who is killed by somebody else is not taken for one of these.
    signal(user.pid("dockerd"), Signal::SIGKILL);
    let status = user.watch().until(|status| !status["incidents"].as_array().unwrap().is_empty());
    assert_eq!(status["incidents"][0]["text"], "dockerd was killed by SIGKILL");
    user.wait_state("running");
    // Nor is RootlessKit, whose parent saw none of these die.
    signal(user.pid("rootlesskit"), Signal::SIGKILL);
    let status = user.watch().until(|status| !status["deaths"].as_array().unwrap().is_empty());
    let death = &status["deaths"][0];
    assert_eq!(death["part"], "rootlesskit");
    // With cgroup v1 nobody can tell for sure.
    assert_ne!(death["outOfMemory"], true, "{death}");
    user.wait_state("running");
    user.ctl("stop").ok();
    drop(user);
}
