//! The bed itself: what every test in one relies on.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use rootlessd_tests::bed::{Bed, IMAGE, Suite, TESTER};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn trixie() {
    a_whole_machine(Suite::Trixie, "257");
}

#[test]
fn bookworm() {
    a_whole_machine(Suite::Bookworm, "252");
}

fn a_whole_machine(suite: Suite, systemd: &str) {
    let bed = Bed::boot(suite);

    let systemctl = bed.root(["systemctl", "--version"]).ok();
    assert!(systemctl.starts_with(&format!("systemd {systemd} ")), "{systemctl}");
    assert_eq!(bed.root(["systemctl", "is-system-running", "--wait"]).ok(), "running");
    assert_eq!(bed.user(["systemctl", "--user", "is-system-running"]).ok(), "running");
    assert!(bed.user(["busctl", "--user", "list"]).ok().contains("org.freedesktop.systemd1"));
    assert!(bed.user(["busctl", "list", "--acquired"]).ok().contains("org.freedesktop.login1"));
    assert_eq!(bed.root(["cat", "/proc/1/comm"]).ok(), "systemd");

    // Who one is, and where.
    assert_eq!(bed.root(["id", "-u"]).ok(), "0");
    assert_eq!(bed.user(["id", "-u"]).ok(), TESTER.to_string());
    assert_eq!(
        bed.user(["sh", "-c", "pwd; echo $XDG_RUNTIME_DIR"]).ok(),
        "/home/tester\n/run/user/4242"
    );
    assert_eq!(bed.user_unit(["sh", "-c", "echo $HOME; exit 7"]).status.code(), Some(7));
    let unit = bed.user_unit(["sh", "-c", "x=a$HOME$; echo $x; grep ^0:: /proc/self/cgroup"]).ok();
    assert!(
        unit.starts_with(
            "a/home/tester$\n0::/user.slice/user-4242.slice/user@4242.service/app.slice/run-"
        ),
        "{unit}"
    );
    assert_eq!(bed.user(["stat", "-fc", "%T", "/sys/fs/cgroup"]).ok(), "cgroup2fs");

    // The packages are there, and nobody has started or set up Docker.
    for tool in [
        "docker",
        "dockerd",
        "containerd",
        "rootlesskit",
        "slirp4netns",
        "pasta",
        "newuidmap",
        "docker-compose",
    ] {
        bed.user(["which", tool]).ok();
    }
    bed.user(["systemctl", "--user", "cat", "docker.service"]).fails();
    let rootful = bed.root(["systemctl", "is-active", "docker", "docker.socket", "containerd"]);
    assert_eq!(rootful.stdout, "inactive\n".repeat(3));
    bed.user(["test", "-r", IMAGE]).ok();
    bed.user_sh("unshare --map-root-user --net ip tuntap add tap0 mode tap").ok();
    bed.root(["ls", "/sys/fs/bpf"]).ok();

    // A reboot: another boot, the same disks.
    let boot_id = || bed.root(["cat", "/proc/sys/kernel/random/boot_id"]).ok();
    let before = boot_id();
    bed.write("/home/tester/.config/a/b", "kept");
    bed.root(["touch", "/etc/kept"]).ok();
    bed.reboot();
    assert_ne!(boot_id(), before);
    assert_eq!(bed.user(["cat", ".config/a/b"]).ok(), "kept");
    assert_eq!(bed.user(["stat", "-c", "%U", ".config/a"]).ok(), "tester");
    bed.root(["test", "-e", "/etc/kept"]).ok();
    bed.root(["test", "-e", "/run/user/4242/bus"]).ok();
    assert!(bed.journal(2000).contains("Shutting down."), "the journal goes back to before it");
}

#[test]
fn files_of_ours_are_found() {
    let tree = tempfile::tempdir().expect("a folder");
    let unit = tree.path().join("usr/local/lib/systemd/user/mine.service");
    let service = tree.path().join("usr/local/share/dbus-1/services/org.example.Mine.service");
    for file in [&unit, &service] {
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    }
    fs::write(
        unit,
        "[Service]\nType=dbus\nBusName=org.example.Mine\nExecStart=busctl --user monitor\n",
    )
    .expect("written");
    fs::write(
        service,
        "[D-BUS Service]\nName=org.example.Mine\nExec=/bin/false\nSystemdService=mine.service\n",
    )
    .expect("written");

    for suite in [Suite::Trixie, Suite::Bookworm] {
        let bed = Bed::boot_with(suite, &[tree.path()]);
        assert_eq!(bed.user(["stat", "-c", "%U", "/usr/local/lib/systemd/user"]).ok(), "root");
        bed.user(["systemctl", "--user", "cat", "mine.service"]).ok();
        assert!(
            bed.user(["busctl", "--user", "list", "--activatable"])
                .ok()
                .contains("org.example.Mine")
        );
    }
}

