//! A place for grants to be tried in.
//!
//! The test program runs itself again as root in namespaces of its own: with file systems and
//! pids of its own, and no cgroup in sight but the one it was started in, below which it makes
//! its own. What another process is to do, it runs itself for once more.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, setgroups, setresgid, setresuid},
};
use rootlessd_api::Port;
use rootlessd_helper::bpf::{Error, attach_ports, attached};
use rootlessd_tests::apart::{Apart, outer_pid};
use rustix::net::{
    AddressFamily, SocketType, bind, ipproto, socket, sockopt::set_socket_reuseaddr,
};

/// Who binds, as rootless Docker does: not root.
const USER: u32 = 4242;
/// Where our cgroup and bpf file systems are, and the program itself.
const MOUNTS: &str = "/mnt";
/// Tells the program what it is to do as another process.
const ERRAND: &str = "ROOTLESSD_TEST_ERRAND";

/// What a test has for itself: cgroups, and a bpf file system.
pub struct Ground {
    cgroups: PathBuf,
    bpffs: PathBuf,
}

impl Ground {
    pub fn new(name: &str) -> Self {
        enter();
        // Nobody else's cgroups have it in their names.
        let pid = outer_pid();
        let cgroups = Path::new(MOUNTS).join(format!("cgroup/rootlessd-test-{pid}-{name}"));
        fs::create_dir(&cgroups).expect("a cgroup");
        let bpffs = Path::new(MOUNTS).join(name);
        fs::create_dir(&bpffs).expect("a directory");
        let (none, mode) = (MsFlags::empty(), Some("mode=700"));
        mount(Some("bpf"), &bpffs, Some("bpf"), none, mode).expect("a bpf file system");
        Self { cgroups, bpffs }
    }

    /// Make a cgroup, if need be with those above it.
    pub fn cgroup(&self, name: &str) -> PathBuf {
        let path = self.cgroups.join(name);
        fs::create_dir_all(&path).expect("a cgroup");
        path
    }

    /// The directory that the helper has for itself.
    pub fn ours(&self) -> PathBuf {
        self.bpffs.join("rootlessd")
    }

    pub fn attach(&self, uid: u32, cgroup: &Path, ports: &BTreeSet<Port>) -> Result<(), Error> {
        attach_ports(&self.ours(), uid, File::open(cgroup).expect("a cgroup").as_fd(), ports)
    }

    #[track_caller]
    pub fn attached(&self, uid: u32, cgroup: &Path, ports: &BTreeSet<Port>) -> bool {
        let cgroup = File::open(cgroup).expect("a cgroup");
        attached(&self.ours(), uid, cgroup.as_fd(), ports).expect("an answer")
    }

    /// Have another process do it for user 1000, started by a command that runs what follows it:
    /// `ok`, or its error.
    pub fn attach_elsewhere(&self, cgroup: &Path, ports: &str, by: &[&str]) -> String {
        let errand = format!("attach {} {} {ports}", self.ours().display(), cgroup.display());
        results(errands(by, &errand)).join("\n")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Of a test that failed there may still be processes, which soon end.
        for _ in 0..500 {
            if remove_cgroup(&self.cgroups).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} is still in use", self.cgroups.display());
    }
}

fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(path)
}

pub fn ports(text: &str) -> BTreeSet<Port> {
    text.split_ascii_whitespace().map(|port| port.parse().expect("a port")).collect()
}

/// Have a user's process in a cgroup bind sockets: protocol, address and port of each. What comes of
/// it: `ok`, or the error's name.
#[track_caller]
pub fn bind_all(cgroup: &Path, asked: &[(&str, &str, u16)]) -> Vec<String> {
    results(binder(cgroup, cgroup, 1, asked))
}

/// The same, so often, and with sockets that it made when it was in another cgroup. A result then is
/// the last that is not `ok`.
pub fn binder(made: &Path, bound: &Path, rounds: u32, asked: &[(&str, &str, u16)]) -> Child {
    let mut errand = format!("bind {} {} {rounds}", made.display(), bound.display());
    for (protocol, address, port) in asked {
        errand.push_str(&format!(" {protocol} {address} {port}"));
    }
    errands(&[], &errand)
}

/// The last line of an errand that came to its end.
const END: &str = "end";

/// What comes of it, in lines.
#[track_caller]
pub fn results(child: Child) -> Vec<String> {
    let output = child.wait_with_output().expect("it ran");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut lines: Vec<_> = told.lines().map(str::to_owned).collect();
    assert_eq!(lines.pop().as_deref(), Some(END), "{}: {told}", output.status);
    lines
}

