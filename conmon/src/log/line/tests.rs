//! However output is cut into reads, the log says the same, and says it well-formed.

use super::*;

/// Splits `output` in reads of at most `step` bytes, as a stream does: what is no line yet is kept.
fn split(output: &[u8], step: usize) -> (Vec<(Vec<u8>, Tag)>, Vec<u8>) {
    let (mut lines, mut kept) = (Vec::new(), Vec::new());
    for read in output.chunks(step) {
        kept.extend_from_slice(read);
        let mut rest: &[u8] = &kept;
        while let Some((line, tag)) = next(&mut rest) {
            lines.push((line.to_vec(), tag));
        }
        kept = rest.to_vec();
        assert!(kept.len() <= MAX_MESSAGE);
    }
    (lines, kept)
}

fn random_output(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let mut output = Vec::new();
    for _ in 0..next(40) {
        let length = match next(4) {
            0 => 0,
            1 => next(100),
            2 => MAX_MESSAGE as u64 - 2 + next(5),
            _ => next(3 * MAX_MESSAGE as u64),
        };
        output.extend((0..length).map(|i| b'a' + (i % 26) as u8));
        if next(8) != 0 {
            output.push(b'\n');
        }
    }
    output
}

#[test]
fn lines_do_not_depend_on_how_the_output_was_read() {
    for seed in 1..60 {
        let output = random_output(seed * 0x9E37_79B9);
        let whole = split(&output, output.len().max(1));
        for step in [1 + seed as usize % 7, 4096, 65_536] {
            assert_eq!(split(&output, step), whole);
        }
        let (lines, kept) = whole;
        let mut joined = Vec::new();
        for (line, tag) in &lines {
            assert!(line.len() <= MAX_MESSAGE && !line.contains(&b'\n'));
            assert!(*tag == Tag::Full || line.len() == MAX_MESSAGE);
            joined.extend_from_slice(line);
            joined.extend((*tag == Tag::Full).then_some(b'\n'));
        }
        joined.extend(kept);
        assert!(joined == output);
    }
}

#[test]
fn a_line_of_just_the_longest_message_is_one_full_line() {
    let mut output = vec![b'x'; MAX_MESSAGE];
    assert_eq!(split(&output, 999).0, []);
    output.push(b'\n');
    assert_eq!(split(&output, 999).0, [(vec![b'x'; MAX_MESSAGE], Tag::Full)]);
    output[MAX_MESSAGE] = b'x';
    output.push(b'\n');
    let expected = [(vec![b'x'; MAX_MESSAGE], Tag::Partial), (b"x".to_vec(), Tag::Full)];
    assert_eq!(split(&output, 999).0, expected);
}

#[test]
fn a_framed_line_has_the_form_that_kubelet_reads() {
    let mut clock = Clock::new();
    let mut batch = Vec::new();
    let at_ns = 1_795_341_600_123_456_789;
    put(&mut batch, clock.stamp(at_ns), Source::Stdout, Tag::Full, b"hello");
    put(&mut batch, clock.stamp(at_ns + 1), Source::Stderr, Tag::Partial, b"");
    let expected = "2026-11-22T10:00:00.123456789Z stdout F hello\n\
                    2026-11-22T10:00:00.123456790Z stderr P \n";
    assert_eq!(String::from_utf8_lossy(&batch), expected);
    assert_eq!(output_bytes(&batch), 6);
}

#[test]
fn the_clock_knows_the_calendar() {
    let cases = [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (951_782_399_000_000_001, "2000-02-28T23:59:59.000000001Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
        (951_868_800_000_000_000, "2000-03-01T00:00:00.000000000Z"),
        (1_709_164_800_999_999_999, "2024-02-29T00:00:00.999999999Z"),
        (4_107_542_399_000_000_000, "2100-02-28T23:59:59.000000000Z"),
        (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
        (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
    ];
    let mut clock = Clock::new();
    for (at_ns, text) in cases {
        assert_eq!(std::str::from_utf8(clock.stamp(at_ns)), Ok(text));
    }
}

#[test]
fn every_day_of_four_centuries_follows_the_one_before() {
    let mut before = civil(-1);
    for day in 0..146_097 {
        let today = civil(day);
        let (year, month, of_month) = today;
        let follows = (year, month) == (before.0, before.1) && of_month == before.2 + 1
            || of_month == 1 && before.2 >= 28 && (month == before.1 + 1 || month == 1);
        assert!(follows && (1..=12).contains(&month) && of_month <= 31, "{before:?} {today:?}");
        before = today;
    }
    assert_eq!(before, (2369, 12, 31));
}
