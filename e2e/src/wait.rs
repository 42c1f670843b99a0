//! Waiting for something to become true, with a deadline: the tests never sleep for a fixed time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `look` gives a value; `what` names it in the error.
///
/// # Errors
/// When `limit` passed without one, with the last reason that `look` gave.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= deadline => {
                bail!("{what}: not within {limit:?}: {reason:#}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}
