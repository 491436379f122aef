//! The file system of the engine's data: overlayfs, file locks and ids of containers do not work on
//! one that another machine serves.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rootlessd_api::Reason;
use tokio::{sync::oneshot, time::timeout};

use super::mounts::{self, Mount};
use crate::{dirs::Dirs, reasons::Code};

/// How long a file system may take to say where a path leads.
const PATIENCE: Duration = Duration::from_secs(3);

/// File systems that another machine serves, or that lack what overlayfs and ids need, by their
/// names in mountinfo (proc_pid_mountinfo(5)); those of FUSE have `fuse.` before them.
const NETWORK: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "kafs",
    "lustre",
    "moosefs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "rclone",
    "s3fs",
    "smb2",
    "smb3",
    "smbfs",
    "sshfs",
    "sshfs#",
    "vboxsf",
    "wekafs",
];

/// Checks where the engine's data is, or would be.
pub async fn check(dirs: &Dirs, data_root: &Path) -> Option<Reason> {
    check_with(dirs, data_root, PATIENCE, real_path).await
}

async fn check_with(
    dirs: &Dirs,
    data_root: &Path,
    patience: Duration,
    resolve: impl FnOnce(&Path) -> io::Result<PathBuf> + Send + 'static,
) -> Option<Reason> {
    let (answer, answered) = oneshot::channel();
    let path = data_root.to_owned();
    // A thread of its own: on a dead NFS it hangs, and then is left behind.
    let started = thread::Builder::new().name("data-root".into()).spawn(move || {
        let _ = answer.send(resolve(&path));
    });
    let real = match (started, timeout(patience, answered).await) {
        (Ok(_), Err(_)) => None,
        (Ok(_), Ok(Ok(Ok(path)))) => Some(path),
        _ => Some(data_root.to_owned()),
    };
    let mount = mounts::mount_of(dirs, real.as_deref().unwrap_or(data_root));
    let kind = mount.as_ref().map_or("unknown", |mount| &mount.kind);
    let shown = data_root.display();
    let remedy = || {
        format!(
            "set \"data-root\" in {} to a directory of a local file system",
            crate::docker_config::user_config(dirs).display()
        )
    };
    if real.is_none() {
        return Some(Code::DataRootUnreachable.reason_with_remedy(
            format!("the file system of {shown} ({kind}) does not answer"),
            remedy(),
        ));
    }
    let Mount { point, kind, .. } = mount.filter(|mount| is_network(&mount.kind))?;
    Some(Code::DataRootNetwork.reason_with_remedy(
        format!(
            "{shown}, where images and containers are kept, is on a network file system ({kind}, \
             mounted at {})",
            point.display()
        ),
        remedy(),
    ))
}

/// The nearest directory that exists, without symbolic links.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    path.ancestors()
        .map(fs::canonicalize)
        .find(|real| !matches!(real, Err(error) if error.kind() == io::ErrorKind::NotFound))
        .unwrap_or_else(|| Ok(path.to_owned()))
}

fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind.strip_prefix("fuse.").unwrap_or(kind))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::mpsc};

    use super::*;
    use crate::preflight::testing::Machine;

    fn mounted(machine: &Machine, mounts: &[(&str, &str)]) {
        let lines: Vec<_> = mounts
            .iter()
            .map(|(point, kind)| {
                let point = machine.path(point).display().to_string();
                format!("36 35 0:1 / {point} rw,noatime shared:1 master:2 - {kind} src rw\n")
            })
            .collect();
        machine.write("/proc/self/mountinfo", &lines.concat());
    }

    #[test]
    fn file_systems_are_told_apart() {
        for (kind, network) in [
            ("nfs", true),
            ("nfs4", true),
            ("cifs", true),
            ("smb3", true),
            ("ceph", true),
            ("fuse.ceph", true),
            ("gpfs", true),
            ("lustre", true),
            ("9p", true),
            ("fuse.sshfs", true),
            ("fuse.glusterfs", true),
            ("ext4", false),
            ("xfs", false),
            ("btrfs", false),
            ("zfs", false),
            ("tmpfs", false),
            ("overlay", false),
            ("fuse", false),
            ("fuse.fuse-overlayfs", false),
            ("virtiofs", false),
        ] {
            assert_eq!(is_network(kind), network, "{kind}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_network_file_system_is_named() {
        let machine = Machine::bare();
        let dirs = machine.dirs();
        let data_root = dirs.data_home.join("docker");
        mounted(&machine, &[("/", "ext4")]);
        assert_eq!(check(&dirs, &data_root).await, None);
        mounted(&machine, &[("/", "ext4"), ("/home", "nfs4")]);
        let reason = check(&dirs, &data_root).await.expect("it is NFS");
        assert_eq!(reason.code, "data-root-network");
        assert!(reason.text.contains("(nfs4, mounted at"), "{}", reason.text);
        assert!(reason.remedy.is_some_and(|remedy| remedy.contains("docker/daemon.json")));

        // A way round by a symbolic link is found out, and one out of it is fine.
        let local = machine.directory("/srv");
        symlink(local, machine.path("/home/alice/.local")).expect("symlink");
        assert_eq!(check(&dirs, &data_root).await, None);
        symlink(machine.path("/home"), machine.path("/srv/there")).expect("symlink");
        let reason = check(&dirs, &machine.path("/srv/there/x")).await.expect("it is NFS");
        assert_eq!(reason.code, "data-root-network");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_dead_file_system_does_not_hold_us_up() {
        let machine = Machine::bare();
        mounted(&machine, &[("/home", "nfs4")]);
        let dirs = machine.dirs();
        let (_hold, held) = mpsc::channel::<()>();
        let hang = move |_: &Path| {
            let _ = held.recv();
            Err(io::ErrorKind::Other.into())
        };
        let reason =
            check_with(&dirs, &dirs.home, Duration::from_millis(1), hang).await.expect("it hangs");
        assert_eq!(reason.code, "data-root-unreachable");
        assert!(reason.text.contains("(nfs4)"), "{}", reason.text);
    }
}