#[test]
fn waiting() {
    let bed = Bed::boot(Suite::Trixie);

    let go = "mkfifo go; exec systemd-run -q --user --unit=late sh -c 'read x <go; exit 3'";
    bed.user_sh(go).ok();
    bed.wait_unit("late.service", "active", SOON);
    let _starter = bed.spawn_user(["sh", "-c", "sleep 0.5; echo >go"]);
    bed.wait_unit("late.service", "failed", SOON);

    let _later = bed.spawn_user(["sh", "-c", "sleep 0.3; echo >$XDG_RUNTIME_DIR/later"]);
    bed.wait_path("/run/user/4242/later", SOON);

    // A command's input and output are ours, and it ends with us.
    let mut cat = bed.spawn_user(["cat"]);
    cat.send("one\ntwo\n");
    assert_eq!(cat.wait_line(SOON, |line| line.starts_with('t')), "two");
    drop(cat);
    let mut sleeper =
        bed.spawn_user(["sh", "-c", "trap 'touch stopped; exit' TERM; echo up; sleep 60 & wait"]);
    sleeper.wait_line(SOON, |line| line == "up");
    drop(sleeper);
    bed.wait_path("/home/tester/stopped", SOON);
}

#[test]
fn two_side_by_side_and_nothing_is_left() {
    let beds = [Bed::boot(Suite::Trixie), Bed::boot(Suite::Bookworm)];
    let [one, two] = &beds;
    // The same port, the same path: each has its own.
    for bed in &beds {
        bed.root_sh("echo $(hostname) >/run/page; busybox httpd -p 80 -h /run").ok();
    }
    for bed in &beds {
        assert_eq!(bed.user(["curl", "-s", "http://198.51.100.1/page"]).ok(), bed.name());
    }
    assert_ne!(
        one.root(["cat", "/etc/machine-id"]).ok(),
        two.root(["cat", "/etc/machine-id"]).ok()
    );

    let names = [one.name().to_owned(), two.name().to_owned()];
    for name in &names {
        assert!(!traces(name).is_empty(), "the search finds a bed that runs");
    }
    drop(beds);
    for name in &names {
        assert_eq!(traces(name), [""; 0]);
    }
}

#[test]
fn the_bed_of_a_killed_process_goes_with_the_next_boot() {
    let name = format!("orphan-{}", process::id());
    let mut owner = Command::new("sleep").arg("600").spawn().expect("sleep");
    let owner_is = owner.id().to_string();
    let booted = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bed/bed.sh"))
        .args(["boot", "trixie", &name, "--owner", &owner_is])
        .status();
    assert!(booted.expect("bed.sh").success());

    let _other = Bed::boot(Suite::Trixie);
    assert!(!traces(&name).is_empty(), "its owner still lives");
    owner.kill().expect("killed");
    owner.wait().expect("reaped");
    let _another = Bed::boot(Suite::Trixie);
    assert_eq!(traces(&name), [""; 0]);
}

/// Processes, mounts, cgroups and files of a bed on this machine.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let path = process.path();
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        // What has ended is its parent's to bury, not ours.
        if status.contains("\nState:") && !status.contains("\nState:\tZ") {
            for file in ["cmdline", "cgroup", "mountinfo"] {
                let text = fs::read(path.join(file)).unwrap_or_default();
                if String::from_utf8_lossy(&text).contains(name) {
                    found.push(format!("{}/{file}", path.display()));
                }
            }
        }
    }
    for place in ["/sys/fs/cgroup", "/run/systemd", "/var/cache/rootlessd-bed/run"] {
        search(Path::new(place), name, &mut found);
    }
    found
}

fn search(folder: &Path, name: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(entry.path().display().to_string());
        } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
            search(&entry.path(), name, found);
        }
    }
}
