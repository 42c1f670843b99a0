//! Pods that come and go while the suite runs: it must not notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::node::Node;
use e2e::request;

/// The image that they run; the suite pulls it too and never removes it.
const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// A crowd of threads, each with one pod at a time.
pub(crate) struct Neighbours {
    stop: Arc<AtomicBool>,
    lives: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Neighbours {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// If their image cannot be pulled.
    pub(crate) fn start(node: &Arc<Node>, count: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let lives = Arc::new(AtomicUsize::new(0));
        if count > 0 {
            node.cri().pull(IMAGE)?;
        }
        let threads = (0..count)
            .map(|number| {
                let (node, stop, lives) = (Arc::clone(node), Arc::clone(&stop), Arc::clone(&lives));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        live(&node, number).with_context(|| format!("neighbour {number}"))?;
                        lives.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        Ok(Self { stop, lives, threads })
    }

    /// Ends them; how many pods have come and gone.
    ///
    /// # Errors
    /// The first thing that went wrong in any of them.
    pub(crate) fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let crowd = self.threads.len();
        for thread in self.threads {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a neighbour panicked")))?;
        }
        let lives = self.lives.load(Ordering::Relaxed);
        ensure!(lives >= crowd, "only {lives} pods came and went");
        Ok(lives)
    }
}

/// The life of one pod with one container.
fn live(node: &Node, number: usize) -> Result<()> {
    let config = request::pod(node, &format!("neighbour-{number}"));
    let pod = node.cri().run_pod(&config)?;
    let container = request::container("c", IMAGE, &["sleep", "1000"]);
    let container = node.cri().create(&pod, &container, &config)?;
    node.cri().start(&container)?;
    node.cri().exec(&container, &["true"])?;
    node.cri().stop(&container, 0)?;
    node.cri().remove(&container)?;
    node.cri().drop_pod(&pod)?;
    Ok(())
}
