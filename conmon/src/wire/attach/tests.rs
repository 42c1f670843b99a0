//! Heads and hellos are read back as they were written, and nothing else is taken for one.

#![allow(clippy::unwrap_used)]

use super::*;

const KINDS: [Kind; 5] = [
    Kind::Attached,
    Kind::Output(Source::Stdout),
    Kind::Output(Source::Stderr),
    Kind::End,
    Kind::Detached,
];

fn fits(kind: Kind, payload: usize) -> bool {
    match kind {
        Kind::Attached => payload == 1,
        Kind::Output(_) => payload > 0,
        Kind::End => payload == 0,
        Kind::Detached => true,
    }
}

#[test]
fn every_head_is_read_back_and_one_of_a_wrong_length_is_refused() {
    for payload in [0, 1, 2, 255, 256, MAX_PAYLOAD - 1, MAX_PAYLOAD] {
        for kind in KINDS {
            let head = Head { kind, payload };
            let read = Head::decode(&head.encode());
            let expected = if fits(kind, payload) { Ok(head) } else { Err(WireError::Payload) };
            assert_eq!(read, expected, "{head:?}");
        }
    }
    for length in [0, MAX_PAYLOAD as u32 + 2, u32::MAX] {
        let [a, b, c, d] = length.to_le_bytes();
        assert_eq!(Head::decode(&[a, b, c, d, STDOUT]), Err(WireError::Length(length)));
    }
    assert_eq!(Head::decode(&[2, 0, 0, 0, HELLO]), Err(WireError::Kind(HELLO)));
}

#[test]
fn any_five_bytes_are_refused_or_are_the_one_form_of_a_head() {
    let lengths = (0..=0x1_0002u32).step_by(7).chain([0x100_0000, u32::MAX, 0x1_0001]);
    let mut heads = 0;
    for length in lengths {
        for kind in 0..=u8::MAX {
            let [a, b, c, d] = length.to_le_bytes();
            let bytes = [a, b, c, d, kind];
            if let Ok(head) = Head::decode(&bytes) {
                assert_eq!(head.encode(), bytes);
                heads += 1;
            }
        }
    }
    assert!(heads > 10_000);
}

#[test]
fn a_hello_has_one_form() {
    for input in [false, true] {
        assert_eq!(Hello::decode(&Hello { input }.encode()), Ok(Hello { input }));
    }
    let good = Hello { input: true }.encode();
    for at in 0..Hello::LENGTH {
        for byte in (0..=u8::MAX).filter(|byte| *byte != good[at]) {
            let mut bad = good;
            bad[at] = byte;
            if let Ok(hello) = Hello::decode(&bad) {
                assert_eq!((at, hello), (Hello::LENGTH - 1, Hello { input: false }));
            }
        }
    }
}
