//! Huge pages.

use std::path::Path;

use super::Place;
use super::text::{number, number_in};
use crate::sys::kept::Kept;

/// Where the kernel lists the sizes it knows.
const SIZES: &str = "/sys/kernel/mm/hugepages";

/// Use of huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// `2MB`, `1GB`, …
    pub size: String,
    /// Bytes in use.
    pub usage_bytes: u64,
    /// The most bytes that were ever in use.
    pub max_usage_bytes: Option<u64>,
}

/// The files, by size.
#[derive(Debug)]
pub(super) struct Files(Vec<(String, Kept, Option<Kept>)>);

impl Files {
    pub(super) fn open(place: Option<Place>) -> Self {
        let Some(place) = place else { return Self(Vec::new()) };
        let open = |size: String| {
            let (usage, max_usage) = match &place {
                Place::V1(dir) => (
                    Kept::open(dir, &format!("hugetlb.{size}.usage_in_bytes"))?,
                    Kept::open(dir, &format!("hugetlb.{size}.max_usage_in_bytes")),
                ),
                Place::V2(dir) => (Kept::open(dir, &format!("hugetlb.{size}.current"))?, None),
            };
            Some((size, usage, max_usage))
        };
        Self(sizes(Path::new(SIZES)).into_iter().filter_map(open).collect())
    }

    pub(super) fn read(&self) -> Vec<HugePages> {
        let used = |(size, usage, max_usage): &(String, Kept, Option<Kept>)| {
            Some(HugePages {
                size: size.clone(),
                usage_bytes: number(&usage.read()?)?,
                max_usage_bytes: number_in(max_usage),
            })
        };
        self.0.iter().filter_map(used).collect()
    }
}

/// The sizes as file names of control groups have them, from `hugepages-2048kB` and the like.
fn sizes(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |name: &str| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kib {
            kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
            kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
            kib => format!("{kib}KB"),
        })
    };
    let mut sizes: Vec<_> = entries.filter_map(|entry| size(entry.file_name().to_str()?)).collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_the_files_are() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "other"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        assert_eq!(sizes(dir.path()), ["1GB", "2MB", "64KB"]);
        assert_eq!(sizes(&dir.path().join("absent")), Vec::<String>::new());
    }
}
