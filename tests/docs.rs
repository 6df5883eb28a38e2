//! The documents say what is so: links, settings, metrics, close codes, routes, commands and bounds are
//! compared with the files, the binary and the source. The programs of docs/clients.md are run by
//! tests/python/test_clients_doc.py.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use barcast::gateway::ws::CloseCode;

/// After this something that should happen has not.
const DEADLINE: Duration = Duration::from_secs(30);
/// Nobody listens there: no server may have this port. What is asked here needs no Redis.
const NO_REDIS: &str = "redis://127.0.0.1:1";
/// Variables of the documents and tests that are not the binary's.
const NOT_SETTINGS: [&str; 2] = ["BARCAST_URL", "BARCAST_BIN"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// All files with this ending, apart from what was built or installed.
fn files(ending: &str) -> Vec<PathBuf> {
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

/// The cells of the table rows below a line, up to the next heading.
fn rows_below(text: &str, line: &str) -> Vec<Vec<String>> {
    let (_, below) = text
        .split_once(&format!("{line}\n"))
        .unwrap_or_else(|| panic!("there is no line {line:?}"));
    below
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .skip(2)
        .map(|line| {
            let cells = line.split('|');
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

/// Text outside of fenced blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The lines of all fenced blocks of a language.
fn blocks(text: &str, language: &str) -> String {
    text.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// Words made of these characters.
fn words<'t>(text: &'t str, of: impl Fn(char) -> bool + 't) -> impl Iterator<Item = &'t str> {
    text.split(move |c| !of(c)).filter(|word| !word.is_empty())
}

// ---- links -------------------------------------------------------------------------------------

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

fn fault_of_link(from: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, part) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => from.to_owned(),
        path => from.parent().unwrap().join(path),
    };
    if !file.exists() {
        return Some("there is no such file".to_owned());
    }
    if part.is_empty() {
        return None;
    }
    let text = prose(&fs::read_to_string(file).unwrap());
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    (!headings.any(|heading| anchor(heading) == part))
        .then(|| format!("there is no heading for #{part}"))
}

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in files(".md") {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for after in text.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap();
            count += 1;
            if let Some(fault) = fault_of_link(&page, target) {
                faults.push(format!("{}: {target}: {fault}", page.display()));
            }
        }
    }
    assert!(count > 10, "only {count} links were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// ---- settings ----------------------------------------------------------------------------------

fn barcast() -> Command {
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

// ---- what a running process says ---------------------------------------------------------------

/// A process of ours, ended on drop.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts `barcast` and waits until its log tells an address.
    fn start(arguments: &[&str]) -> Self {
        let mut child = barcast()
            .args(arguments)
            .args(["--redis-url", NO_REDIS, "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        // Reads to the end, so that the process never waits for its log to be read.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let address = line
                    .split_once("\"address\":\"")
                    .and_then(|(_, after)| after.split('"').next()?.parse().ok());
                if let Some(address) = address {
                    // Nobody waits for a second one.
                    let _ = sender.send(address);
                }
            }
        });
        let address = receiver.recv_timeout(DEADLINE);
        if address.is_err() {
            child.kill().unwrap();
        }
        let address = address.expect("the log tells an address in time");
        let process = Self { child, address };
        assert_ne!(address.port(), 0, "the log tells the port that 0 became");
        process
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway() -> Process {
    Process::start(&["serve", "--listen", "127.0.0.1:0", "--workers", "1"])
}

fn ingest() -> Process {
    Process::start(&[
        "ingest",
        "--stream",
        "trades",
        "--health-listen",
        "127.0.0.1:0",
    ])
}

fn generator() -> Process {
    Process::start(&["generate", "--health-listen", "127.0.0.1:0"])
}

/// Name, type and labels of every metric in an OpenMetrics text, and the values of its labels.
fn metrics(text: &str) -> (BTreeSet<[String; 3]>, BTreeSet<String>) {
    let mut names = BTreeSet::new();
    let mut values = BTreeSet::new();
    for line in text.lines() {
        let Some(described) = line.strip_prefix("# TYPE ") else {
            continue;
        };
        let (name, kind) = described.split_once(' ').unwrap();
        let name = match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        };
        let mut label = String::new();
        for sample in text.lines() {
            let labels = sample
                .strip_prefix(name.as_str())
                .and_then(|rest| rest.strip_prefix('{')?.split_once("\"}"));
            if let Some((pair, _)) = labels {
                let pairs = pair
                    .split("\",")
                    .map(|pair| pair.split_once("=\"").unwrap());
                let (keys, told): (Vec<_>, Vec<_>) = pairs.unzip();
                label = keys.join(", ");
                values.extend(told.into_iter().map(str::to_owned));
            }
        }
        names.insert([name, kind.to_owned(), label]);
    }
    (names, values)
}

fn metrics_in_readme(heading: &str) -> BTreeSet<[String; 3]> {
    let rows = rows_below(&read("README.md"), heading);
    let listed: BTreeSet<_> = rows
        .iter()
        .map(|row| [row[0].clone(), row[1].clone(), row[2].clone()])
        .collect();
    assert_eq!(listed.len(), rows.len(), "a metric is listed twice");
    listed
}

#[test]
fn the_readme_lists_every_metric_of_a_gateway() {
    let (exposed, label_values) = metrics(&gateway().get("/metrics").1);
    let listed = metrics_in_readme("### Metrics of a gateway");
    assert_eq!(listed, exposed, "left: README.md, right: /metrics");
    let told = read("README.md") + &read("docs/protocol.md");
    let told: BTreeSet<_> = words(&told, |c| c.is_ascii_alphanumeric() || c == '_').collect();
    for value in label_values {
        assert!(
            told.contains(value.as_str()),
            "{value} is explained nowhere"
        );
    }
}

#[test]
fn the_readme_lists_every_metric_of_a_generator() {
    let (exposed, _) = metrics(&generator().get("/metrics").1);
    let listed = metrics_in_readme("### Metrics of a generator");
    assert_eq!(listed, exposed, "left: README.md, right: /metrics");
}

#[test]
fn the_readme_lists_every_metric_of_an_ingest() {
    let (mut exposed, _) = metrics(&ingest().get("/metrics").1);
    let shared = metrics_in_readme("### Metrics of a generator");
    assert!(exposed.is_superset(&shared), "a generator's are among them");
    exposed.retain(|metric| !shared.contains(metric));
    let listed = metrics_in_readme("### Metrics of an ingest");
    assert_eq!(listed, exposed, "left: README.md, right: /metrics");
}

#[test]
fn the_routes_are_there() {
    let gateway = gateway();
    let rows = rows_below(&read("docs/protocol.md"), "## HTTP");
    assert!(rows.len() >= 5, "{rows:?}");
    for row in rows {
        let (status, _) = gateway.get(&row[0]);
        // Without a Redis the gateway is alive but not ready.
        let expected = if row[0] == "/readyz" { 503 } else { 200 };
        assert_eq!(status, expected, "{}", row[0]);
    }
    for path in ["/ws", "/api/v1/ws"] {
        assert_eq!(gateway.get(path).0, 426, "{path}");
    }
}

#[test]
fn every_close_code_is_explained() {
    let codes: BTreeSet<String> = CloseCode::ALL.iter().map(ToString::to_string).collect();
    let rows = rows_below(&read("docs/protocol.md"), "### Close codes");
    let explained: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(explained, codes, "left: docs/protocol.md, right: CloseCode");
    let readme = read("README.md");
    let numbers: BTreeSet<_> = words(&readme, |c| c.is_ascii_digit()).collect();
    for code in &codes {
        assert!(numbers.contains(code.as_str()), "README.md: {code}");
    }
}

// ---- bounds ------------------------------------------------------------------------------------

/// A constant's expression as a person would write it, where it is simple enough.
fn for_people(expression: &str) -> Option<String> {
    let inside = |start: &str| expression.strip_prefix(start)?.strip_suffix(')');
    if let Some(seconds) = inside("Duration::from_secs(") {
        return Some(format!("{} s", for_people(seconds)?));
    }
    if let Some(millis) = inside("Duration::from_millis(") {
        return Some(format!("{} ms", for_people(millis)?));
    }
    if let Some((number, shift)) = expression.split_once(" << ") {
        return Some(match (number, shift) {
            ("1", "20") => "1 MiB or 1,048,576".to_owned(),
            (number, "20") => format!("{number} MiB"),
            (number, "10") => format!("{number} KiB"),
            _ => return None,
        });
    }
    let number = expression.strip_suffix(".0").unwrap_or(expression);
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    plain.then(|| number.replace('_', ","))
}

/// File, name and expression of every constant that bounds something.
fn constants() -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for file in files(".rs") {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
        if !path.starts_with("src/") {
            continue;
        }
        for line in read(path).lines() {
            let constant = line
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub ")
                .strip_prefix("const ");
            let parts = constant
                .and_then(|rest| rest.strip_suffix(';')?.split_once(": "))
                .and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)));
            if let Some((name, (_, expression))) = parts {
                found.insert((path.to_owned(), name.to_owned()), expression.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_bound_is_listed_with_its_value() {
    let constants = constants();
    let mut listed = BTreeSet::new();
    for row in rows_below(&read("ARCHITECTURE.md"), "<!-- bounds -->") {
        let [name, value, file, why] = row.as_slice() else {
            panic!("{row:?} should have four cells")
        };
        let expression = constants
            .get(&(file.clone(), name.clone()))
            .unwrap_or_else(|| panic!("ARCHITECTURE.md: {file} has no constant {name}"));
        if let Some(expected) = for_people(expression) {
            assert!(
                expected.split(" or ").any(|form| form == value),
                "ARCHITECTURE.md: {name} is {value}, in {file} it is {expression}"
            );
        }
        assert!(!why.is_empty(), "{name} has no reason");
        assert!(listed.insert((file.clone(), name.clone())), "{name} twice");
    }
    for (key, expression) in constants {
        let bound = key.1.starts_with("MAX_") || expression.starts_with("Duration::");
        let served = ["src/gateway/", "src/bus/", "src/bar/"];
        if bound && served.iter().any(|room| key.0.starts_with(room)) {
            assert!(
                listed.contains(&key),
                "ARCHITECTURE.md does not list {key:?} = {expression}"
            );
        }
    }
}
