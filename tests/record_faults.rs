//! Recording when something is wrong: a folder that another recorder holds, a spool that is damaged or cannot
//! be written, a bar that the database refuses.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::RedisServer;
use common::process::output;
use common::recorder::Recorder;

#[test]
fn a_folder_belongs_to_one_recorder() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (spool, days) = (path("spool"), path("days"));
    let recorder = Recorder::start(&redis, &["--parquet", &days, "--spool", &spool]);
    let url = redis.url();
    let other = path("other");
    for (flag, held, rest) in [
        ("--parquet", &days, ["--spool", &other]),
        ("--spool", &spool, ["--parquet", &other]),
    ] {
        let second = ["record", "--redis-url", &url, flag, held];
        let ended = output(&[&second[..], &rest].concat(), &[]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(flag) && said.contains(held.as_str()),
            "{said}"
        );
    }
    // The lock ends with its holder, also one that was killed.
    let Recorder { mut process, .. } = recorder;
    process.kill();
    let again = Recorder::start(&redis, &["--parquet", &days, "--spool", &spool]);
    assert_eq!(again.end(), Some(0));
}
