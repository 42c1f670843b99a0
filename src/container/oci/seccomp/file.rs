//! The operator's seccomp profiles. Two forms are in use: OCI's own `linux.seccomp`, and the one
//! of Docker and Podman, whose rules carry conditions that are decided here.

use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::super::security::CapabilitySet;

/// Either form: every field of OCI's, and those that the other adds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileFile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default")]
    architectures: Vec<Arch>,
    #[serde(default, deserialize_with = "null_as_default")]
    arch_map: Vec<Compatible>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    syscalls: Vec<Rule>,
}

/// An architecture and those whose programs it runs as well. Names that this version does not
/// know are of other machines.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compatible {
    architecture: String,
    #[serde(default, deserialize_with = "null_as_default")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default, deserialize_with = "null_as_default")]
    names: Vec<String>,
    /// The single name of the oldest profiles.
    #[serde(default)]
    name: String,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default, deserialize_with = "null_as_default")]
    includes: Condition,
    #[serde(default, deserialize_with = "null_as_default")]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    /// With the prefix `CAP_`.
    #[serde(default, deserialize_with = "null_as_default")]
    caps: Vec<String>,
    /// In the names of the Go language.
    #[serde(default, deserialize_with = "null_as_default")]
    arches: Vec<String>,
    #[serde(default, deserialize_with = "kernel_version")]
    min_kernel: Option<(u32, u32)>,
}

/// What conditions are decided by.
struct Circumstances<'a> {
    capabilities: &'a CapabilitySet,
    kernel: (u32, u32),
}

/// Parses a profile and decides its conditions.
pub(super) fn parse(
    text: &str,
    capabilities: &CapabilitySet,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp, serde_json::Error> {
    let file: ProfileFile = serde_json::from_str(text)?;
    let circumstances = Circumstances { capabilities, kernel };
    let architectures =
        if file.architectures.is_empty() { compatible(&file.arch_map) } else { file.architectures };
    let rules = file.syscalls.into_iter().filter(|rule| circumstances.apply(rule));

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(file.default_action);
    profile.set_default_errno_ret(file.default_errno_ret);
    profile.set_architectures((!architectures.is_empty()).then_some(architectures));
    profile.set_flags(file.flags.filter(|flags| !flags.is_empty()));
    profile.set_listener_path(file.listener_path.filter(|path| !path.as_os_str().is_empty()));
    profile.set_listener_metadata(file.listener_metadata.filter(|text| !text.is_empty()));
    profile.set_syscalls(Some(rules.filter_map(Rule::into_oci).collect()));
    Ok(profile)
}

impl Rule {
    /// None for a rule about nothing, which runtimes refuse.
    fn into_oci(self) -> Option<LinuxSyscall> {
        let mut names = self.names;
        names.extend((!self.name.is_empty()).then_some(self.name));
        if names.is_empty() {
            return None;
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(self.action);
        rule.set_errno_ret(self.errno_ret);
        rule.set_args(self.args.filter(|args| !args.is_empty()));
        Some(rule)
    }
}

impl Circumstances<'_> {
    /// A rule counts if everything that it includes is given and nothing that it excludes.
    fn apply(&self, rule: &Rule) -> bool {
        let (with, without) = (&rule.includes, &rule.excludes);
        with.caps.iter().all(|name| self.has(name))
            && (with.arches.is_empty() || with.arches.iter().any(|arch| arch == go_arch()))
            && with.min_kernel.is_none_or(|version| self.kernel >= version)
            && !without.caps.iter().any(|name| self.has(name))
            && !without.arches.iter().any(|arch| arch == go_arch())
            && without.min_kernel.is_none_or(|version| self.kernel < version)
    }

    fn has(&self, name: &str) -> bool {
        self.capabilities.has(name.strip_prefix("CAP_").unwrap_or(name))
    }
}

/// The entry of the map that is about this machine.
fn compatible(map: &[Compatible]) -> Vec<Arch> {
    let native = super::architectures().first().map(Arch::to_string).unwrap_or_default();
    let entry = map.iter().find(|entry| entry.architecture == native);
    entry
        .into_iter()
        .flat_map(|entry| std::iter::once(&entry.architecture).chain(&entry.sub_architectures))
        .filter_map(|name| Arch::from_str(name).ok())
        .collect()
}

/// This architecture in the names of the Go language.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Go writes an empty list or object as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `5.9`; empty = none.
fn kernel_version<'de, D>(deserializer: D) -> Result<Option<(u32, u32)>, D::Error>
where
    D: Deserializer<'de>,
{
    let text: Option<String> = Option::deserialize(deserializer)?;
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let version = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.map(Some).ok_or_else(|| D::Error::custom(format!("minKernel {text:?} is no version")))
}
