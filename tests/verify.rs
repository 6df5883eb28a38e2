//! `barcast verify` on a real PostgreSQL and the files of a real recorder: its three exit codes.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::gateway::{Candle, Feed};
use common::postgres::PostgresServer;
use common::process::output;
use common::recorder::{Recorder, closed};
use common::{RedisServer, free_port};

/// Exit code, lines of stdout and all of stderr.
fn verify(arguments: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let ended = output(&[&["verify"], arguments].concat(), &[]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = text(&ended.stdout).lines().map(str::to_owned).collect();
    (ended.status.code(), lines, text(&ended.stderr))
}

#[test]
fn what_differs_is_printed_and_is_the_exit_code() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start());
    let folder = tempfile::tempdir().unwrap();
    let (path, url) = (folder.path().to_str().unwrap(), database.url());
    let recorder = Recorder::start(&redis, &["--postgres-url", &url, "--parquet", path]);
    // Over two days, in more than one part; in the database's order "b" is not where it is in the file's.
    let bars = [
        closed("A", 0..3_000),
        closed("b", 0..3_000),
        closed("Z", 0..3),
    ]
    .concat();
    let mut feed = Feed::new(&redis.bus());
    for part in bars.chunks(500) {
        feed.all(part.iter().map(Candle::outgoing).collect());
    }
    recorder.until("barcast_record_closed_bars_total", 6_003);
    assert_eq!(recorder.end(), Some(0));

    let (code, lines, said) = verify(&[&url, path]);
    assert_eq!((code, lines.len()), (Some(0), 0), "{said}");
    assert!(said.contains("same=6003 differ=0"), "{said}");

    database.execute(
        "UPDATE barcast_bars SET close = 11.5, high = 12 WHERE symbol = 'A' AND close = 11;
         DELETE FROM barcast_bars WHERE symbol = 'b' AND close = 3009;
         INSERT INTO barcast_bars VALUES ('New', 'D', '2023-10-12Z', NULL, NULL, NULL, NULL, 0)",
    );
    let (code, lines, said) = verify(&[&url, path]);
    assert_eq!(code, Some(1), "{said}");
    let counts = "same=6001 differ=1 only_in_first=1 only_in_second=1 bad_rows=0,0";
    assert!(said.contains(counts), "{said}");
    let lines: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |at: usize| (lines[at]["symbol"].as_str(), lines[at]["time"].as_i64());
    let time = |minute: usize| Some(bars[minute].time);
    assert_eq!(lines.len(), 3);
    assert_eq!(told(0).0, Some("New"));
    assert!(lines[0]["second"].is_null());
    assert_eq!(told(1), (Some("A"), time(1)));
    assert_eq!(lines[1]["first"]["close"], 11.5);
    assert_eq!(lines[1]["second"]["close"], 11.0);
    assert_eq!(told(2), (Some("b"), time(2_999)));
    assert!(lines[2]["first"].is_null());

    // Of what is chosen nothing differs.
    let (code, _, said) = verify(&[
        &url,
        path,
        "--topics",
        "bars:Z:*,bars:b:1",
        "--to",
        "2023-10-13",
    ]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_cannot_be_compared_is_one_line_without_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("bars.parquet"), "nonsense").unwrap();
    let broken = broken.to_str().unwrap();
    let first = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/recorded/version-1.parquet"
    );
    let absent = format!("postgres://u:s3cr3t@127.0.0.1:{}/bars", free_port());
    let nowhere = format!("{empty}/nowhere");
    for (other, told) in [
        (absent.as_str(), "127.0.0.1"),
        (&nowhere, "nowhere"),
        (broken, "bars.parquet"),
        ("redis://u:s3cr3t@127.0.0.1", "allowed: postgres://"),
        ("postgres://u:s3cr3t@127.0.0.1:port/bars", "SOURCE"),
    ] {
        for sources in [[first, other], [other, first]] {
            let (code, _, said) = verify(&sources);
            assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
            assert!(said.contains(told) && !said.contains("s3cr3t"), "{said}");
        }
    }
    let (code, _, said) = verify(&[first, first]);
    assert_eq!(code, Some(0), "{said}");
}
