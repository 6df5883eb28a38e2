//! How Redis is reached: its address, and the files that an operator may change while barcast runs. They are
//! read at each connect, so that a new password or certificate needs no restart.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{CONNECT_TIMEOUT, TCP_KEEPALIVE, url};
use crate::bus::BusError;
use crate::bus::prefix::Prefix;

/// Longest of the files: bundles of all public authorities have some 250 KB.
const MAX_FILE_BYTES: u64 = 4 << 20;

const CA: &str = "--redis-tls-ca (BARCAST_REDIS_TLS_CA)";
const CERT: &str = "--redis-tls-cert (BARCAST_REDIS_TLS_CERT)";
const KEY: &str = "--redis-tls-key (BARCAST_REDIS_TLS_KEY)";
const PASSWORD: &str = "--redis-password-file (BARCAST_REDIS_PASSWORD_FILE)";
const PREFIX: &str = "--redis-prefix (BARCAST_REDIS_PREFIX)";

/// All that can be said of a Redis server and of what is ours in it. Not shown, as the URL may hold a secret.
#[derive(Clone, Default)]
pub struct Settings {
    /// `redis://`, `rediss://` or `unix:`, with user, password and database.
    pub url: String,
    /// Whom to trust instead of the system's authorities.
    pub tls_ca: Option<PathBuf>,
    /// A client certificate, and the key to it.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The password, where the URL has none.
    pub password_file: Option<PathBuf>,
    pub prefix: String,
}

/// A checked address, and the files to read at each connect.
#[derive(Debug)]
pub(super) struct Access {
    info: ConnectionInfo,
    authorities: Option<PathBuf>,
    /// Client certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
    password: Option<PathBuf>,
}

impl Access {
    /// Checks all of it; the files are read once.
    ///
    /// # Errors
    /// [`BusError::Address`] for the URL, [`BusError::Setting`] for the others. Neither holds a secret.
    pub fn new(settings: &Settings) -> Result<(Self, Prefix), BusError> {
        let info = url::parse(&settings.url).map_err(BusError::Address)?;
        let wrong = |why| Err(BusError::Setting(why));
        let prefix = Prefix::new(&settings.prefix)
            .map_err(|why| format!("{PREFIX} = {:?}: {why}", settings.prefix))
            .map_err(BusError::Setting)?;
        let identity = match (&settings.tls_cert, &settings.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => {
                return wrong(format!("{CERT} needs {KEY}: allowed: both or neither"));
            }
            (None, Some(_)) => {
                return wrong(format!("{KEY} needs {CERT}: allowed: both or neither"));
            }
        };
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        for (flag, is_set) in [(CA, settings.tls_ca.is_some()), (CERT, identity.is_some())] {
            if is_set && !is_tls {
                return wrong(format!(
                    "{flag} is for TLS, and --redis-url (REDIS_URL) is not: allowed: with rediss:// alone"
                ));
            }
        }
        if settings.password_file.is_some() && info.redis_settings().password().is_some() {
            return wrong(format!(
                "{PASSWORD} is set, and --redis-url (REDIS_URL) has a password, too: allowed: one of them; the user stays in the URL, as redis://USER@HOST:6379"
            ));
        }
        let resp3 = info.redis_settings().clone();
        // Of a server that refuses, the crate tells the words only when nothing else was asked.
        let resp3 = resp3
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(TCP_KEEPALIVE));
        if is_tls {
            // Ours is the only TLS of the process; a second call finds the first one's provider.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let access = Self {
            info: info.set_redis_settings(resp3).set_tcp_settings(tcp),
            authorities: settings.tls_ca.clone(),
            identity,
            password: settings.password_file.clone(),
        };
        access.client().map_err(BusError::Setting)?;
        Ok((access, prefix))
    }

    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Whether there is anything to read before connecting.
    pub fn has_files(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some() || self.password.is_some()
    }

    /// What is said when the files cannot be read in time.
    pub fn hangs(&self) -> String {
        let identity = self.identity.as_ref();
        let files = [
            (PASSWORD, self.password.as_ref()),
            (CA, self.authorities.as_ref()),
            (CERT, identity.map(|(certificate, _)| certificate)),
            (KEY, identity.map(|(_, key)| key)),
        ];
        let set = files
            .iter()
            .filter_map(|(flag, path)| Some(format!("{flag} = {:?}", path.as_ref()?)));
        let set: Vec<_> = set.collect();
        format!(
            "the file system does not answer in {} s: {}",
            CONNECT_TIMEOUT.as_secs(),
            set.join(", ")
        )
    }

    /// A client with what the files hold now.
    ///
    /// # Errors
    /// The setting, the file, what is wrong with it and what is allowed.
    pub fn client(&self) -> Result<Client, String> {
        let mut info = self.info.clone();
        if let Some(path) = &self.password {
            let password = password(path).map_err(|why| of_file(PASSWORD, path, &why))?;
            let redis = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(redis);
        }
        if self.authorities.is_none() && self.identity.is_none() {
            return Client::open(info).map_err(|why| why.to_string());
        }
        let root_cert = self.authorities.as_deref().map(authorities).transpose()?;
        let client_tls = match &self.identity {
            Some((certificate, key)) => Some(identity(certificate, key)?),
            None => None,
        };
        let certificates = TlsCertificates {
            client_tls,
            root_cert,
        };
        Client::build_with_tls(info, certificates).map_err(|why| why.to_string())
    }
}

