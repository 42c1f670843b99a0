//! [`Archive`]: the members of a tar archive, one after the other.
//!
//! Headers are taken apart with the `tar` crate's layouts, but the sequence of headers is read
//! here: its iterator splits PAX records at line breaks, which binary attributes contain, and goes
//! on with the wrong size after a record it cannot read. Where GNU tar and Go would disagree about
//! the contents of an archive, the archive is refused.

use std::io::BufRead;

use tar::{EntryType, Header};

use super::decompress::Inflated;
use super::numbers::{signed, unsigned};
use super::pax::Pax;
use super::{MAX_BYTES, UnpackError};

/// Size of a header, and what everything is padded to.
const BLOCK: usize = 512;

/// Longest extended header or long name: Go's `archive/tar` has the same limit.
pub const MAX_EXTENSION: u64 = 1 << 20;

/// Pieces of one sparse file.
const MAX_SPARSE: usize = 100_000;

/// Headers of extensions in front of one member.
const MAX_EXTENSIONS: usize = 8;

/// One member: everything but its data.
#[derive(Debug)]
pub(super) struct Member {
    pub kind: MemberKind,
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file that is made of it.
    pub length: u64,
    /// Offset and length of the pieces that the data consists of; none = it is all there.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    Directory,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
}

/// An archive that is read from front to back.
pub(super) struct Archive<'a> {
    reader: &'a mut Inflated,
    /// Data of the current member that was not taken.
    left: u64,
    /// Zeros behind it.
    padding: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn new(reader: &'a mut Inflated) -> Self {
        Self { reader, left: 0, padding: 0 }
    }

    /// The next member; what is left of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        let mut extensions = Extensions::default();
        for _ in 0..=MAX_EXTENSIONS {
            let Some(header) = self.header()? else {
                return if extensions.is_empty() {
                    Ok(None)
                } else {
                    Err(UnpackError::damaged("header without the member it describes"))
                };
            };
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                let data = self.extension(&header)?;
                put(&mut extensions.pax, Pax::parse(&data)?)?;
            } else if kind.is_pax_global_extensions() {
                let data = self.extension(&header)?;
                Pax::check_global(&data)?;
            } else if kind.is_gnu_longname() {
                let data = self.extension(&header)?;
                put(&mut extensions.path, until_nul(data))?;
            } else if kind.is_gnu_longlink() {
                let data = self.extension(&header)?;
                put(&mut extensions.link, until_nul(data))?;
            } else {
                return self.member(&header, extensions).map(Some);
            }
        }
        Err(UnpackError::damaged("too many headers for one member"))
    }

    /// Data of the current member; empty at its end.
    pub(super) fn data(&mut self) -> Result<&[u8], UnpackError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let available = self.reader.fill_buf().map_err(UnpackError::from_read)?;
        if available.is_empty() {
            return Err(UnpackError::damaged("it ends within a file"));
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(available.len());
        Ok(&available[..length])
    }

    /// Takes `length` bytes of what [`Self::data`] returned.
    pub(super) fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.left -= length as u64;
    }

    /// Reads what is behind the last member: its bytes belong to the diff id.
    pub(super) fn drain(&mut self) -> Result<(), UnpackError> {
        loop {
            let length = self.reader.fill_buf().map_err(UnpackError::from_read)?.len();
            if length == 0 {
                return Ok(());
            }
            self.reader.consume(length);
        }
    }

    fn skip(&mut self, mut length: u64) -> Result<(), UnpackError> {
        while length > 0 {
            let available = self.reader.fill_buf().map_err(UnpackError::from_read)?.len();
            if available == 0 {
                return Err(UnpackError::damaged("it ends within a file"));
            }
            let step = usize::try_from(length).unwrap_or(usize::MAX).min(available);
            self.reader.consume(step);
            length -= step as u64;
        }
        Ok(())
    }

    /// The next block, or none at the end of the file.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.reader.fill_buf().map_err(UnpackError::from_read)?;
            if available.is_empty() {
                break;
            }
            let length = available.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&available[..length]);
            self.reader.consume(length);
            filled += length;
        }
        match filled {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(UnpackError::damaged("it ends within a block")),
        }
    }

    /// The next header whose checksum is right. The archive ends with two blocks of zeros; many
    /// writers leave out one or both.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        self.skip(self.left)?;
        self.left = 0;
        self.skip(self.padding)?;
        self.padding = 0;
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => {
                    Err(UnpackError::damaged("a lone block of zeros"))
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        let stored = unsigned(&header.as_old().cksum);
        // The sum is taken with the field itself as spaces; some old writers added signed bytes.
        let bytes = || block[..148].iter().chain(b"        ").chain(&block[156..]);
        let sum: u64 = bytes().map(|b| u64::from(*b)).sum();
        let signed_sum: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
        if stored == Some(sum) || stored.map(u64::cast_signed) == Some(signed_sum) {
            Ok(Some(header))
        } else {
            Err(UnpackError::damaged("checksum of a header"))
        }
    }

    /// The whole data of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, UnpackError> {
        let size = unsigned(&header.as_old().size).ok_or(UnpackError::damaged("size"))?;
        if size > MAX_EXTENSION {
            return Err(UnpackError::limit("bytes in a header", MAX_EXTENSION));
        }
        self.begin_data(size);
        let mut data = Vec::new();
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                return Ok(data);
            }
            data.extend_from_slice(piece);
            let length = piece.len();
            self.consume(length);
        }
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, UnpackError> {
        let old = header.as_old();
        let damaged = |what| move || UnpackError::damaged(what);
        let pax = extensions.pax.unwrap_or_default();
        let size = unsigned(&old.size).ok_or_else(damaged("size"))?;
        let size = pax.size.unwrap_or(size);
        let path = one_of(extensions.path, pax.path)?;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = one_of(extensions.link, pax.link)?;
        let link =
            link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let kind = kind_of(header, &path)?;
        if size > MAX_BYTES {
            return Err(UnpackError::limit("bytes in a file", MAX_BYTES));
        }
        if kind != MemberKind::File && size != 0 {
            // GNU tar would skip that many bytes, Go none.
            return Err(UnpackError::entry(&path, "is no file but has data"));
        }
        self.begin_data(size);
        let mut length = size;
        let mut sparse = None;
        if header.entry_type() == EntryType::GNUSparse {
            let pieces = self.sparse_pieces(header, size)?;
            length = header.as_gnu().and_then(|gnu| unsigned(&gnu.realsize)).unwrap_or(u64::MAX);
            check_sparse(&pieces, size, length)?;
            sparse = Some(pieces);
        }
        let owner = |pax: Option<u64>, field: &[u8]| {
            let number = pax.or_else(|| unsigned(field)).ok_or_else(damaged("owner"))?;
            // The highest number means "unchanged" to chown(2).
            u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or_else(damaged("owner"))
        };
        let mode = unsigned(&old.mode).ok_or_else(damaged("mode"))? & 0o7777;
        let mtime = signed(&old.mtime).ok_or_else(damaged("time"))?;
        Ok(Member {
            uid: owner(pax.uid, &old.uid)?,
            gid: owner(pax.gid, &old.gid)?,
            mode: u32::try_from(mode).unwrap_or_default(),
            mtime: pax.mtime.unwrap_or((mtime, 0)),
            device: device(header, kind)?,
            xattrs: pax.xattrs,
            kind,
            path,
            link,
            length,
            sparse,
        })
    }

    /// The map of an old GNU sparse file: four pieces in the header, more in blocks behind it.
    fn sparse_pieces(
        &mut self,
        header: &Header,
        size: u64,
    ) -> Result<Vec<(u64, u64)>, UnpackError> {
        let damaged = || UnpackError::damaged("sparse map");
        let gnu = header.as_gnu().ok_or_else(damaged)?;
        let mut pieces = Vec::new();
        let mut add = |offset: &[u8], length: &[u8]| {
            if offset[0] == 0 || length[0] == 0 {
                return Ok(());
            }
            let piece = unsigned(offset).zip(unsigned(length)).ok_or_else(damaged)?;
            pieces.push(piece);
            match pieces.len() {
                0..=MAX_SPARSE => Ok(()),
                _ => Err(UnpackError::limit("sparse pieces", MAX_SPARSE as u64)),
            }
        };
        for piece in &gnu.sparse {
            add(&piece.offset, &piece.numbytes)?;
        }
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.ok_or_else(damaged)?;
            // 21 pieces of twice 12 bytes, and a flag (GNU tar, `struct sparse_header`).
            for piece in block[..21 * 24].chunks_exact(24) {
                add(&piece[..12], &piece[12..])?;
            }
            more = block[21 * 24] == 1;
        }
        // The map was not part of the data.
        self.begin_data(size);
        Ok(pieces)
    }
}

