//! The two clocks: one for people, one for counting; and how to wait for a moment.

use std::{
    fs, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::time::{Instant, sleep_until};

use super::fd;

/// The time of day in µs since 1970, as the API tells it.
pub fn now_realtime() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    micros(since)
}

/// In whole µs, as the API tells times and durations.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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

/// Which boot this is (`/proc/sys/kernel/random/boot_id` of proc(5)).
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Wait until a moment, if there is one to wait for.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A moment to come that a suspend does not put off.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    boottime: Duration,
    monotonic: Instant,
}

impl Alarm {
    /// After this time.
    pub fn after(delay: Duration) -> Self {
        Self { boottime: now_boottime().saturating_add(delay), monotonic: Instant::now() + delay }
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.boottime <= now_boottime() || self.monotonic <= Instant::now()
    }

    /// Wait for it. The runtime's own clock stands still in a suspend, so it is the later of the two
    /// there; it is the one that tests turn, and the one that is left without a timer.
    pub async fn rings(self) {
        tokio::select! {
            Ok(()) = at_boottime(self.boottime) => {}
            () = sleep_until(self.monotonic) => {}
        }
    }
}

/// Wait until CLOCK_BOOTTIME is there (timerfd_create(2)).
async fn at_boottime(moment: Duration) -> io::Result<()> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    // Zero would disarm it.
    let moment = moment.max(Duration::from_nanos(1));
    let value = Timespec {
        tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: moment.subsec_nanos().into(),
    };
    let once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let when = Itimerspec { it_interval: once, it_value: value };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &when)?;
    fd::watch(timer)?.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_alarm_rings_by_the_clock_that_is_there_first() {
        let (now, never) = (now_boottime(), Duration::from_secs(1 << 40));
        let begun = Instant::now();
        // As after a suspend: the runtime's clock did not see it.
        Alarm { boottime: now, monotonic: begun + Duration::from_secs(3600) }.rings().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(Alarm { boottime: now, monotonic: begun + Duration::from_secs(3600) }.is_over());
        assert!(!Alarm::after(Duration::from_secs(9)).is_over());
        at_boottime(Duration::ZERO).await.unwrap();
        Alarm { boottime: never, monotonic: begun + Duration::from_secs(9) }.rings().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
    }
}
