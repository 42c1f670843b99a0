//! Statistics and metrics: what a container uses is what is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crisol::cri::pb;
use e2e::node::{Node, Options, address};
use e2e::request::{self, resources};
use e2e::runner::Fixture;
use e2e::wait::eventually;
use serde_json::Value;

use crate::support::{END, Running, add, ended, pid, run, run_in};

/// What a call that only reads may take here. It takes a few milliseconds; the machine may be busy.
const PROMPT: Duration = Duration::from_secs(9);
/// How long new figures may take: writable layers are measured every ten seconds.
const MEASURED: Duration = Duration::from_secs(30);
/// A mebibyte.
const MIB: u64 = 1 << 20;
/// The memory limit of the busy container.
const LIMIT: u64 = 256 * MIB;

/// Burns CPU time, holds 20 MiB of memory, has written 8 MiB in one of eleven files, and sends these
/// to whoever connects.
const BUSY: &str = "head -c 8388608 /dev/zero >/file; i=0
    while [ $i -lt 10 ]; do echo x >/small-$i; i=$((i+1)); done
    x=$(head -c 20971520 /dev/zero | tr '\\0' x)
    (while :; do :; done) &
    while :; do nc -l -p 80 </file >/dev/null; done";

fn value(number: Option<pb::UInt64Value>, name: &str) -> Result<u64> {
    Ok(number.with_context(|| format!("no {name}"))?.value)
}

/// Nanoseconds of CPU time that the kernel counts for a process's control group.
fn cpu_time(pid: u32) -> Result<u64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |controller: &str| {
        groups.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names.split(',').any(|name| name == controller).then(|| path.to_owned())
        })
    };
    if let Some(group) = of("cpuacct") {
        let file = format!("/sys/fs/cgroup/cpuacct{group}/cpuacct.usage");
        return Ok(fs::read_to_string(&file).context(file)?.trim().parse()?);
    }
    let file = format!("/sys/fs/cgroup{}/cpu.stat", of("").context("no control group")?);
    let stat = fs::read_to_string(&file).context(file)?;
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(usage.context("usage_usec")?.parse::<u64>()? * 1000)
}

/// Whether the kernel measures pressure for a process's control group.
fn has_pressure(pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(group) = group.filter(|group| !group.is_empty()) else { return false };
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|root| fs::read(Path::new(root).join(group).join("cpu.pressure")).is_ok())
}

pub(crate) fn figures_of_a_busy_container_are_right_with_runc(fixture: &Fixture) -> Result<()> {
    figures_are_right(fixture, "runc")
}

pub(crate) fn figures_of_a_busy_container_are_right_with_crun(fixture: &Fixture) -> Result<()> {
    figures_are_right(fixture, "crun")
}

fn figures_are_right(fixture: &Fixture, handler: &str) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut pod_config = request::pod(&node, "busy");
    // As the kubelet: a parent of the pod's own.
    let parent = format!("{}/busy-{handler}", node.cgroup());
    pod_config.linux.get_or_insert_default().cgroup_parent = parent.clone();
    let mut config = request::shell("busy", &image, BUSY);
    resources(&mut config).memory_limit_in_bytes = LIMIT.try_into()?;
    let pod = node.cri().run_pod_with(&pod_config, handler)?;
    let running = add(&node, &pod, &pod_config, config)?;
    node.cri().start(&running.id)?;
    // From the first moment on.
    let first = node.cri().container_stats(&running.id)?;
    ensure!(first.cpu.as_ref().is_some_and(|cpu| cpu.timestamp > 0), "{first:?}");
    ensure!(first.memory.as_ref().is_some_and(|memory| memory.timestamp > 0), "{first:?}");
    let nano_cores = first.cpu.and_then(|cpu| cpu.usage_nano_cores);
    ensure!(nano_cores.is_some_and(|cores| cores.value == 0), "a rate of one sample");

    let main = pid(&node, &running.id)?;
    cpu_is_right(&node, &running.id, main)?;
    memory_is_right(&node, &running.id)?;
    writable_layer_is_right(&node, &running.id)?;
    if has_pressure(main) {
        let stats = node.cri().container_stats(&running.id)?;
        let psi = stats.cpu.and_then(|cpu| cpu.psi).context("no pressure on processors")?;
        psi.some.context("no line \"some\"")?;
        stats.memory.and_then(|memory| memory.psi).context("no pressure on memory")?;
        stats.io.and_then(|io| io.psi).context("no pressure on storage")?;
    }
    network_is_right(&node, &running)?;

    let stats = node.cri().pod_stats(&pod)?;
    let linux = stats.linux.context("no figures of the pod")?;
    let of_pod = value(linux.cpu.and_then(|cpu| cpu.usage_core_nano_seconds), "CPU time")?;
    let [of_container] = linux.containers.as_slice() else {
        anyhow::bail!("not one container: {:?}", linux.containers)
    };
    let cpu = of_container.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds);
    ensure!(of_pod > 0 && value(cpu, "CPU time")? > 0);
    let memory = linux.memory.context("no memory of the pod")?;
    ensure!(value(memory.working_set_bytes, "working set")? > 20 * MIB);
    let processes = linux.process.context("no processes")?;
    let processes = value(processes.process_count, "processes")?;
    ensure!((2..=8).contains(&processes), "{processes} processes");
    node.cri().drop_pod(&pod)?;
    for dir in e2e::host::cgroup_dirs(&parent) {
        fs::remove_dir(dir).ok(); // The kubelet's to remove.
    }
    Ok(())
}

