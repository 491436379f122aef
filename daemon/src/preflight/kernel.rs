//! What the kernel has to offer: user namespaces, tap devices, cgroups, SELinux.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rootlessd_api::Reason;

use super::packages::Family;
use crate::{dirs::Dirs, reasons::Code};

/// What turns them on.
const ALLOW_USER_NAMESPACES: &str = "rootlessctl userns allow";
/// The controllers that most limits are of: `--memory`, `--cpus`, `--pids-limit`. systemd gives them to
/// every user since 252; before, it kept cpu.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Whether this user may make user namespaces with this RootlessKit.
pub fn check_user_namespaces(dirs: &Dirs, rootlesskit: &Path, family: Family) -> Vec<Reason> {
    let sysctl = |name: &str| {
        let path = dirs.on_system(format!("/proc/sys/{}", name.replace('.', "/")));
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let mut reasons = Vec::new();
    // A patch of Debian's and Arch's kernels.
    if sysctl("kernel.unprivileged_userns_clone") == Some(0) {
        reasons.push(Code::UsernsDisabled.reason_with_remedy(
            "kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
            ALLOW_USER_NAMESPACES,
        ));
    }
    // namespaces(7)
    if sysctl("user.max_user_namespaces") == Some(0) {
        reasons.push(Code::UsernsLimit.reason_with_remedy(
            "user.max_user_namespaces is 0: nobody may make user namespaces",
            ALLOW_USER_NAMESPACES,
        ));
    }
    // Ubuntu's, since 23.10.
    if sysctl("kernel.apparmor_restrict_unprivileged_userns") == Some(1)
        && !has_profile(dirs, rootlesskit)
    {
        reasons.push(restricted_by_apparmor(rootlesskit, dirs, family));
    }
    reasons
}

/// Whether a profile of AppArmor names the program. Whether it is loaded only root can see.
fn has_profile(dirs: &Dirs, program: &Path) -> bool {
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    // The path as the machine has it.
    let name = program.strip_prefix(&dirs.system).unwrap_or(&program).display().to_string();
    let name = format!("/{}", name.trim_start_matches('/'));
    let profiles = fs::read_dir(dirs.on_system("/etc/apparmor.d")).into_iter().flatten().flatten();
    profiles.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_ascii_whitespace)
            .any(|word| alternatives(word.trim_matches('"')).contains(&name))
    })
}

/// The paths that a word of a profile stands for: `/a{b,c}` is for `/ab` and `/ac` (apparmor.d(5)). Other
/// patterns are left as they are.
fn alternatives(word: &str) -> Vec<String> {
    let parts = word.split_once('{').and_then(|(head, rest)| {
        let (middle, tail) = rest.split_once('}')?;
        Some((head, middle, tail))
    });
    match parts {
        Some((head, middle, tail)) => {
            let words = middle.split(',').map(|one| format!("{head}{one}{tail}"));
            words.flat_map(|word| alternatives(&word)).collect()
        }
        None => vec![word.to_owned()],
    }
}

fn restricted_by_apparmor(rootlesskit: &Path, dirs: &Dirs, family: Family) -> Reason {
    let shown = rootlesskit.display();
    let text = format!(
        "AppArmor lets only programs with a profile make user namespaces \
         (kernel.apparmor_restrict_unprivileged_userns is 1), and {shown} has none"
    );
    // A profile for a file that the user can replace would be one for any program of theirs.
    let remedy = if rootlesskit.starts_with(&dirs.home) {
        format!("{}, whose /usr/bin/rootlesskit has a profile", family.install("rootlesskit"))
    } else {
        let name = shown.to_string().trim_start_matches('/').replace('/', ".");
        format!(
            "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile {name} {shown} \
             flags=(unconfined) {{\\n  userns,\\n}}\\n' | sudo tee /etc/apparmor.d/{name} && \
             sudo systemctl restart apparmor"
        )
    };
    Code::UsernsApparmor.reason_with_remedy(text, remedy)
}

/// Whether the network helper can make a tap device. Opened, since a container may show the node
/// and yet refuse it.
pub fn check_tun(dirs: &Dirs) -> Option<Reason> {
    let path = dirs.on_system("/dev/net/tun");
    let error = File::options().read(true).write(true).open(path).err()?;
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "sudo chmod 0666 /dev/net/tun",
        // Absent, or there without a driver behind it (ENODEV).
        _ => "sudo modprobe tun; in a container: run it with --device /dev/net/tun",
    };
    Some(Code::TunUnusable.reason_with_remedy(
        format!("/dev/net/tun cannot be opened, without which there is no network: {error}"),
        remedy,
    ))
}

