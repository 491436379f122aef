//! Whether the interface's text says what is true: every word and field of it, and no more.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rootlessd::{
    engine::driver::{Command, Event},
    supervisor::memory::Demand,
    varlink::server::Limits,
};
use rootlessd_api::{
    ErrorKind, EventKind, IncidentKind, JobKind, JobResult, JobState, Part, Phase, Port,
    PortPrivilege, Protocol, State,
    names::{VARLINK_IDL, VARLINK_INTERFACE},
    samples,
};
use rootlessd_tests::{
    engine::{Setup, is},
    front::Front,
    idl::{Field, check_object},
    raw::{RawClient, call},
    run,
};
use serde_json::{Map, Value, json};
use zlink::idl::{CustomType, Interface};

fn interface() -> Interface<'static> {
    VARLINK_IDL.try_into().unwrap()
}

#[test]
fn everything_has_a_comment() {
    let interface = interface();
    assert_eq!(interface.name().as_str(), VARLINK_INTERFACE);
    assert!(interface.comments().count() > 0);
    for method in interface.methods() {
        assert!(method.comments().count() > 0, "{}", method.name());
    }
    for custom in interface.custom_types() {
        let comments = match custom {
            CustomType::Object(object) => object.comments().count(),
            CustomType::Enum(words) => words.comments().count(),
        };
        assert!(comments > 0, "{}", custom.name());
    }
    for error in interface.errors() {
        assert!(error.comments().count() > 0, "{}", error.name());
    }
}

#[test]
fn the_words_are_those_of_the_types() {
    fn words<T: ToString>(all: &[T]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }
    let types = BTreeMap::from([
        ("State".to_owned(), words(State::ALL)),
        ("Phase".to_owned(), words(Phase::ALL)),
        ("Part".to_owned(), words(Part::ALL)),
        ("IncidentKind".to_owned(), words(IncidentKind::ALL)),
        ("EventKind".to_owned(), words(&EventKind::all().collect::<Vec<_>>())),
        ("JobKind".to_owned(), words(JobKind::ALL)),
        ("JobState".to_owned(), words(JobState::ALL)),
        ("JobResult".to_owned(), words(JobResult::ALL)),
        ("Protocol".to_owned(), words(Protocol::ALL)),
        ("PortPrivilege".to_owned(), words(PortPrivilege::ALL)),
    ]);
    let interface = interface();
    let told: BTreeMap<String, Vec<String>> = interface
        .custom_types()
        .filter_map(CustomType::as_enum)
        .map(|words| {
            let all = words.variants().map(|word| word.name().to_string()).collect();
            (words.name().to_string(), all)
        })
        .collect();
    assert_eq!(told, types);
}

#[test]
fn the_errors_are_those_of_the_types() {
    let interface = interface();
    let told: Vec<String> = interface.errors().map(|error| error.name().to_string()).collect();
    let ours: Vec<String> = ErrorKind::ALL
        .iter()
        .filter(|kind| !matches!(kind, ErrorKind::InvalidArgument | ErrorKind::AccessDenied))
        .map(ToString::to_string)
        .collect();
    assert_eq!(told, ours);
    for error in interface.errors() {
        let fields: Vec<Field<'_>> =
            error.fields().map(|field| (field.name().to_string(), field.ty())).collect();
        let Value::Object(full) = json!({ "message": "m", "remedy": "r" }) else { unreachable!() };
        check_object(&interface, &fields, &full, true).unwrap();
    }
}

fn port() -> Port {
    Port { protocol: Protocol::Tcp, number: 80 }
}

