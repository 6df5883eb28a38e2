//! The command line: what help tells, what a wrong value costs, what is never shown.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::TcpListener;
use std::process::Output;

use barcast::cli::Cli;
use clap::CommandFactory;
use common::process::{Process, Serve, output};
use common::{RedisServer, eventually_blocking};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The one line of an error; fails when there is more, or anything on stdout.
fn one_line(output: &Output, code: i32) -> &str {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert_eq!(out, "");
    let line = err.strip_suffix('\n').expect(err);
    assert!(!line.contains('\n') && line.starts_with("error: "), "{err}");
    line
}

/// Flags that are not settings.
const NO_SETTINGS: [&str; 2] = ["help", "version"];

#[test]
fn help_of_every_command_shows_every_flag_its_variable_and_default() {
    let root = <Cli as CommandFactory>::command();
    let commands = std::iter::once((None, &root)).chain(
        root.get_subcommands()
            .map(|command| (Some(command.get_name()), command)),
    );
    let mut flags = 0;
    for (name, command) in commands {
        let arguments: Vec<_> = name.into_iter().chain(["--help"]).collect();
        let output = output(&arguments, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        // As one paragraph, whatever the width was.
        let help: Vec<_> = text(&output.stdout).split_whitespace().collect();
        let help = help.join(" ");
        for argument in command.get_arguments() {
            let Some(long) = argument
                .get_long()
                .filter(|long| !NO_SETTINGS.contains(long))
            else {
                continue;
            };
            flags += 1;
            // A switch takes no value.
            let start = help
                .find(&format!("--{long} "))
                .unwrap_or_else(|| panic!("{long}: {help}"));
            let end = help[start + 2..]
                .find(" --")
                .map_or(help.len(), |at| start + 2 + at);
            let told = &help[start..end];
            let variable = argument.get_env().expect(long).to_str().unwrap();
            assert!(
                told.contains(&format!("[env: {variable}")),
                "{name:?} {told}"
            );
            assert!(
                told.contains("[default: ") || told.contains("none without it"),
                "{told}"
            );
        }
    }
    assert!(flags > 40, "{flags} flags seen");
}

#[test]
fn version_is_told() {
    let output = output(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let expected = format!("barcast {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn a_bad_value_is_one_line_that_names_it_and_what_is_allowed() {
    for (command, flag, variable, value, allowed) in [
        (
            "serve",
            "--listen",
            "BARCAST_LISTEN",
            "nowhere",
            "127.0.0.1:8000",
        ),
        (
            "serve",
            "--listen",
            "BARCAST_LISTEN",
            "127.0.0.1:99999",
            "allowed",
        ),
        ("serve", "--workers", "BARCAST_WORKERS", "0", "1 to 1024"),
        ("serve", "--workers", "BARCAST_WORKERS", "two", "1 to 1024"),
        (
            "serve",
            "--max-clients",
            "BARCAST_MAX_CLIENTS",
            "0",
            "from 1",
        ),
        (
            "serve",
            "--max-clients-per-address",
            "BARCAST_MAX_CLIENTS_PER_ADDRESS",
            "x",
            "from 0",
        ),
        (
            "serve",
            "--max-topics-per-client",
            "BARCAST_MAX_TOPICS_PER_CLIENT",
            "0",
            "from 1",
        ),
        ("serve", "--max-topics", "BARCAST_MAX_TOPICS", "-", "from 1"),
        (
            "serve",
            "--max-message-bytes",
            "BARCAST_MAX_MESSAGE_BYTES",
            "4k",
            "from 1",
        ),
        (
            "serve",
            "--max-messages-per-second",
            "BARCAST_MAX_MESSAGES_PER_SECOND",
            "0.5",
            "from 1",
        ),
        (
            "serve",
            "--handshake-timeout",
            "BARCAST_HANDSHAKE_TIMEOUT",
            "soon",
            "seconds",
        ),
        (
            "serve",
            "--ping-interval",
            "BARCAST_PING_INTERVAL",
            "0",
            "1 to 3600",
        ),
        (
            "serve",
            "--outbox-bytes",
            "BARCAST_OUTBOX_BYTES",
            "0",
            "from 1",
        ),
        (
            "serve",
            "--slow-grace",
            "BARCAST_SLOW_GRACE",
            "NaN",
            "seconds",
        ),
        (
            "serve",
            "--history-bars",
            "BARCAST_HISTORY_BARS",
            "1e3",
            "from 0",
        ),
        (
            "serve",
            "--symbols-file",
            "BARCAST_SYMBOLS_FILE",
            "/nowhere/symbols.toml",
            "cannot be read",
        ),
        (
            "dev",
            "--cors-origin",
            "BARCAST_CORS_ORIGIN",
            "https://charts.example.com/",
            "allowed: *",
        ),
        (
            "serve",
            "--drain-grace",
            "BARCAST_DRAIN_GRACE",
            "inf",
            "seconds",
        ),
        (
            "serve",
            "--log-format",
            "BARCAST_LOG_FORMAT",
            "xml",
            "text, json",
        ),
        ("serve", "--log-level", "RUST_LOG", "barcast=loud", "debug"),
        (
            "dev",
            "--listen",
            "BARCAST_LISTEN",
            "localhost",
            "127.0.0.1:8000",
        ),
        (
            "generate",
            "--symbols",
            "BAR_GENERATOR_SYMBOLS",
            "A B",
            "A-Z",
        ),
        (
            "generate",
            "--resolutions",
            "BAR_GENERATOR_RESOLUTIONS",
            "7",
            "240",
        ),
        (
            "generate",
            "--interval",
            "BAR_GENERATOR_INTERVAL",
            "0",
            "0.001 to 86400",
        ),
        (
            "generate",
            "--interval",
            "BAR_GENERATOR_INTERVAL",
            "fast",
            "0.001 to 86400",
        ),
        (
            "generate",
            "--publish",
            "BARCAST_GENERATOR_PUBLISH",
            "both",
            "single, batch",
        ),
        (
            "generate",
            "--compress",
            "BARCAST_GENERATOR_COMPRESS",
            "gzip",
            "zstd",
        ),
        (
            "generate",
            "--health-listen",
            "BARCAST_GENERATOR_HEALTH_LISTEN",
            "9100",
            "port",
        ),
        (
            "record",
            "--spool-bytes",
            "BARCAST_RECORD_SPOOL_BYTES",
            "1000",
            "from 4194304",
        ),
        (
            "record",
            "--parquet-interval",
            "BARCAST_RECORD_PARQUET_INTERVAL",
            "0",
            "0.001 to 86400",
        ),
        (
            "replay",
            "--topics",
            "BARCAST_REPLAY_TOPICS",
            "AAPL:7",
            "allowed: bars:AAPL:1",
        ),
        (
            "replay",
            "--from",
            "BARCAST_REPLAY_FROM",
            "yesterday",
            "ISO 8601",
        ),
    ] {
        let by_flag = output(&[command, &format!("{flag}={value}")], &[]);
        let by_variable = output(&[command], &[(variable, value)]);
        for output in [by_flag, by_variable] {
            let line = one_line(&output, 2);
            for part in [flag, variable, &format!("{value:?}"), allowed] {
                assert!(line.contains(part), "{part} is not in: {line}");
            }
        }
    }
}

#[test]
fn a_wrong_symbols_file_is_one_line_with_file_key_value_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("symbols.toml");
    let path = path.to_str().unwrap();
    for (file, parts) in [
        (
            "[symbols.AAPL]\nsession = \"9 to 5\"",
            ["symbols.\"AAPL\".session", "\"9 to 5\"", "0930-1600"],
        ),
        ("[symbols.AAPL]\nname = 1", ["AAPL", "name", "allowed: "]),
        ("[symbols", ["line 1", "no TOML", ": "]),
    ] {
        std::fs::write(path, file).unwrap();
        for command in ["serve", "dev"] {
            let output = output(&[command, "--symbols-file", path], &[]);
            let line = one_line(&output, 2);
            for part in parts.into_iter().chain([path, "--symbols-file"]) {
                assert!(line.contains(part), "{part} is not in: {line}");
            }
        }
    }
}

#[test]
fn the_flag_wins_over_the_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let output = output(
        &["serve", "--listen", &listen],
        &[("BARCAST_LISTEN", "nonsense")],
    );
    // Got as far as binding, so the variable's value was not looked at.
    assert!(one_line(&output, 1).contains(&listen));
    drop(taken);
}

#[test]
fn a_flag_that_is_unknown_or_lacks_its_value_is_one_line() {
    for arguments in [
        &["--colour"][..],
        &["serve", "--listen"],
        &["fly"],
        &["replay"],
    ] {
        let output = output(arguments, &[]);
        let line = one_line(&output, 2);
        assert!(line.len() > "error: ".len() + 10, "{line}");
    }
}

#[test]
fn a_taken_port_is_one_line_and_no_panic() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in [&["serve"][..], &["dev"], &[]] {
        let arguments: Vec<_> = command
            .iter()
            .copied()
            .chain(["--listen", &address])
            .collect();
        let output = output(&arguments, &[]);
        let line = one_line(&output, 1);
        for part in [address.as_str(), "--listen", "BARCAST_LISTEN", "in use"] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
}

/// Two gateways must not share a port, though both bind it for sharing among their workers.
#[test]
fn the_port_of_a_running_gateway_is_taken() {
    let redis = RedisServer::absent();
    let serve = Serve::start(&redis.url(), &[]);
    let output = output(&["serve", "--listen", &serve.address.to_string()], &[]);
    assert!(one_line(&output, 1).contains("in use"));
}

const SECRET: &str = "s3cr3t-pa55";

#[test]
fn a_bad_redis_url_is_refused_without_showing_its_password() {
    for (url, command) in [
        (format!("http://user:{SECRET}@127.0.0.1:6379"), "serve"),
        (format!("redis://user:{SECRET}@127.0.0.1:port"), "serve"),
        (
            format!("redis://user:{SECRET}@127.0.0.1:6379/database"),
            "generate",
        ),
        (format!("redis://:{SECRET}"), "serve"),
        (format!("redis//:{SECRET}@127.0.0.1"), "generate"),
        (SECRET.to_owned(), "serve"),
    ] {
        let by_flag = output(&[command, "--redis-url", &url], &[]);
        let by_variable = output(&[command], &[("REDIS_URL", &url)]);
        for output in [by_flag, by_variable] {
            let line = one_line(&output, 2);
            assert!(!line.contains(SECRET), "{line}");
            for part in ["--redis-url", "REDIS_URL", "redis://", "rediss://", "unix:"] {
                assert!(line.contains(part), "{part} is not in: {line}");
            }
        }
    }
    let url = format!("redis://user:{SECRET}@127.0.0.1:6379");
    for command in ["serve", "generate", "replay"] {
        let help = output(&[command, "--help"], &[("REDIS_URL", &url)]);
        assert!(!text(&help.stdout).contains(SECRET));
    }
}

#[test]
fn no_log_shows_the_password() {
    let redis = RedisServer::start_with(|_| vec!["--requirepass".to_owned(), "another".to_owned()]);
    let nobody = RedisServer::absent();
    for (port, says) in [(nobody.port(), "cannot"), (redis.port(), "cannot")] {
        let url = format!("redis://:{SECRET}@127.0.0.1:{port}/3");
        let serve = Serve::start(&url, &["--log-level", "trace"]);
        let generator = Process::start(&[
            "generate",
            "--redis-url",
            &url,
            "--interval",
            "0.05",
            "--log-level",
            "trace",
        ]);
        eventually_blocking("both say that they cannot connect", || {
            serve.process.log().contains(says) && generator.log().contains(says)
        });
        for log in [serve.process.log(), generator.log()] {
            assert!(log.contains(&format!("127.0.0.1:{port}")), "{log}");
            assert!(!log.contains(SECRET), "{log}");
        }
    }
}
