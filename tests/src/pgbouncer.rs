//! A throwaway `PgBouncer` in front of a database.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::proxy::redirect;
use crate::server::{unprivileged_user, watchdog};

/// A running `PgBouncer` on a local port. It ends with this process.
#[derive(Debug)]
pub struct PgBouncer {
    config: Config,
    dir: PathBuf,
    /// Ends the pooler and removes the folder once this value is dropped or this process has ended in any way.
    watchdog: Child,
}

impl PgBouncer {
    /// Starts one in transaction pooling mode, for one database. `settings` are further lines of its configuration, such
    /// as `default_pool_size = 1`. It also lists a database `ghost`, which the server does not have.
    ///
    /// # Errors
    /// If `PgBouncer` is not installed (the error says what to install) or does not start (the error holds its log).
    pub fn start(database: &Config, settings: &[&str]) -> io::Result<Self> {
        let binary = find_binary()?;
        let start = || Self::start_on(free_port()?, &binary, database, settings);
        // Another process may take the free port first.
        start().or_else(|_| start()).or_else(|_| start())
    }

    fn start_on(port: u16, binary: &Path, database: &Config, settings: &[&str]) -> io::Result<Self> {
        let temp = TempDir::with_prefix("pgbouncer-")?;
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(temp.path().join("ini"), ini(port, database, settings)?)?;
        if let Some((uid, gid)) = unprivileged_user() {
            chown(temp.path(), Some(uid), Some(gid))?;
        }
        let dir = temp.keep();
        let watchdog = watch(binary, &dir)?;
        let pooler = Self { config: redirect(database, port), dir, watchdog };
        pooler.wait_until_up()?;
        Ok(pooler)
    }

    fn wait_until_up(&self) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            // The last line that it logs on starting, once it listens.
            if log.contains("process up") {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(10) || !self.is_running() {
                return Err(io::Error::other(format!("PgBouncer does not start:\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How to connect through it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let pid = fs::read_to_string(self.dir.join("pid")).unwrap_or_default();
        pid.trim().parse().expect("the watchdog writes it")
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.dir.join("ended").exists()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

fn ini(port: u16, database: &Config, settings: &[&str]) -> io::Result<String> {
    let host = match database.get_hosts().first() {
        Some(Host::Unix(folder)) => folder.display().to_string(),
        Some(Host::Tcp(host)) => host.clone(),
        None => return Err(io::Error::other("the configuration names no host")),
    };
    let server_port = database.get_ports().first().copied().unwrap_or(5432);
    let user = database.get_user().unwrap_or("postgres");
    let name = database.get_dbname().unwrap_or(user);
    let mut server = format!("host={host} port={server_port} user={user}");
    if let Some(password) = database.get_password() {
        let _ = write!(server, " password='{}'", String::from_utf8_lossy(password));
    }
    let settings = settings.join("\n");
    Ok(format!(
        "[databases]\n{name} = {server}\nghost = {server} dbname=no_such_database\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\nserver_login_retry = 0.1\n{settings}\n"
    ))
}

/// A shell that runs the pooler until our end of the shell's pipe closes. It kills the pooler: no clean stop is needed.
fn watch(binary: &Path, dir: &Path) -> io::Result<Child> {
    let script = r#"("$0" "$1/ini" >"$1/log" 2>&1 & echo $! >"$1/pid"; wait $!; : >"$1/ended") & cat
        [ -e "$1/ended" ] || kill -9 "$(cat "$1/pid")"; wait; rm -rf "$1""#;
    watchdog(script, binary, dir)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Searches `PATH`, and the folders in which distributions install server programs.
fn find_binary() -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(folders).map(|folder| folder.join("pgbouncer"));
    found.into_iter().find(|binary| binary.exists()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "PgBouncer is not installed. Install it (Debian, Ubuntu: apt-get install pgbouncer; Fedora: dnf install pgbouncer; \
             Alpine: apk add pgbouncer; macOS: brew install pgbouncer)",
        )
    })
}
