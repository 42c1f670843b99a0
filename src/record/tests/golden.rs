//! Every format that was ever written is still read, whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::container::ContainerRecord;
use crate::pod::PodRecord;

use super::super::*;

fn formats() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/golden");
    let entries =
        fs::read_dir(dir).expect("golden records").map(|entry| entry.expect("entry").path());
    let mut formats: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    formats.sort();
    assert!(formats.len() >= 4, "{formats:?}");
    formats
}

/// The file as it was written, and what the record in it is now written as.
fn read_and_written<R: Serialize + DeserializeOwned>(format: &Path, kind: &str) -> Vec<[Value; 2]> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut pairs = Vec::new();
    for entry in fs::read_dir(format.join(kind)).expect("golden records") {
        let file = entry.expect("entry").path();
        let records = Records::<R>::open(dir.path().join(kind)).expect("records");
        let id = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let kept = dir.path().join(kind).join(file.file_name().expect("a name"));
        fs::copy(&file, &kept).expect("copy");
        let record =
            records.load(&id).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        records.save(&id, &record.expect("it is there")).expect("save");
        let parse = |path: &Path| -> Value {
            serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
        };
        pairs.push([parse(&file), parse(&kept)]);
    }
    assert!(pairs.len() >= 2, "{}/{kind}", format.display());
    pairs
}

/// Whether everything in `old` is in `new` with the same value; what `new` has besides is nothing.
fn is_kept(old: &Value, new: &Value, at: &str) -> Result<(), String> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return if old == new { Ok(()) } else { Err(format!("{at}: {old} became {new}")) };
    };
    for (key, value) in old {
        let at = format!("{at}.{key}");
        is_kept(value, new.get(key).ok_or_else(|| format!("{at} is gone"))?, &at)?;
    }
    let is_nothing = |value: &Value| {
        let nothings = ["null", "false", "0", "\"\"", "[]", "{}"];
        nothings.contains(&value.to_string().as_str())
    };
    match new.iter().find(|(key, value)| !old.contains_key(*key) && !is_nothing(value)) {
        Some((key, value)) => Err(format!("{at}.{key} is new and {value}")),
        None => Ok(()),
    }
}

#[test]
fn every_format_is_read_and_nothing_in_it_is_lost() {
    for format in formats() {
        let pods = read_and_written::<PodRecord>(&format, "pods");
        let containers = read_and_written::<ContainerRecord>(&format, "containers");
        for [old, new] in pods.into_iter().chain(containers) {
            let kept = is_kept(&old["record"], &new["record"], "record");
            assert_eq!(kept, Ok(()), "{}", format.display());
        }
    }
}

/// Whoever changes what is written adds a directory with the new format: the newest one's files as they
/// are written now, which a failure leaves in the temporary directory, with values in the new fields.
#[test]
fn what_is_written_now_is_the_newest_format() {
    let newest = formats().pop().expect("a format");
    let pods =
        read_and_written::<PodRecord>(&newest, "pods").into_iter().map(|pair| ("pods", pair));
    let containers = read_and_written::<ContainerRecord>(&newest, "containers").into_iter();
    let containers = containers.map(|pair| ("containers", pair));
    let (mut same, to) = (true, std::env::temp_dir().join("crisol-golden"));
    for (kind, [golden, written]) in pods.chain(containers) {
        assert!(golden["crisol"].is_string() && written["crisol"].is_string());
        // The order of fields counts for nobody but the checksum.
        if golden["record"] != written["record"] || golden["version"] != written["version"] {
            same = false;
            let file = to.join(kind).join(written["record"]["id"].as_str().expect("an id"));
            fs::create_dir_all(to.join(kind)).expect("directory");
            let text = written["record"].to_string();
            let (version, crisol, sum) = (&written["version"], &written["crisol"], checksum(&text));
            let text = format!(
                r#"{{"version":{version},"crisol":{crisol},"sha256":"{sum}","record":{text}}}"#
            );
            fs::write(file.with_extension("json"), text).expect("write");
        }
    }
    assert!(same, "add a format after {}: {}", newest.display(), to.display());
}

/// What a newer crisol adds is passed over, wherever it is: with a default it is no new version.
#[test]
fn fields_of_tomorrow_are_passed_over() {
    let newest = formats().pop().expect("a format");
    let dir = tempfile::tempdir().expect("a temporary directory");
    for kind in ["pods", "containers"] {
        for entry in fs::read_dir(newest.join(kind)).expect("golden records") {
            let file = entry.expect("entry").path();
            let mut envelope: Value =
                serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
            let mut record = envelope["record"].take();
            add_everywhere(&mut record);
            let text = record.to_string();
            let bytes = format!(
                r#"{{"version":1,"of_tomorrow":[],"sha256":"{}","record":{text}}}"#,
                checksum(&text)
            );
            let path = dir.path().join("x.json");
            fs::write(&path, bytes).expect("write");
            let loaded = match kind {
                "pods" => load::<PodRecord>(&path).map(drop),
                _ => load::<ContainerRecord>(&path).map(drop),
            };
            loaded.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

/// Fields whose keys are names of the user's.
const MAPS: [&str; 5] = ["labels", "annotations", "sysctls", "hugepages", "unified"];

/// A field that nobody knows in each object that stands for a struct.
fn add_everywhere(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.iter_mut().filter(|(key, _)| !MAPS.contains(&key.as_str())).for_each(
                |(_, value)| {
                    add_everywhere(value);
                },
            );
            // An enum's variant with what it holds.
            if !fields.keys().any(|key| key.starts_with(char::is_uppercase)) {
                fields.insert("of_tomorrow".to_owned(), serde_json::json!({ "a": [1, null] }));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(add_everywhere),
        _ => {}
    }
}
