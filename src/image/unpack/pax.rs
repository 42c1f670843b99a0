//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): records that override fields
//! of the header behind them.
//!
//! The length in front of a record is what counts, never a line break: values are binary.

use super::UnpackError;

/// What the extended headers of one member say. Of two records with one key the last one wins,
/// and an empty value takes the key back, as GNU tar and Go have it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Extended attributes of one member; the kernel takes 64 KiB of names.
pub const MAX_XATTRS: usize = 1000;

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses the records of a local header.
    pub(super) fn parse(data: &[u8]) -> Result<Self, UnpackError> {
        let mut pax = Self::default();
        for record in Records(data) {
            let (key, value) = record?;
            pax.set(key, value)?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        let some = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = text(some)?,
            b"linkpath" => self.link = text(some)?,
            b"size" => self.size = number(some)?,
            b"uid" => self.uid = number(some)?,
            b"gid" => self.gid = number(some)?,
            b"mtime" => self.mtime = some.map(time).transpose()?,
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(UnpackError::Unsupported("sparse file in PAX format".into()));
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                    if self.xattrs.len() > MAX_XATTRS {
                        let limit = MAX_XATTRS as u64;
                        return Err(UnpackError::limit("attributes", limit));
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks a global header. Docker and containerd ignore them, GNU tar applies them; so those
    /// that would make a difference are refused.
    pub(super) fn check_global(data: &[u8]) -> Result<(), UnpackError> {
        for record in Records(data) {
            let (key, _) = record?;
            let decides = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid");
            if decides || key.starts_with(XATTR) || key.starts_with(b"GNU.") {
                return Err(UnpackError::Unsupported("PAX header for all entries".into()));
            }
        }
        Ok(())
    }
}

fn text(value: Option<&[u8]>) -> Result<Option<Vec<u8>>, UnpackError> {
    match value {
        Some(value) if value.contains(&0) => Err(UnpackError::damaged("NUL in a PAX path")),
        value => Ok(value.map(<[u8]>::to_vec)),
    }
}

fn number(value: Option<&[u8]>) -> Result<Option<u64>, UnpackError> {
    let Some(value) = value else { return Ok(None) };
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or(UnpackError::damaged("PAX number"))
}

/// Seconds, negative ones too, with any number of decimals.
fn time(value: &[u8]) -> Result<(i64, u32), UnpackError> {
    let bad = || UnpackError::damaged("PAX time");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if digits.is_empty() || !all_digits(digits) || !all_digits(decimals) {
        return Err(bad());
    }
    // Seconds beyond what any file system has are as good as the last one it has.
    let seconds =
        whole.parse::<i64>().unwrap_or(if negative { i64::MIN / 2 } else { i64::MAX / 2 });
    let nanos: u32 =
        format!("{:0<9}", &decimals[..decimals.len().min(9)]).parse().map_err(|_| bad())?;
    Ok(match (negative, nanos) {
        (true, 1..) => (seconds - 1, 1_000_000_000 - nanos),
        _ => (seconds, nanos),
    })
}

/// Splits `length key=value\n` records.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), UnpackError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split(self.0);
        self.0 = record.map_or(&[], |(_, _, rest)| rest);
        Some(record.map(|(key, value, _)| (key, value)).ok_or(UnpackError::damaged("PAX record")))
    }
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    /// Digits of a length: headers are bounded far below.
    const MAX_DIGITS: usize = 10;
    let space = data.iter().take(MAX_DIGITS + 1).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space])
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()?;
    if length <= space + 1 || length > data.len() {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.contains(&0)).then_some((key, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body;
        while length.to_string().len() + body != length {
            length = length.to_string().len() + body;
        }
        let mut bytes = format!("{length} {key}=").into_bytes();
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn values_may_have_line_breaks_and_equal_signs() {
        let mut data = record("SCHILY.xattr.security.capability", b"\x01\n=\n\x02");
        data.extend(record("path", b"a=b"));
        let pax = Pax::parse(&data).expect("records");
        assert_eq!(pax.xattrs[0].1, b"\x01\n=\n\x02");
        assert_eq!(pax.path.as_deref(), Some(&b"a=b"[..]));
    }

    #[test]
    fn the_last_record_wins_and_an_empty_one_takes_back() {
        let mut data = record("size", b"1");
        data.extend(record("size", b"2"));
        data.extend(record("path", b"x"));
        data.extend(record("path", b""));
        let pax = Pax::parse(&data).expect("records");
        assert_eq!((pax.size, pax.path), (Some(2), None));
    }

    #[test]
    fn times_have_decimals_and_signs() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("1.0000000019", (1, 1)),
            ("-1", (-1, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("99999999999999999999", (i64::MAX / 2, 0)),
        ] {
            assert_eq!(time(text.as_bytes()).expect(text), expected, "{text}");
        }
        for bad in ["", ".5", "-", "1.x", "1e3", "+1"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn broken_records_are_damage() {
        for bad in [
            &b"6 a=b"[..],
            b"7 a=b\n",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a=bX",
            b"5 ab\n",
            b"5 =b\n",
            b"a=b\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{bad:?}");
        }
        for (key, value) in [("size", "-1"), ("size", "0x1"), ("uid", "1.0"), ("path", "a\0b")] {
            assert!(Pax::parse(&record(key, value.as_bytes())).is_err(), "{key}={value:?}");
        }
    }

    #[test]
    fn sparse_files_and_deciding_global_headers_are_unsupported() {
        assert!(Pax::parse(&record("GNU.sparse.major", b"1")).is_err());
        assert!(Pax::check_global(&record("path", b"x")).is_err());
        assert!(Pax::check_global(&record("comment", b"a commit")).is_ok());
    }
}
