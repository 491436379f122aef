//! A Unix socket under a varlink connection, so that a connection can be asked whether the client is
//! still there, and no message grows without bound.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{io::Interest, net::UnixStream};
use zlink::connection::{
    PassedCredentials,
    socket::{self, ReadResult},
};

/// The most open files that the kernel lets go with one message (`SCM_MAX_FD`).
const MOST_FDS: usize = 253;

/// A connected socket.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    stream: Rc<UnixStream>,
    longest_message: usize,
}

impl Socket {
    pub(super) fn new(stream: UnixStream, longest_message: usize) -> Self {
        Self { stream: Rc::new(stream), longest_message }
    }

    /// Send bytes, and open files with the first of them.
    pub(super) async fn send(&self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        send_all(&self.stream, bytes, &fds).await
    }

    /// Wait until the client will send nothing more, whatever it sent before and is unread yet.
    pub(super) async fn read_closed(&self) {
        // Tokio counts a closed read side to `PRIORITY`, and data, unlike with `READABLE`, not.
        while let Ok(ready) = self.stream.ready(Interest::PRIORITY).await {
            if ready.is_read_closed() {
                return;
            }
            let _ = self.stream.try_io(Interest::PRIORITY, would_block::<()>);
        }
    }

    /// Whether nobody will read what is sent any more. Only to be trusted once the read side is
    /// closed, which is known no earlier.
    pub(super) async fn write_closed(&self) -> bool {
        self.stream.ready(Interest::WRITABLE).await.is_ok_and(|ready| ready.is_write_closed())
    }
}

fn would_block<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl socket::Socket for Socket {
    type ReadHalf = ReadHalf;
    type WriteHalf = WriteHalf;

    const CAN_TRANSFER_FDS: bool = true;

    fn split(self) -> (ReadHalf, WriteHalf) {
        let Self { stream, longest_message } = self;
        (ReadHalf { stream: stream.clone(), unfinished: 0, longest_message }, WriteHalf { stream })
    }
}

/// The half that calls come from. Open files that a client sends are dropped by the kernel.
#[derive(Debug)]
pub(super) struct ReadHalf {
    stream: Rc<UnixStream>,
    /// How many bytes of a message are read whose end is not.
    unfinished: usize,
    longest_message: usize,
}

impl socket::ReadHalf for ReadHalf {
    async fn read(&mut self, buffer: &mut [u8]) -> zlink::Result<ReadResult> {
        let count = loop {
            self.stream.readable().await?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        self.unfinished = match buffer[..count].iter().rposition(|&byte| byte == 0) {
            Some(end) => count - end - 1,
            None => self.unfinished + count,
        };
        if self.unfinished > self.longest_message {
            return Err(zlink::Error::BufferOverflow);
        }
        Ok(ReadResult::new(count))
    }
}

/// The half that replies go to.
#[derive(Debug)]
pub(super) struct WriteHalf {
    stream: Rc<UnixStream>,
}

impl socket::WriteHalf for WriteHalf {
    async fn write(
        &mut self,
        bytes: &[u8],
        fds: &[impl AsFd],
        _credentials: Option<&PassedCredentials>,
    ) -> zlink::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        Ok(send_all(&self.stream, bytes, &fds).await?)
    }
}

async fn send_all(
    stream: &UnixStream,
    mut bytes: &[u8],
    mut fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_io(Interest::WRITABLE, || send(stream.as_fd(), bytes, fds)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => {
                bytes = &bytes[sent?..];
                fds = &[];
            }
        }
    }
    Ok(())
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many open files for a reply"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