/// What is told lies between what the kernel says before and after.
fn cpu_is_right(node: &Node, container: &str, main: u32) -> Result<()> {
    let before = cpu_time(main)?;
    eventually("CPU time is up to date", END, || {
        let cpu = node.cri().container_stats(container)?.cpu.context("no CPU time")?;
        let told = value(cpu.usage_core_nano_seconds, "CPU time")?;
        ensure!(told >= before && told > 0, "{told}, and {before} before");
        ensure!(told <= cpu_time(main)?, "more than there was");
        let rate = value(cpu.usage_nano_cores, "rate")?;
        // How much it gets is the machine's affair; it cannot have more than there is.
        let cores = std::thread::available_parallelism()?.get() as u64;
        ensure!((10_000_000..=cores * 1_300_000_000).contains(&rate), "{rate} ns a second");
        Ok(())
    })
}

fn memory_is_right(node: &Node, container: &str) -> Result<()> {
    eventually("memory is up to date", END, || {
        let stats = node.cri().container_stats(container)?;
        let memory = stats.memory.context("no memory")?;
        let rss = value(memory.rss_bytes, "rss")?;
        ensure!((20 * MIB..LIMIT).contains(&rss), "rss {rss}");
        let usage = value(memory.usage_bytes, "usage")?;
        let working_set = value(memory.working_set_bytes, "working set")?;
        ensure!(
            (rss / 2..=usage).contains(&working_set) && usage <= LIMIT,
            "{working_set} {usage}"
        );
        let available = value(memory.available_bytes, "available")?;
        ensure!(available == LIMIT - working_set, "{available} available");
        ensure!(value(memory.page_faults, "page faults")? > 1000);
        memory.major_page_faults.context("no major page faults")?;
        Ok(())
    })
}

fn writable_layer_is_right(node: &Node, container: &str) -> Result<()> {
    eventually("the writable layer is measured", MEASURED, || {
        let layer = node.cri().container_stats(container)?.writable_layer.context("no layer")?;
        let used = value(layer.used_bytes, "bytes")?;
        ensure!((8 * MIB..10 * MIB).contains(&used), "{used} bytes");
        let inodes = value(layer.inodes_used, "inodes")?;
        ensure!((11..40).contains(&inodes), "{inodes} inodes");
        let mountpoint = layer.fs_id.context("no file system")?.mountpoint;
        ensure!(Path::new(&mountpoint).starts_with(node.root()), "{mountpoint}");
        Ok(())
    })
}

