//! One-time tokens: what an RPC has allowed and a client has not come for yet.
//!
//! A token is in a URL, lives for a minute and works once. Its holder needs no other proof, so it is
//! as random as a key.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Session;

/// How long a client may take to come.
const LIFE: Duration = Duration::from_secs(60);

/// Tokens that may be outstanding: far more than a kubelet asks for within a minute.
const MAX_OUTSTANDING: usize = 1000;

/// Too many tokens are outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The outstanding tokens.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<String, (Session, Instant)>>);

impl Tokens {
    /// A token for `session`.
    ///
    /// # Errors
    /// [`Full`] until clients have come for some, or they have expired.
    pub fn issue(&self, session: Session) -> Result<String, Full> {
        self.issue_at(session, Instant::now())
    }

    fn issue_at(&self, session: Session, now: Instant) -> Result<String, Full> {
        // 256 bits, which nobody guesses within a minute.
        let token = URL_SAFE_NO_PAD.encode(crate::ids::random());
        let mut tokens = self.lock();
        if tokens.len() >= MAX_OUTSTANDING {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() >= MAX_OUTSTANDING {
            return Err(Full);
        }
        tokens.insert(token.clone(), (session, now + LIFE));
        Ok(token)
    }

    /// What a token is for. It stays valid.
    pub fn find(&self, token: &str) -> Option<Session> {
        self.find_at(token, Instant::now())
    }

    fn find_at(&self, token: &str, now: Instant) -> Option<Session> {
        let tokens = self.lock();
        let (session, until) = tokens.get(token)?;
        (*until > now).then(|| session.clone())
    }

    /// Uses a token up; whether it was there, so that of two only one succeeds.
    pub fn take(&self, token: &str) -> bool {
        let taken = self.lock().remove(token);
        taken.is_some_and(|(_, until)| until > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Session, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodId;
    use crate::stream::portforward;

    fn session() -> Session {
        Session::PortForward(portforward::Request { pod: PodId::random(), ports: Vec::new() })
    }

    #[test]
    fn a_token_works_once() {
        let tokens = Tokens::default();
        let token = tokens.issue(session()).expect("room");
        assert!(tokens.find(&token).is_some() && tokens.find(&token).is_some());
        assert!(tokens.take(&token));
        assert!(!tokens.take(&token) && tokens.find(&token).is_none());
        assert!(tokens.find("").is_none() && tokens.find("AAAA").is_none());
        assert!(
            token.len() >= 22
                && token.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
    }

    #[test]
    fn a_minute_later_it_is_unknown() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.issue_at(session(), now).expect("room");
        assert!(tokens.find_at(&token, now + Duration::from_secs(59)).is_some());
        assert!(tokens.find_at(&token, now + Duration::from_secs(61)).is_none());
    }

    #[test]
    fn the_thousand_and_first_waits_for_an_earlier_one_to_go() {
        let tokens = Tokens::default();
        let now = Instant::now();
        let first = tokens.issue_at(session(), now).expect("room");
        for _ in 1..MAX_OUTSTANDING {
            tokens.issue_at(session(), now).expect("room");
        }
        assert_eq!(tokens.issue_at(session(), now), Err(Full));
        assert!(tokens.take(&first));
        tokens.issue_at(session(), now).expect("room");
        assert_eq!(tokens.issue_at(session(), now), Err(Full));
        tokens.issue_at(session(), now + LIFE).expect("all others have expired");
        assert_eq!(tokens.lock().len(), 1);
    }
}
