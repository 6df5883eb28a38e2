//! The files of the project and what is written in them.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// All files with this ending, apart from what was built or installed.
pub fn files(ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "node_modules", ".git"].contains(&name.as_str()) {
                    walk(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), ending, &mut found);
    found.sort();
    found
}

/// The cells of the rows of the first table below a line, which comes before the next heading.
pub fn rows_below(text: &str, line: &str) -> Vec<Vec<String>> {
    let (_, below) = text
        .split_once(&format!("{line}\n"))
        .unwrap_or_else(|| panic!("there is no line {line:?}"));
    below
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .skip(2)
        .map(|line| {
            let cells = line.split('|');
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

/// Text outside of fenced blocks.
pub fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The lines of all fenced blocks of a language.
pub fn blocks(text: &str, language: &str) -> String {
    text.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// Words made of these characters.
pub fn words<'t>(text: &'t str, of: impl Fn(char) -> bool + 't) -> impl Iterator<Item = &'t str> {
    text.split(move |c| !of(c)).filter(|word| !word.is_empty())
}
