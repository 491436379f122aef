//! The engine's processes, found from its first one down, the same way with and without cgroups.

use std::{collections::HashMap, fs};

use rootlessd_api::{Part, Process};

use crate::sys::process::{self, Stat};

/// The programs that connect a network namespace; pasta has variants for processors.
const NETWORK: [&str; 4] = ["slirp4netns", "pasta", "vpnkit", "lxc-user-nic"];

/// The processes, and what is known of them from the last time that somebody asked.
///
/// For a process's share of memory the kernel looks at all of its pages, which for dockerd takes
/// longer than all else that a status takes. So it is asked anew only about those whose resident size
/// has changed.
#[derive(Debug, Default)]
pub struct Processes {
    memory: HashMap<u32, Memory>,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    start_time: u64,
    resident: u64,
    /// In bytes.
    share: u64,
}

impl Processes {
    /// rootlessd itself and every process of the engine below `shim`, without what runs in containers.
    pub fn list(&mut self, shim: Option<u32>) -> Vec<Process> {
        let mut found = vec![(std::process::id(), Part::Supervisor)];
        if let Some(shim) = shim {
            found.extend(tree(shim, &table()));
        }
        let known = std::mem::take(&mut self.memory);
        let mut describe = |(pid, part)| {
            let Stat { name, start_time, resident, .. } = Stat::of(pid)?;
            let is_same = |it: &&Memory| (it.start_time, it.resident) == (start_time, resident);
            let share = known.get(&pid).filter(is_same).map_or_else(|| memory(pid), |it| it.share);
            self.memory.insert(pid, Memory { start_time, resident, share });
            Some(Process { part, pid, name, memory: share })
        };
        found.into_iter().filter_map(&mut describe).collect()
    }
}

/// RootlessKit's first process, the child of `shim` that is not an orphan.
pub fn rootlesskit(shim: u32) -> Option<u32> {
    let table = table();
    table
        .iter()
        .find(|(_, stat)| stat.parent == shim && is_rootlesskit(&stat.name))
        .map(|(&pid, _)| pid)
}

/// A dead child of RootlessKit that is RootlessKit too, and which the living one has not waited for.
pub fn dead_child(rootlesskit: u32) -> Option<u32> {
    let is_dead = |stat: &Stat| {
        stat.parent == rootlesskit
            && stat.state == 'Z'
            && part_of(&stat.name, Part::Rootlesskit) == Part::Rootlesskit
    };
    table().iter().find(|(_, stat)| is_dead(stat)).map(|(&pid, _)| pid)
}

/// The process that connects the engine's network, dead or alive: a child of RootlessKit's, or one
/// that `shim` adopted or started.
pub fn network_helper(rootlesskit: u32, shim: u32) -> Option<u32> {
    let is_helper =
        |stat: &Stat| (stat.parent == rootlesskit || stat.parent == shim) && is_network(&stat.name);
    let table = table();
    let helpers = table.iter().filter(|(_, stat)| is_helper(stat));
    helpers.min_by_key(|(_, stat)| (stat.state == 'Z', stat.start_time)).map(|(&pid, _)| pid)
}

/// dockerd, if the engine has no more processes than it needs to be there: dockerd and containerd
/// have some for pulls and builds, and so do containers.
pub fn dockerd_at_rest(shim: u32) -> Option<u32> {
    at_rest(&tree(shim, &table()))
}

fn at_rest(tree: &[(u32, Part)]) -> Option<u32> {
    let of = |part| tree.iter().filter(move |process| process.1 == part);
    let rests = of(Part::Container).count() == 0 && of(Part::Containerd).count() == 1;
    let mut dockerd = of(Part::Dockerd);
    let &(pid, _) = dockerd.next().filter(|_| rests)?;
    dockerd.next().is_none().then_some(pid)
}

fn table() -> HashMap<u32, Stat> {
    process::all().filter_map(|pid| Some((pid, Stat::of(pid)?))).collect()
}

fn tree(root: u32, table: &HashMap<u32, Stat>) -> Vec<(u32, Part)> {
    let mut found = vec![];
    let mut open = vec![(root, Part::Shim)];
    while let Some((pid, part)) = open.pop() {
        found.push((pid, part));
        // What a containerd shim has below it are a container's own processes.
        if part == Part::Container {
            continue;
        }
        let mut children: Vec<_> =
            table.iter().filter(|(_, stat)| stat.parent == pid && stat.state != 'Z').collect();
        children.sort_by_key(|(pid, _)| std::cmp::Reverse(**pid));
        open.extend(children.into_iter().map(|(&child, stat)| (child, part_of(&stat.name, part))));
    }
    found
}

