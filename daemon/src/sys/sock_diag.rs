//! Who is connected to a listening unix socket, as the kernel tells it (sock_diag(7)).

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, ErrorKind},
};

use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage, TCP_LISTEN,
    unix::{
        ShowFlags, StateFlags, UnixRequest, UnixResponse,
        nlas::{Nla, Vfs},
    },
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{
    netlink,
    process::{self, Stat},
};

/// What the kernel says at a time is less.
const DATAGRAM: usize = 64 << 10;

/// What sockets a network namespace has: the files of `/proc/PID/net`, and where in a line the inode is.
const TABLES: [(&str, usize); 9] = [
    ("unix", 6),
    ("netlink", 9),
    ("tcp", 9),
    ("tcp6", 9),
    ("udp", 9),
    ("udp6", 9),
    ("raw", 9),
    ("raw6", 9),
    ("packet", 8),
];

/// The unix sockets of this network namespace that listen or are connected.
#[derive(Debug)]
pub struct UnixSockets(Vec<UnixResponse>);

impl UnixSockets {
    /// As they are now. Fails if the kernel does not tell: it may have no `unix_diag`.
    pub fn now() -> io::Result<Self> {
        dump().map(Self)
    }

    /// The clients of the listening socket with this inode, by the inodes of their sockets: the
    /// accepted ones of this network namespace, and all that are in its queue. Who closed their end
    /// is gone, whether the server has seen that or not.
    ///
    /// Fails if the socket is another network namespace's.
    pub fn clients(&self, listener: u64) -> io::Result<BTreeSet<u32>> {
        of_listener(&self.0, listener).ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, "the socket is not in this network namespace")
        })
    }

    /// How many sockets a process has open that are neither of this network namespace nor of its own,
    /// as those are that it has accepted from clients elsewhere.
    pub fn count_foreign(&self, pid: u32) -> io::Result<usize> {
        let mut open = open_sockets(&pid.to_string())?;
        for socket in &self.0 {
            open.remove(&socket.header.inode);
        }
        for (table, column) in TABLES {
            match fs::read_to_string(format!("/proc/{pid}/net/{table}")) {
                Ok(text) => text.lines().for_each(|line| {
                    let inode = line.split_ascii_whitespace().nth(column);
                    if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                        open.remove(&inode);
                    }
                }),
                // A kernel without IPv6, for one.
                Err(error) if error.kind() == ErrorKind::NotFound && exists(pid) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(open.len())
    }
}

fn exists(pid: u32) -> bool {
    Stat::of(pid).is_some()
}

/// The names of the processes that have one of these sockets open, as far as we may see that.
pub fn holders(sockets: &BTreeSet<u32>) -> HashMap<u32, Vec<String>> {
    let mut found = HashMap::<_, Vec<_>>::new();
    for pid in process::all() {
        // Others' are not ours to see, and some are gone meanwhile.
        let open = open_sockets(&pid.to_string()).unwrap_or_default();
        for socket in open.intersection(sockets) {
            if let Some(stat) = Stat::of(pid) {
                found.entry(*socket).or_default().push(stat.name);
            }
        }
    }
    found
}

/// The inodes of the sockets that this process has open.
pub fn own() -> io::Result<BTreeSet<u32>> {
    open_sockets("self")
}

fn open_sockets(process: &str) -> io::Result<BTreeSet<u32>> {
    let inode = |file: io::Result<fs::DirEntry>| {
        // One that was closed since.
        let target = fs::read_link(file.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.filter_map(inode).collect())
}

/// The clients of one socket among all sockets: an accepted one has the file of the listening one.
fn of_listener(sockets: &[UnixResponse], listener: u64) -> Option<BTreeSet<u32>> {
    let listener = sockets.iter().find(|socket| {
        socket.header.state == TCP_LISTEN && u64::from(socket.header.inode) == listener
    })?;
    let file = file(listener)?;
    let connected = |socket: &&UnixResponse| {
        socket.header.state != TCP_LISTEN && self::file(socket) == Some(file)
    };
    let accepted = sockets.iter().filter(connected).filter_map(UnixResponse::peer);
    // Those of other network namespaces are seen as long as they wait.
    let waiting = listener.pending_connections().unwrap_or_default().iter().copied();
    // A socket that is closed has no inode.
    Some(accepted.chain(waiting).filter(|&client| client != 0).collect())
}

fn file(socket: &UnixResponse) -> Option<&Vfs> {
    socket.nlas.iter().find_map(|nla| match nla {
        Nla::Vfs(vfs) => Some(vfs),
        _ => None,
    })
}

/// All stream sockets of this network namespace that listen or are connected.
fn dump() -> io::Result<Vec<UnixResponse>> {
    let socket =
        netlink::ask(NETLINK_SOCK_DIAG, NLM_F_DUMP, SockDiagMessage::UnixRequest(request()))?;
    let mut found = vec![];
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                    found.push(*response);
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                other => return Err(io::Error::other(format!("{other:?} was not expected"))),
            }
            // Messages begin at multiples of four bytes (netlink(7)).
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn request() -> UnixRequest {
    UnixRequest {
        state_flags: StateFlags::all(),
        inode: 0,
        show_flags: ShowFlags::VFS | ShowFlags::PEER | ShowFlags::ICONS,
        cookie: [0xff; 8],
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{
            fd::AsRawFd,
            unix::net::{UnixListener, UnixStream},
        },
        time::{Duration, Instant},
    };

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u32 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let name = fs::read_link(path).unwrap().into_os_string().into_string().unwrap();
        name.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    fn eventually(mut holds: impl FnMut() -> bool) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < patience);
            std::thread::yield_now();
        }
    }

    #[test]
    fn clients_are_counted_from_the_queue_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let listen = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        let (listener, other) = (listen("a"), listen("b"));
        let connect = |name: &str| UnixStream::connect(directory.path().join(name)).unwrap();
        let clients = || UnixSockets::now().unwrap().clients(inode(&listener).into()).unwrap();
        assert_eq!(clients(), [].into());
        let _to_other = connect("b");
        assert_eq!(clients(), [].into());
        let first = connect("a");
        assert_eq!(clients(), [inode(&first)].into(), "in the queue");
        let second = connect("a");
        let _accepted = listener.accept().unwrap();
        assert_eq!(clients(), [inode(&first), inode(&second)].into(), "one of them accepted");
        assert!(own().unwrap().contains(&inode(&first)));
        // Other tests open and close sockets meanwhile.
        eventually(|| UnixSockets::now().unwrap().count_foreign(std::process::id()).unwrap() == 0);
        let wanted = BTreeSet::from([inode(&second)]);
        assert!(
            holders(&wanted)[&inode(&second)].contains(&Stat::of(std::process::id()).unwrap().name)
        );

        drop((first, second));
        // Closed, and not seen by the server. A child that another test forks has them for a moment.
        eventually(|| clients().is_empty() && holders(&wanted).is_empty());
        drop(other);
        let sockets = UnixSockets::now().unwrap();
        assert_eq!(sockets.clients(1).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(sockets.count_foreign(u32::MAX).is_err());
    }
}
