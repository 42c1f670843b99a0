//! Documents a registry could serve, good and bad.

use super::*;

fn hex(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}

fn layer(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":10}}"#, hex(2))
}

fn manifest_with(layers: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":{layers}}}"#,
        CONFIGS[0],
        hex(1)
    )
}

/// Media type; operating system, architecture and variant.
type Line<'a> = (&'a str, Option<(&'a str, &'a str, &'a str)>);

fn index(entries: &[Line<'_>]) -> String {
    let lines: Vec<String> = entries
        .iter()
        .enumerate()
        .map(|(n, (media_type, platform))| {
            let platform = platform.map_or(String::new(), |(os, arch, variant)| {
                format!(
                    r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#
                )
            });
            let digest = hex(u8::try_from(n).expect("few entries") + 1);
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":5{platform}}}"#)
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, lines.join(","))
}

fn chosen(entries: &[Line<'_>], platform: Platform) -> Vec<String> {
    let Document::Index(entries) = parse(index(entries).as_bytes(), None).expect("an index") else {
        panic!("not an index")
    };
    let chosen = platform.choose(&entries).unwrap_or_default();
    chosen.iter().map(|target| target.digest.to_string()).collect()
}

const AMD64: Platform = Platform { architecture: "amd64", variants: &["", "v1"] };
const ARM: Platform = Platform { architecture: "arm", variants: &["v7", "v6", "v5", ""] };

#[test]
fn every_kind_of_tar_layer_is_taken() {
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let text = manifest_with(&format!("[{}]", layer(media_type)));
        assert!(parse(text.as_bytes(), Some(OCI_MANIFEST)).is_ok(), "{media_type}");
    }
}

#[test]
fn unknown_layers_and_artifacts_are_unsupported() {
    for media_type in [
        "application/octet-stream",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+xyz",
        "application/vnd.erofs.layer.v1",
        "",
    ] {
        let error = parse(manifest_with(&format!("[{}]", layer(media_type))).as_bytes(), None)
            .expect_err("must be refused");
        assert!(matches!(error, ManifestError::MediaType(_)), "{media_type}: {error}");
    }
    let artifact = manifest_with("[]").replace(CONFIGS[0], "application/vnd.example.chart");
    assert!(matches!(parse(artifact.as_bytes(), None), Err(ManifestError::MediaType(_))));
}

#[test]
fn an_image_without_layers_is_legal() {
    let Document::Manifest(manifest) = parse(manifest_with("[]").as_bytes(), None).expect("legal")
    else {
        panic!("not a manifest")
    };
    assert!(manifest.layers.is_empty());
}

#[test]
fn malformed_documents_are_invalid() {
    let good = manifest_with("[]");
    for bad in [
        "".to_owned(),
        "<html>".into(),
        format!("\u{feff}{good}"),
        format!("{good}x"),
        manifest_with("null"),
        good.replace(r#","layers":[]"#, ""),
        good.replace("\"config\"", "\"confog\""),
        good.replace(r#""size":2"#, r#""size":-1"#),
        good.replace(r#""size":2"#, r#""size":"2""#),
        good.replace(r#""schemaVersion":2"#, r#""schemaVersion":3"#),
        good.replace(r#""schemaVersion":2"#, r#""schemaVersion":2,"schemaVersion":2"#),
        good.replace(&hex(1), "sha256:../../x"),
        good.replace(r#""layers""#, r#""manifests":[],"layers""#),
        format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        let error = parse(bad.as_bytes(), None).expect_err("must be refused");
        assert_eq!(error.kind(), Kind::Invalid, "{bad:.80}");
    }
}

#[test]
fn schema_one_is_named() {
    let text = r#"{"schemaVersion":1,"fsLayers":[],"name":"x"}"#;
    assert!(matches!(parse(text.as_bytes(), None), Err(ManifestError::SchemaOne)));
}

#[test]
fn the_header_must_agree_with_the_field_and_the_shape() {
    let text = manifest_with("[]");
    assert!(parse(text.as_bytes(), Some("application/json; charset=utf-8")).is_ok());
    for header in [DOCKER_MANIFEST, OCI_INDEX, CONFIGS[0]] {
        assert!(parse(text.as_bytes(), Some(header)).is_err(), "{header}");
    }
    let bare = text.replace(&format!(r#""mediaType":"{OCI_MANIFEST}","#), "");
    assert!(parse(bare.as_bytes(), Some(OCI_MANIFEST)).is_ok());
    assert!(parse(bare.as_bytes(), Some(OCI_INDEX)).is_err());
}

#[test]
fn too_many_layers_are_exhaustion() {
    let one = layer("application/vnd.oci.image.layer.v1.tar");
    let text = manifest_with(&format!("[{}]", vec![one; 501].join(",")));
    assert_eq!(parse(text.as_bytes(), None).expect_err("too many").kind(), Kind::Exhausted);
}

#[test]
fn the_first_entry_of_the_best_variant_is_chosen() {
    let m = OCI_MANIFEST;
    let entries = [
        (m, Some(("windows", "amd64", ""))),
        (m, Some(("linux", "arm", "v6"))),
        (m, Some(("linux", "amd64", ""))),
        (m, Some(("linux", "amd64", ""))),
        (m, Some(("linux", "arm", "v7"))),
        (m, Some(("linux", "amd64", "v3"))),
    ];
    assert_eq!(chosen(&entries, AMD64), [hex(3)]);
    assert_eq!(chosen(&entries, ARM), [hex(5)]);
}

#[test]
fn nested_indexes_are_tried_when_nothing_fits_directly() {
    let entries = [
        (OCI_MANIFEST, Some(("linux", "s390x", ""))),
        (OCI_INDEX, None),
        (OCI_INDEX, Some(("linux", "s390x", ""))),
    ];
    assert_eq!(chosen(&entries, AMD64), [hex(2)]);
    assert_eq!(chosen(&[(OCI_MANIFEST, None)], AMD64), [hex(1)]);
    assert!(chosen(&[(OCI_MANIFEST, Some(("unknown", "unknown", "")))], AMD64).is_empty());
}
