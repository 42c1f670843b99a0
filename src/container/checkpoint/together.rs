//! Checkpoints of several containers at one moment: all are frozen before the first is captured, and
//! none is thawed before the last one is.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::steps::{Operation, blocking};

use super::{Frozen, Limit, capture, check_able, clear, file};
use crate::container::{ContainerError, ContainerRecord, Parts};

/// Writes each container's checkpoint into `output/NAME`. What a failure leaves there is the
/// caller's to remove.
pub async fn together(
    parts: &Arc<Parts>,
    records: &[Arc<ContainerRecord>],
    output: &Path,
    limit: Duration,
) -> Result<(), ContainerError> {
    let Some(first) = records.first() else { return Ok(()) };
    for record in records {
        check_able(parts, &record.handler)?;
    }
    let operation = parts.operations.begin("checkpoint containers of pod", first.pod);
    let limit = Limit::from_now(limit);
    let mut frozen = Vec::new();
    let mut result = Ok(());
    for record in records {
        match Frozen::freeze(parts, record, &operation).await {
            Ok(one) => frozen.push(one),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_ok() {
        result = all(parts, records, output, limit, &operation).await;
    }
    operation.step("resume");
    for one in frozen {
        let id = one.id();
        let thawed = match one.thaw(parts).await {
            Ok(()) => clear(parts, id).await,
            Err(error) => Err(error),
        };
        result = result.and(thawed);
    }
    result
}

async fn all(
    parts: &Arc<Parts>,
    records: &[Arc<ContainerRecord>],
    output: &Path,
    limit: Limit,
    operation: &Operation,
) -> Result<(), ContainerError> {
    for record in records {
        let stage = output.join(&record.spec.name);
        blocking({
            let stage = stage.clone();
            move || DirBuilder::new().mode(0o700).create(stage)
        })
        .await
        .map_err(|source| file("make directory", &stage, source))?;
        capture(parts, record, &stage, limit, operation).await?;
    }
    records.iter().try_for_each(|record| limit.left(record.id).map(drop))
}
