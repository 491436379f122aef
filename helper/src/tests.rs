//! The verbs that only write files, on a tree that stands for the machine: what is written, what is
//! put back, and what is left alone.

use std::{collections::BTreeMap, fs, path::Path};

use rootlessd_api::{ErrorKind, helper::Outcome};

use crate::{helper::Helper, request::Request, root::Root, systemd::Systemd, user::User};

const CONF: &str = "etc/sysctl.d/60-rootlessd.conf";
const PORT_START: &str = "proc/sys/net/ipv4/ip_unprivileged_port_start";
const PING: &str = "proc/sys/net/ipv4/ping_group_range";
const LEDGER: &str = "var/lib/rootlessd/ledger.json";

struct Machine {
    tree: tempfile::TempDir,
    helper: Helper,
}

impl Machine {
    fn new() -> Self {
        let tree = tempfile::tempdir().unwrap();
        for directory in
            ["etc/sysctl.d", "var/lib", "proc/sys/net/ipv4", "proc/sys/kernel", "proc/sys/user"]
        {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        let root = Root::tree(tree.path()).unwrap();
        let machine = Self { helper: Helper::new(root, Systemd::new(None)), tree };
        machine.write(PORT_START, "1024\n");
        machine.write(PING, "1\t0\n");
        machine.write("proc/sys/user/max_user_namespaces", "63000\n");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.tree.path().join(path), text).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.tree.path().join(path)).ok()
    }

    /// Everything but the ledger's own directory.
    fn files(&self) -> BTreeMap<String, String> {
        fn walk(directory: &Path, files: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true if path.ends_with("rootlessd") => {}
                    true => walk(&path, files),
                    false => {
                        let text = fs::read_to_string(&path).unwrap();
                        files.insert(path.display().to_string(), text.replace('\t', " "));
                    }
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.tree.path(), &mut files);
        files
    }

    async fn grant(&self, who: &User, request: Request) -> Outcome {
        self.helper.grant(who, &request, None).await.unwrap()
    }

    async fn start(&self, who: &User, start: u16) -> String {
        let mut outcome = self.grant(who, Request::PortStart(start)).await;
        outcome.grants.remove(0)
    }

    async fn revoke(&self, id: &str) -> Vec<String> {
        self.helper.revoke(id).await.unwrap().notes
    }

    async fn drift(&self) -> Vec<String> {
        self.helper.list(None).await.unwrap().into_iter().flat_map(|grant| grant.drift).collect()
    }
}

fn user(name: &str, id: u32) -> User {
    User { uid: id, gid: id, name: name.into() }
}

fn alice() -> User {
    user("alice", 1000)
}

fn bob() -> User {
    user("bob", 1001)
}

fn lines(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_set_is_set_back_exactly() {
    let machine = Machine::new();
    let before = machine.files();
    let id = machine.start(&alice(), 80).await;
    assert_eq!(machine.read(PORT_START).unwrap(), "80\n");
    assert_eq!(lines(machine.read(CONF)), ["net.ipv4.ip_unprivileged_port_start = 80"]);
    assert_eq!(machine.drift().await, [""; 0]);

    // Nothing to change: nothing is done, and nothing written down.
    let outcome = machine.grant(&bob(), Request::PortStart(443)).await;
    assert_eq!(outcome, Outcome::default());
    assert_eq!(machine.helper.list(Some(&bob())).await.unwrap(), []);

    assert_eq!(machine.revoke(&id).await, [""; 0]);
    assert_eq!(machine.files(), before);
    // Undone once is undone.
    let again = machine.helper.revoke(&id).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::NoSuchGrant);
    assert_eq!(machine.files(), before);
}

#[tokio::test]
async fn two_about_one_setting_are_undone_in_any_order() {
    for first_is_undone_first in [true, false] {
        let machine = Machine::new();
        let before = machine.files();
        let one = machine.start(&alice(), 80).await;
        let other = machine.start(&bob(), 0).await;
        assert_eq!(lines(machine.read(CONF)), ["net.ipv4.ip_unprivileged_port_start = 0"]);
        assert_eq!(machine.drift().await, [""; 0]);
        if first_is_undone_first {
            machine.revoke(&one).await;
            assert_eq!(machine.read(PORT_START).unwrap(), "0\n");
            machine.revoke(&other).await;
        } else {
            machine.revoke(&other).await;
            assert_eq!(machine.read(PORT_START).unwrap(), "80\n");
            assert_eq!(lines(machine.read(CONF)), ["net.ipv4.ip_unprivileged_port_start = 80"]);
            machine.revoke(&one).await;
        }
        assert_eq!(machine.files(), before, "{first_is_undone_first}");
    }
}

