//! Whether an engine has to run though nobody connects to its socket. First of all for the containers
//! that dockerd starts by itself when it starts: they are read from dockerd's own files, while it does
//! not run. So nothing has to be remembered for a boot.
//!
//! The rule is that of moby's `restartmanager` (`ShouldRestart`) and of its daemon's `restore`, the
//! same from 20.10 to 28.5 but for this: 20.10 also starts a container that never ran, for which no
//! engine is held here. Such a one stays when its port was taken, and would hold it for ever.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use serde::Deserialize;

use crate::{dirs::Dirs, docker_config, plan::DockerPlan, sys::files};

/// What we read of a container's `hostconfig.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    restart_policy: RestartPolicy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartPolicy {
    name: String,
    maximum_retry_count: u64,
}

/// What we read of a container's `config.v2.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    has_been_manually_stopped: bool,
    /// Absent in files of long ago.
    has_been_started_before: Option<bool>,
    restart_count: u64,
    state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    running: bool,
    exit_code: i64,
}

/// Whether the user's engine has to run.
pub fn has_to_run(dirs: &Dirs) -> bool {
    docker_config::read(&docker_config::user_config(dirs))
        .and_then(|user| docker_config::plan(&user, dirs))
        .map_or(true, |plan| has_to_run_by(&plan))
}

/// Whether a dockerd of this plan has to run: it would start a container if it started now, is a
/// member of a Swarm, or has other sockets, whose clients nobody else waits for. What cannot be read
/// may say so.
pub fn has_to_run_by(plan: &DockerPlan) -> bool {
    let other_hosts = docker_config::read(&plan.user_config)
        .and_then(|user| docker_config::has_other_hosts(&user, plan));
    if other_hosts.unwrap_or(true) || docker_config::is_in_swarm(&plan.data_root) {
        return true;
    }
    any_comes_back(&plan.data_root.join("containers")).unwrap_or_else(|error| {
        let data_root = plan.data_root.display();
        tracing::warn!("a container of {data_root} may have to run, which cannot be read: {error}");
        true
    })
}

