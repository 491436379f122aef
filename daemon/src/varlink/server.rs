//! A strict varlink server: every call gets the answer that the protocol has for it, and no client
//! can hold up another.
//!
//! zlink's own server is not used: it answers one call after the other over all connections, drops
//! a client for a wrong parameter, and notices a client that has gone only at the next reply.

use std::{convert::Infallible, io, os::fd::OwnedFd, rc::Rc, time::Duration};

use futures_util::{StreamExt, stream::LocalBoxStream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinSet, coop::consume_budget},
    time::timeout,
};
use tracing::{debug, warn};
use zlink::{Connection, Reply};

use super::{
    call::{Answer, ErrorReply, Interface, Request},
    service,
    socket::Socket,
};

/// How much the clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time.
    pub connections: usize,
    /// The longest call in bytes.
    pub message: usize,
    /// How long a client may take to read a reply.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 2048, message: 64 * 1024, write: Duration::from_secs(30) }
    }
}

/// Serve `interface` and `org.varlink.service` on `listener`, until the future is dropped, which
/// ends all connections.
///
/// To be run in a [`LocalSet`](tokio::task::LocalSet).
pub async fn serve<I>(listener: UnixListener, interface: I, limits: Limits) -> Infallible
where
    I: Interface + 'static,
{
    let interface = Rc::new(interface);
    let mut connections = JoinSet::new();
    // Each is told to the log once, not with every client.
    let (mut full, mut failing) = (false, false);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => {
                full = false;
                continue;
            }
        };
        failing &= accepted.is_err();
        match accepted {
            Ok((stream, _)) if !is_ours(&stream) => {
                turn_away(&stream, Some(ErrorReply::permission_denied()));
            }
            Ok((stream, _)) if connections.len() >= limits.connections => {
                if !full {
                    full = true;
                    warn!("{} varlink clients are connected, refusing more", connections.len());
                }
                turn_away(&stream, interface.busy());
            }
            Ok((stream, _)) => {
                let socket = Socket::new(stream, limits.message);
                connections.spawn_local(converse(socket, interface.clone(), limits));
            }
            Err(error) => {
                // Out of file descriptors or memory, most likely: to try again at once would only
                // burn time that somebody needs to release some.
                if !failing {
                    failing = true;
                    warn!("cannot accept varlink clients: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        // Clients that stand in line would otherwise be let in without a pause for those inside.
        consume_budget().await;
    }
}

/// Whether the client is the user that we are.
fn is_ours(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::getuid().as_raw() => true,
        Ok(peer) => {
            warn!("refused a varlink client of user {}", peer.uid());
            false
        }
        Err(error) => {
            warn!("refused a varlink client of an unknown user: {error}");
            false
        }
    }
}

/// Say why, if that can be said at once, and nothing more: nothing of the client's is ever read.
fn turn_away(stream: &UnixStream, error: Option<ErrorReply>) {
    if let Some(mut message) = error.and_then(|error| serde_json::to_vec(&error).ok()) {
        message.push(0);
        let _ = stream.try_write(&message);
    }
}

/// Answer one client's calls, until it goes or has to.
async fn converse<I: Interface>(socket: Socket, interface: Rc<I>, limits: Limits) {
    let mut client =
        Client { connection: Connection::new(socket.clone()), socket, patience: limits.write };
    let end = loop {
        match client.serve_call(&*interface).await {
            // Calls that are all at hand would otherwise be answered without a pause for others.
            Ok(()) => consume_budget().await,
            Err(end) => break end,
        }
    };
    match end {
        End::HungUp => debug!("a varlink client has gone"),
        End::StreamOver => debug!("nothing more to tell a varlink client"),
        End::Slow => warn!("disconnected a varlink client that does not read its replies"),
        // Not louder: a client that sends rubbish must not fill the journal.
        End::Failed(error) => debug!("disconnected a varlink client: {error}"),
    }
}

/// Why a connection ends.
enum End {
    HungUp,
    StreamOver,
    Slow,
    Failed(zlink::Error),
}

impl From<zlink::Error> for End {
    fn from(error: zlink::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match error {
            zlink::Error::UnexpectedEof => Self::HungUp,
            zlink::Error::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                Self::HungUp
            }
            other => Self::Failed(other),
        }
    }
}

