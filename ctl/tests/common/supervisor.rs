//! A supervisor that says what a test tells it to.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::User;

/// What the supervisor does when it is asked.
pub enum Answer {
    /// Answer with parameters.
    Reply(Value),
    /// Answer with parameters; more follows.
    More(Value),
    /// Answer with parameters again and again, until the client goes away.
    Forever(Value),
    /// Refuse with the name of an error and its parameters.
    Refuse(&'static str, Value),
    /// Write these bytes.
    Bytes(&'static [u8]),
    /// Go on when the test says so.
    Await(oneshot::Receiver<()>),
    /// Say nothing more and keep the connection.
    Hang,
    /// End the connection.
    Close,
}

type Script = VecDeque<(&'static str, Vec<Answer>)>;

/// A supervisor that listens until it is dropped.
pub struct Supervisor {
    calls: mpsc::Receiver<(String, Value)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Supervisor {
    /// Listen for `user` and answer by the script: the first entry of a method that is left answers
    /// its next call.
    pub fn start(user: &User, script: Vec<(&'static str, Vec<Answer>)>) -> Self {
        let socket = user.socket();
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (called, calls) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let script = Arc::new(Mutex::new(Script::from(script)));
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        tokio::spawn(serve(stream, Arc::clone(&script), called.clone()));
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { calls, stop: Some(stop), thread: Some(thread) }
    }

    /// The next call that came: its method, without the interface, and its parameters.
    pub fn call(&self) -> (String, Value) {
        self.calls.recv().unwrap()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    mut stream: UnixStream,
    script: Arc<Mutex<Script>>,
    called: mpsc::Sender<(String, Value)>,
) {
    while let Some(call) = receive(&mut stream).await {
        let method = call["method"].as_str().unwrap();
        let method = method.strip_prefix("org.rootlessd.Supervisor.").unwrap().to_owned();
        let answers = {
            let mut script = script.lock().unwrap();
            let entry = script.iter().position(|(scripted, _)| *scripted == method);
            entry.and_then(|entry| script.remove(entry)).map(|(_, answers)| answers)
        };
        // The test may not be interested in calls any more.
        let _ = called.send((method.clone(), call["parameters"].clone()));
        for answer in answers.unwrap_or_else(|| panic!("{method} is not in the script")) {
            let message = match answer {
                Answer::Reply(value) => json!({ "parameters": value }),
                Answer::More(value) => json!({ "parameters": value, "continues": true }),
                Answer::Refuse(name, value) => json!({ "error": name, "parameters": value }),
                Answer::Bytes(bytes) => {
                    let _ = stream.write_all(bytes).await;
                    continue;
                }
                Answer::Await(told) => {
                    let _ = told.await;
                    continue;
                }
                Answer::Hang => pending().await,
                Answer::Forever(value) => {
                    let message = json!({ "parameters": value, "continues": true });
                    while send(&mut stream, &message).await.is_ok() {}
                    return;
                }
                Answer::Close => return,
            };
            // A client that went away is no concern of the script.
            let _ = send(&mut stream, &message).await;
        }
    }
}

async fn send(stream: &mut UnixStream, message: &Value) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    stream.write_all(&bytes).await
}

async fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut message = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            0 => return Some(serde_json::from_slice(&message).unwrap()),
            byte => message.push(byte),
        }
    }
}

/// A status with some fields replaced.
pub fn status(fields: Value) -> Value {
    let mut status = json!({
        "state": "running",
        "since": 1_764_025_360_000_000_u64,
        "version": "26.1.5",
        "supervisor": {
            "version": "0.1.0",
            "pid": 4711,
            "since": 1_764_025_300_000_000_u64,
            "systemd": false,
        },
        "socketPath": "/run/user/1000/docker.sock",
    });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    status.as_object_mut().unwrap().extend(fields);
    json!({ "status": status })
}

/// A job.
pub fn job(kind: &str, result: Option<&str>) -> Value {
    let state = if result.is_some() { "finished" } else { "running" };
    let mut job = json!({ "id": 7, "kind": kind, "state": state });
    if let Some(result) = result {
        job["result"] = json!(result);
    }
    json!({ "job": job })
}
