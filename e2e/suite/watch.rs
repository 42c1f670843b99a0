//! One run of a test program, which is ended when it hangs.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::wait::tasks;

/// A program that says nothing for this long hangs: every test says how it ended, and one that takes
/// long is ended sooner by its own runner or named once a minute.
const SILENCE: Duration = Duration::from_secs(660);

/// Numbers of a program's two outputs.
const OUT: usize = 0;
const ERR: usize = 1;

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
        let (sender, said) = channel();
        forward(child.stdout.take(), OUT, sender.clone());
        forward(child.stderr.take(), ERR, sender);
        let mut run = Self::default();
        let mut begun = [Vec::new(), Vec::new()];
        let (mut hangs, mut last) = (false, Instant::now());
        loop {
            match said.recv_timeout(LOOK) {
                Ok((from, bytes)) => {
                    begun[from].extend_from_slice(&bytes);
                    for said in whole_lines(&mut begun[from]) {
                        line(&said);
                        run.note(&said);
                    }
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => break,
                // What it has started may keep its output open.
                Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
                Err(RecvTimeoutError::Timeout) if last.elapsed() < silence => {}
                Err(RecvTimeoutError::Timeout) => {
                    hangs = true;
                    let words = format!("{name} hangs:\n{}", tasks(child.id()));
                    line(&words);
                    run.output += &words;
                    end(&mut child);
                }
            }
        }
        let status = child.wait()?;
        let [begun, rest] = begun.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        for said in [&begun, &rest].into_iter().filter(|said| !said.is_empty()) {
            line(said);
            run.note(said);
        }
        run.conclude(name, status, hangs, &begun).iter().for_each(|said| line(said));
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

    /// Takes how the program ended, with the line it had `begun`; what it would have said of that
    /// itself: of every test that did not end, and the counts.
    fn conclude(
        &mut self,
        name: &str,
        status: ExitStatus,
        hangs: bool,
        begun: &str,
    ) -> Vec<String> {
        // A program that gave its counts and a failure has said everything.
        let counted = self.output.lines().any(|line| line.starts_with("test result: "));
        if !hangs && (status.success() || counted && !self.failed.is_empty()) {
            return Vec::new();
        }
        let how = if hangs { "hangs".to_owned() } else { status.to_string() };
        // One test at a time is named before it runs, in the line that its end completes.
        let mut tests: Vec<String> = running(begun).map(str::to_owned).into_iter().collect();
        // Of many at once those are named that take longer than a minute.
        tests.extend(self.slow());
        tests.sort();
        tests.dedup();
        // A failed test explains a status, but neither a hang nor a signal.
        let explained = !hangs && status.code().is_some() && !self.failed.is_empty();
        if tests.is_empty() && !explained {
            tests.push(name.to_owned());
        }
        let mut said: Vec<String> =
            tests.iter().map(|test| format!("test {test} ... FAILED ({how})")).collect();
        self.failed.extend(tests.iter().map(|test| format!("{test} ({how})")));
        if !counted {
            said.push(format!(
                "\ntest result: FAILED. {} passed; {} failed; 0 ignored",
                self.passed,
                self.failed.len()
            ));
        }
        said.iter().for_each(|line| self.output += &format!("{line}\n"));
        said
    }

    /// The tests that were said to take long and have not ended.
    fn slow(&self) -> Vec<String> {
        let named = self.output.lines().filter_map(|line| {
            let (test, _) = line.strip_prefix("test ")?.split_once(" has been running for")?;
            let ended = format!("test {test} ... ");
            (!self.output.contains(&ended)).then(|| test.to_owned())
        });
        named.collect()
    }
}

/// The test whose end this line waits for.
fn running(begun: &str) -> Option<&str> {
    let (test, how) = begun.strip_prefix("test ")?.split_once(" ... ")?;
    (!how.starts_with("ok") && !how.starts_with("FAILED")).then_some(test)
}

/// Sends what `from` says, as soon as it does, with the number of the stream.
fn forward(from: Option<impl Read + Send + 'static>, number: usize, to: Sender<(usize, Vec<u8>)>) {
    thread::spawn(move || {
        let Some(mut from) = from else { return };
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if to.send((number, bytes[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Takes the lines that are whole.
fn whole_lines(begun: &mut Vec<u8>) -> Vec<String> {
    let Some(end) = begun.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
    let rest = begun.split_off(end + 1);
    let whole = std::mem::replace(begun, rest);
    String::from_utf8_lossy(&whole[..end]).split('\n').map(str::to_owned).collect()
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
        // What adds up the lines of all runners counts it too.
        let said = "test x: y (lib) ... FAILED (signal: 9 (SIGKILL))\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        assert!(run.output.ends_with(said), "{}", run.output);
    }

    #[test]
    fn a_program_that_said_everything_is_not_spoken_for() {
        let script =
            "echo 'test a ... FAILED'; echo 'test result: FAILED. 0 passed; 1 failed'; exit 101";
        let run = watch(SILENCE, script);
        assert_eq!(run.failed, ["a"]);
        assert_eq!(run.output.matches("test result: ").count(), 1, "{}", run.output);
    }

    #[test]
    fn a_test_that_runs_by_itself_is_named_by_the_line_it_has_begun() {
        let script = "echo 'test a ... ok'; printf 'test b::c ... '; exec sleep 1000";
        let run = watch(Duration::from_millis(500), script);
        assert_eq!((run.passed, run.failed), (1, vec!["b::c (hangs)".to_owned()]));
        let run = watch(SILENCE, "echo 'test a ... ok'; printf 'test b::c ... '; kill -9 $$");
        assert_eq!(run.failed, ["b::c (signal: 9 (SIGKILL))"]);
        let run = watch(SILENCE, "printf 'test a ... ok'");
        assert_eq!((run.passed, run.failed), (1, Vec::new()), "a last line without an end");
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
