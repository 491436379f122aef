//! RootlessKit's own verbs are a drop-in: what RootlessKit's `rootlessctl` prints, and how it ends.
//!
//! A fake API answers as RootlessKit 1.1, 2.0 and 3.0 do. What RootlessKit's client made of it is in
//! `golden/rootlesskit/`, one file a case, the requests included. With `ROOTLESSCTL_RECORD=1` the
//! files are written anew, by RootlessKit's client.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    env, fs,
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use common::{Ended, User};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode, body::Bytes, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixListener, sync::oneshot};

const INFO_1_1: &str = r#"{"apiVersion":"1.1.1","version":"1.1.0","stateDir":"/run/user/1000/dockerd-rootless","childPID":4242,"networkDriver":{"driver":"slirp4netns","dns":["10.0.2.3"],"childIP":"10.0.2.100"},"portDriver":{"driver":"builtin","protos":["tcp","tcp4","tcp6","udp","udp4","udp6"]}}"#;
const INFO_2_0: &str = r#"{"apiVersion":"1.1.1","version":"2.0.2","stateDir":"/tmp/a\u003cb\u003e\u0026c","childPID":1,"networkDriver":{"driver":"pasta","dns":["10.0.2.3","fd00::3"],"childIP":"10.0.2.100","dynamicChildIP":true}}"#;
const INFO_3_0: &str = r#"{"apiVersion":"1.1.1","version":"3.0.1","stateDir":"/run/user/1000/dockerd-rootless","childPID":2147483647,"networkDriver":{"driver":"lxc-user-nic","dynamicChildIP":true},"portDriver":{"driver":"gvisor-tap-vsock","protos":["tcp","udp"],"disallowLoopbackChildIP":true}}"#;
const INFO_HOST: &str = r#"{"apiVersion":"1.1.1","version":"1.1.0","stateDir":"/s","childPID":7,"portDriver":{"driver":"none","protos":null}}"#;
const PORTS: &str = r#"[{"id":1,"spec":{"proto":"tcp","parentIP":"127.0.0.1","parentPort":8080,"childPort":80}},{"id":12,"spec":{"proto":"udp","parentIP":"0.0.0.0","parentPort":9090,"childPort":90,"childIP":"10.0.2.100"}},{"id":3,"spec":{"proto":"tcp6","parentIP":"fd00:1:2:3:4:5:6:7","parentPort":8081,"childPort":81}},{"id":4,"spec":{"proto":"tcp","parentPort":8082,"childPort":82}}]"#;
const PORT: &str =
    r#"{"id":5,"spec":{"proto":"tcp","parentIP":"127.0.0.1","parentPort":8080,"childPort":80}}"#;
const NO_DRIVER: &str = r#"{"message":"no PortDriver is available"}"#;
const CONFLICT: &str = r#"{"message":"conflict with ID 1"}"#;
const UNKNOWN: &str = r#"{"message":"unknown id: 77"}"#;
const NOT_FOUND: &str = "404 page not found\n";

/// What is behind the socket.
#[derive(Clone, Copy)]
enum Api {
    /// No socket.
    Missing,
    /// A socket on which nobody listens.
    Refusing,
    /// One that ends connections without an answer.
    Silent,
    /// One that answers its requests in this order.
    Answers(&'static [(u16, &'static str)]),
}
use Api::{Answers, Missing, Refusing, Silent};

