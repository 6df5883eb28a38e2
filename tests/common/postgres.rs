//! A real PostgreSQL of a test's own.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use barcast::record::postgres::{Address, from_time};
use tokio::runtime::Builder;
use tokio_postgres::Client;

use super::{eventually_blocking, free_port};

/// The user whose rights the server gets where the test is root, which it refuses to be.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// One row: symbol, resolution, time in ms, and open, high, low, close, volume.
pub type Row = (String, String, i64, [f64; 5]);

/// A server on a free port with a folder of its own; ended on drop.
pub struct PostgresServer {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl PostgresServer {
    pub fn start() -> Self {
        let mut server = Self::absent();
        server.restart();
        server
    }

    /// With its data, but not running.
    pub fn absent() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some((user, group)) = other_user() {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let server = Self {
            port: free_port(),
            folder,
            child: None,
        };
        let made = server
            .command("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--pgdata=data"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        server
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((user, group)) = other_user() {
            command.uid(user).gid(group);
        }
        command
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a crash does: SIGQUIT, since its children outlive a SIGKILL and hold its memory.
    pub fn kill(&mut self) {
        // One that is stopped hears nothing.
        self.signal("CONT");
        if let Some(mut child) = self.child.take() {
            let id = child.id().to_string();
            let killed = Command::new("kill").args(["-QUIT", &id]).status();
            assert!(killed.unwrap().success());
            child.wait().unwrap();
        }
    }

    /// Sends a signal to all of its processes, as STOP, which makes it hang.
    pub fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        let id = child.id().to_string();
        let signal = format!("-{name}");
        // Its children first: a parent that is stopped makes no more.
        let children = Command::new("pkill").args([&signal, "-P", &id]).status();
        children.unwrap();
        let parent = Command::new("kill").args([&signal, &id]).status();
        parent.unwrap();
    }

    /// Starts it (again), and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = self
            .command("postgres")
            .args(["-D", "data", "-k", ".", "-h", "127.0.0.1"])
            .args(["-p", &self.port.to_string(), "-c", "max_connections=20"])
            // What the recorder may count on is the answer, not this machine's disk.
            .args(["-c", "fsync=off", "-c", "shared_buffers=8MB"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        eventually_blocking("PostgreSQL answers", || {
            let child = self.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(self.folder.path().join("log"));
                panic!("it ended with {status}: {log:?}");
            }
            self.try_with(async |client| client.batch_execute("SELECT 1").await)
                .is_ok()
        });
    }

    fn try_with<T>(
        &self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, String> {
        try_with(&self.url(), ask)
    }

    /// Runs statements.
    pub fn execute(&self, sql: &str) {
        self.try_with(async |client| client.batch_execute(sql).await)
            .unwrap();
    }

    /// Bars that there are; none while there is no table.
    pub fn count(&self) -> usize {
        let sql = "SELECT count(*) FROM barcast_bars";
        let count = self.try_with(async |client| client.query_one(sql, &[]).await);
        count.map_or(0, |row| usize::try_from(row.get::<_, i64>(0)).unwrap())
    }

    /// The first column of what a query gives.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.try_with(async |client| client.query(sql, &[]).await);
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// All bars, by topic and time; none while there is no table.
    pub fn rows(&self) -> Vec<Row> {
        let sql = "SELECT symbol, resolution, time, open, high, low, close, volume \
             FROM barcast_bars ORDER BY symbol, resolution, time";
        let rows = self.try_with(async |client| client.query(sql, &[]).await);
        let rows = rows.unwrap_or_default();
        let row = |row: &tokio_postgres::Row| {
            let numbers = [3, 4, 5, 6, 7].map(|at| row.get(at));
            (row.get(0), row.get(1), from_time(row.get(2)), numbers)
        };
        rows.iter().map(row).collect()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn try_with<T>(
    url: &str,
    ask: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, String> {
    let address = Address::parse(url).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = address.connect().await?;
        let asked = tokio::time::timeout(Duration::from_secs(10), ask(&client));
        asked
            .await
            .map_err(|why| why.to_string())?
            .map_err(|why| why.to_string())
    })
}

/// A pgbouncer in front of a server, in transaction mode and with one connection to it that all share.
pub struct Pooler {
    port: u16,
    _folder: tempfile::TempDir,
    child: Child,
}

impl Pooler {
    pub fn start(server: &PostgresServer) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 1\n",
            server.port()
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg(&settings).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = other_user() {
            chown(folder.path(), Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let pooler = Self {
            port,
            _folder: folder,
            child: command.spawn().expect("pgbouncer must be installed"),
        };
        eventually_blocking("pgbouncer answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        pooler
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs statements.
    pub fn execute(&self, sql: &str) {
        try_with(&self.url(), async |client| client.batch_execute(sql).await).unwrap();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the server's programs are: Debian keeps them off the path, one folder a version.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.flatten().map(|entry| entry.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&on_path).collect();
    debian
        .chain(on_path)
        .find(|folder| folder.join("initdb").exists())
        .expect("PostgreSQL must be installed for this test")
}

/// User and group for the server; none where the test is an ordinary user.
fn other_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let is_root = fs::metadata("/proc/self").ok()?.uid() == 0;
    if !is_root {
        return None;
    }
    let users = fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let find = |name: &&str| {
        let line = users.lines().find(|line| {
            line.strip_prefix(*name)
                .is_some_and(|rest| rest.starts_with(':'))
        })?;
        let mut fields = line.split(':').skip(2);
        let mut number = || fields.next()?.parse::<u32>().ok();
        Some((number()?, number()?))
    };
    let found = USERS.iter().find_map(find);
    Some(found.expect("a user for PostgreSQL, which does not run as root"))
}