fn errands(by: &[&str], errand: &str) -> Child {
    let program = Path::new(MOUNTS).join("test");
    let mut words = by.iter().map(Path::new).chain([&*program]);
    let mut command = Command::new(words.next().expect("at least the program"));
    // Any test will do, since each begins with `enter`. All on one thread, since it changes what
    // threads have in common, and ends in the midst.
    command.args(words).args(["most_ports", "--exact", "--test-threads=1"]).env(ERRAND, errand);
    // The harness writes to the standard output.
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ourselves")
}

/// To be called first of all: go on in namespaces of our own.
fn enter() {
    static ENTERED: OnceLock<()> = OnceLock::new();
    ENTERED.get_or_init(|| {
        if let Ok(errand) = env::var(ERRAND) {
            run_errand(&errand.split(' ').collect::<Vec<_>>());
            tell(END);
            // In order, it once ended with SIGSEGV: the harness does not expect to become another user.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        let apart = Apart {
            of: &["--cgroup"],
            passed_on: &[],
            why: "these tests load BPF programs, so they need root, or sudo",
            furnish,
        };
        apart.enter();
    });
}

fn furnish() {
    let none = MsFlags::empty();
    mount(Some("tmpfs"), MOUNTS, Some("tmpfs"), none, Some("mode=755")).expect("a tmpfs");
    let cgroups = Path::new(MOUNTS).join("cgroup");
    fs::create_dir(&cgroups).expect("a directory");
    mount(Some("cgroup2"), &cgroups, Some("cgroup2"), none, None::<&str>).expect("cgroups");
    // Where the project lies, not everybody may go, and root without its capabilities neither.
    let program = env::current_exe().expect("our own program");
    fs::copy(program, Path::new(MOUNTS).join("test")).expect("a copy");
}

fn run_errand(words: &[&str]) {
    match words {
        ["attach", ours, cgroup, granted @ ..] => {
            let cgroup = File::open(cgroup).expect("a cgroup");
            match attach_ports(Path::new(ours), 1000, cgroup.as_fd(), &ports(&granted.join(" "))) {
                Ok(()) => tell("ok"),
                Err(error @ Error::Unsupported(_)) => tell(&format!("unsupported: {error}")),
                Err(error) => tell(&error.to_string()),
            }
        }
        ["bind", made, bound, rounds, asked @ ..] => {
            // Other tests use the same ports.
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.is_ok_and(|up| up.success()), "ip(8), of iproute2, is needed");
            join(made);
            let mut sockets = make_sockets(asked);
            join(bound);
            setgroups(&[]).expect("root");
            setresgid(USER.into(), USER.into(), USER.into()).expect("root");
            setresuid(USER.into(), USER.into(), USER.into()).expect("root");
            let mut results = vec!["ok".to_owned(); sockets.len()];
            for _ in 0..rounds.parse().expect("a number") {
                // One by one, since they would be in each other's way.
                for ((socket, address), result) in sockets.into_iter().zip(&mut results) {
                    if let Err(error) = socket.and_then(|socket| bind(socket, &address)) {
                        *result = format!("{:?}", Errno::from_raw(error.raw_os_error()));
                    }
                }
                sockets = make_sockets(asked);
            }
            results.iter().for_each(|result| tell(result));
        }
        _ => panic!("no errand of ours: {words:?}"),
    }
}

/// To be read by [`results`]; the harness does not print it for us.
fn tell(line: &str) {
    writeln!(io::stderr(), "{line}").expect("somebody reads it");
}

fn join(cgroup: &str) {
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").expect("a cgroup to be in");
}

fn make_sockets(asked: &[&str]) -> Vec<(rustix::io::Result<OwnedFd>, SocketAddr)> {
    let make = |words: &[&str]| {
        let (kind, protocol) = match words[0] {
            "tcp" => (SocketType::STREAM, ipproto::TCP),
            "udp" => (SocketType::DGRAM, ipproto::UDP),
            "mptcp" => (SocketType::STREAM, ipproto::MPTCP),
            other => panic!("{other}?"),
        };
        let address: IpAddr = words[1].parse().expect("an address");
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let address = SocketAddr::new(address, words[2].parse().expect("a port"));
        // As servers do, and lest the one before be in the way.
        let made = socket(family, kind, Some(protocol))
            .and_then(|socket| set_socket_reuseaddr(&socket, true).map(|()| socket));
        (made, address)
    };
    asked.chunks(3).map(make).collect()
}
