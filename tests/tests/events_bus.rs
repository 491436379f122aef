//! What happened and what happens, as clients on both buses meet it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use rootlessd::{
    engine::{driver::Event, incidents::Incident},
    supervisor::handle::Handle,
    varlink::server::Limits,
};
use rootlessd_api::{Death, JobKind, JobOptions, Part, State, dbus::EventsProxy, samples};
use rootlessd_tests::{
    BOUND,
    bus::TestBus,
    engine::{Engine, Setup, death, is, memory},
    front::Front,
    open_files,
    raw::{RawClient, call, method},
    run, run_alone,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, OwnedVariant, Variant, fdo::DBusProxy, message::Type,
    names::BusName,
};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");

fn running(limits: Limits) -> (Handle, Engine, Front) {
    let (handle, engine) = Setup::of(memory(json!("running"))).start();
    let front = Front::start(handle.clone(), limits);
    (handle, engine, front)
}

async fn varlink(front: &Front) -> RawClient {
    RawClient::connect(&front.varlink()).await.unwrap()
}

async fn more(client: &mut RawClient, name: &str, parameters: Value) {
    let call = json!({ "method": method(name), "parameters": parameters, "more": true });
    client.send(&call).await.unwrap();
}

/// So many losses, from `at` on.
async fn lose(engine: &Engine, at: std::ops::Range<u64>) {
    let lost = |at| Incident::Lost(Death { at, ..death(Part::Network) });
    engine.tell(Event::Incidents(at.map(lost).collect())).await;
}

