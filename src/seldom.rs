//! [`Seldom`]: a line in the log about what a stranger can make happen as often as he likes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines about the same thing.
const INTERVAL: Duration = Duration::from_secs(30);

/// Counts what happens between two lines. One for each kind of line, as a static beside it.
#[derive(Debug)]
pub struct Seldom(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    /// When there may be a line again; none = at once.
    next: Option<Instant>,
    /// What has happened since the last line.
    times: u64,
}

impl Seldom {
    /// Nothing has happened yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Counted { next: None, times: 0 }))
    }

    /// It has happened: how often since the last line, this time included, if there is to be a line
    /// now. What happens after the last line of all is not told.
    pub fn again(&self) -> Option<u64> {
        self.again_at(Instant::now())
    }

    fn again_at(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.times += 1;
        if counted.next.is_some_and(|next| now < next) {
            return None;
        }
        counted.next = Some(now + INTERVAL);
        Some(std::mem::take(&mut counted.times))
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_line_an_interval_and_it_says_how_many_it_stands_for() {
        let (seldom, now) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.again_at(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(seldom.again_at(now + INTERVAL / 2), None);
        }
        assert_eq!(seldom.again_at(now + INTERVAL), Some(1001));
        assert_eq!(seldom.again_at(now + INTERVAL), None);
    }
}
