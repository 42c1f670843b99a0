//! Numbers as tar headers write them: octal text, or base 256 for what is too large for that.

/// A field that is neither negative nor larger than an `i64`.
pub(super) fn unsigned(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|number| u64::try_from(number).ok())
}

/// A field that may be negative, as times may.
pub(super) fn signed(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field).and_then(|number| i64::try_from(number).ok()),
    }
}

/// Octal digits, with spaces before and spaces or NULs behind. Nothing at all is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let digits = field[..end].trim_ascii();
    // Behind the NUL some writers leave an older value; as all readers do, we ignore it.
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big-endian; the highest bit of the first byte only marks the encoding, the
/// one below it is the sign.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut number: i64 = if negative { -1 } else { 0 };
    for byte in std::iter::once(&first).chain(&field[1..]) {
        number = number.checked_mul(256)?.checked_add(i64::from(*byte))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_is_read_as_other_programs_read_it() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777", Some(0o77_777_777_777)),
            (b"0000648\0", None),
            (b"-1\0", None),
            (b"0x10\0", None),
            (b"64 4\0", None),
        ] {
            assert_eq!(unsigned(field), expected, "{field:?}");
        }
    }

    #[test]
    fn base_256_is_two_s_complement() {
        let mut field = [0_u8; 12];
        field[0] = 0x80;
        field[11] = 5;
        assert_eq!(signed(&field), Some(5));
        field[7] = 2;
        assert_eq!(unsigned(&field), Some((2 << 32) + 5));
        assert_eq!(signed(&[0xff; 12]), Some(-1));
        assert_eq!(unsigned(&[0xff; 12]), None);
        let mut huge = [0xff_u8; 12];
        huge[0] = 0x80;
        assert_eq!(signed(&huge), None);
        let mut low = [0_u8; 12];
        low[0] = 0xc0;
        assert_eq!(signed(&low), None);
    }
}
