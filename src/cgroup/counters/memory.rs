//! Memory and swap.

use super::Place;
use super::text::{keyed, limit, number_in, text_of};
use crate::sys::kept::Kept;

/// Memory of a group, in bytes unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, with the page cache.
    pub usage_bytes: Option<u64>,
    /// The most that was ever in use.
    pub max_usage_bytes: Option<u64>,
    /// None: without limit.
    pub limit_bytes: Option<u64>,
    /// In use, without what the kernel takes back first: the files nobody used lately.
    pub working_set_bytes: Option<u64>,
    /// Anonymous.
    pub rss_bytes: Option<u64>,
    /// Page cache.
    pub cache_bytes: Option<u64>,
    /// Files that are mapped.
    pub mapped_file_bytes: Option<u64>,
    /// The kernel's own.
    pub kernel_bytes: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Of them, those that had to read.
    pub major_page_faults: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Swap space of a group in bytes. Absent where the kernel does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub usage_bytes: Option<u64>,
    /// None: without limit.
    pub limit_bytes: Option<u64>,
}

/// The files.
#[derive(Debug)]
pub(super) enum Files {
    V1(V1),
    V2(V2),
}

#[derive(Debug)]
pub(super) struct V1 {
    usage: Option<Kept>,
    max_usage: Option<Kept>,
    limit: Option<Kept>,
    limit_hits: Option<Kept>,
    kernel: Option<Kept>,
    stat: Option<Kept>,
    oom: Option<Kept>,
    with_swap: Option<Kept>,
    limit_with_swap: Option<Kept>,
}

#[derive(Debug)]
pub(super) struct V2 {
    usage: Option<Kept>,
    max_usage: Option<Kept>,
    limit: Option<Kept>,
    stat: Option<Kept>,
    events: Option<Kept>,
    swap: Option<Kept>,
    swap_limit: Option<Kept>,
}

impl Files {
    pub(super) fn open(place: &Place) -> Self {
        match place {
            Place::V1(dir) => {
                let open = |name| Kept::open(dir, name);
                Self::V1(V1 {
                    usage: open("memory.usage_in_bytes"),
                    max_usage: open("memory.max_usage_in_bytes"),
                    limit: open("memory.limit_in_bytes"),
                    limit_hits: open("memory.failcnt"),
                    kernel: open("memory.kmem.usage_in_bytes"),
                    stat: open("memory.stat"),
                    oom: open("memory.oom_control"),
                    with_swap: open("memory.memsw.usage_in_bytes"),
                    limit_with_swap: open("memory.memsw.limit_in_bytes"),
                })
            }
            Place::V2(dir) => {
                let open = |name| Kept::open(dir, name);
                Self::V2(V2 {
                    usage: open("memory.current"),
                    max_usage: open("memory.peak"),
                    limit: open("memory.max"),
                    stat: open("memory.stat"),
                    events: open("memory.events"),
                    swap: open("memory.swap.current"),
                    swap_limit: open("memory.swap.max"),
                })
            }
        }
    }

    pub(super) fn read(&self) -> (Memory, Swap) {
        match self {
            Self::V1(files) => files.read(),
            Self::V2(files) => files.read(),
        }
    }
}

impl V1 {
    fn read(&self) -> (Memory, Swap) {
        let memory = Memory {
            usage_bytes: number_in(&self.usage),
            max_usage_bytes: number_in(&self.max_usage),
            limit_bytes: number_in(&self.limit).and_then(limit),
            kernel_bytes: number_in(&self.kernel),
            limit_hits: number_in(&self.limit_hits),
            oom_kills: keyed(&text_of(&self.oom), "oom_kill"),
            ..Memory::default()
        };
        let stat = text_of(&self.stat);
        let swap = v1_swap(
            &memory,
            &stat,
            number_in(&self.with_swap),
            number_in(&self.limit_with_swap).and_then(limit),
        );
        (v1_stat(memory, &stat), swap)
    }
}

/// cgroup-v1/memory: the `total_` lines are those of the group with all below it.
fn v1_stat(mut memory: Memory, stat: &str) -> Memory {
    memory.working_set_bytes = working_set(memory.usage_bytes, keyed(stat, "total_inactive_file"));
    memory.rss_bytes = keyed(stat, "total_rss");
    memory.cache_bytes = keyed(stat, "total_cache");
    memory.mapped_file_bytes = keyed(stat, "total_mapped_file");
    memory.page_faults = keyed(stat, "total_pgfault");
    memory.major_page_faults = keyed(stat, "total_pgmajfault");
    memory
}

/// v1 counts and limits swap together with memory.
fn v1_swap(
    memory: &Memory,
    stat: &str,
    with_swap: Option<u64>,
    limit_with_swap: Option<u64>,
) -> Swap {
    let difference = with_swap.zip(memory.usage_bytes).map(|(all, ram)| all.saturating_sub(ram));
    Swap {
        usage_bytes: keyed(stat, "total_swap").or(difference),
        limit_bytes: limit_with_swap
            .zip(memory.limit_bytes)
            .map(|(all, ram)| all.saturating_sub(ram)),
    }
}

