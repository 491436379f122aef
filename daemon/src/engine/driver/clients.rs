//! Who is connected to dockerd: by that an engine is needed, and whoever waits for an answer is not to
//! wait for a part that hangs.

use std::{collections::BTreeSet, io, rc::Rc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};

use super::probe::Probe;
use crate::sys::sock_diag::{self, UnixSockets};

/// How often it is looked who waits for an answer, where no container runs.
const INTERVAL: Duration = Duration::from_secs(4);
/// What the kernel keeps of a program's name (`comm` of proc(5)).
const COMM: usize = 15;

/// Have the parts asked how they are while somebody is connected and no container runs: while some run,
/// engine-init asks by itself. Who does not keep an engine up may wait for an answer all the same.
/// `listener`: the inode of the socket that dockerd serves.
pub(super) async fn attend(listener: u64, probe: Rc<Probe>) {
    loop {
        sleep(INTERVAL).await;
        let Some(dockerd) = probe.init().dockerd.filter(|_| !probe.has_containers()) else {
            continue;
        };
        let counted = spawn_blocking(move || count(listener, dockerd, &[])).await;
        if matches!(counted, Ok(Ok(1..))) {
            probe.doubt().await;
        }
    }
}

/// How many clients of dockerd's socket count: not this process, and not the ignored programs. Those
/// in other network namespaces, as sandboxes have them, are dockerd's open sockets that are of none
/// of the two that it serves and lives in.
pub(super) fn count(listener: u64, dockerd: u32, ignored: &[String]) -> io::Result<usize> {
    let sockets = UnixSockets::now()?;
    let (clients, own) = (sockets.clients(listener)?, sock_diag::own()?);
    let mut clients: BTreeSet<u32> = clients.difference(&own).copied().collect();
    if !ignored.is_empty() && !clients.is_empty() {
        let holders = sock_diag::holders(&clients);
        let is_ignored = |names: &Vec<String>| names.iter().all(|name| is_among(name, ignored));
        clients.retain(|client| !holders.get(client).is_some_and(is_ignored));
    }
    Ok(clients.len() + sockets.count_foreign(dockerd)?)
}

/// Whether a program is named, by its whole name or by what the kernel keeps of it.
fn is_among(name: &str, programs: &[String]) -> bool {
    programs
        .iter()
        .any(|program| program == name || program.as_bytes().get(..COMM) == Some(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_by_what_the_kernel_keeps_of_their_names() {
        let programs = ["lazydocker".to_owned(), "docker-desktop-extension".to_owned()];
        for (name, expected) in [
            ("lazydocker", true),
            ("lazydocke", false),
            ("lazydocker2", false),
            ("docker-desktop-", true),
            ("docker-desktop", false),
            ("docker", false),
            ("", false),
        ] {
            assert_eq!(is_among(name, &programs), expected, "{name}");
        }
    }
}
