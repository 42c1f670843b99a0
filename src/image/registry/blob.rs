//! A large blob, piece by piece, across broken connections.
//!
//! What was received is never asked for again: the next request begins behind it, through the
//! registry's own URL, because the signed one it redirected to may have run out. Whether all
//! pieces are one blob, the hash decides, which the receiver keeps.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::SemaphorePermit;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::http::Flow;
use super::{Registry, RegistryError};
use crate::image::manifest::Descriptor;

/// Bytes between two failures that make the second one the first again.
const PROGRESS: u64 = 1 << 20;

/// How a blob ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All its bytes were handed over.
    All,
    /// The receiver took no more.
    Stopped,
}

impl Registry {
    /// A share of this registry, to be held while a blob comes from it.
    pub(crate) async fn blob_share(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so there always is one.
        self.share.blobs.acquire().await.ok()
    }

    /// Hands over a blob, exactly as many bytes as it should have, in order.
    pub(crate) async fn blob(
        &self,
        blob: Descriptor,
        pieces: &Sender<Bytes>,
    ) -> Result<Sent, RegistryError> {
        let pace = &self.network.pace;
        let mut part = Part { blob, done: 0, pieces };
        let mut failures = 0;
        let mut backoff = pace.backoff;
        loop {
            let before = part.done;
            let error = match self.part(&mut part).await {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            if part.done == part.blob.size {
                // It broke behind the last byte.
                return Ok(Sent::All);
            }
            if part.done - before >= PROGRESS {
                failures = 0;
                backoff = pace.backoff;
            }
            failures += 1;
            // A request that failed was tried again already; here only broken bodies are.
            let broken =
                matches!(error, RegistryError::Body { .. } | RegistryError::Stalled { .. });
            if failures >= pace.tries || !broken {
                return Err(error);
            }
            let wait = backoff.min(pace.longest_wait);
            tracing::debug!(host = self.host(), blob = %blob.digest, done = part.done,
                error = %crate::error::chain(&error), "blob is resumed");
            sleep(wait).await;
            backoff *= 2;
        }
    }

    async fn part(&self, part: &mut Part<'_>) -> Result<Sent, RegistryError> {
        let from = Some(part.done).filter(|done| *done > 0);
        let name = part.blob.digest.to_string();
        let response = self.get("blobs", &name, None, from).await?;
        let skip = self.skip(&response, part)?;
        if let Some(length) = response.content_length()
            && length + part.done - skip != part.blob.size
        {
            return Err(self.size(part, length + part.done - skip));
        }
        let mut skip = skip;
        let mut flow = Flow::new(response, &self.network.pace);
        while let Some(mut piece) = flow.next().await? {
            // A server that knows no ranges begins again; we do not.
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            let piece = piece.split_off(known);
            skip -= known as u64;
            if piece.is_empty() {
                continue;
            }
            let length = piece.len() as u64;
            if length > part.blob.size - part.done {
                return Err(self.size(part, part.done + length));
            }
            if part.pieces.send(piece).await.is_err() {
                return Ok(Sent::Stopped);
            }
            part.done += length;
            self.received.fetch_add(length, Ordering::Relaxed);
        }
        if part.done == part.blob.size { Ok(Sent::All) } else { Err(self.size(part, part.done)) }
    }

    /// How many bytes at the beginning of this answer we have already.
    fn skip(&self, response: &Response, part: &Part<'_>) -> Result<u64, RegistryError> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(part.done);
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
        if first.and_then(|first| first.parse().ok()) == Some(part.done) {
            return Ok(0);
        }
        let host = self.host().to_owned();
        Err(RegistryError::Header { host, header: "Content-Range", why: "not what was asked for" })
    }

    fn size(&self, part: &Part<'_>, actual: u64) -> RegistryError {
        let (host, digest) = (self.host().to_owned(), part.blob.digest);
        RegistryError::Size { host, digest, expected: part.blob.size, actual }
    }
}

/// A blob on its way.
struct Part<'a> {
    blob: Descriptor,
    /// Bytes handed over.
    done: u64,
    pieces: &'a Sender<Bytes>,
}