#[test]
fn every_method_answers_as_it_says() {
    run(async {
        let mut setup = Setup::default();
        setup.memory.demand = Demand { starts: 1, last: Some(1) };
        setup.config.engine.restart.delay = Duration::from_secs(3600);
        setup.config.engine.restart.max_delay = Duration::from_secs(3600);
        let (handle, mut engine) = setup.start();
        let front = Front::start(handle.clone(), Limits::default());
        let mut client = RawClient::connect(&front.varlink()).await.unwrap();

        // No status has every field that there can be, but each field is in one of these; and the
        // job has failed, so that every field of a job is there.
        let mut whole = Map::new();
        let mut look = async |client: &mut RawClient| {
            let mut answer = client.call(&call("GetStatus", json!({}))).await;
            let Value::Object(status) = answer["parameters"]["status"].take() else { panic!() };
            let known = status.into_iter().filter(|(_, value)| *value != json!([]));
            whole.extend(known);
        };
        client.call(&call("Start", json!({}))).await;
        look(&mut client).await;
        engine.come_up().await;
        engine.tell(Event::MainPid(4711)).await;
        engine.tell(Event::Granted(BTreeSet::from([port()]))).await;
        engine.tell_replaced(Part::Dockerd).await;
        engine.tell_unhealthy("it hangs").await;
        is(&handle, State::Degraded).await;
        look(&mut client).await;
        engine.tell(Event::Died(samples::death())).await;
        is(&handle, State::Backoff).await;
        look(&mut client).await;
        client.call(&call("Start", json!({}))).await;
        engine.take_start().await;
        engine.tell_died().await;
        is(&handle, State::Backoff).await;
        let whole = json!({ "status": whole });

        let interface = interface();
        for method in interface.methods() {
            let name = method.name().as_str();
            // The second job has failed, and the last is the one that can be cancelled.
            let id = if name == "CancelJob" { handle.jobs().await.unwrap().len() } else { 2 };
            let parameters = method
                .inputs()
                .map(|input| match input.name().as_str() {
                    "id" => ("id".to_owned(), json!(id)),
                    "keepContainers" => (input.name().to_string(), json!(false)),
                    "since" | "after" => (input.name().to_string(), json!(1)),
                    "limit" => ("limit".to_owned(), json!(3)),
                    "timeout" => ("timeout".to_owned(), json!(1_000_000)),
                    "ports" => ("ports".to_owned(), json!([port()])),
                    "allowInteractiveAuthentication" => (input.name().to_string(), json!(true)),
                    other => panic!("{name} has a parameter {other} that nobody checks"),
                })
                .collect();
            client.send(&call(name, Value::Object(parameters))).await.unwrap();
            if name == "Reload" {
                // Behind what the methods before it have asked the engine for.
                let reply = loop {
                    if let Command::Reload(reply) = engine.command().await {
                        break reply;
                    }
                };
                reply.send(Ok(())).unwrap();
            }
            let answer = client.receive().await.unwrap();
            if matches!(name, "RequestPorts" | "RefreshPorts") {
                // There is no helper here; tests/helper_bus.rs has one.
                assert_eq!(answer["error"], "org.rootlessd.Supervisor.HelperMissing", "{name}");
                continue;
            }
            // The engine is on its way elsewhere.
            let is_busy = name == "Upgrade";
            let error = is_busy.then(|| json!("org.rootlessd.Supervisor.Busy"));
            assert_eq!(answer.get("error"), error.as_ref(), "{name}");
            let outputs: Vec<Field<'_>> =
                method.outputs().map(|output| (output.name().to_string(), output.ty())).collect();
            // A job that is at work has no result yet; the failed one is seen by WaitJob.
            let full = !matches!(name, "Start" | "Stop" | "Restart" | "ListJobs");
            let check = |parameters: &Value, full| {
                let Value::Object(parameters) = parameters else { panic!("{parameters}") };
                check_object(&interface, &outputs, parameters, full)
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            };
            if is_busy {
                check(&json!({ "job": samples::job() }), true);
                continue;
            }
            if name == "ListPorts" {
                // This engine has no RootlessKit that would tell of one.
                assert_eq!(answer["parameters"], json!({ "ports": [] }));
                check(&json!({ "ports": [samples::published_port()] }), true);
                continue;
            }
            if matches!(name, "ListEvents" | "Watch") {
                // Some of what there can be is there: no event has all of it.
                check(&answer["parameters"], false);
                let events = [samples::event()];
                match name {
                    "Watch" => check(&json!({ "status": whole["status"], "events": events }), true),
                    _ => check(&json!({ "events": events, "ready": true }), true),
                }
                continue;
            }
            let tells_status = name == "GetStatus";
            check(&answer["parameters"], full && !tells_status);
            if tells_status {
                check(&whole, true);
            }
        }
    });
}
