//! Names, meanings and labels of the metrics, by cAdvisor's names.

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Upwards only.
    Counter,
    /// Both ways.
    Gauge,
}

/// What a metric is.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its name.
    pub name: &'static str,
    /// How it moves.
    pub kind: MetricKind,
    /// Labels besides those that say whose it is.
    pub labels: &'static [&'static str],
    /// For people.
    pub help: &'static str,
}

/// One constant for each metric, and the list of all.
macro_rules! descriptors {
    ($($id:ident = $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(
            pub(super) static $id: Descriptor = Descriptor {
                name: $name,
                kind: MetricKind::$kind,
                labels: &$labels,
                help: $help,
            };
        )*

        /// Every metric there is.
        pub static ALL: &[&Descriptor] = &[$(&$id),*];
    };
}

descriptors! {
    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]
        "CPU time used, in seconds";
    CPU_USER = Counter "container_cpu_user_seconds_total" []
        "CPU time used in programs, in seconds";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []
        "CPU time used in the kernel, in seconds";
    CPU_PERIODS = Counter "container_cpu_cfs_periods_total" []
        "Periods in which a CPU quota was enforced";
    CPU_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []
        "Periods in which the CPU quota was used up";
    CPU_THROTTLED = Counter "container_cpu_cfs_throttled_seconds_total" []
        "Time waited for the next period of the CPU quota, in seconds";

    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []
        "Memory in use with the page cache, in bytes";
    MEMORY_MAX_USAGE = Gauge "container_memory_max_usage_bytes" []
        "The most memory that was in use, in bytes";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []
        "Memory in use without files that nobody used lately, in bytes";
    MEMORY_CACHE = Gauge "container_memory_cache" []
        "Page cache, in bytes";
    MEMORY_RSS = Gauge "container_memory_rss" []
        "Anonymous memory, in bytes";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" []
        "Mapped files, in bytes";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []
        "Memory that the kernel uses for the container, in bytes";
    MEMORY_SWAP = Gauge "container_memory_swap" []
        "Swap space in use, in bytes";
    MEMORY_LIMIT_HITS = Counter "container_memory_failcnt" []
        "How often the memory limit was hit";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Page faults, by kind";
    OOM_EVENTS = Counter "container_oom_events_total" []
        "Processes killed for want of memory";

    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []
        "Time in which some task waited for a processor, in seconds";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []
        "Time in which all tasks waited for a processor, in seconds";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []
        "Time in which some task waited for memory, in seconds";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []
        "Time in which all tasks waited for memory, in seconds";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []
        "Time in which some task waited for storage, in seconds";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []
        "Time in which all tasks waited for storage, in seconds";

    HUGEPAGES_USAGE = Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Huge pages in use, in bytes";
    HUGEPAGES_MAX_USAGE = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "The most huge pages that were in use, in bytes";

    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"]
        "Space that the writable layer takes, in bytes";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"]
        "Size of the file system of the writable layer, in bytes";
    FS_INODES = Gauge "container_fs_inodes_total" ["device"]
        "Inodes of the file system of the writable layer";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"]
        "Free inodes of the file system of the writable layer";
    FS_READ_BYTES = Counter "container_fs_reads_bytes_total" ["device"]
        "Bytes read from a device";
    FS_READS = Counter "container_fs_reads_total" ["device"]
        "Operations that read from a device";
    FS_WRITTEN_BYTES = Counter "container_fs_writes_bytes_total" ["device"]
        "Bytes written to a device";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]
        "Operations that wrote to a device";
    DEVICE_USAGE = Counter "container_blkio_device_usage_total"
        ["device", "major", "minor", "operation"]
        "Bytes moved from and to a device";

    RECEIVED_BYTES = Counter "container_network_receive_bytes_total" ["interface"]
        "Bytes received";
    RECEIVED_PACKETS = Counter "container_network_receive_packets_total" ["interface"]
        "Packets received";
    RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"]
        "Broken packets received";
    RECEIVED_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Packets dropped when received";
    SENT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]
        "Bytes sent";
    SENT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]
        "Packets sent";
    SEND_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]
        "Packets that could not be sent";
    SENT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Packets dropped before they were sent";

    PROCESSES = Gauge "container_processes" []
        "Processes";
    THREADS = Gauge "container_threads" []
        "Threads of all processes";
    THREADS_MAX = Gauge "container_threads_max" []
        "How many threads there may be; 0 is any number";
    DESCRIPTORS = Gauge "container_file_descriptors" []
        "Open descriptors of all processes";
    SOCKETS = Gauge "container_sockets" []
        "Open sockets of all processes";
    ULIMITS = Gauge "container_ulimits_soft" ["ulimit"]
        "Soft limits of the first process";

    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []
        "Period of the CPU quota, in microseconds";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []
        "CPU quota, in microseconds a period";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []
        "Weight among those that want a processor";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []
        "Memory limit, in bytes; 0 is none";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []
        "Limit of memory and swap space together, in bytes; 0 is none";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory that is never taken back, in bytes";

    LAST_SEEN = Gauge "container_last_seen" []
        "When the container was looked at last, in seconds since 1970";
    START_TIME = Gauge "container_start_time_seconds" []
        "When the container was started, in seconds since 1970";
}
