//! RootlessKit's API as dockerd finds it: everything is passed on, but what a dockerd before has
//! published already ([`PortTable`]), and a port that the kernel refused is held until it is known
//! whether the user may have it.
//!
//! dockerd and rootlesskit-docker-proxy look for `api.sock`, and dockerd for `netns`, in
//! `ROOTLESSKIT_STATE_DIR`, which is a directory of ours.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rootlessd_api::Port;
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::Semaphore, task::spawn_local, time::timeout};

use super::{
    port_desk::{PortDesk, Verdict},
    port_table::{Detour, PortTable, Way},
};
use crate::{
    engine::{exec, userland_proxy},
    plan::Plan,
    rootlesskit::port::{self, Answer, PORTS, Spec, Status},
};

/// Where docker-proxy [tells](userland_proxy) which container a port leads to: a path that
/// RootlessKit has not got.
pub const WAYS: &str = "/rootlessd/ways";

/// How long a port is held: dockerd 27 and older gives up after 16 s, in which it may also have to wait
/// for others.
const HOLD: Duration = Duration::from_secs(12);
/// How long a client may take to ask.
const CLIENT: Duration = Duration::from_secs(10);
/// More than this asks nothing that RootlessKit knows.
const REQUEST_BYTES: usize = 1 << 20;
/// How many are answered at a time.
const CLIENTS: usize = 256;

/// RootlessKit's API in a directory of ours; cheap to clone.
#[derive(Clone)]
pub(super) struct PortProxy(Rc<Proxy>);

struct Proxy {
    rootlesskit: PathBuf,
    desk: PortDesk,
    /// Whether somebody is asked for a port that was refused.
    asks: bool,
    table: RefCell<PortTable>,
}

impl PortProxy {
    /// Be RootlessKit's API in `dir`, in a task of its own.
    pub fn serve(dir: &Path, plan: &Plan, desk: &PortDesk) -> io::Result<Self> {
        std::fs::create_dir(dir)?;
        if plan.detach_netns {
            symlink(plan.state_dir.join("netns"), dir.join("netns"))?;
        }
        symlink(exec::own_program()?, dir.join(userland_proxy::NAME))?;
        let listener = UnixListener::bind(dir.join("api.sock"))?;
        let proxy = Self(Rc::new(Proxy {
            rootlesskit: plan.rootlesskit_socket(),
            desk: desk.clone(),
            asks: plan.ask_ports,
            table: PortTable::new(&plan.port_driver).into(),
        }));
        spawn_local(accept(listener, proxy.0.clone()));
        Ok(proxy)
    }

    /// The dockerd that had published ports is gone; the next may have them as they are.
    pub fn keep(&self) {
        self.0.table.borrow_mut().disown();
    }

    /// Take back what the dockerd before had published and the present one did not ask for, in a task
    /// of its own: the present one has started all that it is to.
    pub fn take_back(&self) {
        let proxy = self.0.clone();
        spawn_local(async move {
            // Nobody can ask for one of them any more while it goes.
            let next = || proxy.table.borrow_mut().take_unclaimed();
            while let Some(id) = next() {
                tracing::debug!("RootlessKit is to publish port {id} no more");
                proxy.remove(id).await;
            }
        });
    }
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
        spawn_local(async move {
            let service = service_fn(|request| proxy.clone().handle(request));
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
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = timeout(CLIENT, Limited::new(body, REQUEST_BYTES).collect()).await;
        let Ok(Ok(body)) = body else {
            return Ok(respond(refuse(StatusCode::BAD_REQUEST, "the request is too long")));
        };
        let body = body.to_bytes();
        // A client that goes away has it done all the same: what RootlessKit did half of nobody would know.
        let answer = spawn_local(async move { self.answer(head.method, &head.uri, body).await });
        let failed = |_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "engine-init ends");
        Ok(respond(answer.await.unwrap_or_else(failed)))
    }

