//! The named undo stack of an operation that takes several resources.
//!
//! What is taken is pushed in the same breath, before the taking where that can fail half-way.
//! [`Undo::run`] undoes in reverse order, to the end, and says what could not be undone. A stack
//! that is dropped does nothing: after a crash the record tells recovery what to undo.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;

type Action = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send>>;

/// What to undo, in the order it was taken.
#[derive(Default)]
pub struct Undo {
    actions: Vec<(&'static str, Action)>,
}

/// One thing that could not be undone.
#[derive(Debug)]
pub struct Leftover {
    /// The name it was pushed with.
    pub what: &'static str,
    /// Why it is still there.
    pub error: Box<dyn Error + Send + Sync>,
}

impl Undo {
    /// Remembers how to undo one thing.
    pub fn push<F, E>(&mut self, what: &'static str, action: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.actions.push((what, Box::pin(async move { action.await.map_err(Into::into) })));
    }

    /// Forgets everything: the operation succeeded.
    pub fn disarm(&mut self) {
        self.actions.clear();
    }

    /// Undoes everything, newest first.
    pub async fn run(&mut self) -> Vec<Leftover> {
        let mut left = Vec::new();
        while let Some((what, action)) = self.actions.pop() {
            if let Err(error) = action.await {
                tracing::warn!(what, error = %error, "could not be undone");
                left.push(Leftover { what, error });
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn undoing_runs_backwards_to_the_end_and_tells_what_is_left() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for what in ["first", "second", "third"] {
            let order = order.clone();
            undo.push(what, async move {
                order.lock().expect("unpoisoned").push(what);
                if what == "second" { Err("busy") } else { Ok(()) }
            });
        }
        let left = undo.run().await;
        assert_eq!(*order.lock().expect("unpoisoned"), ["third", "second", "first"]);
        assert_eq!(left.iter().map(|l| l.what).collect::<Vec<_>>(), ["second"]);
        assert!(undo.run().await.is_empty());
    }
}
