//! Where things are: the user's directories, and the machine's as the user sees it.
//!
//! Every path of the program begins at a [`Dirs`] that is passed in; nothing reads an environment
//! variable or a fixed path by itself. So a test lays out a directory and is a machine.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};
use rootlessd_api::Reason;

use crate::reasons::Code;

/// The environment variables, as they were when the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out: none that is
    /// asked for can be.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// The value of a variable; an empty one counts as unset, as in the XDG base directory
    /// specification and in dockerd-rootless.sh.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The directories of one user on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// `$HOME`
    pub home: PathBuf,
    /// `$XDG_RUNTIME_DIR`: ours, 0700, and not a symbolic link.
    pub runtime: PathBuf,
    /// `$XDG_CONFIG_HOME`, by default `~/.config`.
    pub config_home: PathBuf,
    /// `$XDG_DATA_HOME`, by default `~/.local/share`.
    pub data_home: PathBuf,
    /// `$XDG_STATE_HOME`, by default `~/.local/state`.
    pub state_home: PathBuf,
    /// What stands for `/` before the machine's paths (`/etc`, `/proc`, `/dev`, `/sys`): `/` but in
    /// tests. The user's directories above are complete and never have it put before them.
    pub system: PathBuf,
    /// The user.
    pub uid: Uid,
    /// The user's name; the uid in digits if it has none.
    pub user: String,
}

impl Dirs {
    /// The directories of the user who runs this process.
    ///
    /// A [`Reason`] converts into an [`Error`](rootlessd_api::Error) of the kind `Preflight`.
    pub fn resolve(environment: &Environment) -> Result<Self, Reason> {
        Self::resolve_on(environment, Path::new("/"), nix::unistd::geteuid())
    }

    /// The directories of `uid` on the machine below `system`.
    pub fn resolve_on(environment: &Environment, system: &Path, uid: Uid) -> Result<Self, Reason> {
        if uid.is_root() {
            return Err(Code::RunningAsRoot.reason_with_remedy(
                "rootlessd was started by root: it keeps an ordinary user's engine, and one that \
                 belongs to root would not be rootless",
                "run it as that user: log in as them, then systemctl --user start rootlessd",
            ));
        }
        let user = user_name(system, uid);
        let home = home(environment)?;
        let below = |name, default: &str| match environment.get(name).map(PathBuf::from) {
            // The base directory specification: a relative path is invalid, ignore it.
            Some(path) if path.is_absolute() => path,
            _ => home.join(default),
        };
        Ok(Self {
            runtime: runtime_dir(environment, system, uid, &user)?,
            config_home: below("XDG_CONFIG_HOME", ".config"),
            data_home: below("XDG_DATA_HOME", ".local/share"),
            state_home: below("XDG_STATE_HOME", ".local/state"),
            home,
            system: system.to_owned(),
            uid,
            user,
        })
    }

    /// A path of the machine, such as `/proc/modules`. One that has the prefix already is left as
    /// it is.
    pub fn on_system(&self, path: impl AsRef<Path>) -> PathBuf {
        on_system(&self.system, path.as_ref())
    }
}

fn on_system(system: &Path, path: &Path) -> PathBuf {
    match path.starts_with(system) {
        true => path.to_owned(),
        false => system.join(path.strip_prefix("/").unwrap_or(path)),
    }
}

fn home(environment: &Environment) -> Result<PathBuf, Reason> {
    let mend = "log in as the user, or: export HOME=$(getent passwd \"$(id -un)\" | cut -d: -f6)";
    let missing = |text: String| Code::HomeMissing.reason_with_remedy(text, mend);
    let home = environment.get("HOME").ok_or_else(|| missing("HOME is not set".into()))?;
    let home = PathBuf::from(home);
    if !home.is_absolute() || !home.is_dir() {
        return Err(missing(format!("HOME is {}, which is no directory", home.display())));
    }
    Ok(home)
}

