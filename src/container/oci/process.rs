//! The process: what is run, with which environment, where, and as whom.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Process, User};
use serde_json::Value;

use super::security::{self, CapabilitySet};
use super::{Inputs, SpecError};

/// Longest argument or variable with its final NUL, `MAX_ARG_STRLEN` of execve(2).
const MAX_STRING: usize = 128 << 10;

/// Most that arguments and environment may take together: the kernel's last word (3/4 of
/// `_STK_LIM`), whatever the stack limit. With a small stack limit execve(2) still says E2BIG.
const MAX_STRINGS: usize = 6 << 20;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TERM: &str = "xterm";

/// `process` of the configuration.
pub(super) fn process(
    inputs: &Inputs<'_>,
    capabilities: &CapabilitySet,
    warnings: &mut Vec<String>,
) -> Result<Process, SpecError> {
    let args = arguments(inputs)?;
    let env = environment(inputs, warnings)?;
    let bytes = args.iter().chain(&env).map(|text| text.len() + 1 + size_of::<usize>()).sum();
    if bytes > MAX_STRINGS {
        return Err(SpecError::TooManyArguments { bytes, limit: MAX_STRINGS });
    }

    let mut user = User::default();
    user.set_uid(inputs.identity.uid);
    user.set_gid(inputs.identity.gid);
    user.set_additional_gids(Some(inputs.identity.additional_gids.clone()));

    let mut process = Process::default();
    process.set_terminal(Some(inputs.spec.tty));
    process.set_user(user);
    process.set_args(Some(args));
    process.set_env(Some(env));
    process.set_cwd(working_dir(inputs)?);
    process.set_capabilities(Some(capabilities.to_oci()));
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(inputs.spec.security.no_new_privs));
    process.set_apparmor_profile(security::apparmor(inputs)?);
    process.set_oom_score_adj(Some(oom_score_adj(inputs, warnings)?));
    Ok(process)
}

/// `process` of another process in a running container: as the first one, but with its own
/// arguments and perhaps a terminal.
///
/// `created` is `process` of the container's own `config.json`, so that an exec gets what the
/// container has and never what a newer daemon would give it.
pub fn exec_process(created: Value, command: &[String], terminal: bool) -> Value {
    let mut process = created;
    if let Some(fields) = process.as_object_mut() {
        fields.insert("args".to_owned(), Value::from(command));
        fields.insert("terminal".to_owned(), Value::from(terminal));
        fields.remove("consoleSize");
        if terminal && let Some(env) = fields.get_mut("env").and_then(Value::as_array_mut) {
            let is_term = |value: &Value| value.as_str().is_some_and(|v| v.starts_with("TERM="));
            if !env.iter().any(is_term) {
                env.push(Value::from(format!("TERM={DEFAULT_TERM}")));
            }
        }
    }
    process
}

/// Kubernetes' rule: `command` replaces the image's entrypoint and drops its command; `args`
/// alone replace the image's command.
fn arguments(inputs: &Inputs<'_>) -> Result<Vec<String>, SpecError> {
    let (spec, image) = (inputs.spec, inputs.image);
    let (program, rest) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (true, true) => (image.entrypoint, image.cmd),
        (true, false) => (image.entrypoint, spec.args.as_slice()),
        (false, _) => (spec.command.as_slice(), spec.args.as_slice()),
    };
    let args: Vec<String> = program.iter().chain(rest).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::NoCommand);
    }
    for (index, arg) in args.iter().enumerate() {
        let problem = if arg.contains('\0') {
            "has a NUL byte"
        } else if arg.len() >= MAX_STRING {
            "is longer than 128 KiB"
        } else {
            continue;
        };
        return Err(SpecError::Argument { index, problem });
    }
    Ok(args)
}

