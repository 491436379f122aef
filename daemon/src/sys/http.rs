//! HTTP over a Unix socket, as Docker and RootlessKit speak it: a connection a request.

use std::{error::Error, io, path::Path, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

/// More than this is no answer to any of our questions.
const ANSWER_BYTES: usize = 4 << 20;

/// The end of a connection that requests go to.
pub type Sender = http1::SendRequest<Full<Bytes>>;
/// The connection itself, which has to be driven.
pub type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// The whole answer to a request: its status and its body.
pub async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
    within: Duration,
) -> io::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let (mut sender, connection) = connect(socket).await?;
        let answer = async {
            let response = sender.send_request(request(method, path, body)?).await;
            let response = response.map_err(io::Error::other)?;
            let (status, body) = (response.status(), whole(response.into_body()).await?);
            Ok((status, body))
        };
        drive(connection, answer).await
    };
    timeout(within, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// An answer, and meanwhile the connection that it comes over. The end of that is the end of both.
pub async fn drive<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    answer: impl Future<Output = io::Result<T>>,
) -> io::Result<T>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(match ended {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => io::Error::other(error),
        }),
    }
}

/// A connection to a socket.
pub async fn connect(socket: &Path) -> io::Result<(Sender, Connection)> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    http1::handshake(stream).await.map_err(io::Error::other)
}

/// A request for a path.
pub fn request(method: Method, path: &str, body: Bytes) -> io::Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(method)
        .uri(path)
        // What it says does not matter on a socket, but has to be there.
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(io::Error::other)
}

async fn whole(body: Incoming) -> io::Result<Bytes> {
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    Ok(body.map_err(io::Error::other)?.to_bytes())
}
