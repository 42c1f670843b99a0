//! CPU time and throttling.

use super::Place;
use super::text::{keyed, number_in, text_of};
use crate::sys::kept::Kept;

/// CPU time of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds of all processors.
    pub usage_ns: Option<u64>,
    /// Of them, in programs.
    pub user_ns: Option<u64>,
    /// Of them, in the kernel.
    pub system_ns: Option<u64>,
    /// Periods in which a quota was enforced.
    pub periods: Option<u64>,
    /// Of them, those in which it was used up.
    pub throttled_periods: Option<u64>,
    /// Nanoseconds for which the group waited for the next period.
    pub throttled_ns: Option<u64>,
}

/// The files.
#[derive(Debug)]
pub(super) enum Files {
    V1 { usage: Option<Kept>, times: Option<Kept>, throttling: Option<Kept> },
    V2 { stat: Option<Kept> },
}

impl Files {
    /// v1 has times and quotas in two hierarchies, which may be one.
    pub(super) fn open(cpu: Option<Place>, cpuacct: Option<Place>) -> Option<Self> {
        match (cpu, cpuacct) {
            (Some(Place::V2(dir)), _) => Some(Self::V2 { stat: Kept::open(&dir, "cpu.stat") }),
            (cpu, Some(Place::V1(times))) => Some(Self::V1 {
                usage: Kept::open(&times, "cpuacct.usage"),
                times: Kept::open(&times, "cpuacct.stat"),
                throttling: match cpu {
                    Some(Place::V1(dir)) => Kept::open(&dir, "cpu.stat"),
                    _ => None,
                },
            }),
            _ => None,
        }
    }

    pub(super) fn read(&self) -> Cpu {
        match self {
            Self::V1 { usage, times, throttling } => {
                let (times, throttling) = (text_of(times), text_of(throttling));
                let ticks_per_second = rustix::param::clock_ticks_per_second();
                v1(number_in(usage), &times, &throttling, ticks_per_second)
            }
            Self::V2 { stat } => v2(&text_of(stat)),
        }
    }
}

/// cgroup-v1/cpuacct: `usage` in nanoseconds, `times` in clock ticks; `throttled_time` in
/// nanoseconds.
fn v1(usage_ns: Option<u64>, times: &str, throttling: &str, ticks_per_second: u64) -> Cpu {
    let tick_ns = 1_000_000_000 / ticks_per_second.max(1);
    let time = |key| keyed(times, key).map(|ticks| ticks.saturating_mul(tick_ns));
    Cpu {
        usage_ns,
        user_ns: time("user"),
        system_ns: time("system"),
        periods: keyed(throttling, "nr_periods"),
        throttled_periods: keyed(throttling, "nr_throttled"),
        throttled_ns: keyed(throttling, "throttled_time"),
    }
}

/// cgroup-v2, `cpu.stat`: microseconds.
fn v2(stat: &str) -> Cpu {
    let time = |key| keyed(stat, key).map(|us| us.saturating_mul(1000));
    Cpu {
        usage_ns: time("usage_usec"),
        user_ns: time("user_usec"),
        system_ns: time("system_usec"),
        periods: keyed(stat, "nr_periods"),
        throttled_periods: keyed(stat, "nr_throttled"),
        throttled_ns: time("throttled_usec"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_counts_in_nanoseconds_and_ticks() {
        let throttling = "nr_periods 10\nnr_throttled 3\nthrottled_time 5000\n";
        let cpu = v1(Some(123), "user 100\nsystem 7\n", throttling, 100);
        let expected = Cpu {
            usage_ns: Some(123),
            user_ns: Some(1_000_000_000),
            system_ns: Some(70_000_000),
            periods: Some(10),
            throttled_periods: Some(3),
            throttled_ns: Some(5000),
        };
        assert_eq!(cpu, expected);
    }

    #[test]
    fn v2_counts_in_microseconds_and_may_lack_the_controller() {
        let stat = "usage_usec 5\nuser_usec 3\nsystem_usec 2\ncore_sched.force_idle_usec 0\n";
        let cpu = v2(stat);
        assert_eq!(
            (cpu.usage_ns, cpu.user_ns, cpu.system_ns),
            (Some(5000), Some(3000), Some(2000))
        );
        assert_eq!((cpu.periods, cpu.throttled_ns), (None, None));
        let cpu = v2(&format!(
            "{stat}nr_periods 1\nnr_throttled 0\nthrottled_usec 18446744073709551615\n"
        ));
        assert_eq!((cpu.periods, cpu.throttled_ns), (Some(1), Some(u64::MAX)));
        assert_eq!(v2(""), Cpu::default());
    }
}