/// A call as it comes. The parameters are no struct: what is wrong with them has to be told.
#[derive(Clone, Debug, Deserialize)]
struct RawCall {
    method: String,
    #[serde(default)]
    parameters: Value,
}

struct Client {
    connection: Connection<Socket>,
    socket: Socket,
    patience: Duration,
}

impl Client {
    /// Answer the next call. Nothing is read meanwhile: answers stay in order, and who sends faster
    /// than is answered fills the kernel's buffer, not ours.
    async fn serve_call<I: Interface>(&mut self, interface: &I) -> Result<(), End> {
        let (call, _) = self.connection.receive_call::<RawCall>().await?;
        let flags = Flags { more: call.more(), upgrade: call.upgrade() };
        let oneway = call.oneway();
        let dispatched = dispatch(interface, call.method().clone(), flags);
        if oneway {
            let _ = dispatched.await;
            return Ok(());
        }
        // What can be done at once is, even for a client that has gone: its call came first.
        let answer = tokio::select! {
            biased;
            answer = dispatched => answer,
            () = gone(&self.socket) => return Err(End::HungUp),
        };
        match answer {
            Ok(Answer::One(value)) => self.reply(value, None, vec![]).await,
            Ok(Answer::Shared(value)) => self.reply(&*value, None, vec![]).await,
            Ok(Answer::OneWithFds(value, fds)) => self.reply(value, None, fds).await,
            Ok(Answer::Many(stream)) => self.stream(stream, flags.more).await,
            Err(error) => self.send(&error, vec![]).await,
        }
    }

    async fn stream(
        &mut self,
        mut stream: LocalBoxStream<'static, Value>,
        more: bool,
    ) -> Result<(), End> {
        loop {
            let value = tokio::select! {
                biased;
                value = stream.next() => value.ok_or(End::StreamOver)?,
                // A stream may say nothing for hours, so here a closed read side is the end, even
                // if the client could still read.
                () = self.socket.read_closed() => return Err(End::HungUp),
            };
            self.reply(value, more.then_some(true), vec![]).await?;
            if !more {
                return Ok(());
            }
        }
    }

    async fn reply(
        &mut self,
        value: impl Serialize,
        continues: Option<bool>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), End> {
        let reply = Reply::new(Some(value)).set_continues(continues);
        self.send(&reply, fds).await
    }

    /// Send a message. Not through the connection, which serializes it again and again into a buffer
    /// that grows by 256 bytes each time.
    async fn send<T: Serialize>(&self, message: &T, fds: Vec<OwnedFd>) -> Result<(), End> {
        let mut bytes = serde_json::to_vec(message).map_err(zlink::Error::from)?;
        bytes.push(0);
        let sent = timeout(self.patience, self.socket.send(&bytes, &fds));
        sent.await.map_err(|_| End::Slow)?.map_err(|error| zlink::Error::from(error).into())
    }
}

/// Wait until the client reads no answer any more. One that only stopped sending, as
/// `printf … | nc -N -U` does, still gets its answer.
async fn gone(socket: &Socket) {
    socket.read_closed().await;
    if !socket.write_closed().await {
        std::future::pending::<()>().await;
    }
}

#[derive(Clone, Copy)]
struct Flags {
    more: bool,
    upgrade: bool,
}

async fn dispatch<I: Interface>(
    interface: &I,
    call: RawCall,
    flags: Flags,
) -> Result<Answer, ErrorReply> {
    let RawCall { method, parameters } = call;
    let parameters = match parameters {
        Value::Null => Map::new(),
        Value::Object(parameters) => parameters,
        _ => return Err(ErrorReply::invalid_parameter("parameters")),
    };
    let Some((called, _)) = method.rsplit_once('.') else {
        return Err(ErrorReply::method_not_found(&method));
    };
    if called != interface.name() && called != service::NAME {
        return Err(ErrorReply::interface_not_found(called));
    }
    if flags.upgrade {
        return Err(ErrorReply::method_not_implemented(&method));
    }
    let own = called == interface.name();
    let request = Request::new(method, parameters, flags.more);
    if own { interface.call(request).await } else { service::call(interface, request) }
}
