//! The two clocks: one for people, one for counting; and how to wait for a moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};

/// The time of day in µs since 1970, as the API tells it.
pub fn now_realtime() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The time since boot, suspend included: what deaths and delays are counted with, since nobody
/// sets it, and since it goes on when the supervisor is replaced.
pub fn now_boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// Wait until a moment, if there is one to wait for.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
