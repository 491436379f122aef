//! How often and how fast what died is started again: the whole engine by the
//! [supervisor](crate::supervisor::machine), a part of it by [engine-init](crate::engine::init).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::RestartConfig;

/// How often and how fast what died is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// As many deaths in [`Self::window`] are one too many; 0: there are never too many.
    pub limit: u32,
    /// How long a death counts of what had been ready.
    pub window: Duration,
    /// The delay after the first death; it doubles with each further one.
    pub delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

/// The deaths that count: those of the window, and all since it was ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deaths {
    /// When they were, in CLOCK_BOOTTIME since boot, the newest last; only those of the window.
    deaths: Vec<Duration>,
    /// How many there were since it was ready. A start that hangs until its time is over outlasts the
    /// window, and would be tried for ever if only that counted.
    #[serde(default)]
    in_a_row: u32,
}

impl Deaths {
    /// It is ready, or nobody tries any more: from now on the deaths before count within the window only.
    pub const fn end_row(&mut self) {
        self.in_a_row = 0;
    }

    /// How many count, as of the last one.
    pub fn count(&self) -> u32 {
        // Both are the newest ones.
        u32::try_from(self.deaths.len()).unwrap_or(u32::MAX).max(self.in_a_row)
    }
}

impl From<&RestartConfig> for RestartPolicy {
    fn from(config: &RestartConfig) -> Self {
        let &RestartConfig { limit, window, delay, max_delay } = config;
        Self { limit, window, delay, max_delay }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        (&RestartConfig::default()).into()
    }
}

impl RestartPolicy {
    /// Count a death at `now`: the delay before the next start, or `None` if there were too many.
    pub fn count(&self, deaths: &mut Deaths, now: Duration) -> Option<Duration> {
        deaths.in_a_row = deaths.in_a_row.saturating_add(1);
        deaths.deaths.push(now);
        deaths.deaths.retain(|&death| now.saturating_sub(death) < self.window);
        let count = deaths.count();
        if self.limit != 0 && count >= self.limit {
            return None;
        }
        let doubled = 2u32.saturating_pow(count.saturating_sub(1));
        Some(self.delay.saturating_mul(doubled).min(self.max_delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_count_within_the_window_and_since_it_was_ready() {
        let policy = RestartPolicy {
            limit: 4,
            window: Duration::from_secs(60),
            delay: Duration::from_millis(200),
            max_delay: Duration::from_millis(500),
        };
        let forever = RestartPolicy { limit: 0, ..policy };
        // (second of each death, and whether it had been ready; delay in ms after the last one)
        type Row = &'static [(u64, bool)];
        let rows: &[(RestartPolicy, Row, Option<u64>)] = &[
            (policy, &[(0, true)], Some(200)),
            (policy, &[(0, true), (1, true), (2, true)], Some(500)),
            (policy, &[(0, true), (1, true), (2, true), (3, true)], None),
            (policy, &[(0, true), (60, true), (120, true), (180, true)], Some(200)),
            // Each takes 90 s to fail.
            (policy, &[(90, false)], Some(200)),
            (policy, &[(90, false), (180, false)], Some(400)),
            (policy, &[(90, false), (180, false), (270, false)], Some(500)),
            (policy, &[(90, false), (180, false), (270, false), (360, false)], None),
            // That of the one which was ready is the first of them.
            (policy, &[(0, true), (90, false), (180, false), (270, false)], None),
            // One that gets ready ends the row, but does not forgive what is within the window.
            (policy, &[(0, false), (90, false), (180, false), (270, true)], Some(200)),
            (policy, &[(0, false), (10, false), (20, false), (30, true)], None),
            (forever, &[(0, false), (90, false), (180, false), (270, false)], Some(500)),
        ];
        for (policy, row, delay) in rows {
            let mut deaths = Deaths::default();
            let mut found = None;
            for &(second, was_ready) in *row {
                if was_ready {
                    deaths.end_row();
                }
                found = policy.count(&mut deaths, Duration::from_secs(second));
            }
            assert_eq!(found, delay.map(Duration::from_millis), "{policy:?} {row:?}");
        }
    }

    /// As they are counted for ever.
    #[test]
    fn they_take_no_more_room_the_more_they_are() {
        let policy = RestartPolicy { limit: 0, ..RestartPolicy::default() };
        let mut deaths = Deaths::default();
        for minute in 0..1000 {
            policy.count(&mut deaths, Duration::from_secs(60 * minute));
        }
        assert_eq!((deaths.deaths.len(), deaths.count()), (1, 1000));
    }
}
