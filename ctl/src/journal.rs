//! Telling the journal a failure that is this process's last word.
//!
//! journald asks the kernel which unit a line on standard error is from when it reads the line. A process
//! that has ended by then is of no unit, and `journalctl --user -u docker` does not show why it failed
//! (systemd issue 2913). Through the journal's own protocol the unit can be named; `journalctl` takes a
//! `USER_UNIT=` of the same user for it, see `add_matches_for_user_unit()` in systemd's logs-show.c.

use std::{env, fs};

use nix::sys::stat::fstat;
use tracing_subscriber::{Registry, prelude::*};

use crate::failure::Failure;

/// Tell the journal a failure of this process's unit; whether it was there to be told.
pub fn failure(failure: &Failure) -> bool {
    let Some(unit) = is_on_stderr().then(own_unit).flatten() else { return false };
    let Ok(journal) = tracing_journald::layer() else { return false };
    let journal = journal
        .with_syslog_identifier("rootlessctl".to_owned())
        .with_custom_fields([("USER_UNIT", unit)]);
    tracing::subscriber::with_default(Registry::default().with(journal), || {
        let remedy = failure.remedy().map(|remedy| format!("; what to do: {remedy}"));
        tracing::error!("{failure}{}", remedy.unwrap_or_default());
    });
    true
}

/// Whether standard error goes to the journal: `JOURNAL_STREAM`, see systemd.exec(5).
fn is_on_stderr() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn own_unit() -> Option<String> {
    unit_of(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The innermost service in any of the hierarchies, see cgroups(7): systemd's may be one of version 1.
fn unit_of(cgroups: &str) -> Option<String> {
    let mut names = cgroups.lines().flat_map(|line| line.rsplit('/'));
    names.find(|name| name.ends_with(".service")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_in_the_cgroups_path() {
        let user = "0::/user.slice/user-1.slice/user@1.service/app.slice/docker.service\n";
        let nested = "0::/user@1.service/app.slice/docker.service/inner\n";
        let hybrid = "5:pids:/\n1:name=systemd:/user@1.service/docker.service\n0::/init.scope\n";
        for (cgroup, unit) in [
            (user, Some("docker.service")),
            (nested, Some("docker.service")),
            (hybrid, Some("docker.service")),
            ("0::/user.slice/session-1.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup).as_deref(), unit, "{cgroup}");
        }
    }
}
