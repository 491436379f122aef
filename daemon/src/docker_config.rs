//! dockerd's configuration: the user's `daemon.json`, and what of it is ours.
//!
//! dockerd refuses a setting that is both in the file and a flag, and one that it does not know.
//! So everything goes into one file, and what is ours is only what each dockerd from 20.10 on
//! knows (moby's `daemon/config/config*.go`).

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rootlessd_api::{Reason, names};
use serde_json::{Map, Value, json};

use crate::{config::read_small, dirs::Dirs, plan::DockerPlan, reasons::Code};

/// Whether containers outlive dockerd.
pub const LIVE_RESTORE: &str = "live-restore";

/// The exec-opt that names the cgroup driver.
const CGROUP_DRIVER: &str = "native.cgroupdriver";

/// Reads a `daemon.json`; one that does not exist is empty.
pub fn read(path: &Path) -> Result<Map<String, Value>, Reason> {
    match read_small(path) {
        Ok(text) => parse(&text, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(invalid(path, &format!("cannot be read: {error}"))),
    }
}

/// Reads the text of a `daemon.json`. `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Result<Map<String, Value>, Reason> {
    // dockerd takes a byte order mark and an empty file as well.
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid(path, "is no JSON object: it has to begin with {")),
        Err(error) => Err(invalid(path, &format!("is no valid JSON: {error}"))),
    }
}

/// The paths that the user chose, or dockerd's defaults (`honorXDG` in moby's
/// `daemon/command/config_linux.go`), so that an engine that was there before keeps its images.
pub fn plan(user: &Map<String, Value>, dirs: &Dirs) -> Result<DockerPlan, Reason> {
    let user_config = user_config(dirs);
    let path = |key: &str, default: PathBuf| match user.get(key) {
        None => Ok(default),
        Some(Value::String(text)) if text.is_empty() => Ok(default),
        Some(Value::String(text)) if text.starts_with('/') => Ok(PathBuf::from(text)),
        Some(value) => {
            Err(invalid(&user_config, &format!("has {key:?}: {value}, which is no absolute path")))
        }
    };
    Ok(DockerPlan {
        data_root: path("data-root", dirs.data_home.join("docker"))?,
        exec_root: path("exec-root", dirs.runtime.join("docker"))?,
        pid_file: path("pidfile", dirs.runtime.join("docker.pid"))?,
        socket: names::docker_socket(&dirs.runtime),
        cgroup_parent: None,
        live_restore: None,
        cgroup_driver: None,
        user_config,
    })
}

/// Where the user's `daemon.json` is.
pub fn user_config(dirs: &Dirs) -> PathBuf {
    dirs.config_home.join("docker/daemon.json")
}

/// Whether this engine is a member of a Swarm: dockerd then refuses `live-restore` (moby's
/// `daemon/cluster/cluster.go`, `loadPersistentState`).
pub fn is_in_swarm(data_root: &Path) -> bool {
    data_root.join("swarm/docker-state.json").exists()
}

/// Whether the user chose a cgroup driver.
pub fn has_cgroup_driver(user: &Map<String, Value>) -> bool {
    exec_opts(user).any(|option| option.split('=').next() == Some(CGROUP_DRIVER))
}

/// Whether dockerd makes iptables rules: it does unless it is told not to.
pub fn wants_iptables(user: &Map<String, Value>, flags: &[String]) -> bool {
    let off = user.get("iptables") == Some(&Value::Bool(false))
        || flags.iter().any(|flag| flag == "--iptables=false");
    let nftables = user.get("firewall-backend").is_some_and(|backend| backend == "nftables")
        || flags.iter().any(|flag| flag == "--firewall-backend=nftables");
    !off && !nftables
}