fn of_file(flag: &str, path: &Path, why: &str) -> String {
    format!("{flag} = {path:?}: {why}")
}

const A_FILE: &str = "allowed: a regular file that this user may read";

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let is_dir = |kind: &Metadata| match kind.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(kind.is_file()),
    };
    // Before it is opened, which waits for a writer where it is a pipe.
    if let Ok(false) = fs::metadata(path).and_then(|kind| is_dir(&kind)) {
        return Err(format!(
            "is a pipe or a device, which cannot be read again at each connect (so is what <(COMMAND) of a shell \
             names); {A_FILE}"
        ));
    }
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        is_dir(&file.metadata()?)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => Err(format!(
            "is too large; allowed: up to {MAX_FILE_BYTES} bytes"
        )),
        Ok(bytes) => Ok(bytes),
        Err(why) => Err(format!("cannot be read: {why}; {A_FILE}")),
    }
}

/// The first line break at the end is the editor's.
fn password(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path)?).map_err(|_| "is not UTF-8 text".to_owned())?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line.is_empty() {
        true => Err("is empty; allowed: the password, and one line break after it".to_owned()),
        false => Ok(line.to_owned()),
    }
}

const A_CERTIFICATE: &str = "allowed: a PEM file with -----BEGIN CERTIFICATE-----";
const A_KEY: &str = "allowed: a PEM file with an unencrypted -----BEGIN PRIVATE KEY----- (or RSA PRIVATE KEY, EC PRIVATE KEY)";

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("holds no certificate; {A_CERTIFICATE}")),
        Ok(found) => Ok(found),
        Err(why) => Err(format!("is no PEM file: {why}; {A_CERTIFICATE}")),
    }
}

/// The authorities' certificates as PEM.
fn authorities(path: &Path) -> Result<Vec<u8>, String> {
    let found = read(path).and_then(|pem| {
        let mut store = RootCertStore::empty();
        for certificate in certificates(&pem)? {
            let added = store.add(certificate);
            added.map_err(|why| format!("holds a broken certificate: {why}; {A_CERTIFICATE}"))?;
        }
        Ok(pem)
    });
    found.map_err(|why| of_file(CA, path, &why))
}

