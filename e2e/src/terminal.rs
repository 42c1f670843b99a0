//! A program on a terminal of its own, as a person sits at it: types, looks, resizes, walks away.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::eventually;

/// How long what is waited for may take to be shown.
const SHOWN: Duration = Duration::from_secs(60);

/// A terminal and the program on it; killed and waited for when dropped.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `command` on a terminal of this size, which it controls.
    ///
    /// # Errors
    /// If there is no terminal left or the program cannot be started.
    pub fn start(command: &Command, rows: u16, cols: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        resize(&master, rows, cols)?;
        let name = ptsname(&master, Vec::new())?.into_string()?;
        let slave = || File::options().read(true).write(true).open(&name);
        // Only a session of its own gets the signals of a terminal: a new size, a hang-up.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(slave()?)
            .stdout(slave()?)
            .stderr(slave()?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, screen) = (File::from(master.try_clone()?), shown.clone());
        // Ends when nothing has the terminal open any more.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                let mut shown = screen.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&buffer[..read]);
            }
        });
        Ok(Self { master: master.into(), child, shown })
    }

    /// Presses keys.
    ///
    /// # Errors
    /// If the program is gone.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        resize(&self.master, rows, cols)
    }

    /// Everything that has been shown so far.
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until `words` are shown.
    ///
    /// # Errors
    /// With all that was shown instead.
    pub fn wait_for(&self, words: &str) -> Result<()> {
        eventually(&format!("{words:?} on the terminal"), SHOWN, || {
            let shown = self.shown();
            ensure!(shown.contains(words), "{shown:?}");
            Ok(())
        })
    }

    /// Waits until the program ends.
    ///
    /// # Errors
    /// With all that was shown, if it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        eventually("end of the program on the terminal", SHOWN, || {
            let status = self.child.try_wait()?;
            status.with_context(|| format!("still running: {:?}", self.shown()))
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn resize(master: impl AsFd, ws_row: u16, ws_col: u16) -> Result<()> {
    Ok(tcsetwinsize(master, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 })?)
}