/// Headers in front of a member that say something about it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }
}

/// Readers disagree which of two headers of one kind counts.
fn put<T>(place: &mut Option<T>, value: T) -> Result<(), UnpackError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UnpackError::damaged("two headers of one kind for one member")),
    }
}

/// Readers disagree whether a GNU long name or a PAX record counts.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, UnpackError> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => {
            Err(UnpackError::damaged("GNU and PAX headers disagree"))
        }
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

fn kind_of(header: &Header, path: &[u8]) -> Result<MemberKind, UnpackError> {
    let kind = match header.as_old().linkflag[0] {
        // Before POSIX a directory was a file whose name ends with a slash.
        0 if path.ends_with(b"/") => MemberKind::Directory,
        0 | b'0' | b'7' | b'S' => MemberKind::File,
        b'1' => MemberKind::HardLink,
        b'2' => MemberKind::Symlink,
        b'3' => MemberKind::CharacterDevice,
        b'4' => MemberKind::BlockDevice,
        b'5' => MemberKind::Directory,
        b'6' => MemberKind::Fifo,
        _ => return Err(UnpackError::entry(path, "is of an unknown kind")),
    };
    if kind != MemberKind::Directory && path.ends_with(b"/") {
        return Err(UnpackError::entry(path, "is no directory but ends with a slash"));
    }
    Ok(kind)
}

fn device(header: &Header, kind: MemberKind) -> Result<(u32, u32), UnpackError> {
    if !matches!(kind, MemberKind::CharacterDevice | MemberKind::BlockDevice) {
        return Ok((0, 0));
    }
    let fields = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        (None, None) => return Err(UnpackError::damaged("device without numbers")),
    };
    let number = |field: &[u8]| unsigned(field).and_then(|number| u32::try_from(number).ok());
    number(fields.0).zip(number(fields.1)).ok_or(UnpackError::damaged("device number"))
}

/// The pieces lie in order within the file, and are as long as the data.
fn check_sparse(pieces: &[(u64, u64)], size: u64, length: u64) -> Result<(), UnpackError> {
    let mut end = 0;
    let mut total = 0_u64;
    for (offset, bytes) in pieces {
        let next = offset.checked_add(*bytes).filter(|next| *next <= length && *offset >= end);
        end = next.ok_or(UnpackError::damaged("sparse map"))?;
        total += bytes;
    }
    if length > MAX_BYTES {
        return Err(UnpackError::limit("bytes in a file", MAX_BYTES));
    }
    if total == size { Ok(()) } else { Err(UnpackError::damaged("sparse map")) }
}
