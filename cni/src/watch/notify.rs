//! inotify(7) as a hint that something changed. Without it the caller's poll has to do.

use std::io;
use std::path::PathBuf;

use inotify::{EventStream, Inotify, WatchMask};
use tokio_stream::StreamExt;

/// Bytes for events; one with the longest name needs 272.
const BUFFER: usize = 4096;

/// Reports changes in directories.
#[derive(Default)]
pub(super) struct Notifier {
    events: Option<EventStream<[u8; BUFFER]>>,
    /// The failure that was logged last, so that each is logged once.
    warned: Option<String>,
}

impl Notifier {
    /// Watches these directories from now on, as far as they exist. Repeating it is free: the
    /// kernel knows a directory that it watches already, also under another name.
    pub(super) fn watch(&mut self, directories: &[PathBuf]) {
        match self.try_watch(directories) {
            Ok(()) => self.warned = None,
            Err(error) => self.warn(&error),
        }
    }

    fn try_watch(&mut self, directories: &[PathBuf]) -> io::Result<()> {
        let events = match &mut self.events {
            Some(events) => events,
            none => none.insert(Inotify::init()?.into_event_stream([0; BUFFER])?),
        };
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut failure = Ok(());
        for directory in directories {
            match events.watches().add(directory, mask) {
                Err(error) if !is_absent(&error) => failure = Err(error),
                _ => {}
            }
        }
        failure
    }

    /// Waits for a change. Never returns without inotify.
    pub(super) async fn changed(&mut self) {
        if let Some(events) = &mut self.events {
            match events.next().await {
                // An overflow of the queue is an event like any other: read everything again.
                Some(Ok(_)) => return,
                Some(Err(error)) => self.warn(&error),
                None => {}
            }
            // Made anew at the next reading, which the poll brings.
            self.events = None;
        }
        std::future::pending().await
    }

    fn warn(&mut self, error: &io::Error) {
        let text = error.to_string();
        if self.warned.as_ref() != Some(&text) {
            tracing::warn!(
                error = text,
                "inotify does not work; changed network configuration is seen later"
            );
            self.warned = Some(text);
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
