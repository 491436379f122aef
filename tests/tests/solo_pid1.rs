//! rootlessd as the first process of a pid namespace, as in a container.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use rootlessd_tests::{
    command::wait_for,
    solo::{Process, SOON, User, signal, wait_gone},
};

/// A pid namespace with rootlessd as its first process.
struct Container<'a> {
    user: &'a User,
    unshare: Child,
    first: u32,
}

impl<'a> Container<'a> {
    fn start(user: &'a User) -> Self {
        let own = user.command("");
        let uid = user.uid.to_string();
        let mut command = Command::new("unshare");
        let unshare = command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"])
            .args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups", "rootlessd"])
            .env_clear()
            .envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(&user.home)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the supervisor", SOON, || {
            (user.ctl("status").status.code() != Some(4)).then_some(())
        });
        user.wait_state("running");
        let first = Process::all().find(|process| process.parent == unshare.id()).unwrap().pid;
        Self { user, unshare, first }
    }

    /// Run a shell script as the user in the same pid namespace.
    fn sh(&self, script: &str) {
        let (pid, uid) = (self.first.to_string(), self.user.uid.to_string());
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-p", "-m", "setpriv", "--reuid", &uid, "--regid", &uid]);
        User::run_command(command.args(["--clear-groups", "sh", "-c", script])).ok();
    }

    fn zombies(&self) -> Vec<String> {
        let all = self.user.processes();
        all.iter().filter(|it| it.state == 'Z').map(ToString::to_string).collect()
    }
}

#[test]
fn it_reaps_and_stops_everything() {
    let user = User::new();
    let mut container = Container::start(&user);
    assert_eq!(Process::of(container.first).unwrap().part(), "rootlessd");
    user.load_image();
    user.serve_page("");
    for _ in 0..20 {
        container.sh("sh -c 'sleep 0.02' & sh -c 'exit 3' & true");
    }
    wait_for("every orphan is reaped", SOON, || container.zombies().is_empty().then_some(()));
    let orphans = || user.processes().iter().filter(|it| it.name == "sleep").count();
    wait_for("the orphans end", SOON, || (orphans() == 0).then_some(()));
    assert_eq!(container.zombies(), [""; 0]);

    // A new configuration is read, as anywhere.
    user.configure("engine.stop_timeout = \"20s\"\n");
    signal(container.first, Signal::SIGHUP);
    wait_for("the configuration is read", SOON, || {
        user.ctl("config").ok().contains("20s").then_some(())
    });

    signal(container.first, Signal::SIGTERM);
    let ended = container.unshare.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    user.assert_clean(true);
}

#[test]
fn it_ends_with_the_supervisor() {
    let user = User::new();
    let mut container = Container::start(&user);
    user.load_image();
    user.serve_page("");
    let supervisor = user.processes().into_iter().find(|it| it.parent == container.first);
    let supervisor = supervisor.unwrap().pid;
    signal(supervisor, Signal::SIGKILL);
    wait_gone(supervisor);
    let ended = container.unshare.wait().unwrap();
    assert_eq!(ended.code(), Some(128 + Signal::SIGKILL as i32));
    let left: Vec<_> = user.processes().iter().map(ToString::to_string).collect();
    assert_eq!(left, [""; 0]);
    // The same place again, as when a container is restarted: what is left is no obstacle.
    let mut container = Container::start(&user);
    user.docker("ps").ok();
    signal(container.first, Signal::SIGINT);
    assert_eq!(container.unshare.wait().unwrap().code(), Some(0));
    user.assert_clean(true);
}