#[tokio::test]
async fn one_file_for_all_settings() {
    let machine = Machine::new();
    machine.write("proc/sys/kernel/unprivileged_userns_clone", "0\n");
    machine.write("proc/sys/user/max_user_namespaces", "0\n");
    let before = machine.files();
    let mut ids = vec![machine.start(&alice(), 80).await];
    ids.extend(machine.grant(&bob(), Request::ping_range("own").unwrap()).await.grants);
    ids.extend(machine.grant(&bob(), Request::UserNamespaces).await.grants);
    assert_eq!(machine.read(PING).unwrap(), "1001 1001\n");
    assert_eq!(
        lines(machine.read(CONF)),
        [
            "net.ipv4.ip_unprivileged_port_start = 80",
            "net.ipv4.ping_group_range = 1001 1001",
            "kernel.unprivileged_userns_clone = 1",
            "user.max_user_namespaces = 28633",
        ]
    );
    for id in ids {
        machine.revoke(&id).await;
    }
    assert_eq!(machine.files(), before);
}

#[tokio::test]
async fn who_may_ping() {
    for (before, range, after) in [
        ("1\t0", "own", Some("1000 1000")),
        ("1\t0", "all", Some("0 2147483647")),
        ("100\t200", "own", Some("100 1000")),
        ("2000\t3000", "own", Some("1000 3000")),
        ("0\t2147483647", "own", None),
        ("0\t2147483647", "all", None),
        ("1000\t1000", "own", None),
    ] {
        let machine = Machine::new();
        machine.write(PING, &format!("{before}\n"));
        machine.grant(&alice(), Request::ping_range(range).unwrap()).await;
        let expected = after.map_or_else(|| format!("{before}\n"), |after| format!("{after}\n"));
        assert_eq!(machine.read(PING).unwrap(), expected, "{before} {range}");
    }
}

#[tokio::test]
async fn what_somebody_else_changed_is_left_alone_and_told() {
    let machine = Machine::new();
    let id = machine.start(&alice(), 80).await;
    machine.write(PORT_START, "443\n");
    machine.write(CONF, "net.ipv4.ip_unprivileged_port_start = 443\n");
    assert_eq!(machine.drift().await.len(), 2);
    let notes = machine.revoke(&id).await;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_eq!(machine.read(PORT_START).unwrap(), "443\n");
    assert_eq!(lines(machine.read(CONF)), ["net.ipv4.ip_unprivileged_port_start = 443"]);

    // And such a file keeps anything new from being written, and set.
    let refused = machine.helper.grant(&alice(), &Request::PortStart(0), None).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert_eq!(machine.read(PORT_START).unwrap(), "443\n");
    assert_eq!(machine.helper.list(None).await.unwrap(), []);
}

#[tokio::test]
async fn both_halves_or_none() {
    let machine = Machine::new();
    // A setting that cannot be set: the file is taken back.
    fs::remove_file(machine.tree.path().join(PORT_START)).unwrap();
    assert_eq!(
        machine.helper.grant(&alice(), &Request::PortStart(80), None).await.unwrap_err().kind,
        ErrorKind::Unsupported
    );
    machine.write("proc/sys/kernel/unprivileged_userns_clone", "0\n");
    machine.write("proc/sys/user/max_user_namespaces", "0\n");
    let before = machine.files();
    // The second of two cannot be written, which is found after the first was set.
    let victim = machine.tree.path().join("proc/sys/user/max_user_namespaces");
    let mut read_only = fs::metadata(&victim).unwrap().permissions();
    read_only.set_readonly(true);
    fs::set_permissions(&victim, read_only).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Root is not held up by a mode.
        set_immutable(&victim, true);
    }
    let failed = machine.helper.grant(&alice(), &Request::UserNamespaces, None).await.unwrap_err();
    if nix::unistd::geteuid().is_root() {
        set_immutable(&victim, false);
    }
    assert_eq!(failed.kind, ErrorKind::System, "{failed}");
    assert_eq!(machine.files(), before);
    assert_eq!(machine.helper.list(None).await.unwrap(), []);
}

/// What chattr(1) does.
fn set_immutable(path: &Path, on: bool) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let file = fs::File::open(path).unwrap();
    let mut flags = ioctl_getflags(&file).unwrap();
    flags.set(IFlags::IMMUTABLE, on);
    ioctl_setflags(&file, flags).unwrap();
}

/// Attack 19: wherever it was cut short, the next operation finds either all of it or nothing.
#[tokio::test]
async fn attack_19_what_was_cut_short_is_undone() {
    let machine = Machine::new();
    let before = machine.files();
    machine.start(&alice(), 80).await;
    let pending = machine.read(LEDGER).unwrap().replace("\"verb\"", "\"pending\": true,\n\"verb\"");
    let after = machine.files();
    // Nothing done yet; the file only; both.
    for (conf, start) in [(false, "1024\n"), (true, "1024\n"), (true, "80\n")] {
        machine.write(LEDGER, &pending);
        for (path, text) in &after {
            fs::write(path, text).unwrap();
        }
        if !conf {
            fs::remove_file(machine.tree.path().join(CONF)).unwrap();
        }
        machine.write(PORT_START, start);
        // And files that were not whole yet.
        let unfinished = [CONF, LEDGER].map(|path| {
            let (directory, name) = path.rsplit_once('/').unwrap();
            format!("{directory}/.{name}.new")
        });
        unfinished.iter().for_each(|path| machine.write(path, "half"));
        assert_eq!(machine.helper.list(None).await.unwrap(), []);
        assert_eq!(machine.files(), before, "{conf} {start}");
        assert_eq!(unfinished.map(|path| machine.read(&path)), [None, None]);
    }
}

