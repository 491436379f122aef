//! Who is connected to a listening unix socket, as the kernel tells it (sock_diag(7)).

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, ErrorKind},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage, TCP_LISTEN,
    unix::{
        ShowFlags, StateFlags, UnixRequest, UnixResponse,
        nlas::{Nla, Vfs},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::process::{self, Stat};

/// What the kernel says at a time is less.
const DATAGRAM: usize = 64 << 10;

/// The clients of the listening socket with this inode, by the inodes of their sockets: the accepted
/// ones of this network namespace, and all that are in its queue. Who closed their end is gone,
/// whether the server has seen that or not.
///
/// Fails if the kernel does not tell (it may have no `unix_diag`), or the socket is another network
/// namespace's.
pub fn clients(listener: u64) -> io::Result<BTreeSet<u32>> {
    of_listener(&dump()?, listener).ok_or_else(|| {
        io::Error::new(ErrorKind::NotFound, "the socket is not in this network namespace")
    })
}

/// The names of the processes that have one of these sockets open, as far as we may see that.
pub fn holders(sockets: &BTreeSet<u32>) -> HashMap<u32, Vec<String>> {
    let mut found = HashMap::<_, Vec<_>>::new();
    for pid in process::all() {
        for socket in open_sockets(&pid.to_string()).intersection(sockets) {
            if let Some(stat) = Stat::of(pid) {
                found.entry(*socket).or_default().push(stat.name);
            }
        }
    }
    found
}

/// The inodes of the sockets that this process has open.
pub fn own() -> BTreeSet<u32> {
    open_sockets("self")
}

fn open_sockets(process: &str) -> BTreeSet<u32> {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    files
        .filter_map(|file| {
            let target = fs::read_link(file.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
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
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
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

fn request() -> Vec<u8> {
    let request = UnixRequest {
        state_flags: StateFlags::all(),
        inode: 0,
        show_flags: ShowFlags::VFS | ShowFlags::PEER | ShowFlags::ICONS,
        cookie: [0xff; 8],
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let payload = NetlinkPayload::from(SockDiagMessage::UnixRequest(request));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    };

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u32 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let name = fs::read_link(path).unwrap().into_os_string().into_string().unwrap();
        name.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn clients_are_counted_from_the_queue_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let listen = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        let (listener, other) = (listen("a"), listen("b"));
        let connect = |name: &str| UnixStream::connect(directory.path().join(name)).unwrap();
        let clients = || super::clients(inode(&listener).into()).unwrap();
        assert_eq!(clients(), [].into());
        let _to_other = connect("b");
        assert_eq!(clients(), [].into());
        let first = connect("a");
        assert_eq!(clients(), [inode(&first)].into(), "in the queue");
        let second = connect("a");
        let _accepted = listener.accept().unwrap();
        assert_eq!(clients(), [inode(&first), inode(&second)].into(), "one of them accepted");
        assert!(own().contains(&inode(&first)));
        let wanted = BTreeSet::from([inode(&second)]);
        assert!(
            holders(&wanted)[&inode(&second)].contains(&Stat::of(std::process::id()).unwrap().name)
        );

        drop((first, second));
        assert_eq!(clients(), [].into(), "closed, and not seen by the server");
        assert!(holders(&wanted).is_empty());
        drop(other);
        assert_eq!(super::clients(1).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
