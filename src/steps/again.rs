//! When something that failed is tried again: soon at first, then ever more seldom.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Before the second try.
const FIRST: Duration = Duration::from_millis(500);

/// The longest between two tries.
const LONGEST: Duration = Duration::from_secs(30);

/// What is owed of one piece of work.
#[derive(Debug, Default)]
pub struct Again {
    /// Moment of the next try, and the time that was waited for it.
    next: Option<(Instant, Duration)>,
    /// The last pause, while a try is under way.
    pause: Option<Duration>,
}

impl Again {
    /// It failed, and is owed.
    pub fn failed(&mut self) {
        let pause = self.pause.take().map_or(FIRST, |pause| (pause * 2).min(LONGEST));
        self.next = Some((Instant::now() + pause, pause));
    }

    /// It is being tried.
    pub fn begin(&mut self) {
        self.pause = self.next.take().map(|(_, pause)| pause).or(self.pause);
    }

    /// It has succeeded.
    pub fn done(&mut self) {
        *self = Self::default();
    }

    /// Whether it failed and is not being tried just now.
    pub fn is_owed(&self) -> bool {
        self.next.is_some()
    }

    /// When it is to be tried again.
    pub fn at(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }
}

/// Returns at that moment; never if there is none.
pub async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tries_become_seldom_and_success_begins_anew() {
        let mut again = Again::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            again.begin();
            assert!(!again.is_owed());
            again.failed();
            let pause = again.at().expect("owed") - Instant::now();
            pauses.push(pause.as_millis().div_ceil(500));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        again.done();
        again.failed();
        due(again.at()).await;
        assert!(again.at().is_some_and(|at| at <= Instant::now()));
    }
}
