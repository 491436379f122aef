//! What is to be done inside of new namespaces before a daemon starts: what the second half of
//! `dockerd-rootless.sh` does (moby, `contrib/`).

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    sys::statfs::{TMPFS_MAGIC, statfs},
};

use crate::{plan::Plan, sys::files};

/// Links of the machine's own daemons in `/run`: removed from our copy of it, so that our daemons
/// can make files of those names.
const RUN_LINKS: [&str; 3] = ["/run/docker", "/run/containerd", "/run/xtables.lock"];

/// Prepare the namespaces that this process is in.
pub fn prepare(plan: &Plan) -> io::Result<()> {
    for link in RUN_LINKS {
        files::remove(Path::new(link))?;
    }
    if plan.selinux {
        label_run();
    }
    own_ssl_directory()?;
    allow_forwarding(plan);
    Ok(())
}

/// iptables wants to lock a file in `/run`, which SELinux allows with this label only
/// (moby/moby#41230).
fn label_run() {
    let label = "system_u:object_r:iptables_var_run_t:s0";
    match Command::new("chcon").args([label, "/run"]).status() {
        Ok(status) if status.success() => {}
        other => tracing::warn!("/run cannot be labelled {label} for SELinux: {other:?}"),
    }
}

/// Where `/etc/ssl` is a link, RootlessKit's copy of `/etc` has a link to a link, and certificates
/// are not found (rootless-containers/rootlesskit#225): mount the real directory instead.
fn own_ssl_directory() -> io::Result<()> {
    let ssl = Path::new("/etc/ssl");
    let copied = statfs("/etc")?.filesystem_type() == TMPFS_MAGIC;
    if !copied || !ssl.is_symlink() {
        return Ok(());
    }
    let Ok(real) = fs::canonicalize(ssl) else { return Ok(()) };
    fs::remove_file(ssl)?;
    fs::create_dir(ssl)?;
    mount(Some(&real), ssl, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Let the containers' network forward packets. dockerd before 29 does it itself, so a failure is
/// told and not fatal.
fn allow_forwarding(plan: &Plan) {
    let netns = plan.detach_netns.then(|| plan.state_dir.join("netns"));
    // In a thread of its own, since the network namespace is a thread's; the files below
    // /proc/sys/net are those of the thread that opens them.
    let result = thread::spawn(move || -> io::Result<()> {
        if let Some(netns) = netns {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
        }
        // Not every kernel has IPv6.
        let _ = fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    })
    .join();
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("IP forwarding cannot be turned on: {error}"),
        Err(_) => tracing::warn!("IP forwarding cannot be turned on"),
    }
}
