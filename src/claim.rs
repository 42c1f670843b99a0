//! Whose request makes what a key names, while it is being made: the one that asked last.
//!
//! A second request for the same thing joins the first. One for something else under the same key
//! takes its place: a client that asks anew for a key has given up what it asked before. The first
//! making ends at its next step and is undone, and then the second begins. What is made is made:
//! [`Claim::settle`] and [`Claim::take_over`] exclude each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The place of a request in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(u64);

impl Turn {
    /// The place after all others up to now.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a making stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It goes on, for the request that came at this turn.
    InFlight(Turn),
    /// It is done.
    Settled,
    /// It is given up for the request that came at this turn.
    Lost(Turn),
}

/// What came of the wish to take another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Its making will end and be undone: wait for that, then try again.
    Soon,
    /// It is made already.
    Settled,
    /// A later request has this place.
    Newer,
}

/// The claim of one making to its key. Clones are the same claim.
#[derive(Clone, Debug)]
pub struct Claim(Arc<watch::Sender<Stage>>);

impl Claim {
    /// A making begins for the request that came at `turn`.
    pub fn new(turn: Turn) -> Self {
        Self(Arc::new(watch::Sender::new(Stage::InFlight(turn))))
    }

    /// Of what was made before.
    pub fn settled() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Settled)))
    }

    /// It is made. False when another request has taken its place: undo it.
    #[must_use]
    pub fn settle(&self) -> bool {
        self.0.send_if_modified(|stage| {
            let goes_on = matches!(stage, Stage::InFlight(_));
            if goes_on {
                *stage = Stage::Settled;
            }
            goes_on
        });
        *self.0.borrow() == Stage::Settled
    }

    /// The request that came at `turn` wants something else under the same key.
    pub fn take_over(&self, turn: Turn) -> TakeOver {
        let mut result = TakeOver::Settled;
        self.0.send_if_modified(|stage| match *stage {
            Stage::Settled => false,
            Stage::InFlight(of) | Stage::Lost(of) if of > turn => {
                result = TakeOver::Newer;
                false
            }
            Stage::InFlight(_) | Stage::Lost(_) => {
                result = TakeOver::Soon;
                *stage = Stage::Lost(turn);
                true
            }
        });
        result
    }

    /// Whether another request has taken its place.
    pub fn is_lost(&self) -> bool {
        matches!(*self.0.borrow(), Stage::Lost(_))
    }

    /// Waits until another request has taken its place, which may never be.
    pub async fn lost(&self) {
        let mut stage = self.0.subscribe();
        if stage.wait_for(|stage| matches!(stage, Stage::Lost(_))).await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_ask_has_it_until_it_is_made() {
        let [first, second, third] = [Turn::next(), Turn::next(), Turn::next()];
        let claim = Claim::new(second);
        assert_eq!(claim.take_over(first), TakeOver::Newer);
        assert!(!claim.is_lost());
        assert_eq!(claim.take_over(third), TakeOver::Soon);
        assert_eq!(claim.take_over(second), TakeOver::Newer, "the third waits for it");
        assert!(claim.is_lost() && !claim.settle());

        let made = Claim::new(first);
        assert!(made.settle());
        assert_eq!(made.take_over(third), TakeOver::Settled);
        assert_eq!(Claim::settled().take_over(third), TakeOver::Settled);
    }
}
