//! Control groups, version 2 (cgroups(7)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What happened in a group for memory. Who watches it (inotify(7)) is told of each change.
pub const MEMORY_EVENTS: &str = "memory.events";

/// Where the unified hierarchy is mounted, alone or beside version 1.
fn mount_point() -> Option<&'static Path> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.join("cgroup.controllers").exists())
}

/// The directory of a group, given as `/proc/PID/cgroup` or systemd names it.
fn directory(group: &str) -> io::Result<PathBuf> {
    let mount_point = mount_point().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(mount_point.join(group.trim_start_matches('/')))
}

/// The file that says how many processes of a group the kernel killed for memory, by the hierarchy that
/// has the memory controller. `process`: one of the group, as it is named in `/proc`.
pub fn oom_kills(process: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let unified = unified(&text).and_then(|group| directory(group).ok());
    let events = unified.map(|group| group.join(MEMORY_EVENTS));
    events.filter(|file| file.exists()).or_else(|| {
        let group = text.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let group = Path::new("/sys/fs/cgroup/memory").join(group.trim_start_matches('/'));
        Some(group.join("memory.oom_control")).filter(|file| file.exists())
    })
}

/// The group that this process is in.
pub fn own() -> Option<String> {
    unified(&fs::read_to_string("/proc/self/cgroup").ok()?).map(str::to_owned)
}

/// The group in a `/proc/PID/cgroup`. Only the line `0::` counts: others are of version 1.
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The controllers that the user may use: those of the user's systemd, if this process is below
/// one, since it passes on to its units what they ask for.
pub fn users_controllers() -> Vec<String> {
    let own = own().unwrap_or_default();
    let group = match own.split_once(".service/") {
        Some((manager, _)) if manager.contains("/user@") => format!("{manager}.service"),
        _ => own,
    };
    directory(&group)
        .and_then(|directory| fs::read_to_string(directory.join("cgroup.controllers")))
        .map(|text| text.split_ascii_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Kill every process in a group and below it. `NotFound` where the kernel cannot (before 5.14).
pub fn kill(group: &str) -> io::Result<()> {
    let file = directory(group)?.join("cgroup.kill");
    if !file.exists() && directory(group)?.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    match fs::write(file, "1") {
        // The group went away meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
