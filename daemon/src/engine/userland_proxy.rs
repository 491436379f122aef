//! docker-proxy as dockerd starts it: a process that tells engine-init which port of which container
//! it is for, and then becomes the real one.
//!
//! dockerd takes the program from `userland-proxy-path` of its configuration, and gives it nothing
//! but docker-proxy's arguments (moby's `daemon/libnetwork/portmapper/proxy_linux.go`).

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use hyper::{Method, body::Bytes};
use serde_json::{Map, Value};

use super::init::{WAYS, Way};
use crate::{cli, sys::http};

/// The name by which this program is docker-proxy.
pub const NAME: &str = "docker-proxy";
/// The key in dockerd's configuration.
pub const KEY: &str = "userland-proxy-path";
/// The user's own choice of docker-proxy, for [`main`].
pub const CHOSEN: &str = "ROOTLESSD_DOCKER_PROXY";

/// Where dockerd looks before it looks in `PATH` (moby's `daemon/config/config_linux.go`).
const LIBEXEC: [&str; 4] = [
    "/usr/local/libexec/docker",
    "/usr/libexec/docker",
    "/usr/local/lib/docker",
    "/usr/lib/docker",
];
/// engine-init answers in milliseconds; a container's start waits for it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether dockerd is to start this program for docker-proxy, by its configuration and its flags.
pub fn is_wanted(config: &Map<String, Value>, flags: &[String]) -> bool {
    let is_off = config.get("userland-proxy") == Some(&Value::Bool(false));
    // What is both in the file and a flag is refused by dockerd.
    !is_off && !flags.iter().any(|flag| flag.trim_start_matches('-').starts_with("userland-proxy"))
}

/// Whether this process was started as docker-proxy.
pub fn is_meant(program: Option<&OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// Tell of the port, and become docker-proxy.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let words: Vec<_> = arguments.iter().map(|it| it.to_string_lossy().into_owned()).collect();
    if let (Some(way), Some(dir)) = (way(&words), std::env::var_os("ROOTLESSKIT_STATE_DIR")) {
        let socket = Path::new(&dir).join("api.sock");
        cli::block_on(async move {
            let body = serde_json::to_vec(&way).map(Bytes::from).unwrap_or_default();
            // It works without, as long as dockerd lives.
            let _ = http::ask(&socket, Method::PUT, WAYS, body, TIMEOUT).await;
            ExitCode::SUCCESS
        });
    }
    let chosen = std::env::var_os(CHOSEN).map(PathBuf::from);
    let error = match chosen.or_else(|| find(real(&words))) {
        Some(program) => Command::new(program).args(arguments).env_remove(CHOSEN).exec(),
        None => io::Error::other(format!("{} is not installed", real(&words))),
    };
    eprintln!("rootlessd: docker-proxy cannot be started: {error}");
    ExitCode::FAILURE
}

/// The program that dockerd would start: until dockerd 27 one that calls RootlessKit, what dockerd
/// itself does since it hands over the listening socket.
fn real(words: &[String]) -> &'static str {
    let is_listening = words.iter().any(|word| word.trim_start_matches('-') == "use-listen-fd");
    if is_listening { NAME } else { "rootlesskit-docker-proxy" }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = LIBEXEC.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    directories.map(|directory| directory.join(name)).find(|path| {
        path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    })
}

/// What docker-proxy's arguments say (moby's `cmd/docker-proxy/main_linux.go`).
fn way(words: &[String]) -> Option<Way> {
    let value = |name: &str| {
        let is = |word: &&String| word.trim_start_matches('-') == name;
        let at = words.iter().position(|word| is(&word))?;
        words.get(at + 1)
    };
    Some(Way {
        proto: value("proto")?.clone(),
        host_ip: value("host-ip")?.parse().ok()?,
        host_port: value("host-port")?.parse().ok()?,
        container_ip: value("container-ip")?.parse().ok()?,
        container_port: value("container-port")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_understood() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = Way {
            proto: "tcp".into(),
            host_ip: "::1".parse().unwrap(),
            host_port: 8080,
            container_ip: "172.17.0.2".parse().unwrap(),
            container_port: 80,
        };
        for (text, program) in [
            (
                "-proto tcp -host-ip ::1 -host-port 8080 -container-ip 172.17.0.2 -container-port 80",
                "rootlesskit-docker-proxy",
            ),
            (
                "-proto tcp -host-ip ::1 -host-port 8080 -container-ip 172.17.0.2 -container-port 80 \
                 -use-listen-fd",
                "docker-proxy",
            ),
        ] {
            let words = words(text);
            assert_eq!(way(&words).as_ref(), Some(&expected));
            assert_eq!(real(&words), program);
            assert_eq!(way(&words[..7]), None);
        }
    }

    #[test]
    fn it_is_wanted_unless_somebody_decided_otherwise() {
        let flag = |text: &str| vec![text.to_owned()];
        for (config, flags, is) in [
            (json!({}), vec![], true),
            (json!({ "userland-proxy": true, KEY: "/x" }), flag("--debug"), true),
            (json!({ "userland-proxy": false }), vec![], false),
            (json!({}), flag("--userland-proxy=false"), false),
            (json!({}), flag("--userland-proxy-path=/x"), false),
        ] {
            assert_eq!(is_wanted(config.as_object().unwrap(), &flags), is, "{config} {flags:?}");
        }
        assert!(is_meant(Some(OsStr::new("/run/x/docker-proxy"))));
        assert!(!is_meant(Some(OsStr::new("/usr/bin/rootlessd"))) && !is_meant(None));
    }
}
