//! `org.rootlessd.Supervisor` as a client meets it, before the supervisor of a fake engine.

#![allow(clippy::unwrap_used, missing_docs)]

use rootlessd::{
    supervisor::{Shutdown, handle::Handle},
    varlink::server::Limits,
};
use rootlessd_api::{
    Error, ErrorKind, JobKind, JobOptions, Part, State,
    client::{Client, ClientError},
    samples,
};
use rootlessd_tests::{
    engine::{Engine, Setup, is, memory, reaches},
    front::Front,
    raw::{RawClient, call, method},
    run,
};
use serde_json::{Value, json};

fn start() -> (Handle, Engine, Front) {
    start_with(Setup::default())
}

fn start_with(setup: Setup) -> (Handle, Engine, Front) {
    let (handle, engine) = setup.start();
    let front = Front::start(handle.clone(), Limits::default());
    (handle, engine, front)
}

async fn client(front: &Front) -> RawClient {
    RawClient::connect(&front.varlink()).await.unwrap()
}

#[test]
fn bad_calls_are_told_what_is_wrong() {
    run(async {
        let (handle, mut engine, front) = start();
        let mut client = client(&front).await;
        let standard = |name: &str| format!("org.varlink.service.{name}");
        let parameter = |name: &str| (standard("InvalidParameter"), json!({ "parameter": name }));
        let no_method = |name: &str| (standard("MethodNotFound"), json!({ "method": name }));
        let no_interface =
            |name: &str| (standard("InterfaceNotFound"), json!({ "interface": name }));
        let describe = "org.varlink.service.GetInterfaceDescription";
        let cases = [
            (json!({ "method": "org.example.Foo.Bar" }), no_interface("org.example.Foo")),
            (json!({ "method": "GetStatus" }), no_method("GetStatus")),
            (json!({ "method": "" }), no_method("")),
            (json!({ "method": method("Bar") }), no_method(&method("Bar"))),
            (call("Bar", json!({ "x": 1 })), no_method(&method("Bar"))),
            (call("getStatus", json!({})), no_method(&method("getStatus"))),
            (call("GetStatus", json!({ "x": 1 })), parameter("x")),
            (call("GetStatus", json!([])), parameter("parameters")),
            (call("GetStatus", json!("x")), parameter("parameters")),
            (call("Watch", json!({ "since": 1 })), parameter("since")),
            (call("Start", json!({ "timeout": "1s" })), parameter("timeout")),
            (call("Start", json!({ "timeout": -1 })), parameter("timeout")),
            (call("Start", json!({ "timeout": 1.5 })), parameter("timeout")),
            (call("Start", json!({ "timeout": 1, "force": true })), parameter("force")),
            (call("WaitJob", json!({})), parameter("id")),
            (call("WaitJob", json!({ "id": null })), parameter("id")),
            (call("WaitJob", json!({ "id": 4294967296_u64 })), parameter("id")),
            (call("CancelJob", json!({ "id": [1] })), parameter("id")),
            (json!({ "method": describe }), parameter("interface")),
            (
                json!({ "method": describe, "parameters": { "interface": "org.example.Foo" } }),
                no_interface("org.example.Foo"),
            ),
            (
                json!({ "method": method("GetStatus"), "upgrade": true }),
                (standard("MethodNotImplemented"), json!({ "method": method("GetStatus") })),
            ),
        ];
        for (bad, (error, parameters)) in cases {
            let answer = client.call(&bad).await;
            assert_eq!(answer, json!({ "error": error, "parameters": parameters }), "{bad}");
        }
        assert_eq!(handle.jobs().await, Ok(vec![]), "a bad call does nothing");
        assert!(engine.is_left_alone());

        // Null and absent are the same, and the connection has survived all of that.
        let good = json!({ "method": method("GetStatus"), "parameters": null });
        assert!(client.call(&good).await["parameters"]["status"].is_object());
        let good = call("Start", json!({ "timeout": null }));
        assert_eq!(client.call(&good).await["parameters"]["job"]["id"], 1);
        engine.come_up().await;
        let job = client.call(&call("WaitJob", json!({ "id": 1 }))).await;
        assert_eq!(job["parameters"]["job"]["result"], "done");
    });
}

