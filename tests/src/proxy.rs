//! A proxy that counts network turns.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Stands between clients and a server. One turn: the client sends after the server last answered.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    counter: Arc<Counter>,
}

#[derive(Debug, Default)]
struct Counter {
    turns: AtomicU64,
    server_spoke_last: AtomicBool,
}

enum Upstream {
    Socket(PathBuf),
    Address(String, u16),
}

impl Proxy {
    /// Listens on a free port and forwards to the server that `config` names.
    pub async fn start(config: &Config) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let upstream = match config.get_hosts().first() {
            Some(Host::Unix(dir)) => Upstream::Socket(dir.join(format!(".s.PGSQL.{port}"))),
            Some(Host::Tcp(host)) => Upstream::Address(host.clone(), port),
            None => return Err(io::Error::other("the configuration names no host")),
        };
        // A configuration cannot lose its hosts: this one is made anew.
        let mut proxied = Config::new();
        proxied.host("127.0.0.1").port(listener.local_addr()?.port());
        proxied.user(config.get_user().unwrap_or("postgres")).dbname(config.get_dbname().unwrap_or("postgres"));
        if let Some(password) = config.get_password() {
            proxied.password(password);
        }
        let counter = Arc::new(Counter::default());
        tokio::spawn(accept(listener, upstream, counter.clone()));
        Ok(Self { config: proxied, counter })
    }

    /// How to connect through the proxy.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The turns so far, of all connections.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.counter.turns.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, upstream: Upstream, counter: Arc<Counter>) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        match &upstream {
            Upstream::Socket(path) => forward(client, UnixStream::connect(path).await?, counter.clone()),
            Upstream::Address(host, port) => {
                forward(client, TcpStream::connect((host.as_str(), *port)).await?, counter.clone());
            }
        }
    }
}

fn forward(client: TcpStream, server: impl AsyncRead + AsyncWrite + Send + 'static, counter: Arc<Counter>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    let answers = counter.clone();
    tokio::spawn(pump(from_client, to_server, move || {
        if counter.server_spoke_last.swap(false, Ordering::SeqCst) {
            counter.turns.fetch_add(1, Ordering::SeqCst);
        }
    }));
    tokio::spawn(pump(from_server, to_client, move || answers.server_spoke_last.store(true, Ordering::SeqCst)));
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seen: impl Fn()) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        seen();
        to.write_all(&buffer[..length]).await?;
    }
}
