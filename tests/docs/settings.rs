//! Flags, variables and commands of the documents are those of `--help`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use crate::pages::{blocks, files, read, root, rows_below, words};

/// Variables of the documents and tests that are not the binary's.
const NOT_SETTINGS: [&str; 1] = ["BARCAST_BIN"];

pub fn barcast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barcast"));
    // What is set here would show in --help and change what is started.
    command.env_clear().stdin(Stdio::null());
    command
}

fn help(command: &str) -> String {
    let mut barcast = barcast();
    if !command.is_empty() {
        barcast.arg(command);
    }
    let out = barcast.arg("--help").output().unwrap();
    assert!(out.status.success(), "{command} --help: {}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

fn commands() -> Vec<String> {
    let help = help("");
    let (_, below) = help.split_once("\nCommands:\n").unwrap();
    below
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Flag, variable and default.
type Setting = (String, String, String);

fn bracketed(text: &str, name: &str) -> String {
    text.split_once(&format!("[{name}: "))
        .and_then(|(_, after)| after.split_once(']'))
        .map_or_else(String::new, |(value, _)| value.trim_end_matches('=').into())
}

/// The settings that a command's `--help` shows, with the flags that every program has left out.
fn settings_of(command: &str) -> BTreeSet<Setting> {
    let mut found: Vec<Vec<String>> = Vec::new();
    for line in help(command).lines() {
        let line = line.trim();
        let flag = line
            .split([' ', ','])
            .find(|word| word.starts_with("--") && line.starts_with('-'));
        match (flag, found.last_mut()) {
            (Some(flag), _) => found.push(vec![flag.to_owned()]),
            (None, Some(last)) => last.push(line.to_owned()),
            (None, None) => {}
        }
    }
    found
        .into_iter()
        .filter(|lines| !["--help", "--version"].contains(&lines[0].as_str()))
        .map(|lines| {
            let text = lines[1..].join(" ");
            let (variable, default) = (bracketed(&text, "env"), bracketed(&text, "default"));
            (lines[0].clone(), variable, default)
        })
        .collect()
}

#[test]
fn the_readme_lists_every_setting_as_help_does() {
    let mut in_help: BTreeMap<Setting, Vec<String>> = BTreeMap::new();
    for command in commands() {
        for setting in settings_of(&command) {
            in_help.entry(setting).or_default().push(command.clone());
        }
    }
    assert_eq!(settings_of(""), settings_of("dev"), "dev is the default");

    let readme = read("README.md");
    let rows = rows_below(&readme, "## Configuration");
    let in_readme: BTreeMap<Setting, Vec<String>> = rows
        .iter()
        .map(|row| {
            let [flag, variable, default, commands, _] = row.as_slice() else {
                panic!("{row:?} should have five cells")
            };
            let setting = (flag.clone(), variable.clone(), default.clone());
            (setting, commands.split(", ").map(str::to_owned).collect())
        })
        .collect();
    assert_eq!(in_readme.len(), rows.len(), "a setting is listed twice");
    assert_eq!(in_readme, in_help, "left: README.md, right: --help");
}

#[test]
fn variables_that_are_named_anywhere_exist() {
    let known: BTreeSet<String> = commands()
        .iter()
        .flat_map(|command| settings_of(command))
        .map(|(_, variable, _)| variable)
        .collect();
    let mut pages = files(".md");
    pages.extend(["Dockerfile", "docker-compose.yml"].map(|name| root().join(name)));
    let deploy = root().join("deploy");
    pages.extend(
        files("")
            .into_iter()
            .filter(|file| file.starts_with(&deploy)),
    );
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for word in words(&text, |c| c.is_ascii_uppercase() || c == '_') {
            let ours = ["BARCAST_", "BAR_GENERATOR_", "REDIS_URL"]
                .iter()
                .any(|start| word.starts_with(start));
            // A family of variables is written as `BARCAST_*`.
            if ours && !word.ends_with('_') && !NOT_SETTINGS.contains(&word) {
                assert!(known.contains(word), "{}: {word}", page.display());
            }
        }
    }
}

#[test]
fn commands_in_the_documents_can_be_run() {
    let commands = commands();
    let mut count = 0;
    for page in files(".md") {
        let text = fs::read_to_string(&page).unwrap();
        for line in blocks(&text, "sh").lines() {
            let line = line.split(" #").next().unwrap().trim();
            // loadtest's own tests read its commands.
            let of_loadtest = line.contains("-p loadtest");
            let mut line = line.split_whitespace().peekable();
            let Some(program) = line.next() else { continue };
            if program.starts_with("scripts/") || program.starts_with(".ci/") {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::metadata(root().join(program)).map(|file| file.permissions().mode());
                assert!(mode.is_ok_and(|mode| mode & 0o111 != 0), "{program}");
                count += 1;
            }
            let ours = match program {
                "barcast" => true,
                "cargo" if line.peek() == Some(&"run") && !of_loadtest => {
                    line.any(|word| word == "--")
                }
                _ => false,
            };
            if !ours {
                continue;
            }
            count += 1;
            let command = line.next_if(|word| !word.starts_with('-')).unwrap_or("dev");
            assert!(commands.iter().any(|known| known == command), "{command}");
            let known = settings_of(command);
            for flag in line.filter(|word| word.starts_with("--")) {
                assert!(known.iter().any(|s| s.0 == flag), "{command} {flag}");
            }
        }
    }
    assert!(count >= 5, "only {count} commands were found");
}
