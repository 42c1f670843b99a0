//! What the configuration files say: found, read with bounds, parsed, types checked, merged.
//!
//! Owns the rules of reading (order of drop-ins, which value wins) and the places that mistakes
//! point at. Whether a value makes sense is for `check`.
//!
//! Merging is per key: a later file's value replaces an earlier one's, arrays too; the tables of
//! handlers merge key by key.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::rules;
use super::table::{Fallback, HANDLER_KEYS, HANDLERS, KEYS, Value};
use crate::trust;

/// A configuration is a few kilobytes; this only stops a wrong path from eating memory.
const MAX_FILE: u64 = 1024 * 1024;

/// More drop-ins than any packaging makes; stops a directory of something else.
const MAX_DROP_INS: usize = 256;

/// Whether the main file must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MainFile {
    /// Named on the command line.
    Required,
    /// The default one.
    Optional,
}

/// Where something stands in a file. Line 0 means the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where; none if it is about a key that no file sets.
    pub place: Option<Place>,
    /// Dotted key; none if the file as such is wrong.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Of the type that the table demands.
    pub value: Value,
    /// The file that won.
    pub place: Place,
}

/// What the files say about one handler.
#[derive(Clone, Debug)]
pub struct RawHandler {
    /// Where it was first mentioned.
    pub place: Place,
    /// By the last part of the key.
    pub keys: BTreeMap<&'static str, Entry>,
}

/// What all files together say.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// By dotted key.
    pub keys: BTreeMap<&'static str, Entry>,
    /// By name.
    pub handlers: BTreeMap<String, RawHandler>,
    /// What was wrong so far.
    pub mistakes: Vec<Mistake>,
    /// A file could not be used as a whole, so that absence of a key proves nothing.
    pub incomplete: bool,
}

/// The key that accepts what others may change, also files of the configuration itself.
pub(super) const ACCEPT: &str = "accept_writable_files";

/// Reads `main` and its drop-ins. Files that others than root may change are mistakes, unless one
/// that they may not change says otherwise.
pub fn read(main: &Path, need: MainFile) -> Raw {
    let mut raw = Raw::default();
    let absent_is_fine = need == MainFile::Optional;
    raw.add_file(main, absent_is_fine);
    let mut files = vec![main.to_owned(), main.with_extension("d")];
    match drop_ins(&main.with_extension("d")) {
        Ok(files) if files.len() > MAX_DROP_INS => {
            let what = format!("{} drop-ins, at most {MAX_DROP_INS} are read", files.len());
            raw.unusable(&main.with_extension("d"), what);
        }
        // A file that is removed between the listing and the reading was never there.
        Ok(drop_ins) => {
            drop_ins.iter().for_each(|file| raw.add_file(file, !is_link(file)));
            files.extend(drop_ins);
        }
        Err(error) => raw.unusable(&main.with_extension("d"), error.to_string()),
    }
    raw.mistrust(&files);
    raw
}

/// The drop-ins in bytewise order of their names, which no locale changes.
fn drop_ins(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        // Editors leave `.#x.toml` behind.
        if name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".") {
            files.push(dir.join(name));
        }
    }
    files.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(files)
}

fn is_link(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|meta| meta.is_symlink())
}

/// The text of a regular file of bounded size, or why there is none. `Ok(None)` = no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, String> {
    // O_NONBLOCK: opening a FIFO without a writer would wait forever, open(2).
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let bytes = read_regular(file).map_err(|error| error.to_string())?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count();
            Err(format!("line {line} is not UTF-8"))
        }
    }
}

fn read_regular(file: File) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

impl Raw {
    fn mistrust(&mut self, files: &[PathBuf]) {
        let accepted = self.keys.get(ACCEPT).is_some_and(|entry| {
            entry.value == Value::Flag(true) && trust::check(&entry.place.file).is_ok()
        });
        if accepted {
            return;
        }
        for file in files {
            if let Err(why) = trust::check(file) {
                self.unusable(file, format!("{why}; see the key {ACCEPT}"));
            }
        }
    }

    /// Adds one file over what is there.
    fn add_file(&mut self, path: &Path, absent_is_fine: bool) {
        match read_text(path) {
            Ok(Some(text)) => self.add_text(path, &text),
            Ok(None) if absent_is_fine => {}
            Ok(None) => self.unusable(path, "no such file".to_owned()),
            Err(what) => self.unusable(path, what),
        }
    }

