//! Counters and durations of the daemon, in Prometheus' names and units.
//!
//! One [`Metrics`] is made by `daemon` and shared. Labels take values from fixed sets only (RPC
//! names, gRPC codes, states), so that no request can grow the number of series.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

mod process;
pub mod serve;

#[cfg(test)]
mod tests;

/// From a status read (under a millisecond) to a stop with the longest usual grace period.
const SECONDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// A metric could not be set up or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Two metrics have one name, or a name is not one.
    #[error("register a metric")]
    Register(#[source] prometheus::Error),
    /// The text form.
    #[error("write the metrics as text")]
    Encode(#[source] prometheus::Error),
}

impl crate::error::Classify for MetricsError {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Internal
    }
}

/// All metrics of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    operations: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    pulls: IntCounterVec,
    pulled_bytes: IntCounter,
    pods: IntGaugeVec,
    containers: IntGaugeVec,
    oom_kills: IntCounter,
    dropped_listeners: IntCounter,
    owed: IntGauge,
    leaks: IntGaugeVec,
    unusable_records: IntGaugeVec,
    network_ready: IntGauge,
    process: process::Process,
}

impl Metrics {
    /// All metrics at zero, of a daemon of this version and commit.
    ///
    /// # Errors
    ///
    /// Never, unless two names in this file are the same.
    pub fn new(version: &str, commit: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let seconds = HistogramOpts::new(
            "crisol_operation_duration_seconds",
            "Time from a CRI request to its answer",
        )
        .buckets(SECONDS.to_vec());
        let build = gauges(&registry, "crisol_build_info", "Always 1", &["version", "commit"])?;
        build.with_label_values(&[version, commit]).set(1);
        Ok(Self {
            operations: counters(
                &registry,
                "crisol_operations_total",
                "CRI requests that were answered",
                &["operation", "code"],
            )?,
            seconds: registered(&registry, HistogramVec::new(seconds, &["operation"]))?,
            in_flight: gauges(
                &registry,
                "crisol_operations_in_flight",
                "CRI requests that have not been answered yet",
                &["operation"],
            )?,
            pulls: counters(
                &registry,
                "crisol_image_pulls_total",
                "Image pulls that ended",
                &["result"],
            )?,
            pulled_bytes: registered(
                &registry,
                IntCounter::new("crisol_image_pulled_bytes_total", "Bytes received of layers"),
            )?,
            pods: gauges(&registry, "crisol_pods", "Pods by state", &["state"])?,
            containers: gauges(&registry, "crisol_containers", "Containers by state", &["state"])?,
            oom_kills: registered(
                &registry,
                IntCounter::new(
                    "crisol_container_oom_kills_total",
                    "Containers that ran out of memory",
                ),
            )?,
            dropped_listeners: registered(
                &registry,
                IntCounter::new(
                    "crisol_event_listeners_dropped_total",
                    "Streams of events that were ended because nobody read them",
                ),
            )?,
            owed: registered(
                &registry,
                IntGauge::new("crisol_owed_cleanups", "Clean-up that has not succeeded yet"),
            )?,
            leaks: gauges(
                &registry,
                "crisol_leaks",
                "Things of ours without a record, found and not yet removed",
                &["kind"],
            )?,
            unusable_records: gauges(
                &registry,
                "crisol_unusable_records",
                "Records that are damaged, cannot be read or are of a newer crisol",
                &["kind"],
            )?,
            network_ready: registered(
                &registry,
                IntGauge::new("crisol_network_ready", "1 if pods can be given a network"),
            )?,
            process: process::Process::register(&registry)?,
            registry,
        })
    }

    /// An operation begins; drop the guard or call [`Timed::end`] when it is answered.
    pub fn begin(&self, operation: &'static str) -> Timed<'_> {
        self.in_flight.with_label_values(&[operation]).inc();
        Timed { metrics: self, operation, begun: std::time::Instant::now(), code: "Cancelled" }
    }

    /// An operation was answered with a gRPC code (`Ok`, `NotFound`, …) after `took`.
    pub fn operation(&self, operation: &'static str, code: &'static str, took: Duration) {
        self.operations.with_label_values(&[operation, code]).inc();
        self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// A pull ended with `ok`, `failed` or `abandoned`.
    pub fn pull_ended(&self, result: &'static str) {
        self.pulls.with_label_values(&[result]).inc();
    }

    /// Bytes of a layer arrived.
    pub fn pulled(&self, bytes: u64) {
        self.pulled_bytes.inc_by(bytes);
    }

    /// How many pods are in `state` now.
    pub fn set_pods(&self, state: &'static str, count: usize) {
        self.pods.with_label_values(&[state]).set(clamp(count));
    }

    /// How many containers are in `state` now.
    pub fn set_containers(&self, state: &'static str, count: usize) {
        self.containers.with_label_values(&[state]).set(clamp(count));
    }

    /// A container was killed because it ran out of memory.
    pub fn oom_killed(&self) {
        self.oom_kills.inc();
    }

    /// A stream of events was ended because nobody read it.
    pub fn event_listener_dropped(&self) {
        self.dropped_listeners.inc();
    }

    /// How much clean-up has not succeeded yet.
    pub fn set_owed(&self, count: usize) {
        self.owed.set(clamp(count));
    }

    /// How many things of `kind` (`pod`, `container`) have no record now and could not be removed.
    pub fn set_leaks(&self, kind: &'static str, count: usize) {
        self.leaks.with_label_values(&[kind]).set(clamp(count));
    }

    /// How many records of `kind` (`pod`, `container`) cannot be used now.
    pub fn set_unusable_records(&self, kind: &'static str, count: usize) {
        self.unusable_records.with_label_values(&[kind]).set(clamp(count));
    }

    /// Whether pods can be given a network now.
    pub fn set_network_ready(&self, ready: bool) {
        self.network_ready.set(ready.into());
    }

    /// All metrics in the text format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// Never with the metrics of this file; the encoder can refuse an invalid name.
    pub fn to_text(&self) -> Result<String, MetricsError> {
        self.process.update();
        let families = self.registry.gather();
        TextEncoder::new().encode_to_string(&families).map_err(MetricsError::Encode)
    }
}

/// One operation that has not been answered.
#[derive(Debug)]
pub struct Timed<'a> {
    metrics: &'a Metrics,
    operation: &'static str,
    begun: std::time::Instant,
    code: &'static str,
}

impl Timed<'_> {
    /// It was answered with `code`; without this call it counts as `Cancelled`.
    pub fn end(mut self, code: &'static str) {
        self.code = code;
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.with_label_values(&[self.operation]).dec();
        self.metrics.operation(self.operation, self.code, self.begun.elapsed());
    }
}

fn clamp(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> Result<C, MetricsError> {
    let metric = made.map_err(MetricsError::Register)?;
    registry.register(Box::new(metric.clone())).map_err(MetricsError::Register)?;
    Ok(metric)
}