/// `$XDG_RUNTIME_DIR`, or where pam_systemd puts it: su, sudo and cron leave the variable unset
/// although the directory may be there.
fn runtime_dir(
    environment: &Environment,
    system: &Path,
    uid: Uid,
    user: &str,
) -> Result<PathBuf, Reason> {
    let usual = on_system(system, Path::new(&format!("/run/user/{uid}")));
    if let Some(path) = environment.get("XDG_RUNTIME_DIR") {
        return check_runtime_dir(Path::new(path), system, uid, user);
    }
    check_runtime_dir(&usual, system, uid, user).map_err(|_| {
        Code::RuntimeDirMissing.reason_with_remedy(
            format!(
                "XDG_RUNTIME_DIR is not set, and there is no {} that belongs to {user}: a session \
                 that su, sudo or cron opened has none, one of ssh or of `machinectl shell` has",
                usual.display()
            ),
            how_to_get_a_runtime_dir(system, uid, user),
        )
    })
}

/// Others must not be able to put a socket in place of ours, or to take ours away.
fn check_runtime_dir(path: &Path, system: &Path, uid: Uid, user: &str) -> Result<PathBuf, Reason> {
    let mend = || how_to_get_a_runtime_dir(system, uid, user);
    let shown = format!("XDG_RUNTIME_DIR ({})", path.display());
    let missing = |why: &dyn std::fmt::Display| {
        Code::RuntimeDirMissing.reason_with_remedy(format!("{shown} {why}"), mend())
    };
    if !path.is_absolute() {
        return Err(missing(&"is no absolute path"));
    }
    let metadata = fs::symlink_metadata(path)
        .map_err(|error| missing(&format!("cannot be looked at: {error}")))?;
    if metadata.is_symlink() {
        return Err(Code::RuntimeDirSymlink.reason_with_remedy(
            format!("{shown} is a symbolic link, which may be turned to another place"),
            format!("export XDG_RUNTIME_DIR=$(readlink -f {})", path.display()),
        ));
    }
    if !metadata.is_dir() {
        return Err(missing(&"is no directory"));
    }
    if metadata.uid() != uid.as_raw() {
        return Err(Code::RuntimeDirNotOurs.reason_with_remedy(
            format!("{shown} belongs to uid {}, not to {user}", metadata.uid()),
            mend(),
        ));
    }
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let cleaned = ["/tmp", "/var/tmp"].into_iter().find(|tmp| {
        let tmp = on_system(system, Path::new(tmp));
        path.starts_with(&tmp) || real.starts_with(&tmp)
    });
    if let Some(tmp) = cleaned {
        return Err(Code::RuntimeDirInTmp.reason_with_remedy(
            format!("{shown} is below {tmp}, which is cleaned while the engine runs"),
            mend(),
        ));
    }
    let mode = metadata.mode() & 0o777;
    if mode != 0o700 {
        return Err(Code::RuntimeDirMode.reason_with_remedy(
            format!("{shown} has the mode {mode:04o}: only {user} may enter it"),
            format!("chmod 0700 {}", path.display()),
        ));
    }
    Ok(path.to_owned())
}

fn how_to_get_a_runtime_dir(system: &Path, uid: Uid, user: &str) -> String {
    // sd_booted(3)
    if on_system(system, Path::new("/run/systemd/system")).is_dir() {
        format!("sudo loginctl enable-linger {user} && export XDG_RUNTIME_DIR=/run/user/{uid}")
    } else {
        "mkdir -p -m 0700 ~/.docker/run && export XDG_RUNTIME_DIR=~/.docker/run".into()
    }
}

/// The name in passwd(5), else the one that the name service knows, else the number.
fn user_name(system: &Path, uid: Uid) -> String {
    let passwd = fs::read_to_string(on_system(system, Path::new("/etc/passwd")));
    if let Some(name) = passwd.ok().and_then(|text| name_in_passwd(&text, uid)) {
        return name;
    }
    match User::from_uid(uid) {
        Ok(Some(user)) if system == Path::new("/") => user.name,
        _ => uid.to_string(),
    }
}

