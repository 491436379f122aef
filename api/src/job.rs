//! Jobs: what a request sets going, to be waited for or cancelled.

use serde::{Deserialize, Serialize};

use crate::{error::Error, status::words};

words! {
    /// What a job does.
    JobKind {
        /// Brings the engine up.
        Start = "start",
        /// Takes the engine down.
        Stop = "stop",
        /// Takes the engine down and up again; its socket stays.
        Restart = "restart",
        /// Replaces containerd and dockerd under the containers, which go on.
        Replacement = "replacement",
        /// The same, for those of which there is a newer file than the one that runs.
        Upgrade = "upgrade",
    }
}

words! {
    /// How far a job is.
    JobState {
        /// At work.
        Running = "running",
        /// Over; it has a [`JobResult`].
        Finished = "finished",
    }
}

words! {
    /// How a job ended; the words are systemd's.
    JobResult {
        /// It did what was asked.
        Done = "done",
        /// There was nothing to do: the engine was that way already.
        Skipped = "skipped",
        /// Somebody cancelled it, or a contrary job replaced it.
        Canceled = "canceled",
        /// Its time ran out. The engine goes on in the direction the job gave it.
        Timeout = "timeout",
        /// The engine went another way; the job's error says how.
        Failed = "failed",
    }
}

/// What may be said with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobOptions {
    /// After how long the job ends with `timeout`, in µs; absent or 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Of a restart: only containerd and dockerd, under the containers, which go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_containers: Option<bool>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its number, unique while the supervisor runs.
    pub id: u32,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// How it ended, once it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}
