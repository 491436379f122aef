//! What tests ask of a virtual machine with rootlessd: the helper, called as any program would, and the kernel's word
//! for what it did.

use std::{
    ops::Deref,
    time::{Duration, Instant},
};

use rootlessd_api::helper::{BUS_NAME, OBJECT_PATH};
use serde_json::Value;

use crate::{
    bed::IMAGE,
    command::{Output, wait_for},
    machine::Machine,
};

/// How long anything may take before it counts as hanging: all is some twenty times slower there.
pub const SOON: Duration = Duration::from_secs(180);

/// The systemd of the user.
pub const MANAGER: &str = "user@4242.service";

/// A virtual machine with rootlessd installed.
#[derive(Debug)]
pub struct Vm(Machine);

impl Deref for Vm {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl Vm {
    /// Restores it. Nothing of rootlessd runs.
    pub fn boot() -> Self {
        Self(Machine::boot_virtual())
    }

    /// The same; it can sleep.
    pub fn that_sleeps() -> Self {
        Self(Machine::boot_virtual_that_sleeps())
    }

    /// The same; its engine runs, and has the tiny image.
    pub fn running() -> Self {
        let vm = Self::boot();
        vm.enable();
        vm.user(["docker", "load", "-qi", IMAGE]).ok();
        vm
    }

    /// An administrator's rule: the user may have this done without being asked.
    pub fn agree_to(&self, action: &str) {
        let rule = format!(
            "polkit.addRule(function (action, subject) {{
                 if (action.id === 'org.rootlessd.helper1.{action}' && subject.user === 'tester')
                     return polkit.Result.YES;
             }});"
        );
        let file = "/etc/polkit-1/rules.d/10-test.rules";
        self.root(["sh", "-c", "echo \"$0\" >>$1 && systemctl restart polkit", &rule, file]).ok();
    }

    /// Calls a method of the helper, as the user; its answer.
    #[track_caller]
    pub fn helper(&self, method: &str, arguments: &[&str]) -> Value {
        let call = ["busctl", "--json=short", "--timeout=150", "call", BUS_NAME, OBJECT_PATH];
        let answer = self.user([&call[..], &[BUS_NAME, method], arguments].concat()).ok();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        plain(&answer["data"][0])
    }

    /// Has the helper grant something, and returns the one grant's id and what is still needed.
    #[track_caller]
    pub fn grant(&self, method: &str, arguments: &[&str]) -> (String, Value) {
        let outcome = self.helper(method, arguments);
        eprintln!("{method} {arguments:?}: {outcome}");
        let [id] = outcome["grants"].as_array().expect("a list").as_slice() else {
            panic!("not one grant: {outcome}")
        };
        (id.as_str().expect("an id").to_owned(), outcome["needs"].clone())
    }

    /// Has it undone.
    #[track_caller]
    pub fn revoke(&self, id: &str) -> Value {
        let outcome = self.helper("Revoke", &["s", id]);
        eprintln!("Revoke: {outcome}");
        outcome
    }

    /// Where the machine is not as the user's only grant says.
    #[track_caller]
    pub fn drift(&self) -> Value {
        self.helper("ListGrants", &[])[0]["drift"].clone()
    }

    /// What is in a file, as root sees it.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        self.root(["cat", path]).ok()
    }

    /// Every file, directory and link below these, with its mode, owner and contents.
    pub fn tree(&self, directories: &str) -> String {
        let script = format!(
            "find {directories} -printf '%p %y %m %U:%G %l\\n' | sort
             find {directories} -type f -exec sha256sum {{}} + | sort"
        );
        self.root_sh(&script).ok()
    }

    /// The controllers that the user's systemd has.
    pub fn controllers(&self) -> String {
        let user = "/sys/fs/cgroup/user.slice/user-4242.slice";
        self.read(&format!("{user}/{MANAGER}/cgroup.controllers"))
    }

    /// Runs a container, as `docker run` does with these options and this command.
    pub fn docker_run(&self, options: &str) -> Output {
        let output = self.user_sh(&format!("docker run {options}"));
        eprintln!("{output}");
        output
    }

    /// Waits until the engine is in a state, if it is not yet. Polling would take the processor time that the guest
    /// needs to come there.
    #[track_caller]
    pub fn wait_state(&self, state: &str) {
        let mut watch = self.watch();
        let deadline = Instant::now() + SOON * 2;
        while watch.now()["state"] != state {
            let news = watch.try_next(deadline.saturating_duration_since(Instant::now()));
            assert!(news.is_some(), "not {state} in time: {}", watch.now());
        }
    }

    /// Starts the engine, if it does not run.
    pub fn start(&self) {
        self.ctl(["start"]);
    }

    /// Waits until a page of a container is there.
    pub fn wait_page_on(&self, port: u16) {
        let page = format!("http://127.0.0.1:{port}/");
        wait_for(&page, SOON, || {
            let page = self.user(["curl", "-sfm", "20", &page]).stdout;
            (page == "hello from a container\n").then_some(())
        });
    }
}

/// busctl's `{"type":…,"data":…}` of each variant, without the types.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) if object.contains_key("type") && object.contains_key("data") => {
            plain(&object["data"])
        }
        Value::Object(object) => object.iter().map(|(key, it)| (key.clone(), plain(it))).collect(),
        Value::Array(array) => array.iter().map(plain).collect(),
        other => other.clone(),
    }
}
