//! RootlessKit's API as dockerd finds it: everything is passed on, and a port that the kernel refused
//! is held until it is known whether the user may have it.
//!
//! dockerd and rootlesskit-docker-proxy look for `api.sock`, and dockerd for `netns`, in
//! `ROOTLESSKIT_STATE_DIR`, which is a directory of ours.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rootlessd_api::Port;
use serde_json::json;
use tokio::{net::UnixListener, sync::Semaphore, time::timeout};

use super::port_desk::{PortDesk, Verdict};
use crate::{
    plan::Plan,
    rootlesskit::port::{self, Answer, PORTS, Spec},
};

/// How long a port is held: dockerd 27 and older gives up after 16 s, in which it may also have to wait
/// for others.
const HOLD: Duration = Duration::from_secs(12);
/// How long a client may take to ask.
const CLIENT: Duration = Duration::from_secs(10);
/// More than this asks nothing that RootlessKit knows.
const REQUEST_BYTES: usize = 1 << 20;
/// How many are answered at a time.
const CLIENTS: usize = 256;

/// Be RootlessKit's API in `dir`, in a task of its own.
pub(super) fn serve(dir: &Path, plan: &Plan, desk: &PortDesk) -> io::Result<()> {
    std::fs::create_dir(dir)?;
    if plan.detach_netns {
        std::os::unix::fs::symlink(plan.state_dir.join("netns"), dir.join("netns"))?;
    }
    let listener = UnixListener::bind(dir.join("api.sock"))?;
    let proxy = Rc::new(Proxy { rootlesskit: plan.rootlesskit_socket(), desk: desk.clone() });
    tokio::task::spawn_local(accept(listener, proxy));
    Ok(())
}

struct Proxy {
    rootlesskit: PathBuf,
    desk: PortDesk,
}

async fn accept(listener: UnixListener, proxy: Rc<Proxy>) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => TokioIo::new(stream),
            Err(error) => {
                tracing::warn!("a client of RootlessKit's API cannot be answered: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let proxy = proxy.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| proxy.handle(request));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(CLIENT);
            // A client that does not speak HTTP, or goes away, misses nothing.
            let _ = http.serve_connection(stream, service).await;
            drop(permit);
        });
    }
}

impl Proxy {
    async fn handle(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = timeout(CLIENT, Limited::new(body, REQUEST_BYTES).collect()).await;
        let Ok(Ok(body)) = body else {
            return Ok(respond(refuse(StatusCode::BAD_REQUEST, "the request is too long")));
        };
        let body = body.to_bytes();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let is_publish = head.method == Method::POST && path == PORTS;
        let answer = match is_publish {
            true => self.publish(body).await,
            false => self.pass_on(head.method, path, body).await,
        };
        Ok(respond(answer))
    }

    async fn pass_on(&self, method: Method, path: &str, body: Bytes) -> Answer {
        port::call(&self.rootlesskit, method, path, body).await.unwrap_or_else(|error| {
            refuse(StatusCode::BAD_GATEWAY, &format!("RootlessKit does not answer: {error}"))
        })
    }

    /// Have a port published; where that needs a privilege, after it was granted.
    async fn publish(&self, body: Bytes) -> Answer {
        let answer = self.pass_on(Method::POST, PORTS, body.clone()).await;
        let port = serde_json::from_slice(&body).ok().and_then(|spec: Spec| spec.port());
        let Some(port) = port else { return answer };
        if !answer.is_privilege_refused() {
            self.desk.forget(port);
            return answer;
        }
        match timeout(HOLD, self.desk.ask(port)).await {
            Ok(Verdict::Granted) => {
                let again = self.pass_on(Method::POST, PORTS, body).await;
                if again.status.is_success() {
                    self.desk.forget(port);
                }
                again
            }
            Ok(Verdict::Refused(why)) => refuse(answer.status, &refused(port, why.as_deref())),
            Err(_) => refuse(answer.status, &still_open(port)),
        }
    }
}

/// What Docker's client shows, and the command that mends it.
fn refused(port: Port, why: Option<&str>) -> String {
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    format!(
        "port {port} needs a privilege that rootless Docker was not granted{why}. To grant it: \
         rootlessctl ports allow {port}"
    )
}

fn still_open(port: Port) -> String {
    format!(
        "port {port} needs a privilege that rootless Docker was not granted yet. The question whether to \
         grant it is still open: once it is answered with yes, `docker start` starts this container"
    )
}

/// An error in RootlessKit's form.
fn refuse(status: StatusCode, message: &str) -> Answer {
    Answer { status, body: json!({ "message": message }).to_string().into() }
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