fn network_is_right(node: &Node, running: &Running) -> Result<()> {
    let to = SocketAddr::from((address(&node.cri().pod(&running.pod)?)?, 80));
    let mut stream = eventually("it listens", END, || Ok(TcpStream::connect(to)?))?;
    stream.set_read_timeout(Some(END))?;
    let mut received = Vec::new();
    let other = stream.try_clone()?;
    let reader = std::thread::spawn(move || {
        other.take(8 * MIB).read_to_end(&mut received).map(|_| received.len())
    });
    stream.write_all(&vec![b'x'; usize::try_from(4 * MIB)?])?;
    let received = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(received as u64 == 8 * MIB, "{received} bytes came");
    eventually("the traffic is told", END, || {
        let linux = node.cri().pod_stats(&running.pod)?.linux.context("no figures")?;
        let network = linux.network.context("no network")?;
        let names: Vec<_> = network.interfaces.iter().map(|one| one.name.as_str()).collect();
        ensure!(names.contains(&"eth0") && !names.contains(&"lo"), "{names:?}");
        let default = network.default_interface.context("no default interface")?;
        ensure!(default.name == "eth0", "{default:?}");
        let (came, went) = (value(default.rx_bytes, "rx")?, value(default.tx_bytes, "tx")?);
        ensure!((4 * MIB..8 * MIB).contains(&came), "{came} bytes received");
        ensure!((8 * MIB..12 * MIB).contains(&went), "{went} bytes sent");
        Ok(())
    })
}

pub(crate) fn a_hundred_containers_are_listed_at_once_and_come_and_go_meanwhile(
    fixture: &Fixture,
) -> Result<()> {
    const CONTAINERS: usize = 100;
    let node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let mut of_pod: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in ["left", "right"] {
        let pod_config = request::host_network_pod(&node, name);
        let pod = node.cri().run_pod(&pod_config)?;
        for number in 0..CONTAINERS / 2 {
            let name = format!("c{number}");
            let mut config = request::container(&name, &image, &["/bin/sleep", "1000"]);
            config.labels.insert("parity".to_owned(), (number % 2).to_string());
            let running = add(&node, &pod, &pod_config, config)?;
            node.cri().start(&running.id)?;
            of_pod.entry(pod.clone()).or_default().insert(running.id);
        }
    }
    let list = |filter: pb::ContainerStatsFilter| -> Result<BTreeSet<String>> {
        let began = Instant::now();
        let listed = node.cri().all_container_stats(filter.clone())?;
        ensure!(began.elapsed() < PROMPT, "took {:?}", began.elapsed());
        let streamed = node.cri().stream_container_stats(filter)?;
        let ids = |stats: &[pb::ContainerStats]| -> Result<Vec<String>> {
            stats.iter().map(|one| Ok(one.attributes.clone().context("whose?")?.id)).collect()
        };
        ensure!(ids(&streamed)? == ids(&listed)?, "the stream has others than the list");
        for one in &listed {
            let cpu = one.cpu.as_ref().context("no CPU time")?;
            ensure!(cpu.timestamp > 0 && cpu.usage_core_nano_seconds.is_some(), "{one:?}");
            one.writable_layer.as_ref().context("no writable layer")?;
        }
        let ids = ids(&listed)?;
        let set: BTreeSet<_> = ids.iter().cloned().collect();
        ensure!(set.len() == ids.len(), "a container twice");
        Ok(set)
    };
    let all: BTreeSet<_> = of_pod.values().flatten().cloned().collect();
    ensure!(all.len() == CONTAINERS && list(pb::ContainerStatsFilter::default())? == all);
    let (pod, ids) = of_pod.first_key_value().context("a pod")?;
    let one = ids.first().context("a container")?;
    let filter = |id: &str, pod: &str, parity: &str| pb::ContainerStatsFilter {
        id: id.to_owned(),
        pod_sandbox_id: pod.to_owned(),
        label_selector: match parity {
            "" => BTreeMap::new(),
            parity => [("parity".to_owned(), parity.to_owned())].into(),
        },
    };
    ensure!(list(filter("", pod, ""))? == *ids);
    ensure!(list(filter("", pod, "1"))?.len() == CONTAINERS / 4);
    ensure!(list(filter(&one[..20], "", ""))? == [one.clone()].into());
    ensure!(list(filter(one, of_pod.keys().next_back().context("a pod")?, ""))?.is_empty());
    ensure!(list(filter("", "", "2"))?.is_empty());

    let daemon = node.pid()?;
    let group = format!("{}/", node.cgroup());
    let kept = || -> Vec<String> {
        let open = e2e::host::descriptors(daemon).into_iter();
        open.filter(|name| name.contains(&group)).collect()
    };
    ensure!(kept().len() >= CONTAINERS, "the files of the groups are not kept: {:?}", kept());

    // Whatever vanishes meanwhile, the list never fails.
    std::thread::scope(|scope| -> Result<()> {
        let removal = scope.spawn(|| node.remove_all_pods());
        while !removal.is_finished() {
            node.cri().all_container_stats(Default::default())?;
            node.cri().all_pod_stats(Default::default())?;
            node.cri().pod_metrics()?;
        }
        removal.join().map_err(|_| anyhow::anyhow!("the removal panicked"))?
    })?;
    ensure!(node.cri().all_container_stats(Default::default())?.is_empty());
    eventually("no descriptor of a group is left", END, || {
        ensure!(kept().is_empty(), "{:?}", kept());
        Ok(())
    })
}

