//! A test program that runs itself again as root in namespaces of its own.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    process::{self, Command},
    sync::OnceLock,
};

/// Tells the program that it runs in its own namespaces: the mount namespace that it came from.
const CAME_FROM: &str = "ROOTLESSD_TEST_CAME_FROM";
/// Its pid out there.
const OUTER_PID: &str = "ROOTLESSD_TEST_PID";

/// How it is to run. It always has mounts and pids of its own.
#[derive(Debug)]
pub struct Apart {
    /// Of what else it has its own: options of unshare(1).
    pub of: &'static [&'static str],
    /// What it may have of our environment where sudo(8) would take it away.
    pub passed_on: &'static [&'static str],
    /// What it needs root for, in a sentence.
    pub why: &'static str,
    /// What is done in there first.
    pub furnish: fn(),
}

impl Apart {
    /// Be in there, from the first call on. In the program that was started it does not return: it
    /// runs itself again, with the same arguments, and ends as that one ends.
    pub fn enter(&self) {
        static ENTERED: OnceLock<()> = OnceLock::new();
        ENTERED.get_or_init(|| match env::var(CAME_FROM) {
            Ok(outside) => {
                assert_ne!(outside, mount_namespace(), "{CAME_FROM} is not for people to set");
                (self.furnish)();
            }
            Err(_) => process::exit(self.run_inside()),
        });
    }

    fn run_inside(&self) -> i32 {
        let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if !root {
            command.arg("env");
        }
        for name in self.passed_on {
            if let Ok(value) = env::var(name) {
                command.arg(format!("{name}={value}"));
            }
        }
        command
            .arg(format!("{CAME_FROM}={}", mount_namespace()))
            .arg(format!("{OUTER_PID}={}", process::id()))
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(self.of)
            // The first process of a pid namespace has to reap orphans, which a waiting shell does.
            .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
            .arg(env::current_exe().expect("our own program"))
            .args(env::args_os().skip(1));
        let why = self.why;
        let ended = command.status().unwrap_or_else(|error| panic!("{why}: {error}"));
        if !root && ended.code() == Some(1) {
            eprintln!("{why}");
        }
        ended.code().unwrap_or(1)
    }
}

/// The pid that this program was started with, out there: nobody else has it meanwhile.
pub fn outer_pid() -> u32 {
    env::var(OUTER_PID).ok().and_then(|pid| pid.parse().ok()).expect("set by us")
}

fn mount_namespace() -> String {
    fs::read_link("/proc/self/ns/mnt").expect("namespaces").display().to_string()
}
