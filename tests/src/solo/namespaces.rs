//! A machine of its own for a test program: namespaces, and what is throw-away in them.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::Mutex,
};

use nix::{
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{apart::Apart, command::Output, install};

/// Where the users' homes are. Not below `/run`, which RootlessKit copies, nor `/home`, where the
/// project may lie.
pub(super) const HOMES: &str = "/srv";

/// Append to one of the lists of users, in our copy of `/etc`.
pub(super) fn append(path: &str, line: &str) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().expect("nobody panics here");
    let mut file = OpenOptions::new().append(true).open(path).expect(path);
    file.write_all(line.as_bytes()).expect(path);
}

/// Be root in namespaces of our own, from the first call on.
pub fn enter() {
    let apart = Apart {
        of: &["--net"],
        passed_on: &["ROOTLESSD_BIN_DIR", "ROOTLESSD_ROUNDS", "RUST_BACKTRACE"],
        why: "these tests start engines as other users, so they need root, or sudo",
        furnish,
    };
    apart.enter();
}

/// Make our namespaces a place for users to be made in.
fn furnish() {
    umask(Mode::from_bits_truncate(0o022));
    // A test may be a thousand clients; a login has as many files as it asks for.
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit { current: files.maximum, ..files };
    setrlimit(Resource::Nofile, most).expect("a limit below the hard one");
    // Among ourselves as the machine has it, since RootlessKit asks for it; to the outside private.
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).expect("shared mounts");
    Output::of(Command::new("ip").args(["link", "set", "lo", "up"])).ok();
    let programs = install::programs();
    for directory in ["/run", HOMES] {
        mount_tmpfs(Path::new(directory), "mode=755");
    }
    Output::of(Command::new("cp").args(["-a", "/etc", "/run/etc"])).ok();
    bind(Path::new("/run/etc"), Path::new("/etc"));
    // Nearly all tests are about an engine that runs; a user may say otherwise.
    fs::create_dir_all("/etc/rootlessd").expect("a directory");
    fs::write("/etc/rootlessd/config.toml", "engine.start = \"boot\"\n").expect("written");
    let own = Path::new("/run/programs");
    fs::create_dir(own).expect("a directory");
    for program in ["rootlessd", "rootlessctl"] {
        fs::copy(programs.join(program), own.join(program)).expect("a copy");
    }
    bind(own, Path::new("/usr/local/bin"));
    let tun = Path::new("/dev/net/tun");
    if fs::metadata(tun).is_ok_and(|found| found.mode() & 0o006 == 0o006) {
        return;
    }
    fs::create_dir_all("/dev/net").expect("/dev/net");
    mount_tmpfs(Path::new("/dev/net"), "mode=755");
    let all = Mode::from_bits_truncate(0o666);
    mknod(tun, SFlag::S_IFCHR, all, makedev(10, 200)).expect("/dev/net/tun");
    fs::set_permissions(tun, Permissions::from_mode(0o666)).expect("chmod");
}

/// Mount an empty file system.
pub fn mount_tmpfs(at: &Path, options: &str) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("mount");
}

/// Show something at another place, too.
pub fn bind(from: &Path, at: &Path) {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind mount");
}