/// The cases: a name, the arguments with `@` for the socket, and the API.
const CASES: &[(&str, &str, Api)] = &[
    ("list-table", "--socket @ list-ports", Answers(&[(200, PORTS)])),
    ("list-json", "--socket @ list-ports --json", Answers(&[(200, PORTS)])),
    ("list-none", "--socket @ list-ports", Answers(&[(200, "[]")])),
    ("list-null", "--socket @ list-ports", Answers(&[(200, "null")])),
    ("list-null-json", "--socket @ list-ports --json", Answers(&[(200, "null")])),
    ("list-one-dash", "-socket @ -debug list-ports -json", Answers(&[(200, PORTS)])),
    ("list-no-driver", "--socket @ list-ports", Answers(&[(400, NO_DRIVER)])),
    ("list-not-found", "--socket @ list-ports", Answers(&[(404, NOT_FOUND)])),
    ("list-no-message", "--socket @ list-ports", Answers(&[(500, "{}")])),
    ("list-no-body", "--socket @ list-ports --json", Answers(&[(502, "")])),
    ("list-missing", "--socket @ list-ports", Missing),
    ("list-missing-json", "--socket @ list-ports --json", Missing),
    ("list-missing-debug", "--debug --socket @ list-ports", Missing),
    ("list-refusing", "--socket @ list-ports", Refusing),
    ("list-silent", "--socket @ list-ports", Silent),
    ("list-no-socket", "list-ports", Missing),
    ("add-one", "--socket @ add-ports 127.0.0.1:8080:80/tcp", Answers(&[(201, PORT)])),
    (
        "add-two-json",
        "--socket @ add-ports --json 127.0.0.1:8080:80/tcp [::1]:81:[fd00::2]:82/udp6",
        Answers(&[(201, PORT), (201, PORT)]),
    ),
    (
        "add-second-refused",
        "--socket @ add-ports 127.0.0.1:8080:80/tcp :0:99999/sctp :1:1/tcp",
        Answers(&[(201, PORT), (400, CONFLICT)]),
    ),
    ("add-refusing", "--socket @ add-ports :1:1/tcp", Refusing),
    ("add-silent", "--socket @ add-ports :1:1/tcp", Silent),
    ("add-nothing", "--socket @ add-ports", Missing),
    ("add-no-proto", "--socket @ add-ports 80", Missing),
    ("add-bad-proto", "--socket @ add-ports 127.0.0.1:80:80/TCP", Missing),
    ("add-bad-parent", "--socket @ add-ports localhost:80:80/tcp", Missing),
    ("add-bad-child", "--socket @ add-ports 127.0.0.1:80:10.0.2.300:80/tcp", Missing),
    ("add-bad-port", "--socket @ add-ports 127.0.0.1:http:80/tcp", Missing),
    ("add-bad-child-port", "--socket @ add-ports 127.0.0.1:80:/tcp", Missing),
    ("add-huge-port", "--socket @ add-ports 127.0.0.1:9223372036854775808:80/tcp", Missing),
    ("add-docker-form", "--socket @ add-ports 8080:80/tcp", Missing),
    ("add-six-fields", "--socket @ add-ports 1:2:3:4:5:6/tcp", Missing),
    ("remove-one", "--socket @ remove-ports 1", Answers(&[(200, "")])),
    (
        "remove-second-unknown",
        "--socket @ remove-ports 1 77 3",
        Answers(&[(200, ""), (400, UNKNOWN)]),
    ),
    ("remove-refusing", "--socket @ remove-ports 1", Refusing),
    ("remove-silent", "--socket @ remove-ports 1", Silent),
    ("remove-nothing", "--socket @ remove-ports", Missing),
    ("remove-word", "--socket @ remove-ports 1 one", Missing),
    ("info-1.1", "--socket @ info", Answers(&[(200, INFO_1_1)])),
    ("info-1.1-json", "--socket @ info --json", Answers(&[(200, INFO_1_1)])),
    ("info-2.0", "--socket @ info", Answers(&[(200, INFO_2_0)])),
    ("info-2.0-json", "--socket @ info --json", Answers(&[(200, INFO_2_0)])),
    ("info-3.0", "--socket @ info", Answers(&[(200, INFO_3_0)])),
    ("info-3.0-json", "--socket @ info --json", Answers(&[(200, INFO_3_0)])),
    ("info-host", "--socket @ info", Answers(&[(200, INFO_HOST)])),
    ("info-host-json", "--socket @ info --json", Answers(&[(200, INFO_HOST)])),
    ("info-refused", "--socket @ info", Answers(&[(500, CONFLICT)])),
];

#[test]
fn what_rootlesskit_s_client_printed_is_what_ours_prints() {
    if env::var_os("ROOTLESSCTL_RECORD").is_some() {
        for (name, arguments, api) in CASES {
            fs::write(golden(name), transcript(&theirs(), arguments, *api)).unwrap();
        }
    }
    for (name, arguments, api) in CASES {
        let recorded = fs::read_to_string(golden(name)).unwrap();
        assert_eq!(transcript(&ours(), arguments, *api), recorded, "{name}");
    }
}

#[test]
fn rootlesskit_s_client_on_this_machine_prints_the_same() {
    for (name, arguments, api) in CASES {
        let theirs = transcript(&theirs(), arguments, *api);
        assert_eq!(transcript(&ours(), arguments, *api), theirs, "{name}");
    }
}

#[test]
fn fields_that_only_a_later_rootlesskit_knows_are_passed_through() {
    let later =
        r#"{"apiVersion":"1.2.0","version":"9","stateDir":"/s","childPID":1,"mood":{"good":true}}"#;
    let answers: &'static [(u16, &str)] = Box::leak(Box::new([(200, later)]));
    let transcript = transcript(&ours(), "--socket @ info --json", Answers(answers));
    assert!(transcript.contains("    \"mood\": {\n        \"good\": true\n    }"), "{transcript}");
}

