//! The habits of ARCHITECTURE.md that can be measured: short files and functions, imports that point one
//! way, nothing left for later. Tests inside of files count as part of them, but may unwrap.

use std::collections::BTreeSet;

use crate::pages::{files, read, root, words};

/// The longest file, in lines: about 400, and some room for one that is a single concept.
const FILE_LINES: usize = 450;
/// The longest function, in lines: about 70, and some room for what rustfmt spreads.
const FUNCTION_LINES: usize = 80;
/// Longer functions, and why they may be.
const LONG_FUNCTIONS: [(&str, &str, &str); 1] = [(
    "src/metrics.rs",
    "register",
    "a table: name, help and counter of every metric, which is easiest to read in one place",
)];

/// What does the network and the waiting: the words and the core are tested and benched without.
const IO: [&str; 7] = [
    "fastwebsockets",
    "hyper",
    "hyper_util",
    "redis",
    "socket2",
    "tokio",
    "tokio_util",
];
/// Words: they know nothing but themselves.
const WORDS: [&str; 3] = ["src/bar/", "src/history/", "src/aggregate/"];
/// The hot path.
const CORE: [&str; 10] = [
    "src/gateway/hub/",
    "src/gateway/ws/",
    "src/gateway/batch.rs",
    "src/gateway/interest.rs",
    "src/gateway/lag.rs",
    "src/gateway/missed.rs",
    "src/gateway/outbox.rs",
    "src/gateway/protocol.rs",
    "src/gateway/registry.rs",
    "src/gateway/watching.rs",
];
/// Where bars come in and go out, which knows the core and is not known by it.
const EDGES: [&str; 24] = [
    "bus",
    "check",
    "cli",
    "client",
    "closing",
    "cors",
    "feed",
    "generator",
    "http",
    "ingest",
    "load",
    "mailbox",
    "node",
    "patterns",
    "placeholders",
    "reading",
    "record",
    "replay",
    "run",
    "session",
    "subscribe",
    "tail",
    "udf",
    "worker",
];
/// What the core may know beside itself and the words may not.
const OF_THE_CORE: [&str; 2] = ["gateway", "metrics"];

/// A source file: its path from the root, and its lines.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, rooms: &[&str]) -> bool {
        rooms.iter().any(|room| self.path.starts_with(room))
    }

    /// Number and text of each line that is code.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = (1..).zip(self.text.lines());
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Number and segments of each path in the code, as `crate::bar::Topic`.
    fn paths(&self) -> impl Iterator<Item = (usize, Vec<&str>)> {
        self.code().flat_map(|(number, line)| {
            let names = words(line, |c| c.is_ascii_alphanumeric() || "_:".contains(c));
            let paths = names.filter(|name| name.contains("::"));
            paths.map(move |path| (number, path.split("::").collect()))
        })
    }

    /// Line, name and length of each function, by rustfmt's indentation.
    fn functions(&self) -> Vec<(usize, &str, usize)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let Some(name) = function(code) else { continue };
            // Of one line, or declared without a body.
            let ends = |line: &&str| line.ends_with('}') || line.ends_with(';');
            let rest = lines[start..].iter();
            let at = rest.take_while(|line| {
                let here = line.len() - line.trim_start().len() == indent;
                !(here && ends(line))
            });
            found.push((start + 1, name, at.count() + 1));
        }
        found
    }
}

/// The name of the function that begins in this line.
fn function(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "const", "async"];
    let begins = before
        .split_whitespace()
        .all(|word| qualifiers.contains(&word));
    let name = after.split(['(', '<']).next()?;
    (begins && after.contains(['(', '<'])).then_some(name)
}

/// The sources of both packages, without their tests.
fn sources() -> Vec<Source> {
    let paths = files(".rs").into_iter().map(|file| {
        let path = file.strip_prefix(root()).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let ours = paths.filter(|path| path.starts_with("src/") || path.starts_with("loadtest/src/"));
    let sources: Vec<_> = ours
        .map(|path| Source {
            text: read(&path),
            path,
        })
        .collect();
    assert!(sources.len() > 100, "only {} sources", sources.len());
    for room in WORDS.iter().chain(&CORE) {
        let found = sources.iter().any(|source| source.is_in(&[room]));
        assert!(found, "{room} is gone: tests/docs/style.rs names it");
    }
    sources
}

fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}\n{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    let faults: Vec<_> = sources()
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > FILE_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    let rule =
        format!("No file has more than {FILE_LINES} lines: look for the second concept in it.");
    none(&faults, &rule);
}

#[test]
fn functions_are_short() {
    let mut faults = Vec::new();
    let mut excused = BTreeSet::new();
    for source in sources() {
        for (line, name, lines) in source.functions() {
            let known = |(path, other, _): &&_| *path == source.path && *other == name;
            match LONG_FUNCTIONS.iter().find(known) {
                _ if lines <= FUNCTION_LINES => {}
                Some((path, name, _)) => _ = excused.insert((*path, *name)),
                None => faults.push(format!("{}:{line}: {name}: {lines} lines", source.path)),
            }
        }
    }
    let rule = format!(
        "No function has more than {FUNCTION_LINES} lines: look for the step in it that has a name."
    );
    none(&faults, &rule);
    for (path, name, _) in LONG_FUNCTIONS {
        assert!(
            excused.contains(&(path, name)),
            "{path}: {name} needs no excuse any more: take it out of tests/docs/style.rs"
        );
    }
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    let mut faults = Vec::new();
    for source in sources()
        .into_iter()
        .filter(|s| !s.path.ends_with("tests.rs"))
    {
        let code = source.code();
        let code = code.take_while(|(_, line)| line.trim() != "#[cfg(test)]");
        for (number, line) in code.filter(|(_, line)| line.contains(".unwrap()")) {
            faults.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    none(
        &faults,
        "Outside of tests an error is handled, or `expect` says in words why there is none.",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let mut words = words(line, |c| c.is_ascii_alphanumeric() || "_!".contains(c));
            if words.any(|word| ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"].contains(&word))
            {
                faults.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none(
        &faults,
        "What is missing is an issue, not a note in the source.",
    );
}

#[test]
fn imports_point_one_way() {
    let mut faults = Vec::new();
    for source in sources() {
        let of_words = source.is_in(&WORDS);
        if !of_words && !source.is_in(&CORE) {
            continue;
        }
        for (number, path) in source.paths() {
            // Beside a file of the words are only words.
            let ours = path[0] == "crate" || (path[0] == "super" && !of_words);
            let rooms = &path[1..];
            let known = |names: &[&str]| rooms.iter().any(|room| names.contains(room));
            if IO.contains(&path[0])
                || (ours && known(&EDGES))
                || (ours && of_words && known(&OF_THE_CORE))
            {
                faults.push(format!("{}:{number}: {}", source.path, path.join("::")));
            }
        }
    }
    none(
        &faults,
        "Imports point from the edges to the core to the words, and neither core nor words do I/O (ARCHITECTURE.md, The rooms).",
    );
}

#[test]
fn the_load_test_knows_the_words_alone() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, path) in source.paths() {
            let foreign = path[0] == "barcast" && path[1] != "bar";
            if foreign && source.is_in(&["loadtest/"]) {
                faults.push(format!("{}:{number}: {}", source.path, path.join("::")));
            }
        }
    }
    none(
        &faults,
        "loadtest measures from outside: of barcast it uses the words (`barcast::bar`) alone.",
    );
}
