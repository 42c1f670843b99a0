//! One run of a test program, which is ended when it hangs.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A program that says nothing for this long hangs: every test says how it ended, and one that takes
/// long is ended sooner by its own runner or named once a minute.
const SILENCE: Duration = Duration::from_secs(300);

/// How often a program that says nothing is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// How many tests passed.
    pub(crate) passed: usize,
    /// The tests that failed, or what else did.
    pub(crate) failed: Vec<String>,
    /// Everything it said.
    pub(crate) output: String,
}

impl Run {
    /// Runs `command` to its end, or to that of its patience, and hands on every line.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn watch(name: &str, command: &mut Command, line: impl FnMut(&str)) -> Result<Self> {
        Self::watch_for(SILENCE, name, command, line)
    }

    fn watch_for(
        silence: Duration,
        name: &str,
        command: &mut Command,
        mut line: impl FnMut(&str),
    ) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let (sender, lines) = channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);
        let mut run = Self::default();
        let (mut hangs, mut last) = (false, Instant::now());
        loop {
            match lines.recv_timeout(LOOK) {
                Ok(said) => {
                    line(&said);
                    run.note(&said);
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => break,
                // What it has started may keep its output open.
                Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
                Err(RecvTimeoutError::Timeout) if last.elapsed() < silence => {}
                Err(RecvTimeoutError::Timeout) => {
                    hangs = true;
                    let words = format!("{name} hangs:\n{}", threads(child.id()));
                    line(&words);
                    run.output += &words;
                    end(&mut child);
                }
            }
        }
        let status = child.wait()?;
        run.conclude(name, status, hangs);
        Ok(run)
    }

    /// Takes a line of libtest, or of the node tests' runner, which prints the same.
    fn note(&mut self, said: &str) {
        self.output += said;
        self.output.push('\n');
        let Some((test, how)) =
            said.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        if how.starts_with("ok") {
            self.passed += 1;
        } else if how.starts_with("FAILED") {
            self.failed.push(test.to_owned());
        }
    }

    fn conclude(&mut self, name: &str, status: ExitStatus, hangs: bool) {
        if hangs {
            // libtest names them after a minute.
            let slow = self.output.lines().filter_map(|line| {
                let (test, _) = line.strip_prefix("test ")?.split_once(" has been running for")?;
                let ended = format!("test {test} ... ");
                (!self.output.contains(&ended)).then(|| format!("{test} (hangs)"))
            });
            let mut slow: Vec<String> = slow.collect();
            slow.dedup();
            if slow.is_empty() {
                slow.push(format!("{name} (hangs)"));
            }
            self.failed.append(&mut slow);
        } else if !status.success() && self.failed.is_empty() {
            self.failed.push(format!("{name} ({status})"));
        }
    }
}

/// Sends what `from` says, line by line.
fn forward(from: Option<impl Read + Send + 'static>, to: Sender<String>) {
    thread::spawn(move || {
        let Some(from) = from else { return };
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

/// The threads of a process, which libtest names after their tests, and where in the kernel each
/// waits.
fn threads(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = tasks.map(|task| {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, place, call) = (read("comm"), read("wchan"), read("syscall"));
        format!("    {}: in {}, system call {}\n", name.trim(), place.trim(), call.trim())
    });
    told.collect()
}

/// Asks a program to end, and ends it.
fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
    // The node tests clean up first.
    for _ in 0..100 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(silence: Duration, script: &str) -> Run {
        let mut command = Command::new("/bin/sh");
        Run::watch_for(silence, "x: y (lib)", command.args(["-c", script]), |_| {}).expect("a run")
    }

    #[test]
    fn what_passed_and_failed_is_read_from_the_lines() {
        let lines = "echo 'test a::one ... ok'; echo 'test a::two ... FAILED'; echo test; \
                     echo 'test b::three ... ok (1.2s)'; exit 1";
        let run = watch(SILENCE, lines);
        assert_eq!((run.passed, run.failed), (2, vec!["a::two".to_owned()]));
    }

    #[test]
    fn a_program_that_fails_without_a_test_is_named() {
        let run = watch(SILENCE, "echo 'test a ... ok'; kill -9 $$");
        assert_eq!(run.failed, ["x: y (lib) (signal: 9 (SIGKILL))"]);
    }

    #[test]
    fn what_hangs_is_ended_and_named() {
        let script = "echo 'test a has been running for over 60 seconds'; \
                      echo 'test b has been running for over 60 seconds'; \
                      echo 'test b ... ok'; exec sleep 1000";
        let run = watch(Duration::from_millis(500), script);
        assert_eq!(run.failed, ["a (hangs)"]);
        assert!(run.output.contains("    sleep: in "), "{}", run.output);
        let run = watch(Duration::from_millis(500), "exec sleep 1000");
        assert_eq!(run.failed, ["x: y (lib) (hangs)"]);
        let run = watch(SILENCE, "echo 'test a ... ok'; sleep 30 &");
        assert_eq!((run.passed, run.failed), (1, Vec::new()), "nobody waits for a child");
    }
}
