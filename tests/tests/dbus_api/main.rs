//! `org.rootlessd.Supervisor1` as a client meets it, before the supervisor of a fake engine.

#![allow(clippy::unwrap_used, missing_docs)]

mod calls;
mod jobs;
mod status;

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt;
use rootlessd::{supervisor::handle::Handle, varlink::server::Limits};
use rootlessd_api::{
    dbus::{EngineProxy, JobProxy},
    names::{BUS_NAME, ENGINE_INTERFACE, JOB_INTERFACE, OBJECT_PATH},
};
use rootlessd_tests::{
    BOUND,
    bus::TestBus,
    engine::{Engine, Setup},
    front::Front,
};
use tokio::time::timeout;
use zbus::{
    Connection, Message, MessageStream, OwnedVariant, Variant,
    fdo::{DBusProxy, PropertiesProxy},
    message::Type,
    proxy::CacheProperties,
};

const HELPER: &str = env!("CARGO_BIN_EXE_rootlessd-test-helper");

type Dict = HashMap<String, OwnedVariant>;

/// Everything there is: a supervisor before an engine, its front ends, a bus, and a client on it.
struct World {
    handle: Handle,
    engine: Engine,
    front: Front,
    client: Connection,
    _bus: TestBus,
}

impl World {
    async fn start() -> Self {
        Self::of(Setup::default()).await
    }

    async fn of(setup: Setup) -> Self {
        let (handle, engine) = setup.start();
        let front = Front::start(handle.clone(), Limits::default());
        let bus = TestBus::start(HELPER, &front.bus());
        let client = bus.connect().await;
        named(&client).await;
        Self { handle, engine, front, client, _bus: bus }
    }

    async fn engine(&self) -> EngineProxy<'static> {
        EngineProxy::new(&self.client).await.unwrap()
    }

    async fn job(&self, path: zbus::OwnedObjectPath) -> JobProxy<'static> {
        let job = JobProxy::builder(&self.client).path(path);
        job.cache_properties(CacheProperties::No).build().await.unwrap()
    }

    /// All properties of the engine but the processes, which are never the same.
    async fn properties(&self) -> Dict {
        let properties = PropertiesProxy::new(&self.client, BUS_NAME, OBJECT_PATH).await.unwrap();
        let mut all = properties.get_all(ENGINE_INTERFACE.try_into().unwrap()).await.unwrap();
        assert!(all.remove("Processes").is_some());
        all
    }

    /// The messages that come from rootlessd after this call, in their order.
    async fn messages(&self) -> MessageStream {
        for interface in [ENGINE_INTERFACE, JOB_INTERFACE, "org.freedesktop.DBus.Properties"] {
            let rule = zbus::MatchRule::builder()
                .msg_type(Type::Signal)
                .interface(interface)
                .build()
                .unwrap();
            DBusProxy::new(&self.client).await.unwrap().add_match_rule(rule).await.unwrap();
        }
        MessageStream::from(&self.client)
    }
}

/// Wait until rootlessd has its name.
async fn named(client: &Connection) {
    let bus = DBusProxy::new(client).await.unwrap();
    let named = async {
        let mut changes = bus.receive_name_owner_changed_with_args(&[(0, BUS_NAME)]).await.unwrap();
        while !bus.name_has_owner(BUS_NAME.try_into().unwrap()).await.unwrap() {
            changes.next().await.unwrap();
        }
    };
    timeout(BOUND, named).await.expect("rootlessd takes its name");
}

async fn next(messages: &mut MessageStream) -> Message {
    timeout(BOUND, messages.next()).await.expect("a message in time").unwrap().unwrap()
}

/// What a message is, in short.
fn summary(message: &Message) -> String {
    let header = message.header();
    let member = header.member().map_or("", |member| member.as_str());
    let body = message.body();
    match (header.message_type(), member) {
        (Type::MethodReturn, _) => "reply".into(),
        (_, "PropertiesChanged") => {
            let (interface, changed, _): (String, Dict, Vec<String>) = body.deserialize().unwrap();
            let names: BTreeSet<&str> = changed.keys().map(String::as_str).collect();
            let names = Vec::from_iter(names).join(" ");
            format!("{} changed {names}", interface.rsplit_once('.').unwrap().1)
        }
        (_, "JobNew") => {
            let (id, path, kind): (u32, zbus::OwnedObjectPath, String) =
                body.deserialize().unwrap();
            format!("JobNew {id} {} {kind}", path.as_str().rsplit_once('/').unwrap().1)
        }
        (_, "JobRemoved") => {
            let (id, path, kind, result): (u32, zbus::OwnedObjectPath, String, String) =
                body.deserialize().unwrap();
            format!("JobRemoved {id} {} {kind} {result}", path.as_str().rsplit_once('/').unwrap().1)
        }
        (kind, member) => format!("{kind:?} {member}"),
    }
}

fn nothing() -> HashMap<&'static str, Variant<'static>> {
    HashMap::new()
}

/// The name of an error reply.
fn name<T: std::fmt::Debug>(result: zbus::Result<T>) -> String {
    match result.unwrap_err() {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        zbus::Error::FDO(error) => zbus::DBusError::name(&*error).to_string(),
        other => panic!("no error reply: {other}"),
    }
}