fn name_in_passwd(text: &str, uid: Uid) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid.as_raw())).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::preflight::testing::Machine;

    fn resolve(machine: &Machine, change: &[(&str, &str)]) -> Result<Dirs, Reason> {
        let mut variables: BTreeMap<String, String> =
            machine.environment().iter().map(|(n, v)| (n.into(), v.into())).collect();
        variables.extend(change.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        Dirs::resolve_on(&Environment(variables), machine.root(), machine.uid())
    }

    fn code(result: Result<Dirs, Reason>) -> String {
        result.expect_err("it should be refused").code
    }

    #[test]
    fn an_ordinary_session_resolves() {
        let machine = Machine::bare();
        let dirs = resolve(&machine, &[]).expect("it should resolve");
        assert_eq!(dirs.user, "alice");
        assert_eq!(dirs.config_home, dirs.home.join(".config"));
        assert_eq!(dirs.on_system("/proc/self"), machine.root().join("proc/self"));
        assert_eq!(dirs.on_system(dirs.on_system("/etc")), machine.root().join("etc"));
    }

    #[test]
    fn relative_xdg_directories_are_ignored() {
        let machine = Machine::bare();
        let dirs = resolve(&machine, &[("XDG_DATA_HOME", "data"), ("XDG_STATE_HOME", "/state")]);
        let dirs = dirs.expect("it should resolve");
        assert_eq!(dirs.data_home, dirs.home.join(".local/share"));
        assert_eq!(dirs.state_home, Path::new("/state"));
    }

    #[test]
    fn root_is_refused() {
        let machine = Machine::bare();
        let result = Dirs::resolve_on(&machine.environment(), machine.root(), Uid::from_raw(0));
        assert_eq!(code(result), "running-as-root");
    }

    #[test]
    fn home_has_to_be_a_directory() {
        let machine = Machine::bare();
        for home in ["", "/nowhere/at/all", "relative", "/etc/passwd"] {
            assert_eq!(code(resolve(&machine, &[("HOME", home)])), "home-missing", "{home:?}");
        }
    }

    #[test]
    fn an_unset_runtime_directory_is_looked_for_where_systemd_puts_it() {
        let machine = Machine::bare();
        let dirs = resolve(&machine, &[("XDG_RUNTIME_DIR", "")]).expect("it should resolve");
        assert_eq!(dirs.runtime, machine.runtime_dir());

        fs::remove_dir(machine.runtime_dir()).expect("remove");
        let reason = resolve(&machine, &[("XDG_RUNTIME_DIR", "")]).expect_err("it is not there");
        assert_eq!(reason.code, "runtime-dir-missing");
        assert!(reason.text.contains("su, sudo"), "{}", reason.text);
        let mend = reason.remedy.expect("a remedy");
        assert!(mend.contains(".docker/run"), "{mend}");

        machine.directory("/run/systemd/system");
        let reason = resolve(&machine, &[("XDG_RUNTIME_DIR", "")]).expect_err("it is not there");
        let mend = reason.remedy.expect("a remedy");
        assert!(mend.starts_with("sudo loginctl enable-linger alice"), "{mend}");
    }

    #[test]
    fn a_runtime_directory_that_others_could_use_is_refused() {
        let machine = Machine::bare();
        let as_runtime_dir = |path: PathBuf| {
            code(resolve(&machine, &[("XDG_RUNTIME_DIR", &path.display().to_string())]))
        };
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };

        let own = machine.runtime_dir();
        let link = machine.root().join("run/user/link");
        symlink(&own, &link).expect("symlink");
        assert_eq!(as_runtime_dir(link), "runtime-dir-symlink");

        let in_tmp = machine.directory("/tmp/runtime");
        chmod(&in_tmp, 0o700);
        assert_eq!(as_runtime_dir(in_tmp), "runtime-dir-in-tmp");
        let way_round = machine.root().join("run/way-round");
        symlink(machine.root().join("tmp"), &way_round).expect("symlink");
        assert_eq!(as_runtime_dir(way_round.join("runtime")), "runtime-dir-in-tmp");

        chmod(&own, 0o755);
        assert_eq!(as_runtime_dir(own.clone()), "runtime-dir-mode");
        assert_eq!(as_runtime_dir("relative".into()), "runtime-dir-missing");
        assert_eq!(as_runtime_dir("/nowhere/at/all".into()), "runtime-dir-missing");

        let stranger = Uid::from_raw(machine.uid().as_raw() + 1);
        let result = Dirs::resolve_on(&machine.environment(), machine.root(), stranger);
        assert_eq!(code(result), "runtime-dir-not-ours");
    }

    #[test]
    fn names_come_from_passwd() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:\n";
        for (uid, name) in [(0, Some("root")), (1000, Some("alice")), (7, None)] {
            assert_eq!(name_in_passwd(passwd, Uid::from_raw(uid)).as_deref(), name);
        }
    }
}
