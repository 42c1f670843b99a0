//! How fast CPU time is used, from its total.

use std::time::{Duration, Instant};

/// The shortest time over which a rate means something: the kernel accounts in ticks.
const WINDOW: Duration = Duration::from_millis(500);

/// A rate over the last window.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Option<(Instant, u64)>,
    nano_cores: u64,
}

impl Rate {
    /// Nanoseconds of CPU time per second, from the total at `now`. Zero until there are two totals.
    pub(super) fn next(&mut self, now: Instant, usage_ns: u64) -> u64 {
        let Some((then, used)) = self.since else {
            self.since = Some((now, usage_ns));
            return 0;
        };
        let passed = now.saturating_duration_since(then);
        if passed >= WINDOW {
            // A total that fell is another group's: the pod's containers are others now.
            let used = u128::from(usage_ns.saturating_sub(used)) * 1_000_000_000;
            self.nano_cores = u64::try_from(used / passed.as_nanos()).unwrap_or(u64::MAX);
            self.since = Some((now, usage_ns));
        }
        self.nano_cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_totals_and_keeps_until_the_next_window() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rate.next(at(0), 5_000_000_000), 0);
        assert_eq!(rate.next(at(10), 5_010_000_000), 0, "too soon to tell");
        assert_eq!(rate.next(at(1000), 5_500_000_000), 500_000_000);
        assert_eq!(rate.next(at(1100), 9_500_000_000), 500_000_000);
        assert_eq!(rate.next(at(3000), 9_500_000_000), 2_000_000_000);
        assert_eq!(rate.next(at(4000), 1), 0, "a total that fell");
    }
}
