//! One rootlessd a user: the lock, and who has it.

use std::{
    fs::{self, File},
    io::{self, Seek, Write},
    time::Duration,
};

use nix::{fcntl::Flock, sys::signal::Signal};
use rootlessd_api::names;
use tokio::time::{Instant, sleep};

use crate::{
    dirs::Dirs,
    sys::{
        files,
        process::{Process, Stat},
    },
};

/// How long a lock may stay that a killed rootlessd held.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Be the only rootlessd of this user; with `replace`, instead of another.
pub async fn take(dirs: &Dirs, replace: bool) -> io::Result<Flock<File>> {
    let path = names::runtime_dir(&dirs.runtime).join("lock");
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut lock = loop {
        if let Some(lock) = files::try_lock(&path)? {
            break lock;
        }
        let pid = fs::read_to_string(&path)?.trim().parse().unwrap_or(0);
        match Process::open(pid) {
            Ok(other) if replace && is_rootlessd(pid) => {
                other.signal(Signal::SIGUSR2)?;
                other.gone().await;
            }
            // One that was killed can have left a child that is about to become another program,
            // and has the lock until then.
            _ if !is_rootlessd(pid) && Instant::now() < deadline => {
                sleep(Duration::from_millis(10)).await;
            }
            _ => {
                let text = format!(
                    "another rootlessd runs (process {pid}): stop it, or take its place with \
                     `rootlessd --replace`"
                );
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
        }
    };
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

/// Whether this is a rootlessd that lives.
fn is_rootlessd(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.name.starts_with("rootlessd") && stat.state != 'Z')
}