/// Whether SELinux is on (`is_selinux_enabled(3)`).
pub fn has_selinux(dirs: &Dirs) -> bool {
    dirs.on_system("/sys/fs/selinux/enforce").exists()
        && dirs.on_system("/etc/selinux/config").exists()
}

/// How dockerd will find the cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Whether `/sys/fs/cgroup` is cgroup v2.
    pub unified: bool,
    /// Whether systemd runs the machine (`sd_booted(3)`), which is what dockerd looks at.
    pub booted: bool,
    /// Whether the user has a systemd.
    pub manager: bool,
    /// Whether it runs the engine: it is asked over the session bus.
    pub systemd: bool,
}

impl Cgroups {
    /// Looks at the machine.
    pub fn of(dirs: &Dirs, systemd: bool) -> Self {
        Self {
            unified: dirs.on_system("/sys/fs/cgroup/cgroup.controllers").exists(),
            booted: dirs.on_system("/run/systemd/system").is_dir(),
            manager: dirs.runtime.join("systemd/private").exists(),
            systemd,
        }
    }

    /// Whether dockerd has a cgroup driver, and so limits have an effect.
    pub fn usable(self) -> bool {
        self.unified && self.systemd
    }

    /// Whether dockerd would ask a systemd for cgroups that is not there for this user.
    pub fn misleads_dockerd(self) -> bool {
        self.unified && self.booted && !self.systemd
    }

    /// Why limits have no effect.
    pub fn check(self, user: &str, family: Family) -> Option<Reason> {
        let (why, remedy) = match self {
            Self { unified: true, systemd: true, .. } => return None,
            Self { unified: false, booted: true, .. } => (
                "the machine has cgroup v1",
                "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line".into(),
            ),
            Self { unified: false, .. } => (
                "the machine has neither cgroup v2 nor systemd",
                "use a machine with systemd and cgroup v2 where limits matter".into(),
            ),
            Self { booted: true, manager: true, .. } => (
                "the user's systemd does not answer on a session bus",
                format!(
                    "{}; systemctl --user daemon-reload; systemctl --user restart rootlessd; rootlessctl \
                     restart",
                    family.install("session bus")
                ),
            ),
            Self { booted: true, .. } => (
                "this session has no systemd of its own",
                format!(
                    "rootlessctl stop; end this rootlessd; sudo loginctl enable-linger {user}; \
                     XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user enable --now rootlessd"
                ),
            ),
            Self { .. } => (
                "the machine has no systemd",
                "use a machine with systemd where limits matter".into(),
            ),
        };
        Some(Code::CgroupDriverNone.reason_with_remedy(
            format!("limits of memory, CPUs and processes are ignored: {why}"),
            remedy,
        ))
    }
}

