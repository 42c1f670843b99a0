//! What plugins change of the process: its OOM score, I/O priority and scheduler.

use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::super::{HostFacts, SpecError};
use super::{needs_version, parsed, refuse};
use crate::nri::wire::{
    IoPriorityClass, LinuxContainerAdjustment, LinuxScheduler, SchedulerFlag, SchedulerPolicy,
};

/// The versions of the OCI specification that brought these.
const IO_PRIORITY: (u32, u32) = (1, 1);
const SCHEDULER: (u32, u32) = (1, 1);

/// Applies them.
pub(super) fn adjust(
    process: &mut Process,
    wanted: &LinuxContainerAdjustment,
    host: &HostFacts,
) -> Result<(), SpecError> {
    if let Some(score) = &wanted.oom_score_adj {
        let field = "linux.oom_score_adj";
        if !(-1000..=1000).contains(&score.value) {
            return Err(refuse(field, format!("{} is not between -1000 and 1000", score.value)));
        }
        if score.value < host.oom_score_adj_min {
            let lowest = host.oom_score_adj_min;
            return Err(refuse(
                field,
                format!("{} is below {lowest}, this daemon's own", score.value),
            ));
        }
        process.set_oom_score_adj(i32::try_from(score.value).ok());
    }
    if let Some(priority) = &wanted.io_priority {
        let field = "linux.io_priority";
        if priority.class() == IoPriorityClass::IoprioClassNone {
            process.set_io_priority(None);
        } else {
            needs_version(field, host, IO_PRIORITY)?;
            let class = priority.class().as_str_name();
            let value = json!({ "class": class, "priority": priority.priority });
            process.set_io_priority(Some(parsed(field, value)?));
        }
    }
    if let Some(scheduler) = &wanted.scheduler {
        needs_version("linux.scheduler", host, SCHEDULER)?;
        process.set_scheduler(match scheduler.policy() {
            SchedulerPolicy::SchedNone => None,
            policy => Some(parsed("linux.scheduler", value(scheduler, policy))?),
        });
    }
    Ok(())
}

fn value(scheduler: &LinuxScheduler, policy: SchedulerPolicy) -> Value {
    let flags: Vec<_> = scheduler.flags().map(|flag: SchedulerFlag| flag.as_str_name()).collect();
    let mut value = json!({
        "policy": policy.as_str_name(),
        "nice": scheduler.nice,
        "priority": scheduler.priority,
        "runtime": scheduler.runtime,
        "deadline": scheduler.deadline,
        "period": scheduler.period,
    });
    if !flags.is_empty() {
        value["flags"] = json!(flags);
    }
    value
}
