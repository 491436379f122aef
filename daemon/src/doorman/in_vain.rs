//! What a client of Docker's is told that waited in vain, or that need not wait.

use rootlessd_api::{Part, State, Status};

use super::loss_of;
use crate::reasons::Code;

/// How it stands with the engine, and why. `old_death`: when the last death was of those that are not
/// why clients wait.
pub(super) fn told(status: &Status, old_death: Option<u64>) -> String {
    let how = match status.state {
        State::Stopped => {
            return "rootless Docker is stopped: start it with `rootlessctl start`".to_owned();
        }
        State::Failed | State::Unknown => "rootless Docker cannot be started".to_owned(),
        State::Backoff if status.reasons.iter().any(Code::passes) => {
            "rootless Docker cannot be started for now".to_owned()
        }
        state => format!("rootless Docker is not up yet (it is {state})"),
    };
    let why = reason(status).or_else(|| death(status, old_death)).unwrap_or_default();
    format!("{how}{why}; `rootlessctl status` tells more")
}

/// The reason of it, with what mends it. Most reasons are only advice.
fn reason(status: &Status) -> Option<String> {
    let obstacle = status.reasons.iter().find(|it| Code::passes(it) || Code::RuntimeDirGone.is(it));
    let reason = match status.state {
        State::Failed => status.reasons.first(),
        // dockerd goes with containerd, and comes after it.
        State::Degraded => obstacle
            .or_else(|| loss_of(Part::Containerd, status))
            .or_else(|| loss_of(Part::Dockerd, status)),
        _ => obstacle,
    }?;
    let remedy = reason.remedy.as_ref().map_or(String::new(), |remedy| {
        // A failed engine is not tried again until somebody says so.
        let is_said = status.state != State::Failed || remedy.ends_with("rootlessctl start");
        let then = if is_said { "" } else { ", then rootlessctl start" };
        format!(" (to mend it: {remedy}{then})")
    });
    Some(format!(": {}{remedy}", reason.text))
}

/// The death after which the engine is tried again.
fn death(status: &Status, old_death: Option<u64>) -> Option<String> {
    let is_tried = matches!(status.state, State::Starting | State::Backoff);
    let death = status.deaths.last().filter(|death| is_tried && Some(death.at) != old_death)?;
    Some(format!(": the engine died: {}", death.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use rootlessd_api::{Death, Reason};

    #[test]
    fn who_waited_is_told_why_in_vain_and_no_advice() {
        let advice = Code::ControllersMissing.reason_with_remedy("controllers are missing", "mend");
        let full = Code::DataRootFull.reason("/d is full");
        let gone = Code::RuntimeDirGone.reason("/run/user/1 is gone");
        let death = |at| Death {
            at,
            part: Part::Dockerd,
            exit_code: Some(1),
            signal: None,
            out_of_memory: false,
            text: "dockerd exited with status 1".into(),
            log: vec![],
        };
        let died = ": the engine died: dockerd exited with status 1";
        // (state, what more there is, the deaths, which of them was before; what is told)
        let rows = [
            (State::Starting, None, vec![], None, " not up yet (it is starting)"),
            (State::Starting, None, vec![7], Some(7), " not up yet (it is starting)"),
            (State::Starting, None, vec![7, 8], Some(7), died),
            (State::Backoff, None, vec![8], None, died),
            (State::Backoff, Some(&full), vec![8], None, "cannot be started for now: /d is full"),
            (State::Starting, Some(&full), vec![8], None, "(it is starting): /d is full"),
            (State::Starting, Some(&gone), vec![], None, "(it is starting): /run/user/1 is gone"),
            (State::Stopping, None, vec![8], None, " not up yet (it is stopping)"),
        ];
        for (state, more, deaths, old, told) in rows {
            let reasons = more.into_iter().chain([&advice]).cloned().collect();
            let deaths = deaths.into_iter().map(death).collect();
            let status = Status { state, reasons, deaths, ..testing::status() };
            let text = super::told(&status, old);
            let end = format!("{told}; `rootlessctl status` tells more");
            assert!(text.ends_with(&end), "{text}");
        }
    }

    #[test]
    fn of_a_lost_dockerd_the_cause_is_told() {
        let lost = |part: Part| {
            let reason = Code::PartBeingReplaced.reason(format!("{part} is lost"));
            Reason { part, ..reason }
        };
        let network = lost(Part::Network);
        for (more, told) in [
            (network.clone(), "dockerd is lost"),
            (lost(Part::Containerd), "containerd is lost"),
            (Code::DataRootFull.reason("/d is full"), "/d is full"),
        ] {
            let reasons = vec![network.clone(), lost(Part::Dockerd), more];
            let status = Status { state: State::Degraded, reasons, ..testing::status() };
            let text = super::told(&status, None);
            assert!(text.contains(&format!("(it is degraded): {told};")), "{text}");
        }
    }
}
