//! The supervisor between people and an engine that a test plays: what it asks of the engine, what
//! it tells, and in which order.

#![allow(clippy::unwrap_used, missing_docs)]

mod deaths;
mod demand;
mod events;
mod jobs;
mod parts;
mod questions;
mod reload;
mod shortages;
mod succession;

use std::time::Duration;

use rootlessd::supervisor::handle::Handle;
use rootlessd_api::{Error, ErrorKind, Job, JobKind, JobOptions, JobResult, JobState, Status};
use rootlessd_tests::{
    BOUND,
    engine::{Engine, Setup, memory, reaches},
    run,
};
use serde_json::{Value, json};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

/// Run a test on a clock that goes on by itself whenever nobody has anything to do.
fn run_timeless<T>(test: impl Future<Output = T>) -> T {
    run(async {
        tokio::time::pause();
        test.await
    })
}

fn running() -> Setup {
    Setup::of(memory(json!("running")))
}

fn starting(phase: &str) -> Value {
    json!({ "starting": phase })
}

fn stopping(then: &str) -> Value {
    json!({ "stopping": ["dockerd", then] })
}

async fn request(handle: &Handle, kind: JobKind) -> Job {
    handle.request(kind, JobOptions::default()).await.unwrap()
}

async fn finished(handle: &Handle, id: u32) -> (JobResult, Option<Error>) {
    let job = timeout(BOUND, handle.wait_job(id)).await.expect("an end in time").unwrap();
    assert_eq!((job.id, job.state), (id, JobState::Finished));
    (job.result.unwrap(), job.error)
}

/// The result, and the kind of its error.
async fn outcome(handle: &Handle, id: u32) -> (JobResult, Option<ErrorKind>) {
    let (result, error) = finished(handle, id).await;
    (result, error.map(|error| error.kind))
}

/// What the supervisor made of everything that was told so far.
async fn settled(handle: &Handle, engine: &Engine) -> Status {
    // It takes events in their order, so the last one shows that it took those before.
    let seen = handle.status().containers_running.unwrap_or(0) + 1;
    engine.tell_healthy(seen).await;
    reaches(handle, |status| status.containers_running == Some(seen)).await
}