#[test]
fn errors_have_our_names() {
    run(async {
        let (handle, mut engine, front) = start();
        let mut raw = client(&front).await;
        let mut typed = Client::connect(&front.varlink()).await.unwrap();
        // Whatever is the matter with the configuration.
        for &kind in ErrorKind::ALL {
            let error = Error::new(kind, "It rains.").with_remedy("open the umbrella");
            engine.set_config(Err(error));
            let answer = raw.call(&call("Reload", json!({}))).await;
            let name = answer["error"].as_str().unwrap();
            assert_eq!(ErrorKind::from_varlink_name(name), Some(kind));
            if name.starts_with("org.rootlessd.") {
                let parameters = json!({ "message": "It rains.", "remedy": "open the umbrella" });
                assert_eq!(answer["parameters"], parameters);
            }
            match typed.reload().await {
                Err(ClientError::Api(told)) => assert_eq!(told.kind, kind),
                other => panic!("{kind}: {other:?}"),
            }
        }
        for unknown in ["CancelJob", "WaitJob"] {
            let answer = raw.call(&call(unknown, json!({ "id": 99 }))).await;
            assert_eq!(answer["error"], method("NoSuchJob"));
            assert_eq!(answer["parameters"]["remedy"], Value::Null);
        }

        raw.call(&call("Start", json!({}))).await;
        engine.come_up().await;
        is(&handle, State::Running).await;
        engine.shut_down(Shutdown::StopEngine).await;
        is(&handle, State::Stopping).await;
        for refused in ["Start", "Stop", "Restart"] {
            let answer = raw.call(&call(refused, json!({}))).await;
            assert_eq!(answer["error"], method("Busy"));
        }
        engine.go_down().await;
        assert_eq!(engine.ended().await, Shutdown::StopEngine);
        let answer = raw.call(&call("GetStatus", json!({}))).await;
        assert_eq!(answer["error"], method("Busy"));
    });
}

#[test]
fn it_introduces_itself() {
    run(async {
        let (_handle, _engine, front) = start();
        let mut client = client(&front).await;
        let info = client.call(&json!({ "method": "org.varlink.service.GetInfo" })).await;
        assert_eq!(info["parameters"]["product"], "rootlessd");
        let interfaces = info["parameters"]["interfaces"].as_array().unwrap();
        for interface in interfaces {
            let answer = client
                .call(&json!({
                    "method": "org.varlink.service.GetInterfaceDescription",
                    "parameters": { "interface": interface },
                }))
                .await;
            let text = answer["parameters"]["description"].as_str().unwrap();
            let parsed = zlink::idl::Interface::try_from(text).unwrap();
            assert_eq!(parsed.name().as_str(), interface.as_str().unwrap());
        }
        assert_eq!(interfaces.len(), 2);
    });
}

#[test]
fn watch_tells_the_present_and_every_change() {
    run(async {
        let (handle, engine, front) = start_with(Setup::of(memory("running".into())));
        let mut watcher = client(&front).await;
        let watch = json!({ "method": method("Watch"), "more": true });
        let first = watcher.call(&watch).await;
        assert_eq!(first["parameters"]["status"]["state"], "running");
        assert_eq!(first["continues"], true);
        for containers in 1..=3 {
            engine.tell_healthy(containers).await;
            let next = watcher.receive().await.unwrap();
            assert_eq!(next["parameters"]["status"]["containersRunning"], containers);
            assert_eq!(next["continues"], true);
        }
        engine.tell_unhealthy("it hangs").await;
        let next = watcher.receive().await.unwrap();
        assert_eq!(next["parameters"]["status"]["state"], "degraded");

        // Without `more`, one answer, and the connection goes on.
        let mut client = client(&front).await;
        let only = client.call(&json!({ "method": method("Watch") })).await;
        assert_eq!(only["parameters"]["status"]["state"], "degraded");
        assert_eq!(only.get("continues"), None);
        engine.tell_healthy(4).await;
        is(&handle, State::Running).await;
        let status = client.call(&call("GetStatus", json!({}))).await;
        assert_eq!(status["parameters"]["status"]["state"], "running");
    });
}

#[test]
fn a_watcher_that_is_late_sees_the_newest() {
    run(async {
        let (handle, engine, front) = start_with(Setup::of(memory("running".into())));
        let mut watcher = client(&front).await;
        watcher.call(&json!({ "method": method("Watch"), "more": true })).await;
        // More than the kernel's buffer takes, while nobody reads.
        for number in 0..100 {
            engine.tell_unhealthy(format!("{number} {}", "x".repeat(50_000))).await;
        }
        engine.tell_healthy(9).await;
        reaches(&handle, |status| status.containers_running == Some(9)).await;
        let mut seen = 0;
        while watcher.receive().await.unwrap()["parameters"]["status"]["containersRunning"] != 9 {
            seen += 1;
        }
        assert!(seen < 100, "nothing was left out");
    });
}

