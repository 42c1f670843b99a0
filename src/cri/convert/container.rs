//! What a container is asked to be.

use std::path::PathBuf;

use super::{Field, Invalid, Mistakes, image, mount, resources, security, shown, signal, text};
use crate::container::spec::{ContainerSpec, NamespaceMode};
use crate::cri::pb;
use crate::pod::spec::PodSpec;

/// Longest single argument or variable: MAX_ARG_STRLEN, with its NUL (execve(2)).
const MAX_ARGUMENT: usize = 128 * 1024 - 1;
/// All arguments and variables together, with the pointers to them: a quarter of the usual stack
/// limit, beyond which execve(2) fails with E2BIG.
const MAX_ARGUMENTS: usize = 2 * 1024 * 1024;
/// What the kernel counts for each string besides its bytes: a NUL and a pointer.
const PER_ARGUMENT: usize = 1 + size_of::<usize>();

/// Checks the `config` of a CreateContainer request.
///
/// Left to the caller, because it takes more than the request: whether it fits the pod
/// ([`check_against_pod`]), whether paths, images, devices and profiles exist, and whether a
/// volume shows a directory of ours.
pub fn container_spec(config: Option<pb::ContainerConfig>) -> Result<ContainerSpec, Invalid> {
    let Some(config) = config else { return Err(Invalid::new("config", "is missing")) };
    let mut mistakes = Mistakes::default();
    let spec = convert(&mut mistakes, &Field::root("config"), config);
    mistakes.finish(spec)
}

/// Checks the `container_configs` of a RestorePod request, against each other and the pod's own.
pub fn restored_specs(
    configs: Vec<pb::ContainerConfig>,
    pod: &PodSpec,
) -> Result<Vec<ContainerSpec>, Invalid> {
    let mut m = Mistakes::default();
    let root = Field::root("container_configs");
    let mut specs: Vec<ContainerSpec> = Vec::with_capacity(configs.len());
    for (n, config) in configs.into_iter().enumerate() {
        let field = root.index(n);
        let spec = convert(&mut m, &field, config);
        if specs.iter().any(|other| other.name == spec.name) {
            m.add(&field.at("metadata").at("name"), "is there twice");
        }
        contradictions(&mut m, &field, pod, &spec);
        specs.push(spec);
    }
    m.finish(specs)
}

fn convert(m: &mut Mistakes, field: &Field<'_>, config: pb::ContainerConfig) -> ContainerSpec {
    let (name, attempt) = match config.metadata {
        Some(metadata) => (metadata.name, metadata.attempt),
        None => Default::default(),
    };
    text::name(m, &field.at("metadata").at("name"), &name);
    arguments(m, field, &config.command, &config.args);
    let envs = envs(m, &field.at("envs"), config.envs);
    exec_size(m, field, &[&config.command, &config.args], &envs);
    text::labels(m, &field.at("labels"), &config.labels);
    text::annotations(
        m,
        &field.at("annotations"),
        &config.annotations,
        text::CONTAINER_ANNOTATIONS,
    );
    let linux = config.linux.unwrap_or_default();
    let linux_field = field.at("linux");
    let resources_field = linux_field.at("resources");
    ContainerSpec {
        name,
        attempt,
        image: image::request(m, &field.at("image"), config.image),
        command: config.command,
        args: config.args,
        working_dir: working_dir(m, &field.at("working_dir"), config.working_dir),
        envs,
        mounts: mount::mounts(m, &field.at("mounts"), config.mounts),
        devices: mount::devices(m, &field.at("devices"), &config.devices),
        cdi_devices: mount::cdi_devices(m, &field.at("CDI_devices"), &config.cdi_devices),
        labels: config.labels,
        annotations: config.annotations,
        log_path: log_path(m, &field.at("log_path"), &config.log_path),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        stop_signal: signal::stop_signal(m, &field.at("stop_signal"), config.stop_signal),
        resources: resources::resources(
            m,
            &resources_field,
            linux.resources,
            resources::Of::Container,
        ),
        security: security::container(
            m,
            &linux_field.at("security_context"),
            linux.security_context,
        ),
        restored_from: None,
    }
}

fn arguments(m: &mut Mistakes, field: &Field<'_>, command: &[String], args: &[String]) {
    if command.first().is_some_and(String::is_empty) {
        m.add(&field.at("command").index(0), "is empty");
    }
    for (name, list) in [("command", command), ("args", args)] {
        let here = field.at(name);
        for (n, argument) in list.iter().enumerate() {
            if argument.contains('\0') {
                m.add(&here.index(n), "has a NUL");
            } else if argument.len() > MAX_ARGUMENT {
                m.add(&here.index(n), format_args!("is {} bytes long", argument.len()));
            }
        }
    }
}

