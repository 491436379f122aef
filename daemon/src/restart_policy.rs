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
    /// How long a death counts.
    pub window: Duration,
    /// The delay after the first death; it doubles with each further one.
    pub delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
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
    /// Count a death at `now` among those of the window, of which the newest is the last: the delay
    /// before the next start, or `None` if there were too many.
    pub fn count(&self, deaths: &mut Vec<Duration>, now: Duration) -> Option<Duration> {
        deaths.push(now);
        deaths.retain(|&death| now.saturating_sub(death) < self.window);
        let count = u32::try_from(deaths.len()).unwrap_or(u32::MAX);
        if self.limit != 0 && count >= self.limit {
            return None;
        }
        // Of a window without length, not even the newest is in it.
        let doubled = 2u32.saturating_pow(count.saturating_sub(1));
        Some(self.delay.saturating_mul(doubled).min(self.max_delay))
    }
}
