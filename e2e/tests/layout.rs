//! The shape of the source: dependency direction, sizes, module docs, words.
//!
//! These are the invariants of `src/ARCHITECTURE.md`, read from the text of the sources: comments,
//! strings and test modules are taken out first, so that what remains is what is compiled into the
//! programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::layout::repository;

/// Production lines a file may have.
const FILE_LINES: usize = 500;
/// Lines a function may have.
const FUNCTION_LINES: usize = 100;

/// One source file.
struct Source {
    /// Path below the repository, e.g. `src/pod/run.rs`.
    path: String,
    text: String,
    /// The text without comments, strings and `#[cfg(test)]` modules.
    code: String,
}

impl Source {
    /// The daemon's module that the file belongs to: `pod` for `src/pod/run.rs`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split(['/', '.']).next().unwrap_or(rest))
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.ends_with("/testing.rs")
            || self.path.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let root = repository();
    let mut paths = Vec::new();
    for top in ["src", "conmon", "cni", "e2e", "proto"] {
        collect(&root.join(top), &mut paths);
    }
    assert!(paths.len() > 50, "only {} source files found", paths.len());
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("source is readable");
            let code = without_tests(&without_comments_and_strings(&text));
            let path = path.strip_prefix(&root).expect("below the repository");
            Source { path: path.display().to_string(), text, code }
        })
        .collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("directory is readable").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Every comment and every literal's inside replaced by spaces; lines stay where they are.
fn without_comments_and_strings(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(&bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment, string or character that begins at `at` ends; `at` if none begins there.
fn literal_or_comment(text: &[char], at: usize) -> usize {
    let starts = |what: &str| what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c));
    let find = |from: usize, what: &[char]| {
        (from..text.len()).find(|&i| text[i..].starts_with(what)).map(|i| i + what.len())
    };
    let word_before = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    if starts("//") {
        return (at..text.len()).find(|&i| text[i] == '\n').unwrap_or(text.len());
    }
    if starts("/*") {
        return find(at + 2, &['*', '/']).unwrap_or(text.len());
    }
    // r"…", r#"…"#, and with b or c in front; the letters in front stay, they hurt nobody.
    if starts("r") && (!word_before || "bc".contains(text[at - 1])) {
        let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
        if text.get(at + 1 + hashes) == Some(&'"') {
            let mut end = vec!['"'];
            end.extend(std::iter::repeat_n('#', hashes));
            return find(at + 2 + hashes, &end).unwrap_or(text.len());
        }
    }
    if starts("\"") {
        return quoted(text, at, '"');
    }
    // A lifetime has no closing quote after one character.
    if starts("'") && (text.get(at + 1) == Some(&'\\') || text.get(at + 2) == Some(&'\'')) {
        return quoted(text, at, '\'');
    }
    at
}

fn quoted(text: &[char], at: usize, quote: char) -> usize {
    let mut i = at + 1;
    while i < text.len() && text[i] != quote {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(text.len())
}

/// Replaces items under `#[cfg(test)]` by empty lines.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => {
                closing(item, open)
            }
            (_, Some(semicolon)) => semicolon + 1,
            _ => item.len(),
        };
        out.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// The position after the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Whether `word` stands in `code` as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// What a file names of the daemon, as `module` or `module::part`: `crate::x::y`, `crate::{x, y::z}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, marker) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + marker.len()..];
        let names = match rest.strip_prefix('{') {
            // Only the first words of each branch at depth one.
            Some(_) => top_level(&rest[1..closing(rest, 0) - 1]),
            None => vec![rest],
        };
        for name in names {
            let path: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                .collect();
            found.push(path.split("::").take(2).collect::<Vec<_>>().join("::"));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[from..]);
    parts
}

const TOP: &[&str] = &["main", "lib", "cli", "daemon", "logging", "preflight"];
const EDGE: &[&str] = &["cri", "stream"];
const CORE: &[&str] = &["pod", "container", "image", "stats", "health"];
const HANDS: &[&str] = &["network", "monitor", "runtime", "rootfs", "cgroup", "apparmor", "nri"];
const BASE: &[&str] = &[
    "registry", "claim", "record", "undo", "steps", "events", "metrics", "config", "host", "ids",
    "path", "identity", "lobby", "seldom", "trust", "error",
];
const SYS: &[&str] = &["sys"];