/// Why some limits have no effect, where dockerd has its cgroups: the user's systemd was not given a
/// controller that the machine has.
pub fn check_controllers(dirs: &Dirs) -> Option<Reason> {
    let controllers = |group: &str| {
        let path = dirs.on_system(format!("/sys/fs/cgroup{group}/cgroup.controllers"));
        fs::read_to_string(path).ok()
    };
    let has =
        |text: &str, controller: &str| text.split_ascii_whitespace().any(|word| word == controller);
    let uid = dirs.uid;
    let machine = controllers("")?;
    let user = controllers(&format!("/user.slice/user-{uid}.slice/user@{uid}.service"))?;
    let missing: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|controller| has(&machine, controller) && !has(&user, controller))
        .collect();
    let text = || {
        format!(
            "limits of {} are ignored: systemd does not give the controllers to its users",
            missing.join(", ")
        )
    };
    (!missing.is_empty())
        .then(|| Code::ControllersMissing.reason_with_remedy(text(), "rootlessctl cgroup delegate"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::preflight::testing::Machine;

    #[test]
    fn user_namespaces_may_be_forbidden_in_three_ways() {
        let machine = Machine::bare();
        let program = machine.program("/usr/bin/rootlesskit", "");
        let codes = || {
            let reasons = check_user_namespaces(&machine.dirs(), &program, Family::Apt);
            reasons.into_iter().map(|reason| reason.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(), [""; 0]);
        machine.write("/proc/sys/kernel/unprivileged_userns_clone", "1\n");
        machine.write("/proc/sys/user/max_user_namespaces", "28633\n");
        machine.write("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0\n");
        assert_eq!(codes(), [""; 0]);
        machine.write("/proc/sys/kernel/unprivileged_userns_clone", "0\n");
        machine.write("/proc/sys/user/max_user_namespaces", "0\n");
        machine.write("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert_eq!(codes(), ["userns-disabled", "userns-limit", "userns-apparmor"]);
    }

    #[test]
    fn a_profile_of_apparmor_names_the_program() {
        let machine = Machine::bare();
        let program = machine.program("/usr/bin/rootlesskit", "");
        let link = machine.path("/usr/bin/docker-rootlesskit");
        symlink(&program, &link).expect("symlink");
        let dirs = machine.dirs();
        assert!(!has_profile(&dirs, &program));
        let profile = "# /usr/bin/rootlesskit\nprofile x /usr/bin/rootlesskit-not {\n}\n";
        machine.write("/etc/apparmor.d/x", profile);
        assert!(!has_profile(&dirs, &program));
        let profile = "profile rootlesskit /usr/bin/rootlesskit flags=(unconfined) {\n userns,\n}";
        machine.write("/etc/apparmor.d/rootlesskit", profile);
        assert!(has_profile(&dirs, &program) && has_profile(&dirs, &link));
    }

    #[test]
    fn a_program_of_the_user_s_gets_no_profile() {
        let machine = Machine::bare();
        let dirs = machine.dirs();
        let remedy = |path: &Path| {
            restricted_by_apparmor(path, &dirs, Family::Apt).remedy.expect("a remedy")
        };
        assert!(remedy(Path::new("/opt/rootlesskit")).contains("/etc/apparmor.d/opt.rootlesskit"));
        let own = remedy(&dirs.home.join("bin/rootlesskit"));
        assert!(own.starts_with("sudo apt-get install rootlesskit"), "{own}");
    }

    #[test]
    fn the_tap_device_has_to_open() {
        let machine = Machine::bare();
        let reason = check_tun(&machine.dirs()).expect("it is absent");
        assert!(reason.remedy.is_some_and(|remedy| remedy.contains("modprobe tun")));
        machine.write("/dev/net/tun", "");
        assert_eq!(check_tun(&machine.dirs()), None);
    }

    #[test]
    fn controllers_may_be_missing() {
        let machine = Machine::bare();
        let dirs = machine.dirs();
        let group = format!("/sys/fs/cgroup/user.slice/user-{0}.slice/user@{0}.service", dirs.uid);
        assert_eq!(check_controllers(&dirs), None);
        for (all, users, missing) in [
            ("cpuset cpu io memory pids", "cpu memory pids", None),
            ("cpuset cpu io memory pids", "memory pids", Some("limits of cpu are")),
            ("cpuset cpu io memory pids", "", Some("limits of cpu, memory, pids are")),
            // What the machine does not have, nobody can give.
            ("", "", None),
        ] {
            machine.write("/sys/fs/cgroup/cgroup.controllers", all);
            machine.write(&format!("{group}/cgroup.controllers"), users);
            let text = check_controllers(&dirs).map(|reason| reason.text);
            match missing {
                None => assert_eq!(text, None, "{all}; {users}"),
                Some(said) => assert!(text.is_some_and(|text| text.contains(said)), "{users}"),
            }
        }
    }

    #[test]
    fn cgroups_are_described() {
        for (unified, booted, manager, systemd, said) in [
            (true, true, true, true, None),
            (true, false, false, true, None),
            (true, true, true, false, Some("on a session bus")),
            (true, true, false, false, Some("no systemd of its own")),
            (true, false, false, false, Some("the machine has no systemd")),
            (false, true, true, true, Some("cgroup v1")),
            (false, true, false, false, Some("cgroup v1")),
            (false, false, false, false, Some("neither")),
        ] {
            let cgroups = Cgroups { unified, booted, manager, systemd };
            let text = cgroups.check("alice", Family::Apt).map(|reason| reason.text);
            match said {
                None => assert_eq!(text, None, "{cgroups:?}"),
                Some(said) => assert!(text.is_some_and(|t| t.contains(said)), "{cgroups:?}"),
            }
            assert_eq!(cgroups.usable(), unified && systemd);
        }
    }

    #[test]
    fn selinux_is_on_where_its_file_system_and_its_configuration_are() {
        let machine = Machine::bare();
        machine.write("/sys/fs/selinux/enforce", "0");
        assert!(!has_selinux(&machine.dirs()));
        machine.write("/etc/selinux/config", "SELINUX=permissive\n");
        assert!(has_selinux(&machine.dirs()));
    }
}