#[tokio::test]
async fn a_ledger_that_cannot_be_understood_is_kept() {
    let machine = Machine::new();
    machine.start(&alice(), 80).await;
    let good = machine.read(LEDGER).unwrap();
    for bad in ["", "{", "{\"version\":2,\"entries\":[]}", "{\"version\":1}"] {
        machine.write(LEDGER, bad);
        let before = machine.files();
        let error = machine.helper.grant(&alice(), &Request::PortStart(0), None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::System);
        assert_eq!(machine.read(LEDGER).unwrap(), bad);
        assert_eq!(machine.files(), before);
    }
    machine.write(LEDGER, &good);
    assert_eq!(machine.helper.list(None).await.unwrap().len(), 1);
}

/// Attack 18: what stands in the file's place.
#[tokio::test]
async fn attack_18_a_link_or_a_directory_in_its_place() {
    let machine = Machine::new();
    let conf = machine.tree.path().join(CONF);
    let victim = machine.tree.path().join("etc/victim");
    fs::write(&victim, "untouched").unwrap();
    for obstacle in ["link", "directory", "no sysctl.d"] {
        match obstacle {
            "link" => std::os::unix::fs::symlink(&victim, &conf).unwrap(),
            "directory" => fs::create_dir(&conf).unwrap(),
            _ => fs::remove_dir(conf.parent().unwrap()).unwrap(),
        }
        let error =
            machine.helper.grant(&alice(), &Request::PortStart(80), None).await.unwrap_err();
        assert!(error.message.contains(CONF), "{obstacle}: {error}");
        assert_eq!(machine.read(PORT_START).unwrap(), "1024\n", "{obstacle}");
        assert_eq!(machine.helper.list(None).await.unwrap(), [], "{obstacle}");
        match obstacle {
            "link" => fs::remove_file(&conf).unwrap(),
            "directory" => fs::remove_dir(&conf).unwrap(),
            _ => {}
        }
    }
    assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
}

#[tokio::test]
async fn a_user_has_a_bounded_share() {
    let machine = Machine::new();
    machine.write(PORT_START, "1024\n");
    for start in (0..96).rev() {
        machine.start(&alice(), start).await;
    }
    machine.write(PORT_START, "1024\n");
    let error = machine.helper.grant(&alice(), &Request::PortStart(0), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::LimitsExceeded);
    // Nobody else's.
    machine.start(&bob(), 0).await;
}

/// What somebody agreed to is done, and nothing else: an administrator may have changed something while
/// the question was open.
#[tokio::test]
async fn only_what_was_agreed_to_is_done() {
    let machine = Machine::new();
    let request = Request::PortStart(80);
    let other = machine.helper.grant(&alice(), &request, Some("22")).await.unwrap_err();
    assert_eq!(other.kind, ErrorKind::Conflict);
    assert_eq!(machine.read(PORT_START).unwrap(), "1024\n");
    assert_eq!(machine.helper.list(None).await.unwrap(), []);
    machine.helper.grant(&alice(), &request, Some("80")).await.unwrap();
    assert_eq!(machine.read(PORT_START).unwrap(), "80\n");
}

#[tokio::test]
async fn a_uid_that_somebody_else_has_now_inherits_nothing() {
    let machine = Machine::new();
    machine.start(&alice(), 80).await;
    assert_eq!(machine.helper.list(Some(&alice())).await.unwrap().len(), 1);
    assert_eq!(machine.helper.list(Some(&user("mallory", 1000))).await.unwrap(), []);
}

#[tokio::test]
async fn what_cannot_be_undone_now_is_in_nobodys_way() {
    let machine = Machine::new();
    fs::create_dir_all(machine.tree.path().join("etc/systemd/system")).unwrap();
    machine.start(&alice(), 80).await;
    // Undoing it takes a systemd, which there is none of here.
    let stuck = r#"{ "id": "0", "uid": 1000, "user": "alice", "since": 0, "pending": true,
        "verb": "delegate-controllers", "controllers": ["cpu"] }, "#;
    let ledger = machine.read(LEDGER).unwrap();
    machine
        .write(LEDGER, &ledger.replacen("{\n      \"id\"", &format!("{stuck}{{\n      \"id\""), 1));
    assert_eq!(machine.helper.list(None).await.unwrap().len(), 2);
    machine.start(&bob(), 0).await;
    assert_eq!(machine.read(PORT_START).unwrap(), "0\n");
    // Nor does it pass for done.
    assert_eq!(machine.read(LEDGER).unwrap().matches("\"pending\": true").count(), 1);
}
