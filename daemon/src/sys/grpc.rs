//! gRPC over a Unix socket, as containerd speaks it: a call without parameters, a connection a call.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http2,
    header::{CONTENT_TYPE, HeaderMap, TE},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, time::timeout};

use super::http;

/// More than this is no answer to any of our calls.
const ANSWER_BYTES: usize = 1 << 20;
/// An empty message in its frame: not compressed, no bytes.
const EMPTY: [u8; 5] = [0; 5];

/// Call a method, such as `/grpc.health.v1.Health/Check`, with an empty message; the status with which
/// it was answered (0 is for success).
pub async fn call(socket: &Path, method: &str, within: Duration) -> io::Result<u32> {
    let exchange = async {
        let stream = TokioIo::new(UnixStream::connect(socket).await?);
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
        let request = Request::post(format!("http://localhost{method}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(Bytes::from_static(&EMPTY)))
            .map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let (head, body) = response.into_parts();
            if head.status != StatusCode::OK {
                return Err(io::Error::other(format!("{} is no answer", head.status)));
            }
            // One without a message has it all in front.
            if let Some(status) = status(&head.headers) {
                return Ok(status);
            }
            let body =
                Limited::new(body, ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
            let status = body.trailers().and_then(status);
            status.ok_or_else(|| io::Error::other("an answer without a status"))
        };
        http::drive(connection, answer).await
    };
    timeout(within, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
