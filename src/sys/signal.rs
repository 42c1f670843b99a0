//! Names of signals as OCI runtimes take them: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// Whether a runtime takes `text` for a signal.
pub fn is_known(text: &str) -> bool {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |start: &str, sign: char| {
        name.strip_prefix(start).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix(sign).is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 15))
        })
    };
    real_time("RTMIN", '+') || real_time("RTMAX", '-') || Signal::from_str(&format!("SIG{name}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_sig_numbers_and_real_time_signals_are_known() {
        for good in ["SIGTERM", "TERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14", "SIGRTMIN"] {
            assert!(is_known(good), "{good}");
        }
        for bad in ["", "SIGFOO", "0", "65", "99", "RTMIN+16", "RTMIN-1", "-9"] {
            assert!(!is_known(bad), "{bad}");
        }
    }
}
