//! What replay and ingest do with times ahead of the clock.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use barcast::ahead::MaxAhead;
use barcast::bar::Resolution;
use barcast::clock::now_ms;
use barcast::generator::pack::Form;
use barcast::replay::Speed;
use common::RedisServer;
use common::replay::{barcast, config, replayed};
use tempfile::TempDir;

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;
/// Monday 2024-01-01, 00:00 UTC, ms.
const START: i64 = 1_704_067_200_000;

fn file(folder: &TempDir, name: &str, times: impl IntoIterator<Item = i64>) -> PathBuf {
    let mut text = "time,open,high,low,close,volume\n".to_owned();
    for time in times {
        text += &format!("{time},1,1,1,1,1\n");
    }
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_played_faster_than_it_happened_ends_now() {
    let folder = tempfile::tempdir().unwrap();
    let minutes = file(&folder, "A_1.csv", (0..90).map(|n| START + n * MINUTE));
    let coarser = file(&folder, "B_5.csv", (0..10).map(|n| START + n * 5 * MINUTE));
    // 90 minutes take 0.9 s.
    for speed in [Speed::Times(6_000.0), Speed::Max] {
        let mut config = config(vec![minutes.clone(), coarser.clone()], Form::Single);
        (config.speed, config.rebase) = (speed, true);
        let (totals, messages) = replayed(config).await;
        let (totals, now) = (totals.unwrap(), now_ms());
        assert_eq!((totals.published, totals.future), (100, 0), "{speed}");
        for message in &messages {
            let published = i64::try_from(message.ts.unwrap() / 1_000).unwrap();
            let end = message.topic.resolution.next(message.bar.time());
            assert!(end <= published + 50, "{speed}: {message:?}");
        }
        let ends = messages
            .iter()
            .map(|m| m.topic.resolution.next(m.bar.time()));
        // On the grid of the coarsest.
        let since = now - ends.max().unwrap();
        assert!((0..6 * MINUTE).contains(&since), "{speed}: {since} ms ago");
    }
    // As it happened, the first one has just ended, as ever.
    let one = file(&folder, "C_1.csv", [START]);
    let mut config = config(vec![one], Form::Single);
    (config.speed, config.rebase) = (Speed::Times(1.0), true);
    let (_, messages) = replayed(config).await;
    let since = now_ms() - messages[0].bar.time();
    assert!((MINUTE..3 * MINUTE).contains(&since), "{since}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_the_future_is_refused_unless_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let now = Resolution::M1.floor(now_ms());
    let times = [START, now - MINUTE, now + 10 * MINUTE, now + 3_650 * DAY];
    let minutes = file(&folder, "A_1.csv", times);
    // A day more for days.
    let today = Resolution::Day.floor(now);
    let days = file(&folder, "A_D.csv", [today, today + DAY, today + 3 * DAY]);
    let files = vec![minutes, days];
    let (totals, messages) = replayed(config(files.clone(), Form::Single)).await;
    let totals = totals.unwrap();
    assert_eq!(
        (totals.published, totals.future, totals.bad_rows),
        (4, 3, 0)
    );
    // Who follows sees no hole.
    for resolution in [Resolution::M1, Resolution::Day] {
        let of = messages.iter().filter(|m| m.topic.resolution == resolution);
        let seqs: Vec<_> = of.map(|m| m.seq).collect();
        assert_eq!(seqs, [Some(1), Some(2)]);
    }
    let mut all = config(files, Form::Single);
    all.max_ahead = MaxAhead::OFF;
    let totals = replayed(all).await.0.unwrap();
    assert_eq!((totals.published, totals.future), (7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_names_what_it_refuses() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let future = Resolution::M1.floor(now_ms()) + 60 * MINUTE;
    let path = file(&folder, "A_1.csv", [future]);
    let (url, path) = (server.url(), path.to_str().unwrap().to_owned());
    let arguments = ["--redis-url", &url, "--speed", "max", &path];
    let (code, said) = barcast(&arguments);
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "bars:A:1",
        "time=\"20",
        "clock=\"20",
        "--max-ahead off",
        "future=1",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(server.command("EXISTS barcast:last").contains(":0"));
    let (code, said) = barcast(&[&arguments[..], &["--max-ahead", "off"]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(server.command("EXISTS barcast:last").contains(":1"));
    let (code, said) = barcast(&[&arguments[..], &["--max-ahead", "soon"]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("--max-ahead (BARCAST_MAX_AHEAD) = \"soon\"") && said.contains("or off"),
        "{said}"
    );
}

/// A pipe is read but once: its end is not known before.
#[test]
fn what_cannot_be_read_twice_is_not_rebased_at_more_than_1x() {
    for input in ["bars", "trades"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_barcast"))
            .args(["replay", "--input", input, "--rebase", "--speed", "60x"])
            .args(["--symbol", "A", "/dev/stdin"])
            .args(
                ["bars"]
                    .iter()
                    .filter(|_| input == "bars")
                    .flat_map(|_| ["--resolution", "1"]),
            )
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, b"time,open,high,low,close,volume\n").unwrap();
        drop(pipe);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains("--speed 1x"), "{said}");
    }
}
