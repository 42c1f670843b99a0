//! Plugins that are installed in a directory and started by us: `NN-name`, with its connection as
//! descriptor 3 and its configuration from `NN-name.conf` or `name.conf`. One that ends is not
//! started again; all end with the daemon.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::config;
use crate::error::chain;
use crate::steps::blocking;
use crate::sys::inherit;
use crate::trust::Trust;

use super::{Identity, NriError, Plugins, join};

/// What the connection's descriptor is called in the plugin.
const DESCRIPTOR: i32 = 3;

/// A configuration is a few kilobytes; this only stops a wrong file from eating memory.
const MAX_CONFIG: u64 = 1 << 20;

/// The environment besides NRI's own: the daemon's has what is none of a plugin's.
const PATH: (&str, &str) = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");

/// Starts every plugin of the directory. Returns when each has its picture or is gone, so that the
/// first request finds them.
pub(super) async fn launch_all(plugins: &Plugins, config: &config::Nri) {
    let (dir, configs) = (config.plugin_dir.clone(), config.plugin_config_dir.clone());
    let trust = config.trust;
    let mut found = match blocking(move || find(&dir, &configs, trust)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(error = chain(&error), "NRI plugins that are installed");
            return;
        }
    };
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut joining = Vec::new();
    for (program, identity) in found {
        let Ok(place) = plugins.0.places.clone().try_acquire_owned() else {
            tracing::warn!(limit = super::MAX_PLUGINS, "too many NRI plugins");
            break;
        };
        match start(&program, &identity) {
            Ok((child, stream)) => {
                tracing::info!(plugin = %program.display(), "started");
                let (joined, joins) = oneshot::channel();
                let life = live(plugins.clone(), stream, (identity, joined), (child, place));
                drop(crate::steps::spawn("plugin", life));
                joining.push(joins);
            }
            Err(source) => {
                let error = NriError::Socket { action: "start plugin", path: program, source };
                tracing::error!(error = chain(&error), "an NRI plugin that is installed");
            }
        }
    }
    // Each has its own deadlines; none is waited for beyond them.
    for joined in joining {
        joined.await.ok();
    }
}

/// One plugin's life, and its process's end.
async fn live(
    plugins: Plugins,
    stream: UnixStream,
    (identity, joined): (Identity, oneshot::Sender<()>),
    (mut child, place): (Child, OwnedSemaphorePermit),
) {
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    join::join(plugins, stream, Some(identity), Some(joined)).await;
    if let Some(group) = group {
        kill_process_group(group, Signal::KILL).ok();
    }
    child.wait().await.ok();
    drop(place);
}

fn start(program: &Path, identity: &Identity) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(program);
    command.env_clear().env(PATH.0, PATH.1);
    command.env("NRI_PLUGIN_NAME", &identity.name).env("NRI_PLUGIN_IDX", &identity.index);
    command.env("NRI_PLUGIN_SOCKET", DESCRIPTOR.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").process_group(0).kill_on_drop(true);
    inherit::descriptor(&mut command, theirs.into(), DESCRIPTOR);
    Ok((command.spawn()?, UnixStream::from_std(ours)?))
}

/// The programs of the directory with who they are. One whose name or configuration is wrong is
/// logged and left out.
fn find(dir: &Path, configs: &Path, trust: Trust) -> Result<Vec<(PathBuf, Identity)>, NriError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(NriError::Socket { action: "list", path: dir.to_owned(), source });
        }
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let program = entry.path();
        let is_program = fs::metadata(&program)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !is_program {
            continue;
        }
        if let Err(error) = trust.check(&program) {
            tracing::error!(plugin = %program.display(), %error, "left out");
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.split_once('-') {
            Some((index, base)) if join::is_index(index) && !base.is_empty() => {
                match config_of(configs, trust, &name, base) {
                    Ok(config) => {
                        let (index, name) = (index.to_owned(), base.to_owned());
                        found.push((program, Identity { index, name, config }));
                    }
                    Err(error) => tracing::error!(error = chain(&error), "left out"),
                }
            }
            _ => tracing::warn!(plugin = %program.display(), "is not called NN-name; left out"),
        }
    }
    Ok(found)
}

/// The text of the first file that there is.
fn config_of(dir: &Path, trust: Trust, full: &str, base: &str) -> Result<String, NriError> {
    for name in [full, base] {
        let path = dir.join(format!("{name}.conf"));
        let mut text = String::new();
        let read = trust.open(&path).and_then(|f| f.take(MAX_CONFIG + 1).read_to_string(&mut text));
        match read {
            Ok(length) if length as u64 > MAX_CONFIG => {
                let source = io::Error::from(io::ErrorKind::FileTooLarge);
                return Err(NriError::Socket { action: "read", path, source });
            }
            Ok(_) => return Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NriError::Socket { action: "read", path, source }),
        }
    }
    Ok(String::new())
}
