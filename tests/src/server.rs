//! Throwaway PostgreSQL servers, created with `initdb` from the installed binaries.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio_postgres::Config;

/// Settings for speed and for tests that provoke faults. All others are the server's defaults.
const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=32MB",
    "max_connections=200",
    "max_prepared_transactions=8",
    "deadlock_timeout=20ms",
    "log_min_messages=log",
];

/// A running server. It listens on a socket in a temporary folder, and ends with this process.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    bin: PathBuf,
    /// Stops the server and removes the folder once this value is dropped or this process has ended in any way.
    watchdog: Child,
}

impl Server {
    /// Creates a cluster and starts its server. Takes a second or two.
    ///
    /// # Errors
    /// If PostgreSQL is not installed (the error says what to install) or does not start (the error holds its log).
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// Like [`Server::start`], with further settings such as `deadlock_timeout=1s`.
    pub fn start_with(settings: &[&str]) -> io::Result<Self> {
        Self::make(settings, |bin, data| {
            let args = ["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"];
            run(command(bin.join("initdb")).args(args).arg(data))
        })
    }

    /// Starts a server. `fill` puts a cluster into its empty folder first.
    pub(crate) fn make(settings: &[&str], fill: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<Self> {
        let bin = find_binaries()?;
        // Short, because the path of a socket is limited in length.
        let dir = TempDir::with_prefix("pg-")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        if let Some((uid, gid)) = unprivileged_user() {
            chown(dir.path(), Some(uid), Some(gid))?;
            chown(&data, Some(uid), Some(gid))?;
        }
        fill(&bin, &data)?;
        let dir = dir.keep();
        let watchdog = watch(&bin, &dir)?;
        let server = Self { dir, bin, watchdog };
        server.start_again(settings)?;
        Ok(server)
    }

    /// Like [`Server::start_again`], with these variables in the server's environment.
    pub(crate) fn start_with_env(&self, settings: &[&str], env: &[(&str, PathBuf)]) -> io::Result<()> {
        let mut options = format!("-k {}", self.dir.display());
        for setting in SETTINGS.iter().chain(settings) {
            options.push_str(" -c ");
            options.push_str(setting);
        }
        let start = command(self.bin.join("pg_ctl"))
            .args(["start", "--wait", "--silent", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(self.log())
            .args(["-o", &options])
            .envs(env.iter().map(|(name, value)| (name, value)))
            // The server must not keep our standard output open.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if start.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        Err(io::Error::other(format!("PostgreSQL does not start:\n{log}")))
    }

    /// Stops the server process. `mode` is `smart`, `fast` or `immediate`.
    pub fn stop(&self, mode: &str) -> io::Result<()> {
        run(command(self.bin.join("pg_ctl")).args(["stop", "--silent", "--mode", mode, "-D"]).arg(self.data()))
    }

    /// Starts the server process again, with further settings.
    pub fn start_again(&self, settings: &[&str]) -> io::Result<()> {
        self.start_with_env(settings, &[])
    }

    /// Kills the server process, and waits until the processes of its sessions have ended too.
    pub fn kill(&self) -> io::Result<()> {
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = pid_file.lines().next().unwrap_or_default();
        run(Command::new("kill").args(["-KILL", pid]))?;
        let is_running = || {
            fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| {
                let folder = fs::read_link(process.path().join("cwd"));
                folder.is_ok_and(|folder| folder == self.data())
            })
        };
        while is_running() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // The process may stay a zombie, and the next server would take it for a running one.
        fs::remove_file(self.data().join("postmaster.pid"))?;
        fs::remove_file(self.dir.join(".s.PGSQL.5432.lock"))
    }

    /// The folder of the cluster.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// How to connect to it, as a superuser.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).user("postgres").dbname("postgres");
        config
    }

    /// The folder of its socket.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// A shell that stops the server once our end of the shell's pipe closes.
fn watch(bin: &Path, dir: &Path) -> io::Result<Child> {
    let script = r#"cat; "$0/pg_ctl" stop --silent --mode=immediate -D "$1/data"; rm -rf "$1""#;
    watchdog(script, bin, dir)
}

/// Starts a shell script with two arguments, `$0` and `$1`, and a pipe as its standard input. The pipe closes when this
/// process ends. Ctrl-C does not reach the script, because it has its own process group.
pub(crate) fn watchdog(script: &str, program: &Path, dir: &Path) -> io::Result<Child> {
    command("sh")
        .args([OsStr::new("-c"), OsStr::new(script), program.as_os_str(), dir.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A command that runs as an unprivileged user, because PostgreSQL refuses to run as root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if let Some((uid, gid)) = unprivileged_user() {
        command.gid(gid).uid(uid);
    }
    command
}

/// The user and group to run as if we are root: `postgres` if that user exists, else `nobody`.
pub(crate) fn unprivileged_user() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uids.split_whitespace().nth(1) != Some("0") {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|name| {
        let fields: Vec<_> =
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|user| user[0] == *name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}

pub(crate) fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {text}", command.get_program().to_string_lossy())))
}

/// The folder of the server's programs. Searches `PG_BIN`, the folder that `pg_config` prints, `PATH`, and the usual
/// folders of Debian, Red Hat, Alpine and Homebrew.
fn find_binaries() -> io::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(std::env::var_os("PG_BIN").map(PathBuf::from));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.extend(versions("/usr/lib/postgresql", ""));
    folders.extend(versions("/usr", "pgsql-"));
    folders.extend(versions("/usr/libexec", "postgresql"));
    folders.extend(versions("/opt/homebrew/opt", "postgresql@"));
    folders.extend(versions("/usr/local/opt", "postgresql@"));
    folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "PostgreSQL server binaries (initdb, pg_ctl) not found. Install them (Debian, Ubuntu: apt-get install postgresql; \
             Fedora: dnf install postgresql-server; Alpine: apk add postgresql; macOS: brew install postgresql@17), \
             set PG_BIN to their folder, or set DATABASE_URL to a running server",
        )
    })
}

/// The folders `{parent}/{prefix}{version}` and their `bin`, the newest version first.
fn versions(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, path))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().flat_map(|(_, path)| [path.join("bin"), path]).collect()
}
