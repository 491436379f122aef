//! A client of RootlessKit's REST API.

use std::{io, path::PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::failure::{Failure, reason};

/// A body is read as an error's JSON up to this length, and shown up to it.
const ERROR_BODY: usize = 64 * 1024;

/// The API behind a socket. Each call has a connection of its own: there are few.
#[derive(Debug)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// The API behind `socket`, which must be there.
    pub fn new(socket: PathBuf) -> Result<Self, Failure> {
        match std::fs::metadata(&socket) {
            Ok(_) => Ok(Self { socket }),
            Err(error) => Err(Failure::Rootlesskit(format!(
                "stat {}: {}",
                socket.display(),
                lower_reason(&error)
            ))),
        }
    }

    /// Read what is at `path`.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        json(&self.call(Method::GET, path, None).await?)
    }

    /// Add `body` to what is at `path`; the answer says what became of it.
    pub async fn post(&self, path: &str, body: String) -> Result<Value, Failure> {
        json(&self.call(Method::POST, path, Some(body)).await?)
    }

    /// Take away what is at `path`.
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Bytes, Failure> {
        let name = in_title_case(&method);
        let failed = |why: String| {
            Failure::Rootlesskit(format!("{name} \"http://rootlesskit{path}\": {why}"))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let why = lower_reason(&error);
            failed(format!("dial unix {}: connect: {why}", self.socket.display()))
        })?;
        let http = |error: hyper::Error| failed(http_reason(&error));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // It ends with the answer; what goes wrong with it, the request says.
        tokio::spawn(connection);

        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, "rootlesskit");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::<Bytes>::from(body.unwrap_or_default()))
            .map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(http)?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }
}

fn json(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Rootlesskit(error.to_string()))
}

/// What the API says when it refuses: its message, or the whole body where there is none.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let body = String::from_utf8_lossy(&body[..body.len().min(ERROR_BODY)]);
    let told = match serde_json::from_str(&body) {
        _ if body.len() >= ERROR_BODY => None,
        Ok(Value::Null) => Some(String::new()),
        Ok(Value::Object(fields)) => match fields.get("message") {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(message)) => Some(message.clone()),
            Some(_) => None,
        },
        _ => None,
    };
    Failure::Rootlesskit(told.unwrap_or_else(|| {
        let name = status.canonical_reason().unwrap_or_default();
        format!("unexpected HTTP status {name}, body={body:?}")
    }))
}

fn http_reason(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    error.to_string()
}

/// The system's reason as Go spells it.
fn lower_reason(error: &io::Error) -> String {
    let reason = reason(error);
    let mut letters = reason.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn in_title_case(method: &Method) -> &'static str {
    match *method {
        Method::POST => "Post",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_rootlesskit_s_words() {
        let rows = [
            (400, r#"{"message":"conflict with ID 1"}"#, "conflict with ID 1"),
            (400, r#"{}"#, ""),
            (500, "null", ""),
            (
                404,
                "404 page not found\n",
                "unexpected HTTP status Not Found, body=\"404 page not found\\n\"",
            ),
            (
                400,
                r#"{"message":1}"#,
                "unexpected HTTP status Bad Request, body=\"{\\\"message\\\":1}\"",
            ),
            (502, "", "unexpected HTTP status Bad Gateway, body=\"\""),
        ];
        for (status, body, text) in rows {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(failure.to_string(), text);
        }
    }

    #[test]
    fn reasons_begin_small() {
        assert_eq!(lower_reason(&io::Error::from_raw_os_error(2)), "no such file or directory");
    }
}
