//! [`Lobby`]: connections of which nobody knows yet whether they may come in.
//!
//! There are only so many. When one more comes, the one that has waited longest has to go: who means
//! it says what he wants at once, so he is never among the oldest for long. Addresses are treated
//! alike: it is the oldest of the address that has most of them, so a crowd from elsewhere does not
//! show out the few that this host has.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Those who wait. A cheap clone.
#[derive(Clone, Debug)]
pub struct Lobby(Arc<Mutex<Waiting>>);

#[derive(Debug)]
struct Waiting {
    limit: usize,
    next: u64,
    /// By the order in which they came; what is sent shows them out.
    visitors: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
}

/// One who waits, until it is dropped or has left.
#[derive(Debug)]
pub struct Visitor {
    place: Place,
    out: oneshot::Receiver<()>,
}

/// A visitor's place, which is given up when dropped.
#[derive(Debug)]
pub struct Place {
    lobby: Lobby,
    number: u64,
}

impl Lobby {
    /// For at most `limit` at one time.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting { limit, next: 0, visitors: BTreeMap::new() })))
    }

    /// One more comes in, and whether another had to go for it.
    pub fn enter(&self, from: IpAddr) -> (Visitor, bool) {
        let (sender, out) = oneshot::channel();
        let mut waiting = self.lock();
        let full = waiting.visitors.len() >= waiting.limit;
        if full && let Some(number) = waiting.superfluous() {
            // Who has gone in this moment needs no word.
            waiting.visitors.remove(&number).map(|(_, sender)| sender.send(()));
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.visitors.insert(number, (from, sender));
        (Visitor { place: Place { lobby: self.clone(), number }, out }, full)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The oldest of the address that has most; of those that have equally many, the oldest.
    fn superfluous(&self) -> Option<u64> {
        let mut of: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (number, (from, _)) in &self.visitors {
            of.entry(*from).or_insert((0, *number)).0 += 1;
        }
        let most = of.into_values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest));
        most.map(|(_, oldest)| oldest)
    }
}

impl Visitor {
    /// The place and the word that it has to be left; the word never comes to who has left himself.
    pub fn split(self) -> (Place, impl Future<Output = ()> + Send) {
        let out = self.out;
        let word = async move {
            if out.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        (self.place, word)
    }
}

impl Place {
    /// Leaves the lobby to come in, or to go.
    pub fn leave(&self) {
        self.lobby.lock().visitors.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let lobby = Lobby::new(2);
        let (first, crowded) = lobby.enter(HERE);
        let (second, _) = lobby.enter(HERE);
        assert!(!crowded);
        let (_third, crowded) = lobby.enter(HERE);
        assert!(crowded);
        let ((_one, first), (_two, second)) = (first.split(), second.split());
        assert_eq!(first.now_or_never(), Some(()));
        assert_eq!(second.now_or_never(), None);
    }

    #[test]
    fn who_has_come_in_is_not_shown_out_and_leaves_his_place_to_others() {
        let lobby = Lobby::new(1);
        let (place, word) = lobby.enter(HERE).0.split();
        place.leave();
        let (other, crowded) = lobby.enter(HERE);
        assert!(!crowded);
        assert_eq!(word.now_or_never(), None);
        drop((place, other));
        assert!(lobby.lock().visitors.is_empty());
    }

    #[test]
    fn a_crowd_shows_out_its_own() {
        let lobby = Lobby::new(3);
        let (here, _) = lobby.enter(HERE);
        let crowd: Vec<_> = (0..100).map(|_| lobby.enter(THERE).0).collect();
        let (_place, word) = here.split();
        assert_eq!(word.now_or_never(), None);
        assert_eq!(lobby.lock().visitors.len(), 3);
        drop(crowd);
        assert_eq!(lobby.lock().visitors.len(), 1);
    }
}
