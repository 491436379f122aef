//! `org.rootlessd.Supervisor` as a client meets it, before a supervisor that does what it is told.

#![allow(clippy::unwrap_used, missing_docs)]

use rootlessd::varlink::server::Limits;
use rootlessd_api::{Error, ErrorKind, JobResult, State, client::Client, samples};
use rootlessd_tests::{
    driver::Driver,
    front::Front,
    raw::{RawClient, call, method},
    run, until,
};
use serde_json::{Value, json};

fn start() -> (Driver, Front) {
    let (handle, driver) = Driver::start();
    (driver, Front::start(handle, Limits::default()))
}

async fn client(front: &Front) -> RawClient {
    RawClient::connect(&front.varlink()).await.unwrap()
}

#[test]
fn bad_calls_are_told_what_is_wrong() {
    run(async {
        let (driver, front) = start();
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
        assert_eq!(driver.job_count(), 0, "a bad call does nothing");

        // Null and absent are the same, and the connection has survived all of that.
        let good = json!({ "method": method("GetStatus"), "parameters": null });
        assert!(client.call(&good).await["parameters"]["status"].is_object());
        let good = call("Start", json!({ "timeout": null }));
        assert_eq!(client.call(&good).await["parameters"]["job"]["id"], 1);
        assert_eq!(driver.options(1).unwrap().timeout, None);
    });
}

#[test]
fn errors_have_our_names() {
    run(async {
        let (driver, front) = start();
        let mut raw = client(&front).await;
        let mut typed = Client::connect(&front.varlink()).await.unwrap();
        for &kind in ErrorKind::ALL {
            let error = Error::new(kind, "It rains.").with_remedy("open the umbrella");
            driver.fail(Some(error.clone()));
            let answer = raw.call(&call("Reload", json!({}))).await;
            let name = answer["error"].as_str().unwrap();
            assert_eq!(ErrorKind::from_varlink_name(name), Some(kind));
            if name.starts_with("org.rootlessd.") {
                let parameters = json!({ "message": "It rains.", "remedy": "open the umbrella" });
                assert_eq!(answer["parameters"], parameters);
            }
            match typed.reset_failed().await {
                Err(rootlessd_api::client::ClientError::Api(told)) => assert_eq!(told.kind, kind),
                other => panic!("{kind}: {other:?}"),
            }
        }
        let answer = raw.call(&call("CancelJob", json!({ "id": 99 }))).await;
        assert_eq!(answer["error"], method("NoSuchJob"));
        assert_eq!(answer["parameters"]["remedy"], Value::Null);
    });
}

#[test]
fn it_introduces_itself() {
    run(async {
        let (_driver, front) = start();
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
        let (driver, front) = start();
        let mut watcher = client(&front).await;
        let watch = json!({ "method": method("Watch"), "more": true });
        let first = watcher.call(&watch).await;
        assert_eq!(first["parameters"]["status"]["state"], "stopped");
        assert_eq!(first["continues"], true);
        for state in [State::Starting, State::Running, State::Stopping] {
            driver.publish(|status| status.state = state);
            let next = watcher.receive().await.unwrap();
            assert_eq!(next["parameters"]["status"]["state"], state.as_str());
            assert_eq!(next["continues"], true);
        }
        // Two changes at once: only the newest is of interest.
        driver.publish(|status| status.state = State::Failed);
        driver.publish(|status| status.state = State::Stopped);
        let next = watcher.receive().await.unwrap();
        assert_eq!(next["parameters"]["status"]["state"], "stopped");

        // Without `more`, one answer, and the connection goes on.
        let mut client = client(&front).await;
        let only = client.call(&json!({ "method": method("Watch") })).await;
        assert_eq!(only.get("continues"), None);
        driver.publish(|status| status.state = State::Running);
        let status = client.call(&call("GetStatus", json!({}))).await;
        assert_eq!(status["parameters"]["status"]["state"], "running");
    });
}

#[test]
fn jobs_are_begun_waited_for_and_cancelled() {
    run(async {
        let (driver, front) = start();
        let mut one = client(&front).await;
        let mut other = client(&front).await;
        let job = one.call(&call("Start", json!({ "timeout": 5 }))).await;
        let running = json!({ "id": 1, "kind": "start", "state": "running" });
        assert_eq!(job["parameters"]["job"], running);
        assert_eq!(driver.options(1).unwrap().timeout, Some(5));

        // Who waits holds up nobody else.
        one.send(&call("WaitJob", json!({ "id": 1 }))).await.unwrap();
        until("somebody waits", || driver.waiting() == 1).await;
        let jobs = other.call(&call("ListJobs", json!({}))).await;
        assert_eq!(jobs["parameters"]["jobs"], json!([running]));
        let error = samples::job().error;
        driver.finish(1, JobResult::Failed, error.clone());
        let waited = one.receive().await.unwrap();
        assert_eq!(waited["parameters"]["job"]["result"], "failed");
        assert_eq!(waited["parameters"]["job"]["error"], json!(error));

        one.call(&call("Restart", json!({}))).await;
        assert_eq!(
            other.call(&call("CancelJob", json!({ "id": 2 }))).await["parameters"],
            json!({})
        );
        let waited = one.call(&call("WaitJob", json!({ "id": 2 }))).await;
        assert_eq!(waited["parameters"]["job"]["result"], "canceled");

        driver.publish(|status| status.state = State::Running);
        let skipped = one.call(&call("Start", json!({}))).await;
        assert_eq!(skipped["parameters"]["job"]["result"], "skipped");
        let waited = one.call(&call("WaitJob", json!({ "id": 3 }))).await;
        assert_eq!(waited["parameters"]["job"]["result"], "skipped");
    });
}

#[test]
fn oneway_calls_are_done_and_not_answered() {
    run(async {
        let (driver, front) = start();
        let mut client = client(&front).await;
        for bad in ["Reload", "Bar", "Watch"] {
            client
                .send(&json!({ "method": method(bad), "oneway": true, "more": true }))
                .await
                .unwrap();
        }
        let answer = client.call(&call("GetLogLocation", json!({}))).await;
        assert_eq!(answer["parameters"], json!(samples::log_location()));
        assert_eq!(driver.reloads_and_resets(), (1, 0));
    });
}

#[test]
fn calls_sent_at_once_are_answered_in_order() {
    run(async {
        let (_driver, front) = start();
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
        let (driver, front) = start();
        let mut one = client(&front).await;
        one.send(&call("GetStatus", json!({}))).await.unwrap();
        one.finish_sending().await.unwrap();
        assert!(one.receive().await.unwrap()["parameters"]["status"].is_object());
        assert_eq!(one.receive().await, None);

        let mut waiter = client(&front).await;
        waiter.call(&call("Start", json!({}))).await;
        waiter.send(&call("WaitJob", json!({ "id": 1 }))).await.unwrap();
        waiter.finish_sending().await.unwrap();
        until("somebody waits", || driver.waiting() == 1).await;
        driver.finish(1, JobResult::Done, None);
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
        let (driver, front) = start();
        let mut client = Client::connect(&front.varlink()).await.unwrap();
        let status = client.status().await.unwrap();
        assert_eq!(status.processes, [samples::process()]);
        assert_eq!(client.config().await.unwrap(), [samples::setting()]);
        assert_eq!(client.log_location().await.unwrap(), samples::log_location());
        let watching = Client::connect(&front.varlink()).await.unwrap();
        let mut watch = watching.watch().await.unwrap();
        assert_eq!(watch.next().await.unwrap().state, State::Stopped);
        driver.publish(|status| *status = samples::status());
        assert_eq!(watch.next().await.unwrap(), samples::status());
    });
}