pub(crate) fn what_does_not_run_has_no_figures_but_its_layer(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let line = "head -c 3145728 /dev/zero >/file; exit 0";
    let running = run(&node, request::shell("done", &image, line))?;
    ended(&node, &running.id)?;
    let listed = |filter: pb::ContainerStatsFilter| -> Result<bool> {
        let stats = node.cri().all_container_stats(filter)?;
        Ok(stats.iter().any(|one| one.attributes.as_ref().is_some_and(|a| a.id == running.id)))
    };
    ensure!(!listed(pb::ContainerStatsFilter::default())?, "an ended one among those that run");
    let by_id = pb::ContainerStatsFilter { id: running.id.clone(), ..Default::default() };
    ensure!(listed(by_id)?, "asked for by its id it is not there");
    eventually("its layer is measured", MEASURED, || {
        let stats = node.cri().container_stats(&running.id)?;
        ensure!(stats.cpu.is_none() && stats.memory.is_none() && stats.swap.is_none(), "{stats:?}");
        let used = value(stats.writable_layer.context("layer")?.used_bytes, "bytes")?;
        ensure!((3 * MIB..4 * MIB).contains(&used), "{used} bytes");
        Ok(())
    })?;

    // The pod still runs; stopped it has no figures either, and gone it is not found.
    let pods = |id: &str| -> Result<Vec<pb::PodSandboxStats>> {
        let filter = pb::PodSandboxStatsFilter { id: id.to_owned(), ..Default::default() };
        let listed = node.cri().all_pod_stats(filter.clone())?;
        ensure!(node.cri().stream_pod_stats(filter)?.len() == listed.len());
        Ok(listed)
    };
    let here = |stats: &[pb::PodSandboxStats]| {
        stats.iter().any(|one| one.attributes.as_ref().is_some_and(|a| a.id == running.pod))
    };
    ensure!(here(&pods("")?), "a pod that is ready is not listed");
    let stop = pb::StopPodSandboxRequest { pod_sandbox_id: running.pod.clone() };
    node.cri().stop_pod_rpc(stop)?;
    ensure!(!here(&pods("")?) && here(&pods(&running.pod)?));
    let linux = node.cri().pod_stats(&running.pod)?.linux.context("linux")?;
    ensure!(linux.cpu.is_none() && linux.network.is_none() && linux.containers.is_empty());
    node.cri().drop_pod(&running.pod)?;
    let gone = node.cri().container_stats(&running.id).err().context("a container that is gone")?;
    ensure!(gone.code() == tonic::Code::NotFound, "{gone:?}");
    let gone = node.cri().pod_stats(&running.pod).err().context("a pod that is gone")?;
    ensure!(gone.code() == tonic::Code::NotFound, "{gone:?}");
    Ok(())
}

