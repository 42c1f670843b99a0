//! The forms in which the kernel writes counters (cgroup-v2, "Interface Files").

use crate::sys::kept::Kept;

/// At and above this a limit is none: `max`, and what v1 writes instead of it.
const UNLIMITED: u64 = 1 << 62;

/// The first word as a number; `max` is the largest one.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.split_whitespace().next()? {
        "max" => Some(u64::MAX),
        word => word.parse().ok(),
    }
}

/// The number in a file that may be absent.
pub(super) fn number_in(file: &Option<Kept>) -> Option<u64> {
    number(&file.as_ref()?.read()?)
}

/// The text of a file; empty if it is absent.
pub(super) fn text_of(file: &Option<Kept>) -> String {
    file.as_ref().and_then(Kept::read).unwrap_or_default()
}

/// A limit; none if there is none.
pub(super) fn limit(value: u64) -> Option<u64> {
    (value < UNLIMITED).then_some(value)
}

/// The number after `key` in lines of `key number`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    number(text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?)
}

/// The number after `key=` among words of `key=number`.
pub(super) fn assigned(words: &str, key: &str) -> Option<u64> {
    words
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_whatever_stands_behind_them() {
        for (text, value) in [
            ("17\n", Some(17)),
            ("max\n", Some(u64::MAX)),
            ("max 100000\n", Some(u64::MAX)),
            ("18446744073709551615\n", Some(u64::MAX)),
            ("18446744073709551616\n", None),
            ("-4096\n", None),
            ("", None),
            ("n/a\n", None),
        ] {
            assert_eq!(number(text), value, "{text:?}");
        }
        assert_eq!(limit(9_223_372_036_854_771_712), None, "v1's way to say max");
        assert_eq!(limit(1 << 30), Some(1 << 30));
    }

    #[test]
    fn a_key_is_found_by_its_whole_name() {
        let text = "pgfault_x 1\nrss 2 extra columns\npgfault 3\nshort\nrss_huge -5\n";
        assert_eq!(keyed(text, "pgfault"), Some(3));
        assert_eq!(keyed(text, "rss"), Some(2));
        assert_eq!(keyed(text, "rss_huge"), None);
        assert_eq!(keyed(text, "short"), None);
        assert_eq!(keyed(text, "absent"), None);
        assert_eq!(assigned("8:0 rbytes=1 wbytes=2 new=x", "wbytes"), Some(2));
        assert_eq!(assigned("8:0 rbytes=1", "bytes"), None);
    }
}
