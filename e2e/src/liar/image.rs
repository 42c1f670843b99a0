//! The images of the lying registry: right in every byte but the one that the lie is about.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::Lie;

/// Media type of the manifests.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Name of the file that an escaping image would leave in the target directory.
pub const ESCAPED: &str = "escaped";
/// What a bomb unpacks to.
const BOMB: u64 = 10 << 30;
/// The bomb is this many bytes of zeros, compressed once and repeated.
const PIECE: usize = 32 << 20;
/// More `..` than any unpacking directory is deep.
const UP: &str = "../../../../../../../../../../../../../../../..";

/// One image as the registry has it.
#[derive(Debug)]
pub struct Image {
    lie: Lie,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    /// The image for `lie`.
    pub(super) fn of(lie: Lie, target: &Path) -> Result<Self> {
        let tar = archive(lie, target)?;
        let mut diff_id = digest(&tar);
        let mut layer = gzip(&tar)?;
        match lie {
            Lie::DiffId => diff_id = digest(b"something else"),
            Lie::Bomb => layer = bomb()?,
            _ => {}
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["/hello"] },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(&layer),
                "size": layer.len(),
            }],
        }))?;
        Ok(Self { lie, manifest, config, layer })
    }

    /// Digest of the manifest as it should be.
    pub fn manifest_digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Digest of the layer as the manifest says.
    pub fn layer_digest(&self) -> String {
        digest(&self.layer)
    }

    /// The manifest that is sent.
    pub(super) fn served_manifest(&self) -> Vec<u8> {
        let mut bytes = self.manifest.clone();
        if self.lie == Lie::ManifestDigest {
            // White space: valid JSON that says the same and has another digest.
            bytes.push(b'\n');
        }
        bytes
    }

    /// The blob that is sent for a digest.
    pub(super) fn served_blob(&self, wanted: &str) -> Option<Vec<u8>> {
        if wanted == digest(&self.config) {
            let mut bytes = self.config.clone();
            if self.lie == Lie::ConfigDigest {
                let at = bytes.windows(6).position(|part| part == b"/hello")?;
                bytes[at + 1] = b'j';
            }
            return Some(bytes);
        }
        if wanted != self.layer_digest() {
            return None;
        }
        let mut bytes = self.layer.clone();
        match self.lie {
            Lie::LayerDigest => *bytes.last_mut()? ^= 1,
            Lie::Shorter => drop(bytes.pop()),
            Lie::Longer => bytes.push(0),
            _ => {}
        }
        Some(bytes)
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A layer with an honest file and, where the lie is in the archive, one that is not.
fn archive(lie: Lie, target: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, EntryType::Regular, "hello", "", b"hello\n")?;
    let inside_root = target.strip_prefix("/").context("target is not absolute")?.display();
    match lie {
        Lie::Traversal => {
            let name = format!("{UP}/{inside_root}/{ESCAPED}");
            add(&mut tar, EntryType::Regular, &name, "", b"out\n")?;
        }
        Lie::LinkedParent => {
            add(&mut tar, EntryType::Symlink, "d", &target.display().to_string(), b"")?;
            add(&mut tar, EntryType::Regular, &format!("d/{ESCAPED}"), "", b"out\n")?;
        }
        Lie::HardLink => add(&mut tar, EntryType::Link, "passwd", "/etc/passwd", b"")?,
        Lie::HardLinkUp => {
            add(&mut tar, EntryType::Link, "passwd", &format!("{UP}/etc/passwd"), b"")?;
        }
        _ => {}
    }
    Ok(tar.into_inner()?)
}

/// Adds an entry whose names are written as they are: tar's own methods refuse the evil ones.
fn add(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: EntryType,
    name: &str,
    link: &str,
    data: &[u8],
) -> Result<()> {
    let mut header = header(kind, name, data.len() as u64)?;
    if let Some(fields) = header.as_gnu_mut() {
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    tar.append(&header, data)?;
    Ok(())
}

fn header(kind: EntryType, name: &str, size: u64) -> Result<Header> {
    let mut header = Header::new_gnu();
    let fields = header.as_gnu_mut().context("a GNU header")?;
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

/// A gzip stream of one file of zeros: the members of a gzip file may be concatenated (RFC 1952,
/// 2.2), so one compressed piece is enough.
fn bomb() -> Result<Vec<u8>> {
    let mut bytes = gzip(header(EntryType::Regular, "zeros", BOMB)?.as_bytes())?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; PIECE])?;
    let piece = encoder.finish()?;
    for _ in 0..BOMB / PIECE as u64 {
        bytes.extend_from_slice(&piece);
    }
    bytes.extend(gzip(&[0; 1024])?);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lie_is_wrong_with_an_image() {
        let image = Image::of(Lie::None, Path::new("/tmp/x")).expect("builds");
        for bytes in [&image.config, &image.layer] {
            assert_eq!(image.served_blob(&digest(bytes)).as_ref(), Some(bytes));
        }
        assert_eq!(digest(&image.served_manifest()), image.manifest_digest());

        let lying = Image::of(Lie::LayerDigest, Path::new("/tmp/x")).expect("builds");
        assert_eq!(lying.manifest, image.manifest);
        let served = lying.served_blob(&image.layer_digest()).expect("there");
        assert_eq!(served.len(), image.layer.len());
        assert_ne!(served, image.layer);
    }

    #[test]
    fn the_bomb_is_small_and_its_archive_well_formed() {
        let bytes = bomb().expect("builds");
        assert!(bytes.len() < 12 << 20, "{}", bytes.len());
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(bytes.as_slice()));
        let first = archive.entries().expect("entries").next().expect("one").expect("parses");
        assert_eq!(first.size(), BOMB);
    }
}
