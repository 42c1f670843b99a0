//! [`Turns`]: how many runtimes are being started side by side on the node.
//!
//! A start is bound by the processor: more at a time only make each slower. One that takes long does
//! not: it waits for something that its container may have made so (a FIFO as /etc/passwd, a frozen
//! control group, a mount that does not answer). So a start has its slot for a while only, and goes
//! on without it after that; the more there are that do, the longer, so that a node that is just slow
//! does not start ever more of them. Slots are given in the order in which they were asked for, and each
//! container asks for few at a time, so nobody waits for longer than that while in each round,
//! whatever others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a start has its slot while no other goes on without one. One takes some ten milliseconds; on
/// a busy node it may be a second.
const HOLD: Duration = Duration::from_secs(2);

/// The slots of the node. A cheap clone.
#[derive(Clone, Debug)]
pub struct Turns {
    slots: Arc<Semaphore>,
    count: usize,
    /// How many go on without a slot.
    late: Arc<AtomicUsize>,
    hold: Duration,
}

/// One slot.
#[derive(Debug)]
pub struct Slot {
    permit: OwnedSemaphorePermit,
    turns: Turns,
}

impl Turns {
    /// So many slots.
    pub fn new(slots: usize) -> Self {
        let late = Arc::default();
        Self { slots: Arc::new(Semaphore::new(slots)), count: slots, late, hold: HOLD }
    }

    /// Waits for a slot.
    pub async fn slot(&self) -> Slot {
        let permit = self.slots.clone().acquire_owned().await;
        Slot { permit: permit.expect("the semaphore is never closed"), turns: self.clone() }
    }

    /// How long a start has its slot now.
    fn hold(&self) -> Duration {
        let late = u32::try_from(self.late.load(Relaxed) / self.count.max(1)).unwrap_or(u32::MAX);
        self.hold.saturating_mul(late.saturating_add(1))
    }
}

impl Slot {
    /// Does `work`; the slot is given back when that is done or has taken long.
    pub async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(self.turns.hold(), &mut work).await {
            return done;
        }
        let _late = Late::new(&self.turns.late);
        drop(self.permit);
        work.await
    }
}

/// One that goes on without a slot, until it is done or given up.
struct Late<'a>(&'a AtomicUsize);

impl<'a> Late<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_takes_long_keeps_others_waiting_for_a_while_only() {
        let turns = Turns { hold: Duration::from_millis(20), ..Turns::new(1) };
        let stuck = turns.slot().await.during(pending::<()>());
        let mut stuck = std::pin::pin!(stuck);
        assert!(stuck.as_mut().now_or_never().is_none());
        let mut other = std::pin::pin!(async { turns.slot().await.during(ready(7)).await });
        assert!(other.as_mut().now_or_never().is_none(), "there is one slot");
        let done = tokio::select! {
            () = stuck.as_mut() => unreachable!("it never ends"),
            done = other => done,
        };
        assert_eq!(done, 7);
        assert!(stuck.now_or_never().is_none(), "it goes on");
    }

    #[tokio::test]
    async fn a_slot_is_free_again_when_its_work_is_done_or_given_up() {
        let turns = Turns::new(1);
        assert_eq!(turns.slot().await.during(ready(1)).await, 1);
        assert!(turns.slot().await.during(pending::<()>()).now_or_never().is_none());
        assert_eq!(turns.slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn the_more_go_on_without_a_slot_the_longer_it_is_held() {
        let turns = Turns { hold: Duration::from_millis(1), ..Turns::new(2) };
        let mut stuck = Vec::new();
        for (late, held) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
            while turns.late.load(Relaxed) < late {
                tokio::task::yield_now().await;
            }
            assert_eq!(turns.hold(), Duration::from_millis(held), "{late} late");
            let turns = turns.clone();
            stuck.push(tokio::spawn(async move {
                turns.slot().await.during(pending::<()>()).await;
            }));
        }
        stuck.iter().for_each(tokio::task::JoinHandle::abort);
        for task in stuck {
            task.await.expect_err("aborted");
        }
        assert_eq!((turns.late.load(Relaxed), turns.slots.available_permits()), (0, 2));
    }
}
