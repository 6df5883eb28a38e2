//! TLS to Redis with a private authority and client certificates, checked at start and read again at each connect.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::process::{Serve, output};
use common::{RedisServer, eventually_blocking, free_port};

/// Certificates in a folder.
struct Certificates(PathBuf);

impl Certificates {
    fn openssl(&self, line: &str) {
        let made = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(&self.0)
            .output()
            .expect("openssl must be installed for this test");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{line}: {said}");
    }

    /// Two authorities, and certificates for a server and a client of the first.
    fn make(folder: &Path) -> Self {
        let this = Self(folder.to_owned());
        for name in ["ca", "other"] {
            this.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
            ));
        }
        this.sign("server", "ca", "DNS:localhost", "-days 2");
        this.sign("client", "ca", "DNS:client", "-days 2");
        this
    }

    fn sign(&self, name: &str, authority: &str, names: &str, days: &str) {
        fs::write(self.0.join("san"), format!("subjectAltName={names}\n")).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out request.pem"
        ));
        self.openssl(&format!(
            "x509 -req -in request.pem -CA {authority}.pem -CAkey {authority}.key -CAcreateserial {days} -extfile san -out {name}.pem"
        ));
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

/// A Redis with a TLS port whose server certificate is `name`.
struct Tls {
    server: RedisServer,
    port: u16,
    certificates: Certificates,
}

impl Tls {
    fn start(clients: &str, prepare: impl Fn(&Certificates)) -> Self {
        let port = free_port();
        let server = RedisServer::start_with(|folder| {
            let certificates = Certificates::make(folder);
            prepare(&certificates);
            let port = port.to_string();
            let path = |name| certificates.path(name);
            [
                "--tls-port",
                &port,
                "--tls-auth-clients",
                clients,
                "--tls-key-file",
                &path("server.key"),
                "--tls-cert-file",
                &path("server.pem"),
                "--tls-ca-cert-file",
                &path("ca.pem"),
            ]
            .map(String::from)
            .into()
        });
        let certificates = Certificates(server.folder());
        Self {
            server,
            port,
            certificates,
        }
    }

    /// A gateway with these files of the folder.
    fn gateway(&self, host: &str, files: &[(&str, &str)]) -> Serve {
        let paths = files.iter().map(|(_, name)| self.certificates.path(name));
        let paths: Vec<_> = paths.collect();
        let flags = files.iter().map(|(flag, _)| *flag);
        let arguments: Vec<_> = flags
            .zip(&paths)
            .flat_map(|(flag, path)| [flag, path.as_str()])
            .collect();
        Serve::start(&format!("rediss://{host}:{}", self.port), &arguments)
    }

    /// Waits for what a gateway says that cannot connect.
    fn fails(&self, host: &str, files: &[(&str, &str)], words: &[&str]) {
        let gateway = self.gateway(host, files);
        eventually_blocking(&format!("{words:?} in the log"), || {
            let log = gateway.process.log();
            let said = log.lines().find(|line| line.contains("cannot be reached"));
            said.is_some_and(|line| words.iter().all(|word| line.contains(word)))
        });
        assert_eq!(gateway.readyz(), 503);
    }
}

const CA: &str = "--redis-tls-ca";
const CERT: &str = "--redis-tls-cert";
const KEY: &str = "--redis-tls-key";

#[test]
fn a_private_authority_is_trusted_and_each_failure_names_its_remedy() {
    let tls = Tls::start("no", |_| {});
    tls.gateway("localhost", &[(CA, "ca.pem")]).until_ready();
    // A bundle, as of a rotation of the authority.
    let bundle = ["other.pem", "ca.pem"].map(|name| {
        let path = tls.certificates.path(name);
        fs::read_to_string(path).unwrap()
    });
    fs::write(tls.certificates.path("bundle.pem"), bundle.concat()).unwrap();
    tls.gateway("localhost", &[(CA, "bundle.pem")])
        .until_ready();

    tls.fails("localhost", &[], &["UnknownIssuer", CA]);
    // The authorities of the file alone are trusted, and not all that are known.
    tls.fails("localhost", &[(CA, "other.pem")], &["UnknownIssuer", CA]);
    tls.fails(
        "127.0.0.1",
        &[(CA, "ca.pem")],
        &["not valid for name", "the host of --redis-url"],
    );
    // Neither side's protocol is the other's.
    let ports = [
        ("rediss", tls.server.port(), "tls-port"),
        ("redis", tls.port, "rediss://"),
    ];
    for (scheme, port, remedy) in ports {
        let gateway = Serve::start(&format!("{scheme}://localhost:{port}"), &[]);
        eventually_blocking(remedy, || {
            let log = gateway.process.log();
            log.lines()
                .any(|line| line.contains("cannot be reached") && line.contains(remedy))
        });
    }
}

#[test]
fn an_expired_certificate_is_named() {
    // A day before now, by the certificate itself.
    let tls = Tls::start("no", |certificates| {
        certificates.sign("server", "ca", "DNS:localhost", "-days -1");
    });
    tls.fails("localhost", &[(CA, "ca.pem")], &["xpired", "clock"]);
}

