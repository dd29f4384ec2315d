//! A proxy that counts network turns and cuts connections.

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

/// Stands between clients and a server. One turn: the client sends after the server last answered.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    turns: AtomicU64,
    fault: Mutex<Option<Fault>>,
    delay: Mutex<Option<(&'static str, Duration)>>,
    chaos: Mutex<Chaos>,
}

/// Decides for each message whether its connection fails.
#[derive(Default)]
struct Chaos(Option<Box<Decide>>);

type Decide = dyn FnMut(&[u8]) -> Option<Fault> + Send;

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chaos").field(&self.0.is_some()).finish()
    }
}

/// What happens once to the connection that next sends a message with `text` in it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The text that the message contains.
    pub text: &'static str,
    /// How many bytes of the message reach the server. More than it has: all of it.
    pub request: usize,
    /// How many bytes of the answer reach the client.
    pub answer: usize,
    /// How the connection ends then.
    pub cut: Cut,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Closed in order, on both sides.
    Close,
    /// Reset towards the client, closed towards the server.
    Reset,
    /// Open on both sides, and nothing passes any more.
    Hole,
    /// The same for a while; then reset.
    HoleFor(Duration),
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

    /// The turns so far, of all connections.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }

    /// Has one connection fail.
    pub fn arm(&self, fault: Fault) {
        *lock(&self.shared.fault) = Some(fault);
    }

    /// Has connections fail as `decide` says of each message that a client sends.
    pub fn haunt(&self, decide: impl FnMut(&[u8]) -> Option<Fault> + Send + 'static) {
        *lock(&self.shared.chaos) = Chaos(Some(Box::new(decide)));
    }

    /// Keeps the next message that contains `text` back for a while, and whatever comes after it.
    pub fn delay(&self, text: &'static str, time: Duration) {
        *lock(&self.shared.delay) = Some((text, time));
    }

    /// Whether the fault is still to come.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        lock(&self.shared.fault).is_some()
    }
}

/// The configuration of a server on a local port instead. One cannot lose its hosts: this one is made anew.
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
    /// Takes the fault where this message is the one that it waits for.
    fn take_fault(&self, message: &[u8]) -> Option<Fault> {
        let armed = lock(&self.fault).take_if(|fault| contains(message, fault.text));
        armed.or_else(|| lock(&self.chaos).0.as_mut().and_then(|decide| decide(message)))
    }

    /// Takes the delay where this message is the one to be kept back.
    fn take_delay(&self, message: &[u8]) -> Option<Duration> {
        lock(&self.delay).take_if(|(text, _)| contains(message, text)).map(|(_, time)| time)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a message has this text in it.
#[must_use]
pub(crate) fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn accept(listener: TcpListener, upstream: Upstream, shared: Arc<Shared>) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        // A server that is not there closes the client's connection.
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
    let (mut request, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut server_spoke_last = false;
    loop {
        tokio::select! {
            length = client.read(&mut request) => {
                let message = &request[..length?];
                if message.is_empty() {
                    return server.shutdown().await;
                }
                if std::mem::take(&mut server_spoke_last) {
                    shared.turns.fetch_add(1, Ordering::SeqCst);
                }
                if let Some(time) = shared.take_delay(message) {
                    tokio::time::sleep(time).await;
                }
                if let Some(fault) = shared.take_fault(message) {
                    return fail(fault, message, client, server).await;
                }
                server.write_all(message).await?;
            }
            length = server.read(&mut answer) => {
                let message = &answer[..length?];
                if message.is_empty() {
                    return client.shutdown().await;
                }
                server_spoke_last = true;
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
        let answer = answer_to(fault, &mut server).await?;
        client.write_all(&answer[..fault.answer.min(answer.len())]).await?;
    }
    match fault.cut {
        Cut::Close => client.shutdown().await,
        Cut::Reset => client.set_zero_linger(),
        Cut::Hole => pending().await,
        Cut::HoleFor(time) => {
            tokio::time::sleep(time).await;
            client.set_zero_linger()
        }
    }
}

/// Reads the answer; the server has acted then. In front of the answer to COMMIT may come that to the closing of a
/// statement, still inside the transaction.
async fn answer_to(fault: Fault, server: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    const READY_IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
    let mut answer = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = server.read(&mut buffer).await?;
        answer.extend_from_slice(&buffer[..length]);
        if length == 0 || fault.text != "COMMIT" || !answer.ends_with(READY_IN_TRANSACTION) {
            return Ok(answer);
        }
        answer.clear();
    }
}
