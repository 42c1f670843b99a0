//! How much a client allows us to send: SPDY/3.1's flow control, section 2.6.8.
//!
//! COMPAT: the one client library in use, Go's spdystream, never allows anything, and whoever waits
//! for it stops after 64 KiB. So a window counts from the first byte but holds nobody up until the
//! client has shown, by a setting or an update, that it counts too. What always holds us up is TCP.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The client is not there any more, or has reset the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// The window that streams and connections begin with.
pub const INITIAL: u32 = 64 << 10;

/// The largest that a window may become.
const LARGEST: i64 = i32::MAX as i64;

/// What may be sent on one stream: no more than its own window and the connection's have room for.
#[derive(Clone, Debug)]
pub struct Window(Option<(Arc<Room>, Arc<Room>)>);

/// Room for bytes.
#[derive(Debug)]
pub struct Room {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    left: i64,
    counts: bool,
    closed: bool,
}

/// A window would become larger than it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl Room {
    /// Room for `left` bytes; `counts` = the client is known to use flow control.
    pub fn new(left: u32, counts: bool) -> Arc<Self> {
        let state = State { left: i64::from(left), counts, closed: false };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// The client uses flow control.
    pub fn count(&self) {
        self.with(|state| state.counts = true);
    }

    /// The client allows `delta` bytes more.
    ///
    /// # Errors
    /// If nobody could have taken so much.
    pub fn grow(&self, delta: i64) -> Result<(), Overflow> {
        self.with(|state| {
            state.counts = true;
            let left = state.left.saturating_add(delta);
            if left > LARGEST {
                return Err(Overflow);
            }
            state.left = left;
            Ok(())
        })
    }

    /// Nothing can be sent any more.
    pub fn close(&self) {
        self.with(|state| state.closed = true);
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        drop(state);
        self.changed.notify_waiters();
        result
    }

    /// How many of `wanted` bytes may go now.
    fn try_take(&self, wanted: usize) -> Result<usize, Gone> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Gone);
        }
        let granted = match state.counts {
            true => usize::try_from(state.left).unwrap_or(0).min(wanted),
            false => wanted,
        };
        // Pieces are far smaller than what a window can count.
        state.left = state.left.saturating_sub(granted as i64);
        Ok(granted)
    }

    async fn take(&self, wanted: usize) -> Result<usize, Gone> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.try_take(wanted)? {
                0 => changed.await,
                granted => return Ok(granted),
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        self.with(|state| state.left = state.left.saturating_add(bytes as i64));
    }
}

impl Window {
    /// No window but TCP's.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// The window of a stream with room of its own on a connection.
    pub fn new(stream: Arc<Room>, connection: Arc<Room>) -> Self {
        Self(Some((stream, connection)))
    }

    /// Waits until something may be sent; how much of `wanted`, at least one byte.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn take(&self, wanted: usize) -> Result<usize, Gone> {
        let Some((stream, connection)) = &self.0 else { return Ok(wanted) };
        // RACE: a stream that is reset meanwhile is noticed at its next piece; the connection's room
        // is closed when the connection ends.
        let mut held = Held { room: stream, bytes: stream.take(wanted).await? };
        let granted = connection.take(held.bytes).await?;
        held.bytes -= granted;
        Ok(granted)
    }
}

/// Bytes that a stream allows and that may not be sent after all; given back when dropped.
struct Held<'a> {
    room: &'a Room,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.room.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(window: &Window) -> bool {
        tokio::time::timeout(Duration::from_millis(20), window.take(1)).await.is_err()
    }

    #[tokio::test]
    async fn a_client_that_does_not_count_is_not_waited_for() {
        let window = Window::new(Room::new(INITIAL, false), Room::new(INITIAL, false));
        for _ in 0..100 {
            assert_eq!(window.take(PIECE_OF_TEST).await, Ok(PIECE_OF_TEST));
        }
    }

    const PIECE_OF_TEST: usize = 32 << 10;

    #[tokio::test]
    async fn a_client_that_counts_holds_up_its_stream_until_it_allows_more() {
        let (stream, connection) = (Room::new(5, false), Room::new(8, true));
        let window = Window::new(stream.clone(), connection.clone());
        stream.count();
        assert_eq!(window.take(10).await, Ok(5));
        assert!(waits(&window).await);
        stream.grow(10).expect("fits");
        assert_eq!(window.take(10).await, Ok(3), "what the connection has left");
        assert!(waits(&window).await);
        let later = tokio::spawn({
            let window = window.clone();
            async move { window.take(10).await }
        });
        connection.grow(100).expect("fits");
        assert_eq!(later.await.expect("no panic"), Ok(7), "the rest was given back");
    }

    #[tokio::test]
    async fn an_end_wakes_who_waits_and_a_window_never_overflows() {
        let (stream, connection) = (Room::new(0, true), Room::new(INITIAL, true));
        let window = Window::new(stream.clone(), connection);
        let waiting = tokio::spawn(async move { window.take(1).await });
        stream.close();
        assert_eq!(waiting.await.expect("no panic"), Err(Gone));
        let room = Room::new(1, false);
        assert_eq!(room.grow(i64::from(i32::MAX)), Err(Overflow));
        assert_eq!(room.grow(i64::from(i32::MAX) - 1), Ok(()));
    }
}
