//! The command line.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// Which runtime the pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The current runc that `make tools` builds.
    Runc,
    /// Debian's runc.
    DebianRunc,
    /// Debian's crun.
    Crun,
}

impl Runtime {
    /// Its word on the command line and in `skip.toml`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::DebianRunc => "debian-runc",
            Self::Crun => "crun",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        let all = [Self::Runc, Self::DebianRunc, Self::Crun];
        let known = all.into_iter().find(|runtime| runtime.word() == word);
        known.with_context(|| format!("unknown runtime {word:?}"))
    }
}

/// Where the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine's own kernel.
    Native,
    /// In the guest of `e2e/guest`.
    Guest,
}

impl Place {
    /// Its word on the command line and in `skip.toml`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Guest => "guest",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// `--runtime WORD`.
    pub runtime: Runtime,
    /// `--on native|guest`.
    pub place: Place,
    /// `--websocket`: exec, attach and port-forward by websocket instead of SPDY.
    pub websocket: bool,
    /// `--focus WORDS`, any number of times: only specs whose names match one of them.
    pub focus: Vec<String>,
    /// `--repeat N`: the suite N times against one daemon.
    pub repeat: usize,
    /// `--churn N`: N pods that come and go beside, which leaves the specs of NRI out.
    pub churn: usize,
    /// `--benchmark`: the suite's benchmarks instead of its specs.
    pub benchmark: bool,
    /// `--peer containerd`: the benchmarks against it too.
    pub peer: bool,
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// Names the word that is not understood.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut parsed = Self {
            runtime: Runtime::Runc,
            place: Place::Native,
            websocket: false,
            focus: Vec::new(),
            repeat: 1,
            churn: 0,
            benchmark: false,
            peer: false,
        };
        let mut words = words.filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a value"));
            match word.as_str() {
                "--runtime" => parsed.runtime = Runtime::parse(&value()?)?,
                "--on" => {
                    parsed.place = match value()?.as_str() {
                        "native" => Place::Native,
                        "guest" => Place::Guest,
                        other => bail!("unknown place {other:?}"),
                    }
                }
                "--websocket" => parsed.websocket = true,
                "--focus" => parsed.focus.push(value()?),
                "--repeat" => parsed.repeat = value()?.parse().context("--repeat")?,
                "--benchmark" => parsed.benchmark = true,
                "--peer" => {
                    let peer = value()?;
                    ensure!(peer == "containerd", "unknown peer {peer:?}");
                    parsed.peer = true;
                }
                "--churn" => parsed.churn = value()?.parse().context("--churn")?,
                other => bail!("unknown argument {other:?}"),
            }
        }
        ensure!(!parsed.peer || parsed.benchmark, "a peer is there for --benchmark only");
        ensure!(parsed.repeat > 0, "--repeat 0 runs nothing");
        Ok(parsed)
    }
}

impl fmt::Display for Arguments {
    /// Names this kind of run, fit for a directory: `native-runc`, `guest-runc-websocket`, …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.place.word(), self.runtime.word())?;
        if self.websocket { f.write_str("-websocket") } else { Ok(()) }
    }
}