impl V2 {
    fn read(&self) -> (Memory, Swap) {
        let memory = Memory {
            usage_bytes: number_in(&self.usage),
            max_usage_bytes: number_in(&self.max_usage),
            limit_bytes: number_in(&self.limit).and_then(limit),
            ..Memory::default()
        };
        let swap = Swap {
            usage_bytes: number_in(&self.swap),
            limit_bytes: number_in(&self.swap_limit).and_then(limit),
        };
        (v2_stat(memory, &text_of(&self.stat), &text_of(&self.events)), swap)
    }
}

/// cgroup-v2, `memory.stat` and `memory.events`.
fn v2_stat(mut memory: Memory, stat: &str, events: &str) -> Memory {
    memory.working_set_bytes = working_set(memory.usage_bytes, keyed(stat, "inactive_file"));
    memory.rss_bytes = keyed(stat, "anon");
    memory.cache_bytes = keyed(stat, "file");
    memory.mapped_file_bytes = keyed(stat, "file_mapped");
    // Before 5.18 there is no sum, only its greater parts.
    memory.kernel_bytes = keyed(stat, "kernel").or_else(|| {
        let parts = ["slab", "kernel_stack", "pagetables", "percpu"];
        let found: Vec<u64> = parts.into_iter().filter_map(|key| keyed(stat, key)).collect();
        (!found.is_empty()).then(|| found.into_iter().fold(0, u64::saturating_add))
    });
    memory.page_faults = keyed(stat, "pgfault");
    memory.major_page_faults = keyed(stat, "pgmajfault");
    memory.limit_hits = keyed(events, "max");
    memory.oom_kills = keyed(events, "oom_kill");
    memory
}

fn working_set(usage: Option<u64>, inactive_file: Option<u64>) -> Option<u64> {
    usage.map(|usage| usage.saturating_sub(inactive_file.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(usage: u64, limit_bytes: Option<u64>) -> Memory {
        Memory { usage_bytes: Some(usage), limit_bytes, ..Memory::default() }
    }

    #[test]
    fn v1_takes_the_figures_of_the_whole_tree() {
        let stat = "cache 1\nrss 2\ntotal_cache 100\ntotal_rss 200\ntotal_mapped_file 30\n\
                    total_pgfault 40\ntotal_pgmajfault 5\ntotal_inactive_file 60\ntotal_swap 7\n";
        let memory = v1_stat(used(1000, Some(4000)), stat);
        assert_eq!(memory.working_set_bytes, Some(940));
        assert_eq!((memory.rss_bytes, memory.cache_bytes), (Some(200), Some(100)));
        assert_eq!(memory.mapped_file_bytes, Some(30));
        assert_eq!((memory.page_faults, memory.major_page_faults), (Some(40), Some(5)));
        let swap = v1_swap(&memory, stat, Some(1010), Some(6000));
        assert_eq!(swap, Swap { usage_bytes: Some(7), limit_bytes: Some(2000) });
    }

    #[test]
    fn v1_without_swap_accounting_or_with_missing_keys_leaves_fields_out() {
        let memory = v1_stat(used(10, None), "total_inactive_file 60\ntotal_rss -4096\n");
        assert_eq!(memory.working_set_bytes, Some(0), "more inactive than used");
        assert_eq!(memory.rss_bytes, None);
        assert_eq!(v1_swap(&memory, "", None, None), Swap::default());
        assert_eq!(v1_swap(&memory, "", Some(14), None).usage_bytes, Some(4));
        assert_eq!(v1_stat(Memory::default(), ""), Memory::default());
    }

    #[test]
    fn v2_reads_stat_and_events() {
        let stat = "anon 200\nfile 100\nkernel 50\nfile_mapped 30\ninactive_file 60\npgfault 40\n\
                    pgmajfault 5\nslab 1\n";
        let events = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n";
        let memory = v2_stat(used(1000, None), stat, events);
        assert_eq!(memory.working_set_bytes, Some(940));
        assert_eq!((memory.rss_bytes, memory.cache_bytes), (Some(200), Some(100)));
        assert_eq!(memory.kernel_bytes, Some(50));
        assert_eq!((memory.limit_hits, memory.oom_kills), (Some(9), Some(2)));
    }

    #[test]
    fn an_older_kernel_tells_its_own_memory_in_parts() {
        let stat = "slab 10\nkernel_stack 20\npercpu 3\n";
        assert_eq!(v2_stat(used(1, None), stat, "").kernel_bytes, Some(33));
        assert_eq!(v2_stat(used(1, None), "", "").kernel_bytes, None);
    }
}