#[test]
fn a_client_certificate_is_shown_where_redis_wants_one() {
    // The default of Redis.
    let tls = Tls::start("yes", |certificates| {
        certificates.sign("stranger", "other", "DNS:client", "-days 2");
        certificates.sign("old", "ca", "DNS:client", "-days -1");
    });
    let ca = (CA, "ca.pem");
    tls.gateway(
        "localhost",
        &[ca, (CERT, "client.pem"), (KEY, "client.key")],
    )
    .until_ready();
    tls.fails("localhost", &[ca], &["CertificateRequired", CERT]);
    let stranger = [ca, (CERT, "stranger.pem"), (KEY, "stranger.key")];
    tls.fails("localhost", &stranger, &["UnknownCA", CERT]);
    let old = [ca, (CERT, "old.pem"), (KEY, "old.key")];
    tls.fails("localhost", &old, &["CertificateExpired", CERT]);
}

/// All of it is renewed below a running gateway, as cert-manager does.
#[test]
fn renewed_certificates_are_read_at_the_next_connect() {
    let mut tls = Tls::start("yes", |_| {});
    let files = [(CA, "trusted.pem"), (CERT, "mine.pem"), (KEY, "mine.key")];
    let copy = |tls: &Tls, from: [&str; 3]| {
        for (from, (_, to)) in from.into_iter().zip(files) {
            let path = |name| tls.certificates.path(name);
            fs::copy(path(from), path(to)).unwrap();
        }
    };
    copy(&tls, ["ca.pem", "client.pem", "client.key"]);
    let gateway = tls.gateway("localhost", &files);
    gateway.until_ready();

    // A new authority, of which both have their certificates.
    tls.server.kill();
    gateway.until_not_ready();
    tls.certificates
        .sign("server", "other", "DNS:localhost", "-days 2");
    tls.certificates
        .sign("client", "other", "DNS:client", "-days 2");
    let path = |name| tls.certificates.path(name);
    fs::copy(path("other.pem"), path("ca.pem")).unwrap();
    tls.server.restart();
    eventually_blocking("the old files are refused", || {
        gateway.process.log().contains("UnknownIssuer")
    });
    // Half written: named, and tried again.
    fs::write(path("trusted.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    eventually_blocking("the broken file is named", || {
        let log = gateway.process.log();
        let named = |line: &str| line.contains(CA) && line.contains("trusted.pem");
        log.lines().any(named)
    });
    copy(&tls, ["ca.pem", "client.pem", "client.key"]);
    gateway.until_ready();
}

#[test]
fn files_that_cannot_be_used_are_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let path = |name: &str| certificates.path(name);
    certificates.openssl("pkey -in client.key -aes256 -passout pass:s3cr3t -out encrypted.key");
    fs::write(path("empty.pem"), "").unwrap();
    fs::write(path("text.pem"), "no PEM\n").unwrap();
    fs::write(path("torn.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    fs::write(
        path("junk.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let cert = |name: &'static str| vec![(CERT, name), (KEY, "client.key")];
    let key = |name: &'static str| vec![(CERT, "client.pem"), (KEY, name)];
    let faults = [
        (
            vec![(CA, "absent.pem")],
            "absent.pem",
            "cannot be read: No such file",
        ),
        (vec![(CA, ".")], "", "directory"),
        (vec![(CA, "empty.pem")], "empty.pem", "holds no certificate"),
        (vec![(CA, "text.pem")], "text.pem", "holds no certificate"),
        (vec![(CA, "ca.key")], "ca.key", "holds no certificate"),
        (vec![(CA, "torn.pem")], "torn.pem", "is no PEM file"),
        (vec![(CA, "junk.pem")], "junk.pem", "broken certificate"),
        (cert("absent.pem"), "absent.pem", "cannot be read"),
        (cert("client.key"), "client.key", "holds no certificate"),
        (cert("junk.pem"), "junk.pem", "cannot be used"),
        (key("absent.key"), "absent.key", "cannot be read"),
        (key("client.pem"), "client.pem", "holds no private key"),
        (key("server.key"), "server.key", "cannot be used"),
        (key("encrypted.key"), "encrypted.key", "encrypted"),
        (vec![(CERT, "client.pem")], "", "both or neither"),
        (vec![(KEY, "client.key")], "", "both or neither"),
    ];
    let run = |url: &str, files: &[(&str, &str)]| {
        let mut all = vec![
            "generate".to_owned(),
            "--redis-url".to_owned(),
            url.to_owned(),
        ];
        all.extend(
            files
                .iter()
                .flat_map(|(flag, name)| [(*flag).to_owned(), path(name)]),
        );
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let ended = output(&all, &[]);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{files:?} {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("allowed: "), "{said}");
        said
    };
    for (files, name, expected) in faults {
        let said = run("rediss://localhost", &files);
        assert!(said.contains(files[0].0) || files[0].0 == CERT, "{said}");
        assert!(
            said.contains(name) && said.contains(expected),
            "{files:?}: {said}"
        );
    }
    let client = cert("client.pem");
    for files in [&[(CA, "ca.pem")][..], &client] {
        for url in [
            "redis://u:s3cr3t@localhost",
            "unix:///run/redis.sock?pass=s3cr3t",
        ] {
            let said = run(url, files);
            assert!(
                said.contains("rediss://") && !said.contains("s3cr3t"),
                "{said}"
            );
        }
    }
}
