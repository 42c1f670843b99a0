use std::os::unix::fs::symlink;

use super::*;

mod golden;

type Note = std::collections::BTreeMap<String, u32>;

fn records() -> (tempfile::TempDir, Records<Note>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let records = Records::open(dir.path().join("notes")).expect("records");
    (dir, records)
}

#[test]
fn what_was_saved_last_is_loaded() {
    let (_dir, records) = records();
    records.save(&"a", &Note::from([("x".to_owned(), 1)])).expect("save");
    let newest = Note::from([("x".to_owned(), 2)]);
    records.save(&"a", &newest).expect("save");
    assert_eq!(records.load_all().expect("load").records, [newest]);
}

#[test]
fn a_deleted_record_is_gone_and_deleting_it_again_is_fine() {
    let (_dir, records) = records();
    records.save(&"a", &Note::new()).expect("save");
    assert!(!records.is_gone(&"a").expect("look"));
    records.delete(&"a").expect("delete");
    records.delete(&"a").expect("delete again");
    assert!(records.is_gone(&"a").expect("look"));
    let found = records.load_all().expect("load");
    assert!(found.records.is_empty() && found.failed.is_empty() && found.aside.is_empty());
}

#[test]
fn listing_disturbs_no_write_and_opening_drops_what_a_crash_interrupted() {
    let (dir, records) = records();
    let unfinished = dir.path().join("notes/a.tmp");
    fs::write(&unfinished, "half").expect("write");
    assert!(records.load_all().expect("load").records.is_empty());
    assert!(unfinished.exists());
    Records::<Note>::open(dir.path().join("notes")).expect("records");
    assert!(!unfinished.exists());
}

#[test]
fn every_kind_of_damage_is_told_and_hurts_only_its_own_record() {
    let (dir, records) = records();
    records.save(&"good", &Note::new()).expect("save");
    let path = dir.path().join("notes/bad.json");
    let good = fs::read(dir.path().join("notes/good.json")).expect("read");
    let text = String::from_utf8(good.clone()).expect("text");
    let other = text.replace("{}", "{\"x\":3}").into_bytes();
    let old = text.replace("\"version\":1", "\"version\":0").into_bytes();
    for bad in [b"", &b"{"[..], b"null", b"\xff\xfe", &good[..good.len() / 2], &other, &old] {
        fs::write(&path, bad).expect("write");
        let found = records.load_all().expect("load");
        assert_eq!(found.records.len(), 1, "{bad:?}");
        let [(id, RecordError::Damaged { .. })] = &found.failed[..] else {
            panic!("{bad:?}: {found:?}")
        };
        assert_eq!(id, "bad");
    }
}

#[test]
fn what_was_set_aside_is_not_gone_until_it_is_deleted() {
    let (dir, records) = records();
    fs::write(dir.path().join("notes/bad.json"), "{").expect("write");
    records.set_aside(&"bad").expect("set aside");
    let found = records.load_all().expect("load");
    assert!(found.failed.is_empty());
    assert_eq!(found.aside, ["bad"]);
    assert!(records.aside("bad").exists());
    assert!(!records.is_gone(&"bad").expect("look"));
    records.delete(&"bad").expect("delete");
    assert!(records.is_gone(&"bad").expect("look"));
}

/// What an error of the system makes of a record: nothing. The file stays, and is no damage.
#[test]
fn an_error_of_the_system_is_not_damage_and_not_absence() {
    let (dir, records) = records();
    let at = |name: &str| dir.path().join("notes").join(name);
    fs::create_dir(at("directory.json")).expect("EISDIR");
    symlink("nowhere", at("link.json")).expect("ELOOP");
    let found = records.load_all().expect("load");
    assert_eq!(found.failed.len(), 2);
    for (id, error) in &found.failed {
        assert!(matches!(error, RecordError::File { action: "read", .. }), "{id}: {error:?}");
        assert!(matches!(records.load(id), Err(RecordError::File { .. })), "{id}");
        assert!(!records.is_gone(id).expect("look"), "{id}");
    }
    // A name that is too long: the question itself fails.
    assert!(records.is_gone(&"x".repeat(300)).is_err());
    assert!(records.load(&"x".repeat(300)).is_err());
    fs::remove_dir_all(dir.path().join("notes")).expect("remove");
    assert!(records.load_all().is_err());
}

#[test]
fn a_record_of_a_newer_crisol_keeps_this_one_from_starting() {
    let (dir, records) = records();
    records.save(&"a", &Note::new()).expect("save");
    let path = dir.path().join("notes/a.json");
    let good = fs::read_to_string(&path).expect("read");
    // Another envelope, which need have nothing but its version in common with ours.
    let newer = r#"{"version":2,"crisol":"7.8.9","sum":"0","body":[]}"#;
    // The same envelope around a record with something new in it.
    let text = r#"{"x":"many"}"#;
    let strange = good.replace("{}", text).replace(&checksum("{}"), &checksum(text));
    for (foreign, words) in [(newer, ["version 2", "7.8.9"]), (&strange, ["many", CRISOL])] {
        fs::write(&path, foreign).expect("write");
        let error = Records::<Note>::open(dir.path().join("notes")).expect_err("it is foreign");
        assert!(matches!(error, RecordError::Foreign { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("a.json") && error.contains("install"), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("read"), foreign, "it is left alone");
    }
    fs::write(&path, good).expect("write");
    Records::<Note>::open(dir.path().join("notes")).expect("put back");
}

#[test]
fn a_record_with_more_fields_than_are_known_here_is_read() {
    let (dir, records) = records();
    records.save(&"a", &Note::new()).expect("save");
    let path = dir.path().join("notes/a.json");
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replacen('{', "{\"note\":{\"new\":1},", 1)).expect("write");
    assert_eq!(records.load(&"a").expect("load"), Some(Note::new()));
    // And one without the writer's version, as the first ones were.
    let old = text.replace(&format!("\"crisol\":\"{CRISOL}\","), "");
    assert_ne!(old, text);
    fs::write(&path, old).expect("write");
    assert_eq!(records.load(&"a").expect("load"), Some(Note::new()));
}

#[test]
fn a_trouble_lasts_until_it_is_not_found_any_more() {
    let (_dir, records) = records();
    let path = records.aside("x");
    records.troubles().replace(vec![Trouble::aside("container", path.clone())]);
    let told = records.troubles().list();
    assert_eq!(told.len(), 1);
    assert!(told[0].remedy.contains(&path.display().to_string()), "{told:?}");
    records.troubles().clone().replace(Vec::new());
    assert!(records.troubles().list().is_empty());
}