pub(crate) fn a_new_daemon_has_figures_of_old_containers(fixture: &Fixture) -> Result<()> {
    let mut node = fixture.own_node(Options::default())?;
    let image = fixture.busybox(&node)?;
    let config = request::container("old", &image, &["/bin/sleep", "1000"]);
    let running = run_in(&node, request::pod(&node, "old"), config)?;
    node.restart()?;
    eventually("figures again", END, || {
        let stats = node.cri().container_stats(&running.id)?;
        value(stats.cpu.context("no CPU time")?.usage_core_nano_seconds, "CPU time")?;
        let linux = node.cri().pod_stats(&running.pod)?.linux.context("linux")?;
        linux.network.context("no network")?;
        Ok(())
    })?;
    // The descriptor that its traffic is read through would keep its network namespace.
    let daemon = node.pid()?;
    let kept = || -> Vec<String> {
        let open = e2e::host::descriptors(daemon).into_iter();
        open.filter(|name| name.contains("/net/dev")).collect()
    };
    ensure!(!kept().is_empty(), "the network is not kept in view");
    node.cri().drop_pod(&running.pod)?;
    eventually("nothing of it is kept", END, || {
        ensure!(kept().is_empty(), "{:?}", kept());
        Ok(())
    })
}

pub(crate) fn metrics_have_the_names_and_labels_that_are_announced(
    fixture: &Fixture,
) -> Result<()> {
    /// Only with traffic on a disk that the kernel accounts for.
    const OPTIONAL: [&str; 5] = [
        "container_blkio_device_usage_total",
        "container_fs_reads_bytes_total",
        "container_fs_reads_total",
        "container_fs_writes_bytes_total",
        "container_fs_writes_total",
    ];
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let mut config = request::container("measured", &image, &["/bin/sleep", "1000"]);
    let wanted = resources(&mut config);
    wanted.cpu_period = 100_000;
    wanted.cpu_quota = 20_000;
    wanted.cpu_shares = 1024;
    wanted.memory_limit_in_bytes = 64 << 20;
    wanted.memory_swap_limit_in_bytes = 64 << 20;
    let running = run_in(&node, request::pod(&node, "measured"), config)?;
    let main = pid(&node, &running.id)?;

    // At once, without waiting for another look.
    let metrics = node.cri().pod_metrics()?;
    let of_pod = metrics.iter().find(|one| one.pod_sandbox_id == running.pod).context("pod")?;
    let of_container = of_pod.container_metrics.iter().find(|one| one.container_id == running.id);
    let of_container = &of_container.context("container")?.metrics;
    let descriptors = node.cri().descriptors_rpc(pb::ListMetricDescriptorsRequest {})?.descriptors;
    ensure!(descriptors.len() >= 56, "{} descriptors", descriptors.len());
    for descriptor in &descriptors {
        let name = descriptor.name.as_str();
        ensure!(!descriptor.help.is_empty() && !descriptor.label_keys.is_empty(), "{name}");
        let all = of_pod.metrics.iter().chain(of_container);
        let found: Vec<_> = all.filter(|metric| metric.name == name).collect();
        let optional = OPTIONAL.contains(&name)
            || name.starts_with("container_hugetlb_")
                && !Path::new("/sys/fs/cgroup/hugetlb").exists()
            || name.starts_with("container_pressure_") && !has_pressure(main);
        ensure!(!found.is_empty() || optional, "no {name}");
        for metric in found {
            ensure!(metric.label_values.len() == descriptor.label_keys.len(), "{metric:?}");
            ensure!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
        }
    }
    let label = |metric: &pb::Metric, key: &str| -> Result<String> {
        let descriptor = descriptors.iter().find(|one| one.name == metric.name);
        let keys = &descriptor.context("no descriptor")?.label_keys;
        let at = keys.iter().position(|found| found == key).context("no such label")?;
        Ok(metric.label_values[at].clone())
    };
    let named = |name: &str| {
        let name = name.to_owned();
        move |metric: &&pb::Metric| metric.name == name
    };
    let one = |name: &str| of_container.iter().find(named(name)).with_context(|| name.to_owned());
    for (name, expected) in [
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_shares", 1024),
        ("container_spec_memory_limit_bytes", 64 * MIB),
    ] {
        let metric = one(name)?;
        ensure!(metric.value.as_ref().is_some_and(|v| v.value == expected), "{metric:?}");
    }
    // The first look may have met the runtime's own process, before it became the container's.
    eventually("the container is alone in its group", END, || {
        let metrics = node.cri().pod_metrics()?;
        let all = metrics.iter().flat_map(|pod| &pod.container_metrics);
        let own = all.filter(|one| one.container_id == running.id).flat_map(|one| &one.metrics);
        let own: Vec<&pb::Metric> = own.collect();
        for name in ["container_threads", "container_processes"] {
            let metric = own.iter().copied().find(named(name)).context(name)?;
            ensure!(metric.value.as_ref().is_some_and(|v| v.value == 1), "{metric:?}");
        }
        Ok(())
    })?;
    let usage = one("container_memory_usage_bytes")?;
    let labels = [("container", "measured"), ("pod", "measured"), ("namespace", "default")];
    for (key, expected) in labels.into_iter().chain([("name", &*running.id), ("image", &*image)]) {
        ensure!(label(usage, key)? == expected, "{key}: {usage:?}");
    }
    let group = label(usage, "id")?;
    ensure!(!e2e::host::cgroup_dirs(&group).is_empty(), "{group} is no control group");
    let received = |metric: &&pb::Metric| metric.name == "container_network_receive_bytes_total";
    let interfaces: Vec<_> = of_pod.metrics.iter().filter(received).collect();
    ensure!(!interfaces.is_empty());
    for metric in interfaces {
        ensure!(label(metric, "container")? == "POD" && label(metric, "interface")? == "eth0");
    }
    let streamed = node.cri().stream_pod_metrics()?;
    ensure!(streamed.iter().any(|one| one.pod_sandbox_id == running.pod));
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn crictl_shows_statistics_and_metrics(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    let image = fixture.busybox(&node)?;
    let config = request::shell("shown", &image, "while :; do :; done");
    let running = run_in(&node, request::pod(&node, "shown-pod"), config)?;
    let short = &running.id[..13];
    // Looks twice, and takes figures that did not move for an error.
    let table = node.crictl(&["stats"])?;
    ensure!(table.lines().any(|line| line.contains(short) && line.contains("shown")), "{table}");
    let table = node.crictl(&["statsp"])?;
    ensure!(table.lines().any(|line| line.contains("shown-pod")), "{table}");
    let json = |args: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&node.crictl(args)?)?) };
    let stats = json(&["stats", "-o", "json", "--id", &running.id])?;
    ensure!(stats["stats"][0]["attributes"]["id"] == running.id.as_str(), "{stats:#}");
    let metrics = json(&["metricsp"])?;
    let pods = metrics["podMetrics"].as_array().context("podMetrics")?;
    let pod = pods.iter().find(|pod| pod["podSandboxId"] == running.pod.as_str()).context("pod")?;
    ensure!(pod["containerMetrics"][0]["containerId"] == running.id.as_str());
    let descriptors = json(&["metricdescs"])?;
    ensure!(descriptors["descriptors"].as_array().is_some_and(|all| all.len() >= 56));
    node.cri().drop_pod(&running.pod)?;
    Ok(())
}

