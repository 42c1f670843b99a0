//! [`Memory`]: what the decoders of the whole node may keep in memory beyond what each has anyway. The
//! daemon keeps the account; the processes that unpack ask it.
//!
//! Only windows above [`OWN`] are counted, because the number of layers that are unpacked at a time is
//! bounded: what is compressed as usual waits for nobody, however slowly others send.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A window that every layer may have: what RFC 8878 (section 3.1.1.1.2) wants every decoder to
/// take, and the most that `zstd -19` and the usual levels of image builders need.
pub(super) const OWN: u64 = 8 << 20;

/// Two windows of the size that is accepted by default, at one time.
pub(super) static NODE: Memory = Memory::new(48 << 20);

/// Bytes that are shared out in the order in which they are asked for.
#[derive(Debug)]
pub(super) struct Memory {
    size: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    used: u64,
    /// The number of the next who asks, and of the one whose turn it is.
    next: u64,
    turn: u64,
}

/// A part of it, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: &'static Memory,
    bytes: u64,
}

impl Memory {
    pub(super) const fn new(size: u64) -> Self {
        let state = State { used: 0, next: 0, turn: 0 };
        Self { size, state: Mutex::new(state), freed: Condvar::new() }
    }

    /// Waits for `bytes`. Who wants more than there is gets it when nobody else has any, which is
    /// what an operator chose who accepts such windows.
    ///
    /// RACE: nobody may hold a share while he waits for another, or two wait for each other.
    pub(super) fn take(&'static self, bytes: u64) -> Share {
        let bytes = bytes.min(self.size);
        if bytes > 0 {
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            let waits = |state: &mut State| state.turn != number || state.used + bytes > self.size;
            let waited = self.freed.wait_while(state, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.turn += 1;
            state.used += bytes;
            drop(state);
            self.freed.notify_all();
        }
        Share { of: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.of.lock().used -= self.bytes;
            self.of.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_finds_no_room_waits_until_there_is_some() {
        static MEMORY: Memory = Memory::new(10);
        let (first, second) = (MEMORY.take(6), MEMORY.take(4));
        let (sender, receiver) = mpsc::channel();
        let third = thread::spawn(move || {
            let share = MEMORY.take(5);
            sender.send(()).ok();
            drop(share);
        });
        drop(second);
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "4 bytes are not 5");
        drop(first);
        receiver.recv_timeout(Duration::from_secs(20)).expect("its turn");
        third.join().expect("no panic");
        assert_eq!(MEMORY.lock().used, 0);
    }

    #[test]
    fn what_can_never_fit_is_alone_and_nothing_waits_for_nothing() {
        static MEMORY: Memory = Memory::new(10);
        let all = MEMORY.take(1000);
        let none = MEMORY.take(0);
        assert_eq!((all.bytes, none.bytes), (10, 0));
    }
}
