//! The door through which container creations enter a pod: a stop closes it and waits for those
//! inside, so that no container appears in a stopped pod.

use std::sync::Arc;

use tokio::sync::watch;

/// A door that can be closed once.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<Inside>>);

#[derive(Clone, Copy, Debug)]
struct Inside {
    open: bool,
    count: usize,
}

/// Someone inside; leaves when dropped.
#[derive(Debug)]
pub struct Pass(Arc<watch::Sender<Inside>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Inside { open: true, count: 0 })))
    }
}

impl Gate {
    /// Goes in; none when the door is closed.
    pub fn enter(&self) -> Option<Pass> {
        let entered = self.0.send_if_modified(|inside| {
            inside.count += usize::from(inside.open);
            inside.open
        });
        entered.then(|| Pass(self.0.clone()))
    }

    /// Closes the door and waits until everybody has left.
    pub async fn close(&self) {
        let mut inside = self.0.subscribe();
        self.0.send_modify(|inside| inside.open = false);
        inside.wait_for(|inside| inside.count == 0).await.ok();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.send_modify(|inside| inside.count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_waits_for_those_inside_and_lets_nobody_in() {
        let gate = Gate::default();
        let pass = gate.enter().expect("open");
        let closing = tokio::spawn({
            let gate = gate.clone();
            async move { gate.close().await }
        });
        while gate.enter().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        drop(pass);
        closing.await.expect("closed");
    }
}
