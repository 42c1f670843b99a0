//! Signals by name and number, as images, requests and the kernel write them.

/// Names and numbers that are the same on x86 and ARM (signal(7)).
const NAMED: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// First and last real-time signal as programs see them; the C library keeps 32 and 33.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// SIGTERM, which asks a process to end where nothing else is said.
pub const TERM: u8 = 15;

/// The kernel's number of a signal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
///
/// Images and requests name signals in all these ways. Numbers are what every OCI runtime takes.
pub fn number(name: &str) -> Option<u8> {
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.parse().ok().filter(|n| (1..=RTMAX).contains(n));
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMED.iter().find(|(name, _)| *name == short) {
        return Some(*number);
    }
    let offset = |text: &str, sign| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u8>().ok(),
    };
    let found = if let Some(plus) = short.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(plus, '+')?)?
    } else {
        RTMAX.checked_sub(offset(short.strip_prefix("RTMAX")?, '-')?)?
    };
    (RTMIN..=RTMAX).contains(&found).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_spelling_is_understood() {
        for (name, expected) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("SIGIOT", 6),
            ("SIGCLD", 17),
            ("SIGPOLL", 29),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMIN+15", 49),
            ("SIGRTMAX-14", 50),
            ("RTMAX", 64),
            ("64", 64),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_no_signal_has_no_number() {
        for name in [
            "", "SIG", "SIGFOO", "0", "65", "99", "999", "-1", "+9", "RTMIN-1", "RTMIN+31",
            "RTMAX+1",
        ] {
            assert_eq!(number(name), None, "{name}");
        }
    }

    #[test]
    fn the_table_agrees_with_the_c_library() {
        assert_eq!(i32::from(TERM), libc::SIGTERM);
        assert_eq!(number("STKFLT").map(i32::from), Some(libc::SIGSTKFLT));
        assert_eq!(number("SYS").map(i32::from), Some(libc::SIGSYS));
        assert_eq!((i32::from(RTMIN), i32::from(RTMAX)), (libc::SIGRTMIN(), libc::SIGRTMAX()));
    }
}
