//! Leaps of the clocks: the machine slept, or somebody set the time of day.
//!
//! The kernel ends a timer of CLOCK_REALTIME before its time when that clock leaps, also after a
//! suspend (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). So nobody has to be asked, and no bus
//! needed, to learn of it.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use super::fd;

/// Less is not worth a word: a clock that is being kept right is moved now and then.
const LEAST: Duration = Duration::from_secs(1);
/// When the timer would ring, in s since 1970: in the year 2242.
const NEVER: i64 = 1 << 33;

/// What the clocks show at a moment, in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clocks {
    /// The time of day.
    realtime: i128,
    /// What goes on in a suspend.
    boottime: i128,
    /// What stands still in a suspend.
    monotonic: i128,
}

impl Clocks {
    fn now() -> Self {
        let read = |id| {
            let now = clock_gettime(id);
            i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000)
        };
        // In this order one that is behind another stays so, however long that takes.
        let monotonic = read(ClockId::Monotonic);
        let boottime = read(ClockId::Boottime);
        let realtime = read(ClockId::Realtime);
        Self { realtime, boottime, monotonic }
    }

    /// What happened since another moment.
    fn leap_since(self, before: Self) -> Option<Leap> {
        let least = i128::try_from(LEAST.as_micros()).unwrap_or(i128::MAX);
        let slept = (self.boottime - before.boottime) - (self.monotonic - before.monotonic);
        let set = (self.realtime - before.realtime) - (self.boottime - before.boottime);
        let seconds = |micros: i128| micros.abs() / 1_000_000;
        let slept = (slept >= least).then_some(slept);
        let asleep = slept.map(|slept| format!("the machine slept for {} s", seconds(slept)));
        let set = (set.abs() >= least).then(|| {
            let direction = if set > 0 { "forward" } else { "back" };
            format!("the time of day was set {direction} by {} s", seconds(set))
        });
        let texts: Vec<_> = asleep.into_iter().chain(set).collect();
        let slept = slept.and_then(|micros| u64::try_from(micros).ok()).map(Duration::from_micros);
        (!texts.is_empty()).then(|| Leap { text: texts.join(", and "), slept })
    }
}

/// A leap of the clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leap {
    /// What happened, in words.
    pub text: String,
    /// For how long the machine slept, if it did.
    pub slept: Option<Duration>,
}

/// Who waits for a leap.
pub struct Leaps {
    timer: AsyncFd<OwnedFd>,
    before: Clocks,
}

impl Leaps {
    /// From now on.
    pub fn follow() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        Ok(Self { timer: fd::watch(timer)?, before: Clocks::now() })
    }

    /// Wait for the next. Cancelling it loses nothing.
    pub async fn next(&mut self) -> io::Result<Leap> {
        loop {
            self.timer.readable().await?.clear_ready();
            // It says that it was ended, which is why this is done; it has to be set again then.
            let _ = rustix::io::read(self.timer.get_ref(), &mut [0; 8]);
            arm(self.timer.get_ref())?;
            let now = Clocks::now();
            let leap = now.leap_since(self.before);
            self.before = now;
            if let Some(leap) = leap {
                return Ok(leap);
            }
        }
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let never = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: NEVER, tv_nsec: 0 } };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn leaps_are_told_from_the_passing_of_time() {
        let at = |realtime: i128, boottime: i128, monotonic: i128| Clocks {
            realtime: realtime * 1_000_000,
            boottime: boottime * 1_000_000,
            monotonic: monotonic * 1_000_000,
        };
        let before = at(1000, 100, 90);
        for (now, told) in [
            (before, None),
            (at(4600, 3700, 3690), None),
            (at(8200, 7300, 90), Some(("the machine slept for 7200 s", Some(7200)))),
            (at(4601, 101, 91), Some(("the time of day was set forward by 3600 s", None))),
            (at(-2599, 101, 91), Some(("the time of day was set back by 3600 s", None))),
            (
                at(8210, 7300, 91),
                Some((
                    "the machine slept for 7199 s, and the time of day was set forward by 10 s",
                    Some(7199),
                )),
            ),
        ] {
            let told = told.map(|(text, slept)| Leap {
                text: text.to_owned(),
                slept: slept.map(Duration::from_secs),
            });
            assert_eq!(now.leap_since(before), told, "{now:?}");
        }
        let little = Clocks { realtime: before.realtime + 900_000, ..before };
        assert_eq!(little.leap_since(before), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_leap_there_is_none() {
        let mut leaps = Leaps::follow().unwrap();
        assert!(leaps.next().now_or_never().is_none());
        let real = Clocks::now();
        assert!(real.realtime > real.boottime && real.boottime >= real.monotonic);
    }
}