/// A client certificate with its key, both as PEM.
fn identity(certificate: &Path, key: &Path) -> Result<ClientTlsConfig, String> {
    let of_cert = |why: String| of_file(CERT, certificate, &why);
    let of_key = |why: String| of_file(KEY, key, &why);
    let client_cert = read(certificate).map_err(of_cert)?;
    let chain = certificates(&client_cert).map_err(of_cert)?;
    let client_key = read(key).map_err(of_key)?;
    let secret = PrivateKeyDer::from_pem_slice(&client_key).map_err(|_| {
        let is_encrypted = String::from_utf8_lossy(&client_key).contains("ENCRYPTED");
        let why = if is_encrypted {
            "holds an encrypted key (openssl pkey -in FILE takes the passphrase off)"
        } else {
            "holds no private key"
        };
        of_key(format!("{why}; {A_KEY}"))
    })?;
    ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, secret)
        .map_err(|why| {
            of_key(format!("cannot be used with {CERT} = {certificate:?}: {why}; allowed: the key of that certificate, RSA, ECDSA or Ed25519"))
        })?;
    Ok(ClientTlsConfig {
        client_cert,
        client_key,
    })
}

/// What an operator can do about a failure of TLS, by what was said: alerts are Redis's, all else is ours.
const REMEDIES: [(&str, &str); 15] = [
    (
        "alert: CertificateRequired",
        "Redis wants a client certificate: --redis-tls-cert and --redis-tls-key",
    ),
    ("alert: CertificateExpired", OF_CLIENT),
    ("alert: BadCertificate", OF_CLIENT),
    (
        "alert: UnknownCA",
        "Redis does not trust who signed the client certificate, --redis-tls-cert",
    ),
    (
        "alert: ",
        "Redis refuses: its log says why; if it wants a client certificate, --redis-tls-cert and --redis-tls-key",
    ),
    (
        "UnknownIssuer",
        "name the authority that signed Redis's certificate with --redis-tls-ca",
    ),
    (
        "CaUsedAsEndEntity",
        "Redis's certificate is an authority's: give Redis one of its own, signed by it",
    ),
    (
        "UnsupportedCertVersion",
        "Redis's certificate is of version 1: make it anew, with a subjectAltName",
    ),
    ("not valid for name", OF_NAME),
    ("NotValidForName", OF_NAME),
    (
        "xpired",
        "renew Redis's certificate, or set this machine's clock",
    ),
    ("not valid yet", "set this machine's clock, or wait"),
    ("NotValidYet", "set this machine's clock, or wait"),
    ("InvalidContentType", NO_TLS),
    ("timed out", NO_TLS),
];
const OF_CLIENT: &str = "Redis says so of the client certificate, --redis-tls-cert";
const OF_NAME: &str =
    "the host of --redis-url is none of the names in Redis's certificate (subjectAltName)";
const NO_TLS: &str =
    "is the address right, and that port Redis's tls-port? Without TLS the URL is redis://";
const NO_PLAIN: &str = "if that port speaks TLS alone, the URL is rediss://";

impl Access {
    /// A failure to connect, with the remedy where we know one.
    pub fn explained(&self, why: RedisError) -> RedisError {
        if !why.is_io_error() {
            return why;
        }
        let said = why.to_string();
        let remedy = match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => REMEDIES
                .iter()
                .find_map(|(word, remedy)| said.contains(word).then_some(*remedy)),
            ConnectionAddr::Tcp(..) => is_cut(&why).then_some(NO_PLAIN),
            _ => None,
        };
        let kind = match (why.is_timeout(), is_cut(&why)) {
            (true, _) => io::ErrorKind::TimedOut,
            (_, true) => io::ErrorKind::ConnectionReset,
            _ => io::ErrorKind::Other,
        };
        match remedy {
            Some(remedy) => io::Error::new(kind, format!("{said}: {remedy}")).into(),
            None => why,
        }
    }
}

/// Whether there was a connection, and is none any more.
fn is_cut(why: &RedisError) -> bool {
    why.is_connection_dropped() && !why.is_connection_refusal()
}
