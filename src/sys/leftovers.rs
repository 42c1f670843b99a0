//! Processes that an earlier daemon started and that go on without it, told by their arguments or
//! their environment.
//!
//! Only processes of this daemon's own control group and user are believed. What a tenant runs is in a
//! group of its pod, and what it looks like is its own choice.
//!
//! A process that was started a moment ago may not have its arguments yet: until execve(2) has put
//! them in place it has none, and before that it still is a copy of whoever started it. Such a one is
//! looked at again; "not yet" is never taken for "no".

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::pidfd::start_time;

/// The kernel lets arguments and environment together have no more than this (execve(2), "Limits on
/// size of arguments and environment": three quarters of 8 MiB). More is what a process made of
/// itself afterwards.
const MAX_BYTES: u64 = 6 << 20;

/// How long a process may be on its way. Afterwards it is one that has no arguments at all.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Between two looks at a process that is on its way.
const PAUSE: Duration = Duration::from_millis(2);

/// What processes are told by.
#[derive(Clone, Copy, Debug)]
pub enum Text {
    /// The words of the command line (proc_pid_cmdline(5)).
    Arguments,
    /// The entries of the environment at its start (proc_pid_environ(5)).
    Environment,
}

/// A process by its number, and by its start time, which no later owner of the number shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Process id.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// What one look at a process says.
enum Look {
    Wanted,
    Other,
    NotYet,
}

/// The processes of this group and user, but not this one, whose `text` is `wanted`. Blocks for as
/// long as one of them is on its way, at most a second.
///
/// # Errors
/// When the kernel could not tell of one that exists.
pub fn find(text: Text, wanted: impl Fn(&[&[u8]]) -> bool) -> io::Result<Vec<Leftover>> {
    let group = fs::read("/proc/self/cgroup")?;
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // RACE: the start time is read first, so a later owner of the number is not taken for it.
        if pid != own
            && let Some(start_time) = start_time(pid)?
            && gone_is_none(is_of(pid, &group))? == Some(true)
        {
            open.push(Leftover { pid, start_time });
        }
    }
    let (mut found, deadline) = (Vec::new(), Instant::now() + ON_ITS_WAY);
    loop {
        let mut still_open = Vec::new();
        for process in open {
            match gone_is_none(look(process.pid, text, &wanted))? {
                Some(Look::Wanted) => found.push(process),
                Some(Look::NotYet) => still_open.push(process),
                Some(Look::Other) | None => {}
            }
        }
        if still_open.is_empty() || Instant::now() >= deadline {
            return Ok(found);
        }
        open = still_open;
        sleep(PAUSE);
    }
}

/// Whether a process is in control group `group` and this process's user started it.
fn is_of(pid: i32, group: &[u8]) -> io::Result<bool> {
    if fs::read(format!("/proc/{pid}/cgroup"))? != group {
        return Ok(false);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let real = uids.and_then(|uids| uids.split_ascii_whitespace().next()?.parse().ok());
    Ok(real == Some(rustix::process::getuid().as_raw()))
}

fn look(pid: i32, text: Text, wanted: impl Fn(&[&[u8]]) -> bool) -> io::Result<Look> {
    let dir = format!("/proc/{pid}");
    let file = match text {
        Text::Arguments => "cmdline",
        Text::Environment => "environ",
    };
    // Before the text: a process that becomes another program meanwhile has this one's text or none.
    let is_copy = is_copy_of_this_program(Path::new(&dir))?;
    let mut bytes = Vec::new();
    File::open(format!("{dir}/{file}"))?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let words: Vec<&[u8]> = bytes.split(|&byte| byte == 0).collect();
    Ok(match wanted(&words) {
        true => Look::Wanted,
        false if is_copy => Look::NotYet,
        // What has no program (a zombie, a thread of the kernel) will never have arguments.
        false if bytes.is_empty() && fs::read_link(format!("{dir}/exe")).is_ok() => Look::NotYet,
        false => Look::Other,
    })
}

/// Whether a process runs this program with a single thread: a child that is still to become another
/// program. A daemon has several threads.
fn is_copy_of_this_program(dir: &Path) -> io::Result<bool> {
    let program = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let own = program(Path::new("/proc/self/exe"))?;
    match program(&dir.join("exe")) {
        Ok(of) if of == own => Ok(fs::read_dir(dir.join("task"))?.take(2).count() == 1),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A process that ended while it was looked at is none; and so is one that may do what this one may
/// not, which the kernel does not let be looked at (ptrace(2), "access mode checking"): no daemon with
/// these privileges has started it.
fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A shell that waits for the end of its standard input and ignores its other arguments.
    fn waiting(mark: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read x", "sh", mark]).env("LEFTOVER", mark);
        command.stdin(Stdio::piped()).spawn().expect("a shell")
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().expect("ended");
    }

    #[test]
    fn one_that_was_started_this_moment_is_found() {
        for round in 0..200 {
            let mark = format!("mark-{}-{round}", std::process::id());
            let child = waiting(&mark);
            let by_arguments = find(Text::Arguments, |words| words.contains(&mark.as_bytes()));
            let entry = format!("LEFTOVER={mark}");
            let by_environment = find(Text::Environment, |words| words.contains(&entry.as_bytes()));
            let pid = i32::try_from(child.id()).expect("a pid");
            for found in [by_arguments, by_environment] {
                let found = found.expect("looked");
                assert_eq!(found.iter().map(|one| one.pid).collect::<Vec<_>>(), [pid], "{round}");
            }
            end(child);
        }
    }

    #[test]
    fn one_of_another_user_is_not_believed() {
        use std::os::unix::process::CommandExt;
        let mark = format!("mark-{}-nobody", std::process::id());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo; read x", "sh", &mark]).uid(65534).gid(65534);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut ready = [0];
        child.stdout.take().expect("its output").read_exact(&mut ready).expect("it runs");
        let found =
            find(Text::Arguments, |words| words.contains(&mark.as_bytes())).expect("looked");
        assert_eq!(found, []);
        end(child);
    }

    #[test]
    fn one_without_any_argument_or_environment_is_waited_for_in_vain_and_not_for_long() {
        // PR_SET_MM needs a capability; an environment may just be empty.
        let mut command = Command::new("/bin/sh");
        let mut child = command
            .args(["-c", "echo; read x"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut ready = [0];
        child.stdout.take().expect("its output").read_exact(&mut ready).expect("it runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let found = find(Text::Environment, |words| words.contains(&b"LEFTOVER=none".as_slice()));
        assert!(found.expect("looked").iter().all(|one| one.pid != pid));
        end(child);
    }
}
