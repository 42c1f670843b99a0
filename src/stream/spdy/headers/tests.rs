use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;

/// The sending end, as clients have it.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&dictionary::bytes()).expect("a dictionary");
        Self(zlib)
    }

    pub(crate) fn deflate(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len() + 1024);
        self.0.compress_vec(block, &mut out, FlushCompress::Sync).expect("room");
        out
    }
}

pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u32).to_be_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    block
}

#[test]
fn blocks_of_one_connection_inflate_one_after_the_other() {
    let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
    for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
        let compressed = deflater.deflate(&block(&[("streamtype", kind), ("port", "80")]));
        let headers = Headers::parse(inflater.inflate(&compressed).expect("inflates"));
        let headers = headers.expect("reads");
        assert_eq!((headers.get("streamType"), headers.get("port")), (Some(kind), Some("80")));
        assert_eq!(headers.get("requestid"), None);
    }
}

#[test]
fn the_empty_blocks_we_send_are_what_zlib_reads() {
    let mut inflater = Inflater::new();
    for first in [true, false, false] {
        let block = inflater.inflate(empty(first)).expect("inflates");
        assert_eq!(Headers::parse(block), Ok(Headers::default()));
    }
}

#[test]
fn a_bomb_is_noticed_before_it_has_unfolded() {
    let mut deflater = Deflater::new();
    let bomb = deflater.deflate(&vec![0; 1 << 20]);
    let mut inflater = Inflater::new();
    assert!(bomb.len() < 4096);
    assert!(matches!(inflater.inflate(&bomb), Err(Fault::Compression(_))));
    assert!(inflater.block.capacity() < 4 * MAX_INFLATED, "{}", inflater.block.capacity());
    let mut inflater = Inflater::new();
    let fits = Deflater::new().deflate(&vec![0; MAX_INFLATED]);
    assert_eq!(inflater.inflate(&fits).map(<[u8]>::len), Ok(MAX_INFLATED));
}

#[test]
fn another_dictionary_and_no_zlib_at_all_are_faults() {
    let mut zlib = Compress::new(Compression::best(), true);
    zlib.set_dictionary(b"another text").expect("a dictionary");
    let mut out = Vec::with_capacity(1024);
    zlib.compress_vec(&block(&[("a", "b")]), &mut out, FlushCompress::Sync).expect("room");
    for compressed in [out.as_slice(), b"GET / HTTP/1.1", &[0x78, 0x01, 3, 0, 0, 0, 0, 1]] {
        assert!(matches!(Inflater::new().inflate(compressed), Err(Fault::Compression(_))));
    }
}

#[test]
fn counts_and_lengths_are_checked_before_they_are_believed() {
    let huge = u32::MAX.to_be_bytes();
    let one = 1_u32.to_be_bytes();
    for block in [
        [].to_vec(),
        huge.to_vec(),
        [one, huge].concat(),
        [&one[..], &one, b"a", &huge].concat(),
        [&one[..], &one, b"a", &one].concat(),
        block(&[("A", "b")]),
        block(&[("", "b")]),
        block(&[("a\0b", "c")]),
        block(&[("a", "b"), ("a", "c")]),
        [block(&[("a", "b")]), b"x".to_vec()].concat(),
        [&one[..], &one, b"a", &one, b"\xff"].concat(),
        block(&vec![("a", "b"); MAX_HEADERS + 1]),
    ] {
        assert!(matches!(Headers::parse(&block), Err(Fault::Headers(_))), "{block:?}");
    }
    let two_values = Headers::parse(&block(&[("a", "b\0c")])).expect("two values");
    assert_eq!(two_values.get("a"), Some("b\0c"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_block_or_a_fault(bytes: Vec<u8>) {
        Headers::parse(&bytes).ok();
        let mut inflater = Inflater::new();
        inflater.inflate(&bytes).ok();
        prop_assert!(inflater.block.capacity() < 4 * MAX_INFLATED);
    }

    #[test]
    fn what_is_sent_is_what_is_read(
        headers in prop::collection::btree_map("[a-z]{1,20}", "[ -~]{0,40}", 0..20),
    ) {
        let sent: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let compressed = Deflater::new().deflate(&block(&sent));
        let mut inflater = Inflater::new();
        let read = Headers::parse(inflater.inflate(&compressed).expect("inflates")).expect("reads");
        let read: Vec<(&str, &str)> = read.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        prop_assert_eq!(read, sent);
    }
}