/// What a module may name besides itself.
fn allowed(module: &str) -> Vec<&'static str> {
    let below_hands = [BASE, SYS].concat();
    let below_core = [HANDS, &below_hands].concat();
    match module {
        _ if TOP.contains(&module) => [TOP, EDGE, CORE, &below_core].concat(),
        // It gives out the URLs that lead there.
        "cri" => [&["stream"][..], CORE, &below_core].concat(),
        _ if EDGE.contains(&module) => [CORE, &below_core].concat(),
        "pod" => [&["container", "image"][..], &below_core].concat(),
        "container" => [&["image"][..], &below_core].concat(),
        // They read the views of the others.
        "stats" | "health" => [&["pod", "container", "image"][..], &below_core].concat(),
        "image" => below_core,
        _ if HANDS.contains(&module) || BASE.contains(&module) => below_hands,
        "sys" => Vec::new(),
        other => panic!("module {other} has no layer: add it here and in ARCHITECTURE.md"),
    }
}

#[test]
fn dependencies_of_the_daemon_point_downwards() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(module) = source.module().filter(|_| !source.is_test()) else { continue };
        let may = allowed(module);
        for path in imports(&source.code) {
            let (name, part) = path.split_once("::").unwrap_or((&path, ""));
            // Plain request types are free to all.
            if name != module && !may.contains(&name) && part != "spec" {
                wrong.push(format!("{} names crate::{path}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files outside `allowed` whose code has `word`.
fn only_in(word: &str, within: &str, allowed: impl Fn(&str) -> bool) {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path.starts_with(within) && !allowed(&source.path))
        .filter(|source| has_word(&source.code, word))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "`{word}` in {}", wrong.join(", "));
}

#[test]
fn wire_types_stay_at_the_edge() {
    only_in("pb", "src/", |path| path.starts_with("src/cri"));
    only_in("tonic", "src/", |path| path.starts_with("src/cri") || path == "src/daemon.rs");
}

#[test]
fn status_codes_are_known_to_one_file() {
    // The layer reads them for its log line; only status.rs chooses one.
    only_in("Code", "src/", |path| matches!(path, "src/cri/status.rs" | "src/cri/layer.rs"));
}

#[test]
fn unsafe_code_is_fenced() {
    let fence = |path: &str| path.starts_with("src/sys") || path == "conmon/src/sys.rs";
    only_in("unsafe", "", fence);
    only_in("unsafe_code", "", fence);
}

#[test]
fn every_unsafe_block_argues_its_case() {
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code.lines().enumerate() {
            if !has_word(line, "unsafe") || has_word(line, "unsafe_code") {
                continue;
            }
            // Upwards over the statement that the block is in, to the comment above it.
            let above = lines[..=number].iter().rev().take(12);
            let argued = above
                .take_while(|line| !line.trim().is_empty())
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(argued, "{}:{} has no SAFETY comment", source.path, number + 1);
        }
    }
}

#[test]
fn state_tables_and_specs_are_pure() {
    for source in sources() {
        let pure =
            ["/state.rs", "/spec.rs", "/oci.rs"].iter().any(|end| source.path.ends_with(end));
        let pure = pure || source.path.contains("/oci/") && !source.is_test();
        if source.module().is_none() || !pure {
            continue;
        }
        for word in ["tokio", "std::fs", "std::process", "async", "await"] {
            assert!(!has_word(&source.code, word), "`{word}` in {}", source.path);
        }
    }
}

#[test]
fn the_registry_never_waits() {
    only_in("async", "src/registry", |_| false);
}

#[test]
fn archives_are_taken_apart_in_one_place() {
    let within = |path: &str| path.starts_with("src/image/unpack/");
    for word in ["zstd", "MultiGzDecoder", "GzDecoder"] {
        only_in(word, "src/", |path| within(path) || path.contains("/tests"));
    }
    // What the daemon has of that is pipes and messages.
    for path in ["src/image/unpack.rs", "src/image/unpack/unpacker.rs"] {
        let all = sources();
        let source = all.iter().find(|source| source.path == path).expect("it is there");
        for word in ["Archive", "Inflated", "Frames", "Tree::open", "Tree::over"] {
            assert!(!source.code.contains(word), "{word} in {path}");
        }
    }
}

#[test]
fn conmon_and_cni_do_not_know_the_daemon() {
    only_in("crisol", "conmon/", |_| false);
    only_in("crisol", "cni/", |_| false);
    for package in ["conmon", "cni"] {
        let manifest = repository().join(package).join("Cargo.toml");
        let text = fs::read_to_string(manifest).expect("manifest is readable");
        assert!(!text.contains("crisol"), "{package}/Cargo.toml names crisol");
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for source in sources() {
        let first = source.text.lines().next().unwrap_or_default();
        let is_root = source.path == "src/lib.rs"; // its docs are ARCHITECTURE.md
        let said = first.strip_prefix("//!").map(str::trim).unwrap_or_default();
        // The tests beside a file are explained by that file.
        assert!(
            is_root || said.len() > 10 || source.is_test(),
            "{} has no module docs",
            source.path
        );
        assert!(!said.starts_with("Placeholder"), "{} is a placeholder", source.path);
    }
    assert!(sources().iter().all(|source| !source.path.ends_with("/mod.rs")), "mod.rs");
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.code.lines().count() - trailing_blank(&source.code);
        if lines > FILE_LINES {
            wrong.push(format!("{} has {lines} lines", source.path));
        }
        for (name, lines) in functions(&source.code) {
            if lines > FUNCTION_LINES {
                wrong.push(format!("{}: {name} has {lines} lines", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn trailing_blank(code: &str) -> usize {
    code.lines().rev().take_while(|line| line.trim().is_empty()).count()
}

/// Names and lengths of all functions.
fn functions(code: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + 3..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = rest.find('{') else { continue };
        // A declaration without a body, or a function pointer type.
        if name.is_empty() || rest[..open].contains(';') {
            continue;
        }
        found.insert(name, rest[..closing(rest, open)].lines().count());
    }
    found
}

#[test]
fn names_say_what_a_thing_is() {
    const EMPTY: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "manager", "misc"];
    for source in sources() {
        for part in Path::new(&source.path).iter().filter_map(|part| part.to_str()) {
            let stem = part.trim_end_matches(".rs");
            assert!(!EMPTY.contains(&stem), "{}", source.path);
        }
    }
    // "Sandbox" is the CRI's word; inside the daemon it is a pod.
    let inside = |path: &str| !path.starts_with("src/cri");
    for source in sources().iter().filter(|source| source.module().is_some()) {
        let code = source.code.to_lowercase();
        assert!(!inside(&source.path) || !code.contains("sandbox"), "sandbox in {}", source.path);
    }
}

#[test]
fn nothing_is_unfinished_or_ignored() {
    for source in sources() {
        for word in ["todo!", "unimplemented!", "dbg!", "#[ignore]", "#[should_panic]"] {
            assert!(!source.code.contains(word), "{word} in {}", source.path);
        }
        for (number, line) in source.text.lines().enumerate() {
            let comment = line.split_once("//").map(|(_, comment)| comment).unwrap_or_default();
            let unfinished = ["TODO", "FIXME", "XXX", "HACK"].iter().find(|w| has_word(comment, w));
            assert!(unfinished.is_none(), "{}:{} {line}", source.path, number + 1);
        }
    }
}

#[test]
fn an_error_never_prints_its_source() {
    // `#[error("… {source}")]`: the chain would say it twice.
    for source in sources().iter().filter(|source| !source.path.starts_with("e2e/")) {
        let text: Vec<&str> = source.text.lines().collect();
        for (number, line) in text.iter().enumerate() {
            if line.contains("#[error(") {
                assert!(
                    !line.contains("{source"),
                    "{}:{} prints its source",
                    source.path,
                    number + 1
                );
            }
        }
    }
}

#[test]
fn unwrap_is_for_tests() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        if source.path.starts_with("e2e/") {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            if line.contains(".unwrap()") || line.contains("panic!(") {
                wrong.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    // One place may: no random numbers from the kernel means no identity for anything.
    wrong.retain(|place| !place.starts_with("src/ids.rs"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_sees_code_and_only_code() {
    let text = "let a = \"unsafe // { \\\" \"; // unsafe\nlet r = r#\"pb \"quoted\" \"#; '\\'' 'x' &'a str\n";
    let code = without_comments_and_strings(text);
    assert!(!code.contains("unsafe") && !code.contains("pb") && code.contains("&'a str"), "{code}");
    assert_eq!(code.lines().count(), 2);
    let code = without_tests("a\n#[cfg(test)]\nmod tests {\n  fn f() { unwrap }\n}\nb\n");
    assert_eq!(code, "a\n\n\n\n\nb\n");
    assert_eq!(without_tests("#[cfg(test)]\nmod tests;\nb"), "\n\nb");
    assert_eq!(
        imports("use crate::pod::Pod; use crate::{a::{b, c}, d, e::f::g}; $crate::x; crate::ids"),
        ["a::", "d", "e::f", "ids", "pod::Pod"]
    );
    let code = "fn one() {\n  x\n}\ntrait T { fn none(); }\nfn two(f: fn() -> u8) -> Y\n{\n}\n";
    let lengths = functions(code);
    assert_eq!((lengths["one"], lengths["two"]), (3, 3));
}