pub(crate) fn the_daemon_counts_what_it_does(fixture: &Fixture) -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = format!("[metrics]\nlisten = \"{free}\"\n");
    let node = fixture.own_node(Options { config, ..Options::default() })?;
    let image = fixture.busybox(&node)?;
    node.cri().pull(&fixture.image("absent:latest")).err().context("an absent image")?;
    let mut config = request::container("glutton", &image, &["/bin/tail", "/dev/zero"]);
    resources(&mut config).memory_limit_in_bytes = 32 << 20;
    resources(&mut config).memory_swap_limit_in_bytes = 32 << 20;
    let glutton = run(&node, config)?;
    ensure!(ended(&node, &glutton.id)?.reason == "OOMKilled");

    let mut stream = TcpStream::connect(free)?;
    stream.set_read_timeout(Some(END))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let number = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
    };
    ensure!(number("crisol_image_pulls_total{result=\"ok\"}")? == 1);
    ensure!(number("crisol_image_pulls_total{result=\"failed\"}")? == 1);
    ensure!(number("crisol_image_pulled_bytes_total")? > 100_000);
    ensure!(number("crisol_container_oom_kills_total")? == 1);
    ensure!(number("crisol_event_listeners_dropped_total")? == 0);
    ensure!(number("crisol_operations_in_flight{operation=\"PullImage\"}")? == 0);
    ensure!(number("crisol_operations_total{code=\"Ok\",operation=\"StartContainer\"}")? == 1);
    ensure!(number("crisol_leaks{kind=\"container\"}")? == 0);
    ensure!(number("crisol_leaks{kind=\"pod\"}")? == 0);
    Ok(())
}
