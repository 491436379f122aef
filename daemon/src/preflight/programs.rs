//! The engine's programs: found once, along a search path that others cannot put programs on, and
//! named by their absolute paths from then on.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rootlessd_api::Reason;

use super::packages::Family;
use crate::{
    config::Config,
    dirs::Dirs,
    docker_config,
    reasons::{Code, Findings},
    rootlesskit::Tools,
};

/// What a session without `PATH` has.
const DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Where iptables and others are, though ordinary users' search paths leave it out.
const ALWAYS: &str = "/usr/sbin:/sbin";

/// The directories in which programs are looked for.
#[derive(Clone, Debug)]
pub struct SearchPath(Vec<PathBuf>);

impl SearchPath {
    /// Takes from a `PATH` what can be trusted; the reasons say what cannot.
    pub fn new(dirs: &Dirs, path: Option<&str>) -> (Self, Vec<Reason>) {
        let (mut directories, mut reasons) = (Vec::new(), Vec::new());
        for entry in path.unwrap_or(DEFAULT).split(':').chain(ALWAYS.split(':')) {
            let directory = dirs.on_system(entry);
            match distrust(Path::new(entry), &directory) {
                Some(why) => reasons.push(skipped(entry, why)),
                None if directories.contains(&directory) || !directory.is_dir() => {}
                None => directories.push(directory),
            }
        }
        (Self(directories), reasons)
    }

    /// The first executable file of a name.
    pub fn find(&self, name: impl AsRef<Path>) -> Option<PathBuf> {
        self.0.iter().map(|directory| directory.join(&name)).find(|path| is_executable(path))
    }

    /// The value for `PATH`.
    pub fn joined(&self) -> String {
        let shown: Vec<_> = self.0.iter().map(|entry| entry.to_string_lossy()).collect();
        shown.join(":")
    }
}

/// Why programs of a directory of the search path are not to be run.
fn distrust(entry: &Path, directory: &Path) -> Option<&'static str> {
    if !entry.is_absolute() {
        return Some("is not absolute: what it holds depends on where one is");
    }
    let mode = fs::metadata(directory).ok()?.mode();
    (mode & 0o002 != 0).then_some("may be written to by everybody")
}

fn skipped(entry: &str, why: &str) -> Reason {
    Code::PathEntrySkipped.reason_with_remedy(
        format!("the directory {entry:?} of PATH {why}; programs in it are not used"),
        format!("take {entry:?} out of PATH"),
    )
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// The programs that every engine has.
#[derive(Clone, Debug, PartialEq)]
pub struct Programs {
    /// dockerd
    pub dockerd: PathBuf,
    /// containerd
    pub containerd: PathBuf,
    /// runc
    pub runc: PathBuf,
    /// RootlessKit
    pub rootlesskit: PathBuf,
    /// newuidmap(1)
    pub newuidmap: PathBuf,
    /// newgidmap(1)
    pub newgidmap: PathBuf,
    /// getsubids(1), if it is there.
    pub getsubids: Option<PathBuf>,
    /// The network helpers that are there; slirp4netns whatever its age.
    pub tools: Tools,
}

/// Finds the programs.
pub struct Finder<'a> {
    /// Where.
    pub path: &'a SearchPath,
    /// On which machine.
    pub dirs: &'a Dirs,
    /// How the missing are installed.
    pub family: Family,
    /// The missing.
    pub findings: &'a mut Findings,
}