/// Variables in the order of their first setting; a later setting replaces the value.
#[derive(Default)]
struct Environment {
    entries: Vec<String>,
    index: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.index.get(name) {
            Some(&position) => self.entries[position] = entry,
            None => {
                self.index.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let entry = &self.entries[*self.index.get(name)?];
        entry.get(name.len() + 1..)
    }

    fn set_default(&mut self, name: &str, value: &str) {
        if self.value(name).is_none() {
            self.set(name, value);
        }
    }
}

fn environment(inputs: &Inputs<'_>, warnings: &mut Vec<String>) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    if inputs.spec.tty {
        env.set("TERM", DEFAULT_TERM);
    }
    if !inputs.pod.hostname.is_empty() {
        env.set("HOSTNAME", inputs.pod.hostname);
    }
    for entry in inputs.image.env {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                check_variable(name, value)?;
                env.set(name, value);
            }
            _ => warnings.push(format!("image variable {entry:?} has no name or value, left out")),
        }
    }
    for (name, bytes) in &inputs.spec.envs {
        let problem = |problem| SpecError::Environment { name: name.clone(), problem };
        if name.is_empty() || name.contains(['=', '\n']) {
            return Err(problem("is not a name"));
        }
        let value = str::from_utf8(bytes).map_err(|_| {
            problem("has a value that is not UTF-8, which OCI runtimes cannot take")
        })?;
        check_variable(name, value)?;
        env.set(name, value);
    }
    let home = match (&inputs.identity.home, inputs.identity.uid) {
        (Some(home), _) => home,
        (None, 0) => "/root",
        (None, _) => "/",
    };
    env.set_default("HOME", home);
    Ok(env.entries)
}

fn check_variable(name: &str, value: &str) -> Result<(), SpecError> {
    let problem = if name.contains('\0') || value.contains('\0') {
        "has a NUL byte"
    } else if name.len() + value.len() + 1 >= MAX_STRING {
        "is longer than 128 KiB"
    } else if name == "HOME" && value.chars().any(ends_line) {
        // Runtimes and entrypoints write HOME into the container's /etc/passwd: a line break
        // would add a user there.
        "must not have control characters"
    } else {
        return Ok(());
    };
    Err(SpecError::Environment { name: name.to_owned(), problem })
}

/// Whether some program could take a character for the end of a line: control characters, and
/// Unicode's own line and paragraph separators.
fn ends_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The request's directory, else the image's, else `/`.
///
/// Paths through a process's own `/proc` directory are refused: there, a descriptor that a
/// runtime forgot to close is a way to the host.
fn working_dir(inputs: &Inputs<'_>) -> Result<PathBuf, SpecError> {
    let text = match inputs.spec.working_dir.as_deref() {
        Some(dir) if !dir.is_empty() => dir,
        _ => inputs.image.working_dir,
    };
    if text.is_empty() {
        return Ok(PathBuf::from("/"));
    }
    let path = Path::new(text);
    let mut clean = PathBuf::from("/");
    clean.extend(path.components().filter(|part| matches!(part, Component::Normal(_))));
    let problem = if !path.is_absolute() {
        "is not absolute"
    } else if path.components().any(|part| part == Component::ParentDir) {
        "has a `..`"
    } else if text.contains(char::is_control) {
        "has control characters"
    } else if text.len() >= libc::PATH_MAX as usize {
        "is longer than a path can be"
    } else if in_process_directory(&clean) {
        "is below the /proc directory of a process"
    } else {
        return Ok(clean);
    };
    Err(SpecError::WorkingDir { path: text.to_owned(), problem })
}

/// Whether a clean path is `/proc/self`, `/proc/thread-self`, `/proc/<number>` or below.
fn in_process_directory(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/proc") else { return false };
    let Some(Component::Normal(first)) = below.components().next() else { return false };
    let first = first.as_encoded_bytes();
    matches!(first, b"self" | b"thread-self") || first.iter().all(u8::is_ascii_digit)
}

fn oom_score_adj(inputs: &Inputs<'_>, warnings: &mut Vec<String>) -> Result<i32, SpecError> {
    let wanted = inputs.spec.resources.oom_score_adj;
    if !(-1000..=1000).contains(&wanted) {
        return Err(SpecError::Resource {
            field: "oom_score_adj",
            value: wanted.to_string(),
            problem: "is not between -1000 and 1000",
        });
    }
    let lowest = inputs.host.oom_score_adj_min;
    if wanted < lowest {
        warnings.push(format!(
            "oom_score_adj {wanted} raised to {lowest}, the lowest this daemon may set"
        ));
    }
    // Always written: otherwise the container inherits the score that protects the daemon.
    Ok(i32::try_from(wanted.max(lowest)).unwrap_or(1000))
}