fn envs(m: &mut Mistakes, field: &Field<'_>, envs: Vec<pb::KeyValue>) -> Vec<(String, Vec<u8>)> {
    let mut checked = Vec::with_capacity(envs.len());
    for (n, pb::KeyValue { key, value }) in envs.into_iter().enumerate() {
        let here = field.index(n);
        if key.is_empty() {
            m.add(&here.at("key"), "is missing");
        } else if key.contains('=') || key.chars().any(text::is_control) {
            m.add(&here.at("key"), format_args!("{} is not the name of a variable", shown(&key)));
        }
        if let Some(problem) = value_problem(&key, &value) {
            m.add(&here.at("value"), format_args!("of {} {problem}", shown(&key)));
        } else if key.len() + 1 + value.len() > MAX_ARGUMENT {
            m.add(&here.at("value"), format_args!("is {} bytes long", value.len()));
        }
        checked.push((key, value));
    }
    checked
}

/// Values are secrets as often as not, so an error never repeats one.
fn value_problem(key: &str, value: &[u8]) -> Option<&'static str> {
    let Ok(value) = std::str::from_utf8(value) else {
        // config.json is JSON; an altered value would be worse than none.
        return Some("is not UTF-8, which the OCI configuration cannot hold");
    };
    if value.contains('\0') {
        Some("has a NUL")
    } else if key == "HOME" && value.chars().any(text::is_control) {
        // HOME ends up in lines of /etc/passwd (CVE-2022-4318, CVE-2026-15809).
        Some("has a control character")
    } else {
        None
    }
}

fn exec_size(
    m: &mut Mistakes,
    field: &Field<'_>,
    arguments: &[&[String]],
    envs: &[(String, Vec<u8>)],
) {
    let arguments = arguments.iter().flat_map(|list| list.iter()).map(String::len);
    let variables = envs.iter().map(|(key, value)| key.len() + 1 + value.len());
    let total: usize = arguments.chain(variables).map(|size| size + PER_ARGUMENT).sum();
    if total > MAX_ARGUMENTS {
        let problem = format_args!("command, args and envs are {total} bytes together");
        m.add(field, format_args!("{problem}, at most {MAX_ARGUMENTS} are allowed"));
    }
}

fn working_dir(m: &mut Mistakes, field: &Field<'_>, dir: String) -> Option<String> {
    if dir.is_empty() {
        return None;
    }
    text::absolute_path(m, field, &dir);
    Some(dir)
}

fn log_path(m: &mut Mistakes, field: &Field<'_>, path: &str) -> Option<PathBuf> {
    if path.is_empty() {
        return None;
    }
    if path.ends_with('/') || path.ends_with("/.") || path == "." {
        m.add(field, format_args!("{} names no file", shown(path)));
    }
    Some(text::relative_path(m, field, path))
}

/// Checks a container's request against its pod's: what the pod was refused or never asked for,
/// no container gets.
pub fn check_against_pod(pod: &PodSpec, container: &ContainerSpec) -> Result<(), Invalid> {
    let mut m = Mistakes::default();
    contradictions(&mut m, &Field::root("config"), pod, container);
    m.finish(())
}

fn contradictions(m: &mut Mistakes, config: &Field<'_>, pod: &PodSpec, container: &ContainerSpec) {
    let linux = config.at("linux");
    let context = linux.at("security_context");
    let options = context.at("namespace_options");
    let asked = &container.security;
    if asked.privileged && !pod.privileged {
        m.add(&context.at("privileged"), "is set, but not for the pod");
    }
    for (name, asked, pod) in [
        ("network", &asked.network, &pod.network),
        ("pid", &asked.pid, &pod.pid),
        ("ipc", &asked.ipc, &pod.ipc),
    ] {
        // The other way round is no contradiction: what a container leaves out, its pod decides.
        if *asked == NamespaceMode::Node && *pod != NamespaceMode::Node {
            m.add(&options.at(name), "is NODE, but not for the pod");
        }
    }
    if asked.user_namespace.is_some() && asked.user_namespace != pod.user_namespace {
        m.add(&options.at("userns_options"), "is not that of the pod");
    }
    let mounts = config.at("mounts");
    for (n, mount) in container.mounts.iter().enumerate() {
        let mapped = !mount.uid_mappings.is_empty();
        let same = pod
            .user_namespace
            .as_ref()
            .is_some_and(|user| user.uids == mount.uid_mappings && user.gids == mount.gid_mappings);
        if mapped && !same {
            m.add(&mounts.index(n), "maps ids differently from the pod");
        }
    }
}

/// The metadata of a container, for answers.
pub fn metadata_into_pb(spec: &ContainerSpec) -> pb::ContainerMetadata {
    pb::ContainerMetadata { name: spec.name.clone(), attempt: spec.attempt }
}

#[cfg(test)]
mod tests;