    /// Adds the text of one file over what is there.
    pub fn add_text(&mut self, path: &Path, text: &str) {
        let source = Source { file: Arc::from(path), text };
        let (document, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            self.table(&source, "", document.get_ref());
            return;
        }
        // What the parser made of the rest is a guess, and mistakes found in it would be too.
        self.incomplete = true;
        for error in errors {
            let place = error.span().map_or_else(|| source.whole(), |span| source.at(span.start));
            let what = error.message().to_owned();
            self.mistakes.push(Mistake { place: Some(place), key: None, what });
        }
    }

    fn unusable(&mut self, file: &Path, what: String) {
        self.incomplete = true;
        let place = Place { file: Arc::from(file), line: 0, column: 0 };
        self.mistakes.push(Mistake { place: Some(place), key: None, what });
    }

    fn mistake(&mut self, place: Place, key: String, what: String) {
        self.mistakes.push(Mistake { place: Some(place), key: Some(key), what });
    }

    /// Walks one table; `prefix` is empty or ends in a dot.
    fn table(&mut self, source: &Source<'_>, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let place = source.at(key.span().start);
            let inner = format!("{name}.");
            if let Some(known) = KEYS.iter().find(|known| known.name == name) {
                match typed(value.get_ref(), known.default) {
                    Ok(value) => drop(self.keys.insert(known.name, Entry { value, place })),
                    Err(what) => self.mistake(place, name, what),
                }
            } else if name == HANDLERS || KEYS.iter().any(|known| known.name.starts_with(&inner)) {
                match value.get_ref() {
                    DeValue::Table(handlers) if name == HANDLERS => self.handlers(source, handlers),
                    DeValue::Table(table) => self.table(source, &inner, table),
                    other => self.mistake(place, name, wrong_type("a table", other)),
                }
            } else {
                let what = unknown(&name, KEYS.iter().map(|known| known.name));
                self.mistake(place, name, what);
            }
        }
    }

    fn handlers(&mut self, source: &Source<'_>, handlers: &DeTable<'_>) {
        for (name, value) in handlers {
            let place = source.at(name.span().start);
            let key = format!("{HANDLERS}.{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(table) => self.handler(source, name.get_ref(), (place, table)),
                other => self.mistake(place, key, wrong_type("a table", other)),
            }
        }
    }

    fn handler(&mut self, source: &Source<'_>, name: &str, (at, table): (Place, &DeTable<'_>)) {
        self.handlers
            .entry(name.to_owned())
            .or_insert_with(|| RawHandler { place: at, keys: BTreeMap::new() });
        for (key, value) in table {
            let place = source.at(key.span().start);
            let full = format!("{HANDLERS}.{name}.{}", key.get_ref());
            let Some(known) = HANDLER_KEYS.iter().find(|known| known.name == key.get_ref()) else {
                let what = unknown(key.get_ref(), HANDLER_KEYS.iter().map(|known| known.name));
                self.mistake(place, full, what);
                continue;
            };
            match (typed(value.get_ref(), known.default), self.handlers.get_mut(name)) {
                (Ok(value), Some(handler)) => {
                    handler.keys.insert(known.name, Entry { value, place });
                }
                (Ok(_), None) => {}
                (Err(what), _) => self.mistake(place, full, what),
            }
        }
    }
}

/// A file's text, to turn offsets into places.
struct Source<'a> {
    file: Arc<Path>,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: Arc::clone(&self.file),
            line: 1 + before.bytes().filter(|&byte| byte == b'\n').count(),
            column: 1 + before[line_start..].chars().count(),
        }
    }

    fn whole(&self) -> Place {
        Place { file: Arc::clone(&self.file), line: 0, column: 0 }
    }
}

/// The value, if it has the type of the key's default.
fn typed(value: &DeValue<'_>, default: Fallback) -> Result<Value, String> {
    match (default, value) {
        (Fallback::Text(_), DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Fallback::Number(_), DeValue::Integer(number)) => {
            i64::from_str_radix(number.as_str(), number.radix())
                .map(Value::Number)
                .map_err(|_| format!("{number} is too large for an integer"))
        }
        (Fallback::Flag(_), DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
        (Fallback::List(_), DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(wrong_type("an array of strings", other)),
            })
            .collect::<Result<_, _>>()
            .map(Value::List),
        (default, other) => Err(wrong_type(default.type_name(), other)),
    }
}

fn wrong_type(expected: &str, found: &DeValue<'_>) -> String {
    let shown = match found {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the integer {number}"),
        DeValue::Float(number) => format!("the float {number}"),
        DeValue::Boolean(value) => format!("the boolean {value}"),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    format!("expected {expected}, found {shown}")
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match rules::nearest(name, known) {
        Some(near) => format!("unknown key, did you mean {near}?"),
        None => "unknown key".to_owned(),
    }
}