fn kinds(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

fn seqs(events: &Value) -> Vec<u64> {
    events.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn varlink_tells_the_history_and_goes_on_without_a_gap() {
    run(async {
        let (handle, engine, front) = running(Limits::default());
        lose(&engine, 100..400).await;
        is(&handle, State::Degraded).await;
        let mut client = varlink(&front).await;
        let all = client.call(&call("ListEvents", json!({}))).await;
        let all = seqs(&all["parameters"]["events"]);
        // It was taken over, it was running, and became degraded.
        assert_eq!(all, (1..=303).collect::<Vec<_>>());
        let newest = client.call(&call("ListEvents", json!({ "limit": 2, "since": 399 }))).await;
        assert_eq!(kinds(&newest["parameters"]["events"]), ["state", "lost"], "{newest}");
        let after = client.call(&call("ListEvents", json!({ "after": 301 }))).await;
        assert_eq!(seqs(&after["parameters"]["events"]), [302, 303]);
        assert_eq!(after["parameters"].get("ready"), None);

        more(&mut client, "ListEvents", json!({})).await;
        let mut told = vec![];
        loop {
            let reply = client.receive().await.unwrap();
            assert_eq!(reply["continues"], true);
            let page = seqs(&reply["parameters"]["events"]);
            told.extend(page);
            if reply["parameters"]["ready"] == true {
                break;
            }
        }
        assert_eq!(told, all);
        lose(&engine, 400..402).await;
        let mut next = vec![];
        while next.len() < 2 {
            let reply = client.receive().await.unwrap();
            assert_eq!(reply["parameters"].get("ready"), None);
            next.extend(seqs(&reply["parameters"]["events"]));
        }
        assert_eq!(next, [304, 305]);

        // From now on, and the last ones first.
        for (limit, first) in [(0, json!([])), (1, json!([305]))] {
            let mut client = varlink(&front).await;
            more(&mut client, "ListEvents", json!({ "limit": limit })).await;
            let reply = client.receive().await.unwrap();
            assert_eq!(json!(seqs(&reply["parameters"]["events"])), first);
            assert_eq!(reply["parameters"]["ready"], true);
        }
        let mut client = varlink(&front).await;
        for bad in [json!({ "since": -1 }), json!({ "limit": "all" }), json!({ "until": 1 })] {
            let answer = client.call(&call("ListEvents", bad.clone())).await;
            assert_eq!(answer["error"], "org.varlink.service.InvalidParameter", "{bad}");
        }
    });
}

#[test]
fn who_watches_the_status_is_told_what_happens_with_it() {
    run(async {
        let (handle, engine, front) = running(Limits::default());
        let mut client = varlink(&front).await;
        more(&mut client, "Watch", json!({})).await;
        let first = client.receive().await.unwrap();
        assert_eq!(first["parameters"].get("events"), None, "nothing happened since");
        engine.tell_lost(Part::Dockerd).await;
        is(&handle, State::Degraded).await;
        let reply = client.receive().await.unwrap();
        assert_eq!(reply["parameters"]["status"]["state"], "degraded");
        assert_eq!(kinds(&reply["parameters"]["events"]), ["lost", "state"]);

        // Who does not read skips statuses, and no event.
        let (count, later) = (300, samples::death().at + 1);
        lose(&engine, later..later + count).await;
        let mut lost = 0;
        while lost < count {
            let reply = client.receive().await.unwrap();
            lost += kinds(&reply["parameters"]["events"]).len() as u64;
        }
        assert_eq!(lost, count);
    });
}

#[test]
fn a_follower_that_does_not_read_is_dropped_and_nobody_waits_for_it() {
    run_alone(async {
        let limits = Limits { write: Duration::from_millis(1500), ..Limits::default() };
        let (_handle, engine, front) = running(limits);
        let mut other = varlink(&front).await;
        other.call(&call("GetStatus", json!({}))).await;
        let before = open_files();
        let mut slow = varlink(&front).await;
        more(&mut slow, "ListEvents", json!({})).await;
        let begin = Instant::now();
        let mut longest = Duration::ZERO;
        let mut at = 1;
        // Of the slow one, our end is left.
        while at == 1 || open_files() > before + 1 {
            let text = "x".repeat(20_000);
            let lost = Incident::Lost(Death { at, text, ..death(Part::Network) });
            engine.tell(Event::Incidents(vec![lost])).await;
            at += 1;
            let asked = Instant::now();
            let answer = other.call(&call("GetStatus", json!({}))).await;
            assert!(answer["parameters"]["status"].is_object());
            longest = longest.max(asked.elapsed());
            assert!(begin.elapsed() < BOUND, "the slow follower stays");
        }
        assert!(longest < Duration::from_secs(1), "somebody waited for {longest:?}");
        drop(slow);
    });
}

/// What a message from rootlessd is, in short.
fn summary(message: &Message) -> Option<String> {
    let header = message.header();
    match (header.message_type(), header.member()?.as_str()) {
        (Type::Signal, "Happened") => {
            type Body = (String, String, HashMap<String, OwnedVariant>);
            let (kind, part, event): Body = message.body().deserialize().unwrap();
            assert_eq!(<&str>::try_from(&event["kind"]).unwrap(), kind);
            let state = <&str>::try_from(&event["state"]).unwrap();
            Some(format!("{kind} {part} {state}"))
        }
        (Type::Signal, member @ ("PropertiesChanged" | "JobNew" | "JobRemoved")) => {
            Some(member.to_owned())
        }
        _ => None,
    }
}

#[test]
fn dbus_tells_what_happens_after_what_it_brought_about() {
    run(async {
        let (handle, mut engine, front) = running(Limits::default());
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        named(&client).await;
        let rule = zbus::MatchRule::builder().msg_type(Type::Signal).build().unwrap();
        DBusProxy::new(&client).await.unwrap().add_match_rule(rule).await.unwrap();
        let mut messages = MessageStream::from(&client);
        engine.tell_launched().await;
        engine.tell_healthy(1).await;
        engine.tell_lost(Part::Dockerd).await;
        is(&handle, State::Degraded).await;
        let events = EventsProxy::new(&client).await.unwrap();
        let mut seen = vec![];
        while seen.last().is_none_or(|last| last != "state  degraded") {
            let message = timeout(BOUND, messages.next()).await.unwrap().unwrap().unwrap();
            seen.extend(summary(&message));
        }
        let signals: Vec<_> = seen.iter().filter(|it| *it != "PropertiesChanged").collect();
        assert_eq!(signals, ["lost dockerd degraded", "state  degraded"], "{seen:?}");
        let lost = seen.iter().position(|it| it == "lost dockerd degraded").unwrap();
        assert_eq!(seen[lost - 1], "PropertiesChanged", "{seen:?}");

        let options = |options: &[(&'static str, Variant<'static>)]| {
            options.iter().map(|(name, value)| (*name, value.try_clone().unwrap())).collect()
        };
        let all = events.list(HashMap::new()).await.unwrap();
        let kind = |event: &HashMap<String, OwnedVariant>| {
            <&str>::try_from(&event["kind"]).unwrap().to_owned()
        };
        let kinds: Vec<_> = all.iter().map(kind).collect();
        assert_eq!(kinds, ["taken_over", "state", "lost", "state"]);
        let last = events.list(options(&[("limit", 1_u32.into())])).await.unwrap();
        assert_eq!(last, all[3..]);
        let after = events.list(options(&[("after", 2_u64.into())])).await.unwrap();
        assert_eq!(after, all[2..]);
        let wrong = events.list(options(&[("after", 2_u32.into())])).await.unwrap_err();
        assert!(wrong.to_string().contains("InvalidArgs"), "{wrong}");

        // Who waits for a kind or a part asks the bus for that only.
        let mut replaced =
            events.receive_happened_with_args(&[(0, "replaced"), (1, "dockerd")]).await.unwrap();
        engine.tell_replaced(Part::Dockerd).await;
        engine.tell_healthy(1).await;
        let signal = timeout(BOUND, replaced.next()).await.unwrap().unwrap();
        let args = signal.args().unwrap();
        assert_eq!((args.kind, args.part), ("replaced", "dockerd"));
        assert_eq!(u64::try_from(&args.event["took"]).unwrap(), 410_000);

        // A job's end comes after what it brought about, and the rest is told all the same.
        is(&handle, State::Running).await;
        handle.request(JobKind::Stop, JobOptions::default()).await.unwrap();
        engine.go_down().await;
        let mut seen = vec![];
        while seen.last().is_none_or(|last| last != "state  stopped") {
            let message = timeout(BOUND, messages.next()).await.unwrap().unwrap().unwrap();
            seen.extend(summary(&message));
        }
        for once in ["state  stopping", "state  stopped"] {
            assert_eq!(seen.iter().filter(|it| *it == once).count(), 1, "{seen:?}");
        }
    });
}

async fn named(client: &Connection) {
    let name = BusName::try_from("org.rootlessd.Supervisor1").unwrap();
    let bus = DBusProxy::new(client).await.unwrap();
    let named = async {
        let mut changes = bus.receive_name_owner_changed().await.unwrap();
        while !bus.name_has_owner(name.clone()).await.unwrap() {
            changes.next().await.unwrap();
        }
    };
    timeout(BOUND, named).await.expect("rootlessd takes its name");
}
