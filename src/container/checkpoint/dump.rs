//! What a checkpoint says of its container: `config.dump` (which tools such as checkpointctl read)
//! and `spec.dump`, the configuration that the runtime had.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::file;
use crate::container::record::now_ns;
use crate::container::{ContainerError, ContainerRecord, Parts};

/// Writes both into `stage`.
pub(super) fn write(
    parts: &Parts,
    record: &ContainerRecord,
    stage: &Path,
) -> Result<(), ContainerError> {
    let image = record.image.as_ref();
    let config = json!({
        "id": record.id,
        "name": record.spec.name,
        "rootfsImage": record.spec.image.reference,
        "rootfsImageRef": image.map(|image| format!("sha256:{}", image.id)),
        "rootfsImageName": record.spec.image.user_specified,
        "runtime": record.handler,
        "createdTime": time(record.created_at_ns),
        "checkpointedTime": time(now_ns()),
        "restoredTime": time(0),
        "restored": false,
    });
    let path = stage.join("config.dump");
    fs::write(&path, config.to_string()).map_err(|source| file("write", &path, source))?;
    let (from, to) = (parts.layout.bundle(&record.id).join("config.json"), stage.join("spec.dump"));
    fs::copy(&from, &to).map(drop).map_err(|source| file("copy", &from, source))
}

/// RFC 3339 in UTC, as Go's `time.Time` reads it; days by the civil calendar (proleptic Gregorian).
fn time(ns: i64) -> String {
    let (seconds, fraction) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March have their leap day at the end, so months have fixed places.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_772_323_199, "2026-02-28T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(time(seconds * 1_000_000_000 + 7), expected);
        }
    }
}
