//! The status in one line: for `watch`, for the progress of a job and for `systemctl status`.

use rootlessd_api::{Death, State, Status};

use crate::human::{Clock, printable, timestamp};

/// The state, and what matters most about it.
pub fn line(status: &Status, clock: &Clock) -> String {
    match detail(status, clock) {
        Some(detail) => format!("{}: {detail}", status.state),
        None => status.state.to_string(),
    }
}

/// Why the engine is not as it should be, and what to do: the gravest reason, or the last death.
pub fn gravest(status: &Status) -> Option<(&str, Option<&str>)> {
    let reason = status.reasons.first().map(|reason| (&*reason.text, reason.remedy.as_deref()));
    reason.or_else(|| status.deaths.last().map(|death| (&*death.text, None)))
}

fn detail(status: &Status, clock: &Clock) -> Option<String> {
    match status.state {
        State::Stopped | State::Listening | State::Unknown => None,
        State::Starting | State::Stopping => status.phase.map(|phase| phase.to_string()),
        State::Running => status.version.as_ref().map(|version| format!("Docker {version}")),
        State::Degraded | State::Failed => {
            gravest(status).map(|(text, _)| printable(text).into_owned())
        }
        State::Backoff => Some(backoff(status, clock)),
    }
}

fn backoff(status: &Status, clock: &Clock) -> String {
    let died = match status.deaths.last() {
        Some(Death { text, .. }) => printable(text).into_owned(),
        None => "it died".to_owned(),
    };
    match status.next_attempt {
        Some(at) => format!("{died}; next start {}", clock.until(timestamp(at))),
        None => died,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn each_state_has_its_line() {
        for (status, text) in [
            (samples::stopped(), "stopped"),
            (samples::listening(), "listening"),
            (samples::starting(), "starting: containerd"),
            (samples::running(), "running: Docker 26.1.5"),
            (samples::degraded(), "degraded: slirp4netns is being started again."),
            (samples::stopping(), "stopping: containers"),
            (samples::backoff(), "backoff: dockerd was killed by SIGKILL; next start in 4 s"),
            (samples::failed(), "failed: The user u has no subordinate uids."),
        ] {
            assert_eq!(line(&status, &samples::clock()), text);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut status = samples::running();
        status.version = None;
        assert_eq!(line(&status, &samples::clock()), "running");
        let mut status = samples::backoff();
        status.deaths.clear();
        status.next_attempt = None;
        assert_eq!(line(&status, &samples::clock()), "backoff: it died");
    }
}
