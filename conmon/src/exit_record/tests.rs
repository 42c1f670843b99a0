//! The exit file is read back exactly, and nothing else passes for one.

#![allow(clippy::unwrap_used)]

use super::*;

const SAMPLE: Exit =
    Exit { code: 137, at_ns: 1_795_341_600_123_456_789, oom_killed: true, lost_bytes: 42 };

#[test]
fn the_text_form_is_read_back_as_it_was() {
    for exit in [
        SAMPLE,
        Exit { code: 0, at_ns: 0, oom_killed: false, lost_bytes: 0 },
        Exit { code: 255, at_ns: i64::MIN, oom_killed: false, lost_bytes: u64::MAX },
    ] {
        let text = exit.to_text();
        assert!(text.len() <= MAX_EXIT_FILE);
        assert_eq!(Exit::parse(&text), Ok(exit));
    }
}

/// Records that monitors have written so far: these, too, outlive the daemon that started them. Files in
/// `golden` are added, never changed or removed.
const GOLDEN: [&str; 1] = [include_str!("golden/1")];

#[test]
fn every_format_is_read_and_the_newest_is_written() {
    for text in GOLDEN {
        assert_eq!(Exit::parse(text), Ok(SAMPLE));
    }
    assert_eq!(SAMPLE.to_text(), GOLDEN[GOLDEN.len() - 1], "add a format");
}

#[test]
fn every_truncation_is_an_error() {
    let text = SAMPLE.to_text();
    for end in 0..text.len() {
        assert!(Exit::parse(&text[..end]).is_err(), "{:?} passed", &text[..end]);
    }
}

#[test]
fn what_only_looks_like_a_record_is_refused() {
    let good = SAMPLE.to_text();
    assert_eq!(Exit::parse("abc\n"), Err(ExitParseError::Version));
    assert_eq!(Exit::parse(&good.replace(" 1", " 2")), Err(ExitParseError::Version));
    assert_eq!(
        Exit::parse(&good.replace("code=137", "code=256")),
        Err(ExitParseError::Value { key: "code" })
    );
    assert_eq!(
        Exit::parse(&good.replace("code=137", "code=-1")),
        Err(ExitParseError::Value { key: "code" })
    );
    assert_eq!(Exit::parse(&good.replace("code=137", "code=+7")), Err(ExitParseError::Excess));
    assert_eq!(Exit::parse(&format!("{good}\n")), Err(ExitParseError::Excess));
    assert_eq!(
        Exit::parse(&good.replace("oom_killed=1", "oom_killed=2")),
        Err(ExitParseError::Value { key: "oom_killed" })
    );
    assert_eq!(
        Exit::parse(&good.replace("at_ns", "at_ms")),
        Err(ExitParseError::Missing { key: "at_ns" })
    );
}

#[test]
fn no_single_changed_byte_panics() {
    let text = SAMPLE.to_text();
    for at in 0..text.len() {
        for byte in 0..128u8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = byte;
            if let Ok(exit) = Exit::parse(std::str::from_utf8(&bytes).unwrap()) {
                assert_eq!(exit.to_text().as_bytes(), bytes);
            }
        }
    }
}
