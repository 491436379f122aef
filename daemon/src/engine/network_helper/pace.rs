//! How fast a helper is replaced that dies again and again.

use std::time::Duration;

/// How long a loss counts.
const WINDOW: Duration = Duration::from_secs(60);
/// The delay before the second replacement within [`WINDOW`]; it doubles with each further one.
const DELAY: Duration = Duration::from_millis(10);
/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// So many losses within [`WINDOW`] are too many to say that the network is being mended.
const LIMIT: usize = 9;

/// The losses that count.
#[derive(Debug, Default)]
pub struct Losses(Vec<Duration>);

/// What a loss leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long to wait before the replacement.
    pub delay: Duration,
    /// How many losses there were lately, if they are too many.
    pub too_many: Option<usize>,
}

impl Losses {
    /// Count a loss at `now`, in CLOCK_BOOTTIME.
    pub fn add(&mut self, now: Duration) -> Pace {
        self.0.retain(|&loss| now.saturating_sub(loss) < WINDOW);
        let before = self.0.len();
        self.0.push(now);
        let delay = match u32::try_from(before) {
            Ok(0) => Duration::ZERO,
            before => {
                let doubled = 2u32.saturating_pow(before.unwrap_or(u32::MAX) - 1);
                DELAY.saturating_mul(doubled).min(MAX_DELAY)
            }
        };
        Pace { delay, too_many: Some(before + 1).filter(|&count| count >= LIMIT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_slow_it_down_for_a_minute() {
        let rows: &[(&[u64], u64, bool)] = &[
            (&[0], 0, false),
            (&[0, 1], 10, false),
            (&[0, 1, 2, 3], 40, false),
            (&[0, 1, 2, 3, 4, 5, 6], 320, false),
            (&[0, 1, 2, 3, 4, 5, 6, 7, 8], 1280, true),
            (&[0; 14], 40_960, true),
            (&[0; 15], 60_000, true),
            (&[0; 100], 60_000, true),
            // Those of the last minute only.
            (&[0, 59], 10, false),
            (&[0, 60], 0, false),
            (&[0, 1, 2, 61], 10, false),
        ];
        for (seconds, delay, too_many) in rows {
            let mut losses = Losses::default();
            let paces = seconds.iter().map(|&second| losses.add(Duration::from_secs(second)));
            let pace = paces.last().unwrap();
            assert_eq!(pace.delay, Duration::from_millis(*delay), "{seconds:?}");
            assert_eq!(pace.too_many, too_many.then_some(seconds.len()), "{seconds:?}");
        }
    }
}