/// Makes the file that dockerd gets as `--config-file`: the user's `daemon.json` (as [`read`]
/// gives it) whole, and what is ours.
pub fn merge(user: &Map<String, Value>, plan: &DockerPlan) -> Result<Value, Reason> {
    refuse_conflicts(user, &plan.user_config)?;
    let mut merged = user.clone();
    let mut set = |key: &str, value: Value| merged.insert(key.to_owned(), value);
    set("hosts", hosts(user, plan)?);
    set("containerd", json!(plan.containerd_socket()));
    set("data-root", json!(plan.data_root));
    set("exec-root", json!(plan.exec_root));
    set("pidfile", json!(plan.pid_file));
    if let Some(live_restore) = plan.live_restore {
        set(LIVE_RESTORE, json!(live_restore));
    }
    if let Some(cgroup_parent) = &plan.cgroup_parent {
        set("cgroup-parent", json!(cgroup_parent));
    }
    if let Some(driver) = &plan.cgroup_driver {
        let ours = format!("{CGROUP_DRIVER}={driver}");
        let options: Vec<_> = exec_opts(user).chain([ours.as_str()]).collect();
        set("exec-opts", json!(options));
    }
    Ok(Value::Object(merged))
}

fn exec_opts(user: &Map<String, Value>) -> impl Iterator<Item = &str> {
    user.get("exec-opts").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// What no user can set, as the engine would not be one that rootlessd can keep.
fn refuse_conflicts(user: &Map<String, Value>, path: &Path) -> Result<(), Reason> {
    let conflict = |key: &str, why: &str| {
        Err(Code::DaemonJsonConflict.reason_with_remedy(
            format!("{} sets {key:?}: {why}", path.display()),
            format!("take {key:?} out of {}", path.display()),
        ))
    };
    if user.contains_key("containerd") {
        return conflict("containerd", "rootlessd starts containerd and passes its socket");
    }
    if user.contains_key("graph") {
        return conflict("graph", "that is an old name of \"data-root\", which rootlessd passes");
    }
    if user.get("rootless") == Some(&Value::Bool(false)) {
        return conflict("rootless", "the engine is rootless, always");
    }
    Ok(())
}

/// Whether dockerd listens elsewhere, too.
pub fn has_other_hosts(user: &Map<String, Value>, plan: &DockerPlan) -> Result<bool, Reason> {
    Ok(hosts(user, plan)?.as_array().is_some_and(|hosts| hosts.len() > 1))
}

/// Our socket, which dockerd gets as an open file, then whatever else the user listens on.
fn hosts(user: &Map<String, Value>, plan: &DockerPlan) -> Result<Value, Reason> {
    let mut all = vec!["fd://"];
    let listed = match user.get("hosts") {
        None => return Ok(json!(all)),
        Some(value) => value
            .as_array()
            .and_then(|hosts| hosts.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
            .ok_or_else(|| {
                invalid(&plan.user_config, "has \"hosts\" that are no list of strings")
            })?,
    };
    for host in listed {
        match host.split_once("://") {
            Some(("fd", _)) => {}
            // Without a path it is dockerd's default, which is ours.
            Some(("unix", path)) if path.is_empty() || Path::new(path) == plan.socket => {}
            Some(("unix", _)) => all.push(host),
            // An address without a scheme is TCP to dockerd.
            _ => {
                refuse_insecure(host, user, &plan.user_config)?;
                all.push(host);
            }
        }
    }
    Ok(json!(all))
}

/// Whoever reaches an unprotected API has the user's files and everything else of theirs.
fn refuse_insecure(host: &str, user: &Map<String, Value>, path: &Path) -> Result<(), Reason> {
    let shown = path.display();
    let insecure = |why: String| {
        Code::HostsInsecure.reason_with_remedy(
            format!("{shown} listens on {host}, {why}: whoever reaches it is you"),
            format!(
                "take {host:?} out of \"hosts\" in {shown} and use docker -H ssh://; or set \
                 \"tlsverify\": true, \"tlscacert\", \"tlscert\" and \"tlskey\""
            ),
        )
    };
    if user.get("tlsverify") != Some(&Value::Bool(true)) {
        return Err(insecure("and \"tlsverify\" is not true".into()));
    }
    for key in ["tlscacert", "tlscert", "tlskey"] {
        let file = user.get(key).and_then(Value::as_str).unwrap_or_default();
        if file.is_empty() {
            return Err(insecure(format!("and {key:?} is not set")));
        }
        let metadata = fs::metadata(file)
            .map_err(|error| insecure(format!("and {key:?} ({file}) cannot be read: {error}")))?;
        if key == "tlskey" && metadata.permissions().mode() & 0o077 != 0 {
            return Err(Code::TlsKeyExposed.reason_with_remedy(
                format!("others may read {file}, the \"tlskey\" of {shown}"),
                format!("chmod 0600 {file}"),
            ));
        }
    }
    Ok(())
}

fn invalid(path: &Path, what: &str) -> Reason {
    Code::DaemonJsonInvalid.reason_with_remedy(
        format!("{} {what}", path.display()),
        format!("edit {}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::Machine;

    fn user(text: &str) -> Map<String, Value> {
        parse(text, Path::new("/d.json")).expect("JSON")
    }

    fn docker_plan(machine: &Machine, user: &Map<String, Value>) -> DockerPlan {
        plan(user, &machine.dirs()).expect("a plan")
    }

    fn refused(machine: &Machine, text: &str) -> Reason {
        let user = user(text);
        merge(&user, &docker_plan(machine, &user)).expect_err(text)
    }

    #[test]
    fn broken_json_names_line_and_column() {
        for (text, place) in [
            ("{\n  \"debug\" true\n}", "line 2 column 11"),
            ("{\"a\": 1} x", "line 1 column 10"),
            ("[]", "no JSON object"),
            ("{\"a\": 1,}", "line 1 column 9"),
        ] {
            let reason = parse(text, Path::new("/d.json")).expect_err(text);
            assert_eq!(reason.code, "daemon-json-invalid");
            assert!(reason.text.starts_with("/d.json "), "{}", reason.text);
            assert!(reason.text.contains(place), "{text:?}: {}", reason.text);
        }
        for text in ["", " \n", "\u{feff}{}", "{}"] {
            assert_eq!(user(text), Map::new(), "{text:?}");
        }
    }

    #[test]
    fn paths_are_the_users_or_dockerds() {
        let machine = Machine::bare();
        let dirs = machine.dirs();
        let plan = docker_plan(&machine, &Map::new());
        assert_eq!(plan.data_root, dirs.home.join(".local/share/docker"));
        assert_eq!(plan.exec_root, dirs.runtime.join("docker"));
        assert_eq!(plan.pid_file, dirs.runtime.join("docker.pid"));
        let plan = docker_plan(&machine, &user(r#"{"data-root": "/srv/docker", "pidfile": ""}"#));
        assert_eq!(plan.data_root, Path::new("/srv/docker"));
        assert_eq!(plan.pid_file, dirs.runtime.join("docker.pid"));
        for text in [r#"{"exec-root": "x"}"#, r#"{"pidfile": 1}"#] {
            let reason = super::plan(&user(text), &dirs).expect_err(text);
            assert_eq!(reason.code, "daemon-json-invalid");
        }
    }

    #[test]
    fn the_users_file_is_kept_whole() {
        let machine = Machine::bare();
        let text = r#"{"debug": true, "log-opts": {"max-size": "1m"}, "exec-opts": ["a=b"]}"#;
        let user = user(text);
        let plan = DockerPlan {
            cgroup_parent: Some(names::CONTAINERS_SLICE.into()),
            live_restore: Some(true),
            cgroup_driver: Some("cgroupfs".into()),
            ..docker_plan(&machine, &user)
        };
        let merged = merge(&user, &plan).expect("it should merge");
        let expected = json!({
            "debug": true,
            "log-opts": {"max-size": "1m"},
            "exec-opts": ["a=b", "native.cgroupdriver=cgroupfs"],
            "hosts": ["fd://"],
            "containerd": plan.containerd_socket(),
            "data-root": plan.data_root,
            "exec-root": plan.exec_root,
            "pidfile": plan.pid_file,
            "live-restore": true,
            "cgroup-parent": "rootlessd-containers.slice",
        });
        assert_eq!(merged, expected);
    }

    #[test]
    fn live_restore_is_the_users_unless_somebody_overrules_it() {
        let machine = Machine::bare();
        for (users, plans, expected) in [
            (None, None, None),
            (None, Some(true), Some(true)),
            (Some(false), None, Some(false)),
            (Some(true), None, Some(true)),
            (Some(true), Some(false), Some(false)),
        ] {
            let user: Map<_, _> =
                users.map(|value| (LIVE_RESTORE.to_owned(), json!(value))).into_iter().collect();
            let plan = DockerPlan { live_restore: plans, ..docker_plan(&machine, &user) };
            let merged = merge(&user, &plan).expect("it should merge");
            let found = merged.get(LIVE_RESTORE).and_then(Value::as_bool);
            assert_eq!(found, expected, "{users:?} {plans:?}");
        }
    }

    #[test]
    fn other_sockets_stay_and_ours_is_not_named_twice() {
        let machine = Machine::bare();
        let socket = machine.runtime_dir().join("docker.sock").display().to_string();
        let text = format!(
            r#"{{"hosts": ["fd://", "unix://{socket}", "unix://", "unix:///run/x.sock"]}}"#
        );
        let user = user(&text);
        let merged = merge(&user, &docker_plan(&machine, &user)).expect("it should merge");
        assert_eq!(merged["hosts"], json!(["fd://", "unix:///run/x.sock"]));
        assert_eq!(refused(&machine, r#"{"hosts": "fd://"}"#).code, "daemon-json-invalid");
    }

    #[test]
    fn the_network_needs_tls_both_ways() {
        let machine = Machine::bare();
        let file = |name| machine.write(&format!("/home/alice/{name}"), "").display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
        let with = |host: &str, tls: &str| format!(r#"{{"hosts": ["{host}"]{tls}}}"#);
        let files = format!(r#", "tlscacert": "{ca}", "tlscert": "{cert}", "tlskey": "{key}""#);
        let full = format!(r#", "tlsverify": true{files}"#);

        let open = "tcp://0.0.0.0:2375";
        for tls in [
            String::new(),
            files.clone(),
            r#", "tls": true"#.into(),
            r#", "tlsverify": true"#.into(),
            format!(r#", "tlsverify": false{files}"#),
            format!(r#", "tlsverify": "true"{files}"#),
            full.replace("cert.pem", "missing.pem"),
        ] {
            for host in [open, "127.0.0.1:2375", "tcp://", "http://x"] {
                let reason = refused(&machine, &with(host, &tls));
                assert_eq!(reason.code, "hosts-insecure", "{host}{tls}");
                assert!(reason.text.contains(host), "{}", reason.text);
            }
        }

        let chmod = |mode| {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        for mode in [0o644, 0o640, 0o604] {
            chmod(mode);
            assert_eq!(refused(&machine, &with(open, &full)).code, "tls-key-exposed");
        }
        chmod(0o600);
        let user = user(&with(open, &full));
        let merged = merge(&user, &docker_plan(&machine, &user)).expect("it is safe");
        assert_eq!(merged["hosts"], json!(["fd://", open]));
    }

    #[test]
    fn what_contradicts_us_is_named() {
        let machine = Machine::bare();
        for (text, key) in [
            (r#"{"containerd": "/run/containerd/containerd.sock"}"#, "containerd"),
            (r#"{"graph": "/x"}"#, "graph"),
            (r#"{"rootless": false}"#, "rootless"),
        ] {
            let reason = refused(&machine, text);
            assert_eq!(reason.code, "daemon-json-conflict");
            assert!(reason.text.contains(&format!("{key:?}")), "{}", reason.text);
            assert!(reason.text.contains("docker/daemon.json"), "{}", reason.text);
        }
    }

    #[test]
    fn iptables_is_wanted_unless_it_is_off() {
        let flags = |flag: &str| vec![flag.to_owned()];
        assert!(wants_iptables(&Map::new(), &[]));
        assert!(!wants_iptables(&user(r#"{"iptables": false}"#), &[]));
        assert!(!wants_iptables(&user(r#"{"firewall-backend": "nftables"}"#), &[]));
        assert!(!wants_iptables(&Map::new(), &flags("--iptables=false")));
    }
}