#[test]
fn jobs_are_begun_waited_for_and_cancelled() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 1;
        let (handle, mut engine, front) = start_with(setup);
        let mut one = client(&front).await;
        let mut other = client(&front).await;
        let job = one.call(&call("Start", json!({ "timeout": 3_600_000_000_u64 }))).await;
        let running = json!({ "id": 1, "kind": "start", "state": "running" });
        assert_eq!(job["parameters"]["job"], running);

        // Who waits holds up nobody else.
        one.send(&call("WaitJob", json!({ "id": 1 }))).await.unwrap();
        let jobs = other.call(&call("ListJobs", json!({}))).await;
        assert_eq!(jobs["parameters"]["jobs"], json!([running]));
        engine.take_start().await;
        engine.tell_died().await;
        let waited = one.receive().await.unwrap();
        assert_eq!(waited["parameters"]["job"]["result"], "failed");
        let error = json!({
            "name": "EngineDied",
            "message": "the engine died: dockerd was killed.",
            "remedy": "rootlessctl logs --part dockerd",
        });
        assert_eq!(waited["parameters"]["job"]["error"], error);

        one.call(&call("Restart", json!({}))).await;
        let cancel = call("CancelJob", json!({ "id": 2 }));
        assert_eq!(other.call(&cancel).await["parameters"], json!({}));
        assert_eq!(other.call(&cancel).await["error"], method("NoSuchJob"));
        let waited = one.call(&call("WaitJob", json!({ "id": 2 }))).await;
        assert_eq!(waited["parameters"]["job"]["result"], "canceled");
        engine.take_start().await;
        engine.go_down().await;
        is(&handle, State::Stopped).await;

        let timeout = one.call(&call("Start", json!({ "timeout": 1 }))).await;
        assert_eq!(timeout["parameters"]["job"]["id"], 3);
        let waited = one.call(&call("WaitJob", json!({ "id": 3 }))).await;
        assert_eq!(waited["parameters"]["job"]["result"], "timeout");
        engine.come_up().await;
        is(&handle, State::Running).await;

        let skipped = one.call(&call("Start", json!({}))).await;
        assert_eq!(skipped["parameters"]["job"]["result"], "skipped");
        let waited = one.call(&call("WaitJob", json!({ "id": 4 }))).await;
        assert_eq!(waited["parameters"]["job"]["result"], "skipped");
    });
}

#[test]
fn oneway_calls_are_done_and_not_answered() {
    run(async {
        let (_handle, mut engine, front) = start();
        let mut client = client(&front).await;
        for bad in ["Reload", "Bar", "Watch"] {
            client
                .send(&json!({ "method": method(bad), "oneway": true, "more": true }))
                .await
                .unwrap();
        }
        engine.take_reload().await.send(Ok(())).unwrap();
        let answer = client.call(&call("GetLogLocation", json!({}))).await;
        assert_eq!(answer["parameters"], json!(samples::log_location()));
        assert!(engine.is_left_alone());
    });
}

#[test]
fn calls_sent_at_once_are_answered_in_order() {
    run(async {
        let (_handle, _engine, front) = start();
        let mut client = client(&front).await;
        let mut bytes = Vec::new();
        for number in 0..1000 {
            bytes.extend(call(&format!("No{number}"), json!({})).to_string().bytes());
            bytes.push(0);
        }
        client.send_bytes(&bytes).await.unwrap();
        for number in 0..1000 {
            let answer = client.receive().await.unwrap();
            assert_eq!(answer["parameters"]["method"], method(&format!("No{number}")));
        }
    });
}

#[test]
fn a_client_that_only_stops_sending_is_answered() {
    run(async {
        let (_handle, mut engine, front) = start();
        let mut one = client(&front).await;
        one.send(&call("GetStatus", json!({}))).await.unwrap();
        one.finish_sending().await.unwrap();
        assert!(one.receive().await.unwrap()["parameters"]["status"].is_object());
        assert_eq!(one.receive().await, None);

        let mut waiter = client(&front).await;
        waiter.call(&call("Start", json!({}))).await;
        waiter.send(&call("WaitJob", json!({ "id": 1 }))).await.unwrap();
        waiter.finish_sending().await.unwrap();
        engine.come_up().await;
        assert_eq!(waiter.receive().await.unwrap()["parameters"]["job"]["result"], "done");

        let mut watcher = client(&front).await;
        watcher.send(&json!({ "method": method("Watch"), "more": true })).await.unwrap();
        watcher.finish_sending().await.unwrap();
        assert!(watcher.receive().await.unwrap()["parameters"]["status"].is_object());
        assert_eq!(watcher.receive().await, None);
    });
}

#[test]
fn the_typed_client_speaks_it() {
    run(async {
        let (handle, mut engine, front) = start();
        let mut client = Client::connect(&front.varlink()).await.unwrap();
        let status = client.status().await.unwrap();
        let [own] = &status.processes[..] else { panic!("{:?}", status.processes) };
        assert_eq!((own.part, own.pid), (Part::Supervisor, std::process::id()));
        assert!(own.memory > 0);
        assert_eq!(client.config().await.unwrap(), [samples::setting()]);
        assert_eq!(client.log_location().await.unwrap(), samples::log_location());
        let watching = Client::connect(&front.varlink()).await.unwrap();
        let mut watch = watching.watch().await.unwrap();
        assert_eq!(watch.next().await.unwrap().state, State::Stopped);

        let job = client.request(JobKind::Start, &JobOptions::default()).await.unwrap();
        engine.come_up().await;
        client.wait_job(job.id).await.unwrap();
        let running = loop {
            let status = watch.next().await.unwrap();
            if status.state == State::Running {
                break status;
            }
        };
        assert_eq!(&running, &*handle.status());
        let mut full = client.status().await.unwrap();
        assert!(full.processes.len() > 1);
        full.processes.clear();
        assert_eq!(full, running);
    });
}
