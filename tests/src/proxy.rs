//! A proxy between clients and a server that cuts, resets or silences connections, and counts round trips.

use std::fmt;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// A proxy between clients and a server. It counts a round trip when the client sends after the server last replied.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    round_trips: AtomicU64,
    fault: Mutex<Option<Fault>>,
    delay: Mutex<Option<(&'static str, Duration)>>,
    injected: Mutex<Injected>,
}

/// A function that decides for each message whether its connection fails.
#[derive(Default)]
struct Injected(Option<Box<Decide>>);

type Decide = dyn FnMut(&[u8]) -> Option<Fault> + Send;

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Injected").field(&self.0.is_some()).finish()
    }
}

/// A fault of one connection: the first that sends a message with `text` in it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The text that the message contains.
    pub text: &'static str,
    /// How many bytes of the message reach the server. `usize::MAX` means all.
    pub request: usize,
    /// How many bytes of the reply reach the client.
    pub reply: usize,
    /// How the connection then ends.
    pub cut: Cut,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// It is closed on both sides.
    Close,
    /// It is reset towards the client and closed towards the server.
    Reset,
    /// It stays open on both sides, but nothing passes any more.
    Silent,
    /// As `Silent` for this time, and then reset.
    SilentFor(Duration),
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
        let proxied = redirect(config, listener.local_addr()?.port());
        let shared = Arc::new(Shared::default());
        tokio::spawn(accept(listener, upstream, shared.clone()));
        Ok(Self { config: proxied, shared })
    }

    /// How to connect through the proxy.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The round trips of all connections so far.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// Makes one connection fail.
    pub fn arm(&self, fault: Fault) {
        *lock(&self.shared.fault) = Some(fault);
    }

    /// Makes connections fail: `decide` returns a fault, or `None`, for each message that a client sends.
    pub fn inject(&self, decide: impl FnMut(&[u8]) -> Option<Fault> + Send + 'static) {
        *lock(&self.shared.injected) = Injected(Some(Box::new(decide)));
    }

    /// Holds back the next message that contains `text`, and everything after it on its connection, for this time.
    pub fn delay(&self, text: &'static str, time: Duration) {
        *lock(&self.shared.delay) = Some((text, time));
    }

    /// Whether the fault has not happened yet.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        lock(&self.shared.fault).is_some()
    }
}

/// The same configuration with a local port in place of its hosts. Hosts cannot be removed, so a new one is built.
#[must_use]
pub fn redirect(config: &Config, port: u16) -> Config {
    let mut proxied = Config::new();
    proxied.host("127.0.0.1").port(port);
    proxied.user(config.get_user().unwrap_or("postgres")).dbname(config.get_dbname().unwrap_or("postgres"));
    if let Some(password) = config.get_password() {
        proxied.password(password);
    }
    proxied
}

impl Shared {
    /// The fault for this message, if any. The armed fault happens once.
    fn take_fault(&self, message: &[u8]) -> Option<Fault> {
        let armed = lock(&self.fault).take_if(|fault| contains(message, fault.text));
        armed.or_else(|| lock(&self.injected).0.as_mut().and_then(|decide| decide(message)))
    }

    /// The delay for this message, if any. It happens once.
    fn take_delay(&self, message: &[u8]) -> Option<Duration> {
        lock(&self.delay).take_if(|(text, _)| contains(message, text)).map(|(_, time)| time)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a message contains this text.
#[must_use]
pub(crate) fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn accept(listener: TcpListener, upstream: Upstream, shared: Arc<Shared>) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        // If the server is down, the client's connection is closed.
        match &upstream {
            Upstream::Socket(path) => {
                if let Ok(server) = UnixStream::connect(path).await {
                    tokio::spawn(forward(client, server, shared.clone()));
                }
            }
            Upstream::Address(host, port) => {
                if let Ok(server) = TcpStream::connect((host.as_str(), *port)).await {
                    tokio::spawn(forward(client, server, shared.clone()));
                }
            }
        }
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let (mut request, mut reply) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut server_sent_last = false;
    loop {
        tokio::select! {
            length = client.read(&mut request) => {
                let message = &request[..length?];
                if message.is_empty() {
                    return server.shutdown().await;
                }
                if std::mem::take(&mut server_sent_last) {
                    shared.round_trips.fetch_add(1, Ordering::SeqCst);
                }
                if let Some(time) = shared.take_delay(message) {
                    tokio::time::sleep(time).await;
                }
                if let Some(fault) = shared.take_fault(message) {
                    return fail(fault, message, client, server).await;
                }
                server.write_all(message).await?;
            }
            length = server.read(&mut reply) => {
                let message = &reply[..length?];
                if message.is_empty() {
                    return client.shutdown().await;
                }
                server_sent_last = true;
                client.write_all(message).await?;
            }
        }
    }
}

async fn fail(
    fault: Fault,
    message: &[u8],
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let arrives = fault.request.min(message.len());
    server.write_all(&message[..arrives]).await?;
    if arrives == message.len() {
        let reply = reply_to(fault, message, &mut server).await?;
        client.write_all(&reply[..fault.reply.min(reply.len())]).await?;
    }
    match fault.cut {
        Cut::Close => client.shutdown().await,
        Cut::Reset => client.set_zero_linger(),
        Cut::Silent => pending().await,
        Cut::SilentFor(time) => {
            tokio::time::sleep(time).await;
            client.set_zero_linger()
        }
    }
}

/// Reads the reply, so that the server has acted before the connection ends. Before the reply to `COMMIT`, the reply to
/// closing a statement may arrive, while the transaction is still open. It is skipped. After `COMMIT`, a message that flushes may
/// follow.
async fn reply_to(fault: Fault, message: &[u8], server: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    const READY_IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
    const READY: &str = "Z\0\0\0\x05I";
    let is_flushed = contains(message, "pg_logical_emit_message") && !contains(message, "COMMIT; ");
    let mut reply = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = server.read(&mut buffer).await?;
        reply.extend_from_slice(&buffer[..length]);
        if length == 0 || fault.text != "COMMIT" {
            return Ok(reply);
        }
        if reply.ends_with(READY_IN_TRANSACTION) {
            reply.clear();
        } else if !is_flushed || reply.windows(READY.len()).filter(|window| *window == READY.as_bytes()).count() > 1 {
            return Ok(reply);
        }
    }
}
