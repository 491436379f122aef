//! `start`, `stop`, `restart` and `upgrade`: a request, the wait for its job, and what came of it.

use std::time::Duration;

use rootlessd_api::{Error, ErrorKind, Job, JobKind, JobOptions, JobResult, client::Client};

use crate::{
    cli::Request,
    exit::Exit,
    failure::Failure,
    human::Clock,
    output::{self, Progress},
    summary,
    supervisor::{ANSWER, Supervisor},
};

/// How much longer than the request's own time the supervisor gets to say that it ran out.
const GRACE: Duration = Duration::from_secs(1);

/// Ask for it, and wait for it unless told otherwise.
pub async fn run(kind: JobKind, request: Request, json: bool) -> Result<Exit, Failure> {
    let supervisor = Supervisor::find(request.timeout.map(|timeout| timeout.min(ANSWER)))?;
    let mut client = supervisor.connect().await?;
    let options = JobOptions { timeout: request.timeout.map(micros), ..JobOptions::default() };
    let mut job = supervisor.answer(client.request(kind, &options)).await?;
    if !request.no_block && job.result.is_none() {
        job = wait(&supervisor, client, &job, request.timeout, !json).await?;
    }
    let job = outcome(job, request.timeout)?;
    if json {
        output::json(&job)?
    } else {
        output::text(&format!("{}\n", sentence(&job)))?
    }
    Ok(Exit::Ok)
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

async fn wait(
    supervisor: &Supervisor,
    mut client: Client,
    job: &Job,
    timeout: Option<Duration>,
    progress: bool,
) -> Result<Job, Failure> {
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout + GRACE).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // In this order, so that Ctrl-C is listened for before the wait is known to anybody.
        biased;
        Ok(()) = tokio::signal::ctrl_c() => Err(interrupted(job.kind)),
        job = client.wait_job(job.id) => Ok(job?),
        () = deadline => Err(late(job.kind, timeout.unwrap_or_default())),
        // Never the first to end.
        never = show_progress(supervisor), if progress => match never {},
    }
}

/// Show the phases until it is dropped. That they cannot be shown is no reason to fail.
async fn show_progress(supervisor: &Supervisor) -> std::convert::Infallible {
    if let Some(mut line) = Progress::on_terminal()
        && let Ok(client) = supervisor.try_connect().await
        && let Ok(mut watch) = client.watch().await
    {
        while let Ok(status) = watch.next().await {
            line.show(&summary::line(&status, &Clock::system()));
        }
    }
    std::future::pending().await
}

/// The job, or why it did not do what was asked.
fn outcome(job: Job, timeout: Option<Duration>) -> Result<Job, Failure> {
    let kind = job.kind;
    match job.result {
        None | Some(JobResult::Done | JobResult::Skipped) => Ok(job),
        Some(JobResult::Timeout) => Err(late(kind, timeout.unwrap_or_default())),
        Some(JobResult::Canceled) => {
            let message = format!("the {kind} was cancelled, or a contrary request replaced it");
            let error = Error::new(ErrorKind::Canceled, message);
            Err(Failure::Api(error.with_remedy("rootlessctl status")))
        }
        Some(JobResult::Failed) => Err(Failure::Api(job.error.unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Internal, format!("the {kind} failed"));
            error.with_remedy("rootlessctl status")
        }))),
    }
}

fn late(kind: JobKind, after: Duration) -> Failure {
    Failure::Timeout {
        what: format!("the {kind}"),
        after,
        remedy: "it goes on, and rootlessctl watch follows it",
    }
}

fn interrupted(kind: JobKind) -> Failure {
    Failure::Interrupted(match kind {
        JobKind::Start => "interrupted; the start goes on, and rootlessctl stop ends it",
        JobKind::Stop => "interrupted; the stop goes on",
        JobKind::Restart => "interrupted; the restart goes on, and rootlessctl stop ends it",
        JobKind::Replacement => "interrupted; containerd and dockerd are replaced all the same",
        JobKind::Upgrade => "interrupted; the upgrade goes on",
    })
}

fn sentence(job: &Job) -> String {
    let done = job.result == Some(JobResult::Done);
    match (job.kind, job.result) {
        (kind, None) => return format!("The {kind} is under way (job {}).", job.id),
        (JobKind::Start, _) if done => "Docker is running.",
        (JobKind::Start, _) => "Docker was running already.",
        (JobKind::Stop, _) if done => "Docker is stopped.",
        (JobKind::Stop, _) => "Docker was not running.",
        (JobKind::Restart, _) => "Docker is running again.",
        (JobKind::Replacement, _) => "Docker is running again, and its containers went on.",
        (JobKind::Upgrade, _) if done => "Docker is upgraded, and its containers went on.",
        (JobKind::Upgrade, _) => "There is no newer Docker than the one that runs.",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use rootlessd_api::JobState;

    use super::*;

    fn job(kind: JobKind, result: Option<JobResult>) -> Job {
        let state = if result.is_some() { JobState::Finished } else { JobState::Running };
        Job { id: 7, kind, state, result, error: None }
    }

    #[test]
    fn every_end_of_a_job_has_its_sentence_and_exit_status() {
        use JobKind::{Replacement, Restart, Start, Stop, Upgrade};
        use JobResult::{Canceled, Done, Failed, Skipped, Timeout};
        let rows = [
            (Start, None, Exit::Ok, "The start is under way (job 7)."),
            (Start, Some(Done), Exit::Ok, "Docker is running."),
            (Start, Some(Skipped), Exit::Ok, "Docker was running already."),
            (Start, Some(Failed), Exit::Failed, "the start failed"),
            (Start, Some(Timeout), Exit::Timeout, "the start took longer than 5 s"),
            (Stop, Some(Done), Exit::Ok, "Docker is stopped."),
            (Stop, Some(Skipped), Exit::Ok, "Docker was not running."),
            (
                Stop,
                Some(Canceled),
                Exit::Canceled,
                "the stop was cancelled, or a contrary request replaced it",
            ),
            (Restart, Some(Done), Exit::Ok, "Docker is running again."),
            (Replacement, None, Exit::Ok, "The replacement is under way (job 7)."),
            (
                Replacement,
                Some(Done),
                Exit::Ok,
                "Docker is running again, and its containers went on.",
            ),
            (Upgrade, Some(Done), Exit::Ok, "Docker is upgraded, and its containers went on."),
            (Upgrade, Some(Skipped), Exit::Ok, "There is no newer Docker than the one that runs."),
            (Restart, Some(Timeout), Exit::Timeout, "the restart took longer than 5 s"),
        ];
        for (kind, result, exit, text) in rows {
            let ended = outcome(job(kind, result), Some(Duration::from_secs(5)));
            let (found, said) = match &ended {
                Ok(job) => (Exit::Ok, sentence(job)),
                Err(failure) => (failure.exit(), failure.to_string()),
            };
            assert_eq!((found, &*said), (exit, text), "{kind} {result:?}");
        }
    }

    #[test]
    fn a_failed_job_s_own_error_is_told() {
        let mut failed = job(JobKind::Start, Some(JobResult::Failed));
        failed.error = Some(Error::new(ErrorKind::Preflight, "no subuid").with_remedy("usermod"));
        let failure = outcome(failed, None).unwrap_err();
        assert_eq!(failure.exit(), Exit::Preflight);
        assert_eq!(
            (failure.to_string().as_str(), failure.remedy()),
            ("no subuid", Some("usermod"))
        );
    }
}