#[test]
fn the_state_directory_is_in_the_environment_or_the_supervisor_s_status() {
    use common::supervisor::{Answer, Supervisor, status};
    let user = User::new();
    let state = tempfile::tempdir().unwrap();
    let api = Fake::start(&state.path().join("api.sock"), &[(200, PORTS), (200, PORTS)]);

    let mut command = user.command(&["list-ports"]);
    let ended = Ended::from(command.env("ROOTLESSKIT_STATE_DIR", state.path()).output().unwrap());
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 5), "{ended:?}");

    let told = status(serde_json::json!({ "stateDir": state.path() }));
    let supervisor = Supervisor::start(&user, vec![("GetStatus", vec![Answer::Reply(told)])]);
    let ended = user.run(&["list-ports"]);
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 5), "{ended:?}");
    drop((api, supervisor));
}

#[test]
fn wrong_options_of_rootlesskit_s_verbs_end_with_its_status() {
    assert_eq!(User::new().run(&["list-ports", "--bogus"]).code, Some(1));
    assert_eq!(User::new().run(&["status", "--bogus"]).code, Some(2));
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/rootlesskit")
        .join(format!("{name}.txt"))
}

fn ours() -> PathBuf {
    env!("CARGO_BIN_EXE_rootlessctl").into()
}

/// RootlessKit's client. The test is worth nothing without it, so it is not optional.
fn theirs() -> PathBuf {
    let path = env::var_os("ROOTLESSKIT_ROOTLESSCTL")
        .map_or_else(|| PathBuf::from("/usr/bin/rootlessctl"), PathBuf::from);
    let is_theirs = Command::new(&path)
        .arg("--help")
        .output()
        .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("RootlessKit API client"));
    assert!(
        is_theirs,
        "RootlessKit's rootlessctl is not at {}: sudo apt-get install rootlesskit, or set \
         ROOTLESSKIT_ROOTLESSCTL to its path",
        path.display()
    );
    path
}

/// What a client does with an API, as text.
fn transcript(client: &Path, arguments: &str, api: Api) -> String {
    let user = User::new();
    let socket = user.runtime_dir().join("api.sock");
    let fake = match api {
        Missing => None,
        Refusing => {
            drop(StdListener::bind(&socket).unwrap());
            None
        }
        Silent => Some(Fake::start(&socket, &[])),
        Answers(answers) => Some(Fake::start(&socket, answers)),
    };
    let name = socket.to_str().unwrap();
    let words = arguments.split(' ').map(|word| if word == "@" { name } else { word });
    let ended: Ended = Command::new(client)
        .args(words)
        .env_clear()
        .env("XDG_RUNTIME_DIR", user.runtime_dir())
        .output()
        .unwrap()
        .into();
    let requests = fake.map(Fake::requests).unwrap_or_default();
    let code = ended.code.unwrap();
    let text = format!(
        "$ rootlessctl {arguments}\n--- requests\n{requests}--- stdout\n{}--- stderr\n{}--- exit {code}\n",
        ended.stdout, ended.stderr
    );
    text.replace(name, "@")
}

/// A fake of RootlessKit's API.
struct Fake {
    requests: Arc<Mutex<String>>,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Fake {
    /// Answer the requests in the order of the answers; end the connection when there are none.
    fn start(socket: &Path, answers: &'static [(u16, &'static str)]) -> Self {
        let listener = StdListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let requests = Arc::new(Mutex::new(String::new()));
        let (stop, stopped) = oneshot::channel();
        let log = Arc::clone(&requests);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = serve(listener, log, answers) => {}, _ = stopped => {} }
            });
        });
        Self { requests, stop, thread }
    }

    /// Stop; what was asked for, one request a line.
    fn requests(self) -> String {
        drop(self.stop);
        self.thread.join().unwrap();
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    listener: StdListener,
    log: Arc<Mutex<String>>,
    answers: &'static [(u16, &'static str)],
) {
    let listener = UnixListener::from_std(listener).unwrap();
    let answers = Arc::new(Mutex::new(answers.iter()));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
        let service = service_fn(move |request| {
            let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
            async move {
                let line = line(request).await;
                log.lock().unwrap().push_str(&line);
                // An error ends the connection without an answer.
                let (status, body) = *answers.lock().unwrap().next().ok_or("nothing to say")?;
                let mut answer = Response::new(Full::<Bytes>::from(body));
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, &'static str>(answer)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn line(request: Request<Incoming>) -> String {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let host = header(header::HOST).unwrap_or_default();
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let line = format!("{method} {host} {path} {kind} {}", String::from_utf8_lossy(&body));
    format!("{}\n", line.trim_end())
}
