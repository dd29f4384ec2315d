//! A server whose power can be cut: of its write-ahead log, only what was synced is left.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_postgres::Config;

use crate::server::{Server, run, unprivileged_user};

/// The log has all changes since the start, because no checkpoint follows.
const SETTINGS: [&str; 6] = [
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "wal_sync_method=fdatasync",
    "checkpoint_timeout=1h",
    "max_wal_size=4GB",
];

/// A running server with a copy of each file of its log as of the last sync. A library that is preloaded into the server
/// makes the copies.
#[derive(Debug)]
pub struct PowerCut {
    server: Server,
    settings: Vec<&'static str>,
}

impl PowerCut {
    /// Creates a cluster and starts its server, with further settings.
    ///
    /// # Errors
    /// Those of [`Server::start`]. A C compiler, as Rust needs one for linking, must be installed as `cc`.
    pub fn start(settings: &[&'static str]) -> io::Result<Self> {
        let settings: Vec<_> = SETTINGS.iter().chain(settings).copied().collect();
        let server = Server::start_with(&settings)?;
        let this = Self { server, settings };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/power_cut.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(this.library()).args([source, "-ldl"]))?;
        this.start_again()?;
        Ok(this)
    }

    /// How to connect to it, as a superuser.
    #[must_use]
    pub fn config(&self) -> Config {
        self.server.config()
    }

    /// Ends the server at once, takes from its disk what was not synced, and starts it again.
    pub fn cut(&self) -> io::Result<()> {
        self.server.stop("immediate")?;
        fs::remove_dir_all(self.server.data())?;
        copy(&self.base(), &self.server.data())?;
        for file in fs::read_dir(self.durable())? {
            let file = file?;
            // The longer names are copies that were not complete.
            if file.file_name().len() == 24 {
                run(Command::new("cp").arg("-p").arg(file.path()).arg(self.server.data().join("pg_wal")))?;
            }
        }
        self.server.start_again(&self.settings)?;
        self.start_again()
    }

    /// Makes the state after a clean stop the one that the log continues from, and starts the server with the library.
    fn start_again(&self) -> io::Result<()> {
        self.server.stop("fast")?;
        let _ = fs::remove_dir_all(self.base());
        copy(&self.server.data(), &self.base())?;
        let _ = fs::remove_dir_all(self.durable());
        folder(&self.durable())?;
        let env = [("LD_PRELOAD", self.library()), ("DURABLE", self.durable())];
        self.server.start_with_env(&self.settings, &env)?;
        // It says that the server runs. After a crash the server replays the log only then.
        let control = "global/pg_control";
        run(Command::new("cp").arg("-p").arg(self.server.data().join(control)).arg(self.base().join(control)))
    }

    fn library(&self) -> PathBuf {
        self.server.dir().join("power_cut.so")
    }

    fn base(&self) -> PathBuf {
        self.server.dir().join("base")
    }

    fn durable(&self) -> PathBuf {
        self.server.dir().join("durable")
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))
}

/// Creates a folder that the server can write to.
fn folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    unprivileged_user().map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
}