fn any_comes_back(containers: &Path) -> io::Result<bool> {
    let directories = match fs::read_dir(containers) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        directories => directories?,
    };
    for directory in directories {
        let directory = directory?;
        if directory.file_type()?.is_dir() && comes_back(&directory.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Without one of its files, as while it is removed, it is none that dockerd starts.
fn comes_back(directory: &Path) -> io::Result<bool> {
    let Some(HostConfig { restart_policy: policy }) =
        files::read_json(&directory.join("hostconfig.json"))?
    else {
        return Ok(false);
    };
    if policy.is_none() {
        return Ok(false);
    }
    let container: Option<Container> = files::read_json(&directory.join("config.v2.json"))?;
    Ok(container.is_some_and(|container| policy.applies_to(&container)))
}

impl RestartPolicy {
    fn is_none(&self) -> bool {
        matches!(self.name.as_str(), "" | "no")
    }

    fn applies_to(&self, container: &Container) -> bool {
        if container.has_been_started_before == Some(false) {
            return false;
        }
        match self.name.as_str() {
            "unless-stopped" => !container.has_been_manually_stopped,
            "on-failure" => {
                let retries = self.maximum_retry_count;
                // One that ran when the machine lost its power has failed.
                let failed = container.state.running || container.state.exit_code != 0;
                failed && (retries == 0 || container.restart_count < retries)
            }
            // "always", and what a dockerd to come has.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::preflight::testing::Machine;

    #[test]
    fn what_dockerd_starts() {
        let stopped = json!({ "HasBeenManuallyStopped": true });
        let exited = |code: i64| json!({ "State": { "Running": false, "ExitCode": code } });
        let running = json!({ "State": { "Running": true } });
        let created =
            |before: bool| json!({ "HasBeenStartedBefore": before, "State": { "ExitCode": 128 } });
        let tried = |count: u64| json!({ "RestartCount": count, "State": { "ExitCode": 1 } });
        #[rustfmt::skip]
        let rows = [
            // (policy, its retries, the container, whether it comes back)
            ("no",             0, running.clone(), false),
            ("",               0, running.clone(), false),
            ("always",         0, running.clone(), true),
            ("always",         0, exited(0),       true),
            ("always",         0, stopped.clone(), true),
            ("unless-stopped", 0, running.clone(), true),
            ("unless-stopped", 0, exited(1),       true),
            ("unless-stopped", 0, stopped,         false),
            ("on-failure",     0, running,         true),
            ("on-failure",     0, exited(0),       false),
            ("on-failure",     0, exited(137),     true),
            ("on-failure",     0, tried(99),       true),
            ("on-failure",     3, tried(2),        true),
            ("on-failure",     3, tried(3),        false),
            ("on-sundays",     0, exited(0),       true),
            ("always",         0, created(false),  false),
            ("unless-stopped", 0, created(false),  false),
            ("on-failure",     0, created(false),  false),
            ("always",         0, created(true),   true),
        ];
        for (policy, retries, container, expected) in rows {
            let policy = RestartPolicy { name: policy.into(), maximum_retry_count: retries };
            let config = serde_json::from_value(container.clone()).expect("a container");
            let comes = !policy.is_none() && policy.applies_to(&config);
            assert_eq!(comes, expected, "{policy:?} {container}");
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_one() {
        let always = r#"{"Binds":null,"RestartPolicy":{"Name":"always","MaximumRetryCount":0}}"#;
        let never = r#"{"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"Links":null}"#;
        let exited = r#"{"ID":"x","State":{"Running":false,"ExitCode":0},"RestartCount":0}"#;
        let (policy, state) = ("containers/a/hostconfig.json", "containers/a/config.v2.json");
        let swarm = "swarm/docker-state.json";
        #[rustfmt::skip]
        let rows = [
            ("nothing",      vec![],                                 false),
            ("no container", vec![("containers/.keep", "")],         false),
            ("one",          vec![(policy, always), (state, exited)], true),
            ("none",         vec![(policy, never), (state, "{")],    false),
            ("half removed", vec![(policy, always)],                 false),
            ("half made",    vec![(state, exited)],                  false),
            ("broken",       vec![(policy, "{")],                    true),
            ("broken too",   vec![(policy, always), (state, "")],    true),
            ("no directory", vec![("containers", "")],               true),
            ("a Swarm",      vec![(swarm, "{}")],                    true),
        ];
        for (name, files, expected) in rows {
            let machine = Machine::bare();
            for (path, text) in files {
                machine.write(&format!("/home/alice/.local/share/docker/{path}"), text);
            }
            assert_eq!(has_to_run(&machine.dirs()), expected, "{name}");
        }
        let machine = Machine::bare();
        machine.write("/home/alice/.config/docker/daemon.json", "{");
        assert!(has_to_run(&machine.dirs()));
        for (hosts, expected) in [
            (r#"["fd://"]"#, false),
            (r#"["unix://"]"#, false),
            (r#"["fd://", "unix:///run/x.sock"]"#, true),
            (r#"["tcp://0.0.0.0:2375"]"#, true),
        ] {
            let json = format!(r#"{{"hosts": {hosts}}}"#);
            machine.write("/home/alice/.config/docker/daemon.json", &json);
            assert_eq!(has_to_run(&machine.dirs()), expected, "{hosts}");
        }
        let elsewhere = machine.write("/srv/docker/swarm/docker-state.json", "{}");
        let elsewhere = elsewhere.ancestors().nth(2).expect("a directory").display().to_string();
        let json = json!({ "data-root": elsewhere }).to_string();
        machine.write("/home/alice/.config/docker/daemon.json", &json);
        assert!(has_to_run(&machine.dirs()));
    }
}
