//! What systemd is told (sd_notify(3)): that rootlessd is ready, how the engine is, and that the
//! supervisor is alive. Without `NOTIFY_SOCKET` nothing is told.

use std::{convert::Infallible, time::Duration};

use rootlessd_api::{State, Status};
use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::supervisor::handle::Handle;

/// Tell systemd, for ever. That it is ready is told once everything listens: call it then.
pub async fn keep(handle: Handle) -> Infallible {
    tell(&[NotifyState::Ready, NotifyState::Status(&sentence(&handle.status()))]);
    let mut statuses = handle.watch();
    // Half the time, as sd_watchdog_enabled(3) has it.
    let pause = sd_notify::watchdog_enabled().map(|time| time / 2);
    let pause = pause.filter(|pause| !pause.is_zero());
    let slow = pause.unwrap_or(Duration::from_secs(3600));
    let mut alive = interval_at(Instant::now() + slow, slow);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = statuses.changed() => match changed {
                Ok(()) => {
                    let status = statuses.borrow_and_update().clone();
                    tell(&[NotifyState::Status(&sentence(&status))]);
                }
                Err(_) => std::future::pending().await,
            },
            // That a request is answered shows more than that this task runs.
            _ = alive.tick(), if pause.is_some() => if handle.settings().await.is_ok() {
                tell(&[NotifyState::Watchdog]);
            },
        }
    }
}

/// Tell systemd that the stop takes its time, and how long that can be.
pub fn stopping(timeout: Duration) {
    let micros = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}

fn sentence(status: &Status) -> String {
    let version = status.version.as_deref().unwrap_or("?");
    let reason =
        status.reasons.first().map_or(String::new(), |reason| format!(": {}", reason.text));
    match (status.state, status.phase) {
        (State::Running, _) => format!("Docker {version} runs"),
        (State::Listening, _) => "Docker starts with its first client".to_owned(),
        (State::Degraded, _) => format!("Docker {version} runs{reason}"),
        (state, Some(phase)) => format!("The engine is {state} ({phase})"),
        (State::Backoff, _) => "The engine died and is started again".to_owned(),
        (state, None) => format!("The engine is {state}{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use rootlessd_api::Phase;

    #[test]
    fn sentences() {
        let rows = [
            (State::Running, None, "Docker 28.5 runs"),
            (State::Starting, Some(Phase::Network), "The engine is starting (network)"),
            (State::Stopped, None, "The engine is stopped"),
            (State::Listening, None, "Docker starts with its first client"),
            (State::Backoff, None, "The engine died and is started again"),
        ];
        for (state, phase, text) in rows {
            let version = Some("28.5".to_owned());
            let status = Status { state, phase, version, ..testing::status() };
            assert_eq!(sentence(&status), text);
        }
    }
}