impl Finder<'_> {
    /// Finds all that every engine has; none if one of them is missing.
    pub fn find_all(&mut self, config: &Config) -> Option<Programs> {
        let dockerd = self.chosen(config.dockerd.path.as_deref(), &["dockerd"], "dockerd.path");
        let containerd =
            self.chosen(config.containerd.path.as_deref(), &["containerd"], "containerd.path");
        let runc = self.need("runc");
        let rootlesskit = self.chosen(
            config.rootlesskit.path.as_deref(),
            // Docker's own packages have it under the longer name.
            &["docker-rootlesskit", "rootlesskit"],
            "rootlesskit.path",
        );
        let newuidmap = self.need("newuidmap");
        let newgidmap = self.need("newgidmap");
        // RootlessKit brings its devices up with it, whatever the driver (`pkg/network/iputils`).
        self.need("ip")?;
        Some(Programs {
            dockerd: dockerd?,
            containerd: containerd?,
            runc: runc?,
            rootlesskit: rootlesskit?,
            newuidmap: newuidmap?,
            newgidmap: newgidmap?,
            getsubids: self.path.find("getsubids"),
            tools: Tools {
                slirp4netns: self.path.find("slirp4netns"),
                pasta: self.path.find("pasta"),
                vpnkit: self.path.find("vpnkit"),
                lxc_user_nic: self.lxc_user_nic(),
            },
        })
    }

    /// iptables, unless dockerd is told to do without.
    pub fn find_iptables(
        &mut self,
        user: &serde_json::Map<String, serde_json::Value>,
        flags: &[String],
    ) {
        if docker_config::wants_iptables(user, flags) {
            self.need("iptables");
        }
    }

    /// Finds a program, or notes that it is missing.
    pub fn need(&mut self, name: &str) -> Option<PathBuf> {
        self.chosen(None, &[name], "PATH")
    }

    fn chosen(&mut self, chosen: Option<&Path>, names: &[&str], key: &str) -> Option<PathBuf> {
        let found = match chosen {
            Some(path) if path.is_absolute() => {
                Some(path).filter(|path| is_executable(path)).map(Path::to_owned)
            }
            Some(name) => self.path.find(name),
            None => names.iter().find_map(|name| self.path.find(name)),
        };
        if found.is_none() {
            let name = names.last().copied().unwrap_or_default();
            let reason = match chosen {
                Some(path) => Code::ProgramMissing.reason_with_remedy(
                    format!("{key} is {}, which is no program", path.display()),
                    format!("set {key} to a program, or leave it out"),
                ),
                None => Code::ProgramMissing.reason_with_remedy(
                    format!("{name} is not installed (looked in {})", self.path.joined()),
                    self.family.install(name),
                ),
            };
            self.findings.add(reason);
        }
        found
    }

    /// It is no command for people: RootlessKit has a list of places (`cmd/rootlesskit/main.go`).
    fn lxc_user_nic(&self) -> Option<PathBuf> {
        let multiarch = format!("/usr/lib/{}-linux-gnu/lxc", std::env::consts::ARCH);
        ["/usr/libexec/lxc", &multiarch, "/usr/lib/lxc"]
            .into_iter()
            .map(|directory| self.dirs.on_system(directory).join("lxc-user-nic"))
            .find(|path| is_executable(path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::preflight::testing::Machine;

    #[test]
    fn places_that_others_write_to_are_left_out() {
        let machine = Machine::bare();
        for directory in ["/usr/bin", "/usr/sbin", "/open"] {
            machine.directory(directory);
        }
        let open = machine.program("/open/dockerd", "");
        let parent = open.parent().expect("a parent");
        fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).expect("chmod");
        let own = machine.program("/usr/bin/dockerd", "");

        let path = "/open:bin::/missing:/usr/bin:/usr/bin";
        let (path, reasons) = SearchPath::new(&machine.dirs(), Some(path));
        assert_eq!(path.find("dockerd"), Some(own));
        assert_eq!(path.find("containerd"), None);
        let expected = [machine.path("/usr/bin"), machine.path("/usr/sbin")];
        assert_eq!(path.0, expected);
        let texts: Vec<_> = reasons.iter().map(|reason| reason.text.as_str()).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("\"/open\"") && texts[0].contains("everybody"), "{texts:?}");
        assert!(texts[1].contains("\"bin\"") && texts[2].contains("\"\""), "{texts:?}");
    }

    #[test]
    fn only_executable_files_are_programs() {
        let machine = Machine::bare();
        machine.write("/usr/bin/a", "");
        machine.directory("/usr/bin/b");
        let program = machine.program("/usr/bin/c", "");
        let (path, _) = SearchPath::new(&machine.dirs(), Some("/usr/bin"));
        assert_eq!((path.find("a"), path.find("b"), path.find("c")), (None, None, Some(program)));
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let machine = Machine::bare();
        machine.program("/usr/bin/containerd", "");
        machine.program("/usr/bin/docker-rootlesskit", "");
        let (path, _) = SearchPath::new(&machine.dirs(), None);
        let mut findings = Findings::default();
        let dirs = machine.dirs();
        let family = Family::Apt;
        let mut finder = Finder { path: &path, dirs: &dirs, family, findings: &mut findings };
        let mut config = Config::default();
        config.dockerd.path = Some("/nowhere/dockerd".into());
        assert_eq!(finder.find_all(&config), None);
        let texts: Vec<_> = findings.fatal.iter().map(|reason| reason.text.as_str()).collect();
        assert!(texts[0].starts_with("dockerd.path is /nowhere/dockerd"), "{texts:?}");
        for (text, name) in texts[1..].iter().zip(["runc", "newuidmap", "newgidmap", "ip"]) {
            assert!(text.starts_with(&format!("{name} is not installed")), "{texts:?}");
        }
        assert_eq!(texts.len(), 5);
        assert_eq!(findings.fatal[2].remedy.as_deref(), Some("sudo apt-get install uidmap"));
    }
}
