//! The `process_*` metrics that every Prometheus client has, taken anew at each scrape.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntGauge, Registry};
use rustix::time::{ClockId, clock_gettime};

use super::{MetricsError, registered};

/// Metrics about this process.
#[derive(Debug)]
pub(super) struct Process {
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    cpu_seconds: Gauge,
}

impl Process {
    pub(super) fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help));
        let float = |name, help| registered(registry, Gauge::new(name, help));
        // The metrics are made first thing, and a scraper only compares this with the last one.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        float("process_start_time_seconds", "Start time since the epoch")?.set(now.as_secs_f64());
        Ok(Self {
            resident_bytes: gauge("process_resident_memory_bytes", "Resident memory size")?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors")?,
            threads: gauge("process_threads", "Number of threads")?,
            // A counter by meaning; the kernel counts, so it is set and never incremented.
            cpu_seconds: float("process_cpu_seconds_total", "User and system time spent")?,
        })
    }

    /// Reads everything again. What cannot be read keeps its last value.
    pub(super) fn update(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            if let Some(kib) = number(&status, "VmRSS:") {
                self.resident_bytes.set(kib.saturating_mul(1024));
            }
            if let Some(threads) = number(&status, "Threads:") {
                self.threads.set(threads);
            }
        }
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        self.cpu_seconds.set(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9);
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // Minus the one that lists them.
            self.open_fds.set(super::clamp(entries.count().saturating_sub(1)));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(limit.and_then(|limit| limit.try_into().ok()).unwrap_or(i64::MAX));
    }
}

/// The number after `name` in the text of /proc/PID/status, proc_pid_status(5).
fn number(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_are_found_by_the_whole_name() {
        let status = "Name:\tThreads: 9\nVmRSS:\t    1234 kB\nThreads:\t7\n";
        assert_eq!(number(status, "VmRSS:"), Some(1234));
        assert_eq!(number(status, "Threads:"), Some(7));
        assert_eq!(number(status, "VmSwap:"), None);
    }
}