    async fn answer(&self, method: Method, uri: &Uri, body: Bytes) -> Answer {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        match (method, path) {
            (Method::POST, PORTS) => self.publish(body).await,
            (Method::PUT, WAYS) => self.learn(&body).await,
            (Method::DELETE, path) if number(path).is_some() => {
                let id = number(path).map(|it| self.table.borrow().id(it)).unwrap_or_default();
                self.remove(id).await
            }
            (method, path) => self.pass_on(method, path, body).await,
        }
    }

    async fn pass_on(&self, method: Method, path: &str, body: Bytes) -> Answer {
        port::call(&self.rootlesskit, method, path, body).await.unwrap_or_else(|error| {
            refuse(StatusCode::BAD_GATEWAY, &format!("RootlessKit does not answer: {error}"))
        })
    }

    async fn remove(&self, id: u64) -> Answer {
        let answer = self.pass_on(Method::DELETE, &format!("{PORTS}/{id}"), Bytes::new()).await;
        self.table.borrow_mut().removed(id);
        answer
    }

    /// Have a port published, unless it is already.
    async fn publish(&self, body: Bytes) -> Answer {
        let Ok(asked) = serde_json::from_slice::<Value>(&body) else {
            return self.pass_on(Method::POST, PORTS, body).await;
        };
        if let Some(kept) = self.table.borrow_mut().claim(&asked) {
            return Answer { status: StatusCode::CREATED, body: kept.to_string().into() };
        }
        let rival = self.table.borrow_mut().take_rival(&asked);
        if let Some(id) = rival {
            self.remove(id).await;
        }
        let (spec, generation) = {
            let table = self.table.borrow();
            (table.spec(&asked), table.generation())
        };
        let answer = self.publish_as(spec.to_string().into(), generation).await;
        let Some(id) = id(&answer) else { return answer };
        if self.table.borrow().generation() != generation {
            self.remove(id).await;
            return gone();
        }
        self.table.borrow_mut().published(&asked, spec, id);
        answer
    }

    /// Have a port published; where that needs a privilege, after it was granted. `generation`: which dockerd
    /// asks.
    async fn publish_as(&self, body: Bytes, generation: u32) -> Answer {
        let answer = self.pass_on(Method::POST, PORTS, body.clone()).await;
        let port = serde_json::from_slice(&body).ok().and_then(|spec: Spec| spec.port());
        let Some(port) = port.filter(|_| self.asks) else { return answer };
        if !answer.is_privilege_refused() {
            self.desk.forget(port);
            return answer;
        }
        match timeout(HOLD, self.desk.ask(port)).await {
            // The next dockerd asks for it itself, if it needs it.
            Ok(Verdict::Granted) if self.table.borrow().generation() != generation => gone(),
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

    /// Let a port lead to its container.
    async fn learn(&self, body: &Bytes) -> Answer {
        let way: Way = match serde_json::from_slice(body) {
            Ok(way) => way,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let detour = self.table.borrow_mut().learn(way);
        if let Some(Detour { id, before, after }) = detour {
            self.pass_on(Method::DELETE, &format!("{PORTS}/{id}"), Bytes::new()).await;
            let mut now = None;
            for spec in [after, before] {
                let answer = self.pass_on(Method::POST, PORTS, spec.to_string().into()).await;
                now = self::id(&answer).map(|id| (spec.clone(), id));
                if now.is_some() {
                    break;
                }
                let why = String::from_utf8_lossy(&answer.body);
                tracing::warn!("RootlessKit does not publish {spec}: {why}");
            }
            self.table.borrow_mut().moved(id, now);
        }
        Answer { status: StatusCode::NO_CONTENT, body: Bytes::new() }
    }
}

/// The number in the path of a port.
fn number(path: &str) -> Option<u64> {
    path.strip_prefix(PORTS)?.strip_prefix('/')?.parse().ok()
}

/// RootlessKit's number of a port that it has published.
fn id(answer: &Answer) -> Option<u64> {
    let is_done = answer.status.is_success();
    is_done.then(|| serde_json::from_slice(&answer.body).ok()).flatten().map(|it: Status| it.id)
}

fn gone() -> Answer {
    refuse(StatusCode::GONE, "the dockerd that asked for the port is gone")
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