/// A process's part by its name (15 bytes at most, proc(5)) and its parent's part: the names are
/// those of the programs that we, RootlessKit and containerd start, not something a user chooses.
fn part_of(name: &str, parent: Part) -> Part {
    match (parent, name) {
        (Part::Shim, name) if is_rootlesskit(name) => Part::Rootlesskit,
        (Part::Rootlesskit, "exe") => Part::Rootlesskit,
        (Part::Rootlesskit, name) if is_rootlesskit(name) => Part::Rootlesskit,
        // Of engine-shim's once it was replaced, or went to the background.
        (Part::Rootlesskit | Part::Shim, name) if is_network(name) => Part::Network,
        (Part::Rootlesskit, _) => Part::Init,
        (Part::Init, "containerd") => Part::Containerd,
        (Part::Init, "dockerd") => Part::Dockerd,
        // Shims are orphans by design, adopted by engine-init.
        (_, name) if name.starts_with("containerd-shim") => Part::Container,
        (parent, _) => parent,
    }
}

fn is_network(name: &str) -> bool {
    NETWORK.iter().any(|it| name.starts_with(it))
}

fn is_rootlesskit(name: &str) -> bool {
    name.starts_with("rootlesskit") || name.starts_with("docker-rootless")
}

/// What a process takes: its share of memory, else what is resident, else 0.
fn memory(pid: u32) -> u64 {
    let field = |file: &str, key: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn work_is_a_process_more() {
        use Part::{Container, Containerd, Dockerd, Init, Shim};
        for (parts, dockerd) in [
            (&[Shim, Init, Containerd, Dockerd][..], Some(4)),
            (&[Shim, Init, Containerd, Dockerd, Dockerd], None),
            (&[Shim, Init, Containerd, Containerd, Dockerd], None),
            (&[Shim, Init, Containerd, Dockerd, Container], None),
            (&[Shim, Init, Containerd], None),
        ] {
            let tree: Vec<_> = (1..).zip(parts.iter().copied()).collect();
            assert_eq!(at_rest(&tree), dockerd, "{parts:?}");
        }
    }

    #[test]
    fn parts_by_name_and_parent() {
        let rows: &[(u32, u32, &str, Option<Part>)] = &[
            (10, 1, "rootlessd", Some(Part::Shim)),
            (11, 10, "rootlesskit", Some(Part::Rootlesskit)),
            (12, 11, "exe", Some(Part::Rootlesskit)),
            (13, 11, "slirp4netns", Some(Part::Network)),
            (14, 12, "rootlessd", Some(Part::Init)),
            (15, 14, "containerd", Some(Part::Containerd)),
            (16, 14, "dockerd", Some(Part::Dockerd)),
            (17, 16, "rootlesskit-doc", Some(Part::Dockerd)),
            (18, 14, "containerd-shim", Some(Part::Container)),
            (19, 18, "dockerd", None),
            (20, 1, "bash", None),
            (21, 10, "pasta.avx2", Some(Part::Network)),
        ];
        let table = rows
            .iter()
            .map(|&(pid, parent, name, _)| {
                let name = name.into();
                let used = std::time::Duration::ZERO;
                (pid, Stat { name, state: 'S', parent, used, start_time: 0, resident: 0 })
            })
            .collect();
        let found: HashMap<_, _> = tree(10, &table).into_iter().collect();
        for &(pid, _, name, part) in rows {
            assert_eq!(found.get(&pid).copied(), part, "{name}");
        }
    }

    #[test]
    fn who_has_as_much_memory_as_before_is_not_looked_at_again() {
        // It has all it needs once it has answered.
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat");
        child.stdin.as_mut().expect("a pipe").write_all(b"1").expect("an open pipe");
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("an echo");
        let pid = child.id();
        let mut processes = Processes::default();
        let mut list = |share: Option<u64>, resident: u64| {
            if let Some(known) = processes.memory.get_mut(&pid) {
                known.share = share.unwrap_or(known.share);
                known.resident += resident;
            }
            let list = processes.list(Some(pid));
            list.iter().find(|process| process.pid == pid).expect("the child").memory
        };
        assert!(list(None, 0) > 1024);
        assert_eq!(list(Some(1), 0), 1);
        assert!(list(Some(1), 1) > 1024);
        drop(child.stdin.take());
        child.wait().expect("its end");
        assert_eq!(processes.list(None).len(), 1);
        assert_eq!(processes.memory.len(), 1);
    }
}
