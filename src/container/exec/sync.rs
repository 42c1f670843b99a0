//! A command run to its end: ExecSync.
//!
//! Output past the command's own bound is read and dropped; what the node has no room for is an error,
//! because nobody could tell it from a command that wrote little. A child of the command that keeps the pipe open does
//! not keep the caller waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::monitor::ExecExit;
use crate::runtime::EXEC_DEADLINE;

use super::super::{ContainerError, ContainerRecord, Parts};
use super::{Files, Outputs, Room, Share, kill, monitor_error, pipe_pair, read_pipe, run_runtime};

/// Both streams together. The kubelet and crictl refuse a reply over 16 MiB; the rest of the reply
/// needs a few bytes.
const OUTPUT_BOUND: usize = (16 << 20) - 4096;

/// How long output may go on after the command has ended, when a child of it holds the pipe.
const DRAIN: Duration = Duration::from_millis(200);

/// What the start of a command may take on top of its own time: a busy node is no reason for a probe
/// to fail.
const START_GRACE: Duration = Duration::from_secs(5);

/// What a command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Status, or 128 + signal.
    pub code: i32,
}

/// Runs `command` in the container of `record`; a `timeout` of zero is none. It holds `room` to its
/// end.
pub async fn exec_sync(
    parts: &Arc<Parts>,
    record: &ContainerRecord,
    command: Vec<String>,
    timeout: Duration,
    room: Room,
) -> Result<ExecOutput, ContainerError> {
    let operation = parts.operations.begin("exec", record.id);
    let first = command.first().cloned().unwrap_or_default();
    let files = Files::write(&parts.layout.bundle(&record.id), &command, None).await?;
    let (out_read, out_write) = read_pipe(record)?;
    let (err_read, err_write) = read_pipe(record)?;
    let budget = Arc::new(AtomicUsize::new(OUTPUT_BOUND));
    // An input that has ended. Not /dev/null: crun gives a process's stdio to its user, and the
    // node's own device would be his.
    let (in_read, _) = pipe_pair(record)?;
    let stdio = [in_read, out_write, err_write];
    operation.step("start");
    let timed_out =
        || ContainerError::ExecTimedOut { command: first.clone(), seconds: timeout.as_secs() };
    let limit = match timeout {
        Duration::ZERO => EXEC_DEADLINE,
        timeout => EXEC_DEADLINE.min(timeout.saturating_add(START_GRACE)),
    };
    let mut process = match run_runtime(parts, record, &room, &files, stdio, limit).await {
        Err(ContainerError::ExecNotStarted { .. }) if !timeout.is_zero() => return Err(timed_out()),
        started => started?,
    };
    let mut stdout = collect(out_read, budget.clone(), &parts.outputs);
    let mut stderr = collect(err_read, budget, &parts.outputs);
    operation.step("wait");
    let exit = if timeout.is_zero() {
        process.wait().await
    } else {
        match tokio::time::timeout(timeout, process.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                operation.step("kill");
                kill(record, &mut process).await?;
                return Err(timed_out());
            }
        }
    };
    let ExecExit { code } = exit.map_err(|source| monitor_error(record, source))?;
    operation.step("drain");
    let (stdout, stderr) = tokio::join!(stdout.rest(), stderr.rest());
    match (stdout, stderr) {
        (Some(stdout), Some(stderr)) => Ok(ExecOutput { stdout, stderr, code: i32::from(code) }),
        _ => Err(ContainerError::NoRoomForOutput { id: record.id, command: first }),
    }
}

/// The reading of one stream.
struct Collected {
    reader: JoinHandle<()>,
    kept: Arc<Mutex<Kept>>,
}

/// What was read of it, with the room that this takes.
struct Kept {
    bytes: Vec<u8>,
    share: Share,
    /// Something was dropped that the command's own budget allowed.
    starved: bool,
}

/// Reads a stream to its end, keeping what the command's budget and the node's room allow.
fn collect(mut stream: pipe::Receiver, budget: Arc<AtomicUsize>, outputs: &Outputs) -> Collected {
    let kept =
        Arc::new(Mutex::new(Kept { bytes: Vec::new(), share: outputs.share(), starved: false }));
    let filled = kept.clone();
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let allowed = budget
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    Some(left - left.min(read))
                })
                .map_or(0, |left| left.min(read));
            let Kept { bytes, share, starved } = &mut *lock(&filled);
            let room = share.room(bytes.len(), allowed);
            *starved |= room < allowed;
            bytes.extend_from_slice(&buffer[..room]);
        }
    });
    Collected { reader, kept }
}

impl Collected {
    /// Everything up to the end of the stream, or up to now when its end does not come; none when the
    /// node had no room for it.
    async fn rest(&mut self) -> Option<Vec<u8>> {
        if tokio::time::timeout(DRAIN, &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        let mut kept = lock(&self.kept);
        (!kept.starved).then(|| std::mem::take(&mut kept.bytes))
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// What is kept of so many bytes, with a budget of the command's own, on a node without room.
    async fn kept(bytes: usize, budget: usize) -> Option<usize> {
        let (mut writer, reader) = pipe::pipe().expect("a pipe");
        let budget = Arc::new(AtomicUsize::new(budget));
        let mut collected = collect(reader, budget, &Outputs::of(0));
        writer.write_all(&vec![b'x'; bytes]).await.expect("it is read");
        drop(writer);
        while !collected.reader.is_finished() {
            tokio::task::yield_now().await;
        }
        collected.rest().await.map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn output_that_the_node_has_no_room_for_is_an_error_and_a_little_always_has_room() {
        assert_eq!(kept(100, OUTPUT_BOUND).await, Some(100));
        assert_eq!(kept(200_000, OUTPUT_BOUND).await, None);
        assert_eq!(kept(200_000, 1000).await, Some(1000), "what is over its own bound is cut");
    }
}
