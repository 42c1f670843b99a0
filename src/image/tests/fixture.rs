//! Images made up for tests.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::*;

/// One layer.
#[derive(Clone)]
pub(super) struct Layer {
    pub archive: Vec<u8>,
    pub blob: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    /// With these files, compressed with gzip.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self::gzip(archive(files))
    }

    pub(super) fn gzip(archive: Vec<u8>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&archive).expect("memory");
        let blob = encoder.finish().expect("memory");
        Self { archive, blob, media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into() }
    }

    pub(super) fn zstd(files: &[(&str, &str)]) -> Self {
        let archive = archive(files);
        let blob = zstd::encode_all(archive.as_slice(), 1).expect("memory");
        Self { archive, blob, media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into() }
    }

    pub(super) fn plain(files: &[(&str, &str)]) -> Self {
        let archive = archive(files);
        let blob = archive.clone();
        Self { archive, blob, media_type: "application/vnd.oci.image.layer.v1.tar".into() }
    }

    /// With one file of `length` bytes that hardly compress.
    pub(super) fn large(length: usize) -> Self {
        let mut state = 1_u32;
        let text: String = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b' ' + (state >> 24) as u8 % 95)
            })
            .collect();
        Self::of(&[("large", &text)])
    }

    pub(super) fn digest(&self) -> String {
        Digest::of(&self.blob).to_string()
    }
}

/// An archive with these files; a name that ends with a slash is a directory.
pub(super) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        builder.append_data(&mut header, name, text.as_bytes()).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// One image and the blobs it consists of.
#[derive(Clone)]
pub(super) struct Fixture {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Fixture {
    pub(super) fn new(layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<_> =
            layers.iter().map(|layer| Digest::of(&layer.archive).to_string()).collect();
        let config = json!({
            "architecture": manifest::Platform::host().architecture,
            "os": "linux",
            "config": {"Env": ["A=b"], "Cmd": ["/bin/true"], "User": "1000:0"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::with_config(layers, config.to_string().into_bytes())
    }

    pub(super) fn with_config(layers: Vec<Layer>, config: Vec<u8>) -> Self {
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({"mediaType": layer.media_type, "digest": layer.digest(), "size": layer.blob.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest::OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config).to_string(),
                "size": config.len(),
            },
            "layers": descriptors,
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    pub(super) fn id(&self) -> String {
        Digest::of(&self.config).hex()
    }

    pub(super) fn digest(&self) -> String {
        Digest::of(&self.manifest).to_string()
    }

    /// An index with this image for this machine, behind one for another.
    pub(super) fn index(&self) -> Vec<u8> {
        let entry = |architecture: &str, digest: String, size: usize| {
            json!({"mediaType": manifest::OCI_MANIFEST, "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": architecture}})
        };
        let other = entry("mips", Digest::of(b"other").to_string(), 5);
        let host = manifest::Platform::host().architecture;
        let ours = entry(host, self.digest(), self.manifest.len());
        let index = json!({"schemaVersion": 2, "mediaType": manifest::OCI_INDEX,
            "manifests": [other, ours]});
        index.to_string().into_bytes()
    }

    /// What an honest registry answers that has this image as `latest`.
    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        let (_, name) = asked.path.rsplit_once('/').expect("a path");
        let whole = |bytes: &[u8]| Answer::ok(bytes).ranged(asked);
        if asked.path.contains("/manifests/") {
            if name == "latest" || name == self.digest() {
                return whole(&self.manifest).header("Content-Type", manifest::OCI_MANIFEST);
            }
            let index = self.index();
            if name == "index" || name == Digest::of(&index).to_string() {
                return whole(&index).header("Content-Type", manifest::OCI_INDEX);
            }
        } else if asked.path.contains("/blobs/") {
            if name == Digest::of(&self.config).to_string() {
                return whole(&self.config);
            }
            if let Some(layer) = self.layers.iter().find(|layer| layer.digest() == name) {
                return whole(&layer.blob);
            }
        }
        Answer::status(404)
    }

    /// A registry that has this image.
    pub(super) async fn serve(&self) -> Server {
        let fixture = self.clone();
        Server::start(move |asked| fixture.answer(asked)).await
    }

    /// A registry that has this image and lies: where `lie` has an answer, it gives that.
    pub(super) async fn lie(
        &self,
        lie: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
    ) -> Server {
        let fixture = self.clone();
        Server::start(move |asked| lie(asked).unwrap_or_else(|| fixture.answer(asked))).await
    }
}
