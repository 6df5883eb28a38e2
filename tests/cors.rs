//! Which pages of other origins may read public JSON.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use barcast::bus::{Bus, MemoryBus};
use barcast::gateway::Config;
use common::client::{Answer, Wire};
use common::gateway::{Feed, Running, config, in_process};

fn request(gateway: &Running, method: &str, path: &str, origin: &str) -> Answer {
    let mut wire = Wire::connect(gateway.address);
    let origin = match origin {
        "" => String::new(),
        origin => format!("Origin: {origin}\r\n"),
    };
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: barcast.test\r\n{origin}\
         Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-any\r\n\r\n"
    ));
    wire.head()
}

fn shared(origins: &str) -> (Running, Feed<<MemoryBus as Bus>::Publisher>) {
    in_process(Config {
        cors: origins.parse().unwrap(),
        ..config()
    })
}

const SHARED: [&str; 6] = [
    "/udf/config",
    "/udf/history?x",
    "/udf/nothing",
    "/api/v1/topics",
    "/api/v1/asyncapi.json",
    "/api/v1/openapi.json",
];
const ALLOWED: &str = "access-control-allow-origin";

#[test]
fn without_a_setting_nothing_is_shared() {
    let (gateway, _feed) = in_process(config());
    for path in SHARED {
        let answer = request(&gateway, "GET", path, "https://a.example");
        assert_eq!(
            (answer.header(ALLOWED), answer.header("vary")),
            (None, None),
            "{path}"
        );
        let preflight = request(&gateway, "OPTIONS", path, "https://a.example");
        assert_eq!(
            (preflight.status, preflight.header("allow")),
            (405, Some("GET, HEAD"))
        );
    }
}

#[test]
fn listed_origins_may_read_and_caches_are_told() {
    let (gateway, _feed) = shared("https://a.example,http://localhost:5173");
    for path in SHARED {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            for (origin, allowed) in [
                ("https://a.example", true),
                ("http://localhost:5173", true),
                ("http://localhost", false),
                ("https://a.example.evil", false),
                ("null", false),
                ("", false),
            ] {
                let answer = request(&gateway, method, path, origin);
                assert_eq!(
                    answer.header(ALLOWED),
                    allowed.then_some(origin),
                    "{method} {path} {origin}"
                );
                assert_eq!(
                    answer.header("vary"),
                    Some("Origin"),
                    "{method} {path} {origin}"
                );
                assert_eq!(answer.header("access-control-allow-credentials"), None);
            }
        }
    }
}

#[test]
fn a_star_shares_public_data_and_nothing_else() {
    let (gateway, _feed) = shared("*");
    for path in SHARED {
        assert_eq!(
            request(&gateway, "GET", path, "https://a.example").header(ALLOWED),
            Some("*")
        );
        let preflight = request(&gateway, "OPTIONS", path, "https://a.example");
        assert_eq!(preflight.status, 204);
        assert_eq!(preflight.header(ALLOWED), Some("*"));
        assert_eq!(
            preflight.header("access-control-allow-methods"),
            Some("GET, HEAD")
        );
        assert_eq!(preflight.header("access-control-allow-headers"), Some("*"));
        assert!(preflight.header("access-control-max-age").is_some());
    }
    for path in ["/", "/metrics", "/healthz", "/readyz", "/udf"] {
        assert_eq!(
            request(&gateway, "GET", path, "https://a.example").header(ALLOWED),
            None,
            "{path}"
        );
        let preflight = request(&gateway, "OPTIONS", path, "https://a.example");
        assert_eq!(preflight.header(ALLOWED), None, "{path}");
        // At the root it is what a load balancer asks.
        let expected = if path == "/" { 200 } else { 405 };
        assert_eq!(preflight.status, expected, "{path}");
    }
}
