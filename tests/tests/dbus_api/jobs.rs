//! Jobs: announced, followed, cancelled, and out of time.

use super::{World, name, next, nothing, summary};
use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt;
use rootlessd::config::Start;
use rootlessd_api::{
    State,
    dbus::JobProxy,
    names::{BUS_NAME, JOB_PATH},
};
use rootlessd_tests::{
    BOUND,
    engine::{Setup, is},
    run,
};
use tokio::time::timeout;
use zbus::{Variant, fdo::IntrospectableProxy};

#[test]
fn a_job_is_announced_before_the_reply_and_ends_in_order() {
    run(async {
        let mut setup = Setup::default();
        setup.config.engine.restart.limit = 1;
        setup.config.engine.start = Start::Boot;
        let mut world = World::of(setup).await;
        let mut messages = world.messages().await;
        let options = HashMap::from([("timeout", Variant::U64(3_600_000_000))]);
        let path = world.engine().await.start(options).await.unwrap();
        assert_eq!(path.as_str(), format!("{JOB_PATH}/1"));
        let mut first = Vec::new();
        for _ in 0..3 {
            first.push(summary(&next(&mut messages).await));
        }
        // What the job brings about is told when it happens, before the reply or behind it.
        first.retain(|message| message != "Engine changed Phase Since State");
        assert_eq!(first, ["JobNew 1 1 start", "reply"]);

        let job = world.job(path).await;
        let told = (job.id().await, job.kind().await, job.state().await, job.result().await);
        let told = (told.0.unwrap(), told.1.unwrap(), told.2.unwrap(), told.3.unwrap());
        assert_eq!(told, (1, "start".into(), "running".into(), String::new()));
        assert!(job.error().await.unwrap().is_empty());

        let mut messages = world.messages().await;
        world.engine.take_start().await;
        world.engine.tell_died().await;
        for expected in [
            "Engine changed Deaths Phase Reasons Since State",
            "Job changed Error Result State",
            "JobRemoved 1 1 start failed",
        ] {
            assert_eq!(summary(&next(&mut messages).await), expected);
        }
        assert_eq!(job.state().await.unwrap(), "finished");
        assert_eq!(job.result().await.unwrap(), "failed");
        let error = job.error().await.unwrap();
        assert_eq!(error["name"], "org.rootlessd.Error.EngineDied");
        assert_eq!(error["message"], "the engine died: dockerd was killed.");
        assert_eq!(error["remedy"], "rootlessctl logs --part dockerd");

        // What there is no need to do is over before the reply.
        let engine = world.engine().await;
        engine.reset_failed().await.unwrap();
        is(&world.handle, State::Stopped).await;
        let mut messages = world.messages().await;
        engine.stop(nothing()).await.unwrap();
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "reply") {
            let message = summary(&next(&mut messages).await);
            if !message.starts_with("Engine changed") {
                all.push(message);
            }
        }
        let changed = "Job changed Error Result State";
        assert_eq!(all, ["JobNew 2 2 stop", changed, "JobRemoved 2 2 stop skipped", "reply"]);
    });
}

#[test]
fn a_job_without_time_ends_and_the_engine_goes_on() {
    run(async {
        let mut world = World::start().await;
        let engine = world.engine().await;
        let mut removed = engine.receive_job_removed().await.unwrap();
        let options = HashMap::from([("timeout", Variant::U64(1))]);
        let path = engine.start(options).await.unwrap();
        let signal = timeout(BOUND, removed.next()).await.unwrap().unwrap();
        assert_eq!(signal.args().unwrap().result, "timeout");
        let error = world.job(path).await.error().await.unwrap();
        assert_eq!(error["name"], "org.rootlessd.Error.Timeout");
        world.engine.come_up().await;
        is(&world.handle, State::Running).await;
    });
}

#[test]
fn jobs_can_be_cancelled_and_stay_readable_for_a_while() {
    run(async {
        let mut world = World::start().await;
        for number in 1..=20 {
            let engine = world.engine().await;
            let mut removed = engine.receive_job_removed().await.unwrap();
            let path = engine.start(nothing()).await.unwrap();
            let job = JobProxy::builder(&world.client).path(path).build().await.unwrap();
            job.cancel().await.unwrap();
            let signal = timeout(BOUND, removed.next()).await.unwrap().unwrap();
            let signal = signal.args().unwrap();
            assert_eq!((signal.id, signal.result), (number, "canceled"));
            let error =
                world.job(job.inner().path().to_owned().into()).await.error().await.unwrap();
            assert_eq!(error["name"], "org.rootlessd.Error.Canceled");
            assert_eq!(name(job.cancel().await), "org.rootlessd.Error.NoSuchJob");
            // It is undone.
            world.engine.take_start().await;
            world.engine.go_down().await;
            is(&world.handle, State::Stopped).await;
        }
        world.engine().await.restart(nothing()).await.unwrap();
        let parent = IntrospectableProxy::builder(&world.client).destination(BUS_NAME);
        let parent = parent.path(JOB_PATH).build().await.unwrap();
        let xml = parent.introspect().await.unwrap();
        let node = zbus_xml::Node::from_reader(xml.as_bytes()).unwrap();
        let listed: BTreeSet<u32> =
            node.nodes().iter().map(|node| node.name().unwrap().parse().unwrap()).collect();
        assert_eq!(listed, BTreeSet::from_iter(5..=21));
    });
}
