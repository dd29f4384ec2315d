//! Cancel requests that complete only once the server has acted on them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Config, Error as PgError, Statement};

use crate::error::PoolError;
use crate::pool::protection::Protection;
use crate::pool::session::{BoxFuture, Pool, Session};

/// A [`Pool`] whose abandoned statements are cancelled, so that their connections can be used again at once.
///
/// A call that is dropped while a long statement runs leaves its connection busy. Without this type, the connection is
/// closed if it is not idle within half a second, and the server runs the statement to its end. With it, a statement that
/// is not done within 5 ms is cancelled, and the connection is kept.
///
/// A pool does not tell the address of its connections, so pass the same `config` as to the pool. The request uses a
/// connection of its own, with TLS if `config` and `tls` say so, and reads it to its end. Only then has the server acted
/// on the request, so it cannot hit a later statement. (The request of tokio-postgres returns earlier, and half-closes
/// its connection, which crashes PgBouncer 1.18.)
///
/// ```no_run
/// use deadpool_postgres::Manager;
/// use retry_runtime::WithCancel;
/// use tokio_postgres::{Config, NoTls};
///
/// let config: Config = "host=localhost user=bank".parse()?;
/// let pool = deadpool_postgres::Pool::builder(Manager::new(config.clone(), NoTls)).build()?;
/// let pool = WithCancel::new(pool, config, NoTls);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WithCancel<P, T> {
    pool: P,
    target: Arc<Target<T>>,
}

#[derive(Debug)]
struct Target<T> {
    config: Config,
    tls: T,
}

impl<P, T> WithCancel<P, T> {
    /// Cancels the abandoned statements of `pool`, whose connections were made with `config`.
    pub fn new(pool: P, config: Config, tls: T) -> Self {
        Self { pool, target: Arc::new(Target { config, tls }) }
    }
}

impl<P, T> Pool for WithCancel<P, T>
where
    P: Pool,
    T: MakeTlsConnect<CancelStream> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<CancelStream>>::Future: Send,
{
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let session = self.pool.get().await?;
            Ok(Box::new(Cancellable { session, target: self.target.clone() }) as Box<dyn Session>)
        })
    }

    fn id(&self) -> usize {
        self.pool.id()
    }

    fn protection(&self) -> Protection<'_> {
        self.pool.protection()
    }
}

struct Cancellable<T> {
    session: Box<dyn Session>,
    target: Arc<Target<T>>,
}

impl<T> Session for Cancellable<T>
where
    T: MakeTlsConnect<CancelStream> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<CancelStream>>::Future: Send,
{
    fn client(&self) -> &Client {
        self.session.client()
    }

    fn discard(self: Box<Self>) {
        self.session.discard();
    }

    fn prepare_cached<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Statement, PgError>> {
        self.session.prepare_cached(sql)
    }

    fn clear_statement_cache(&self) {
        self.session.clear_statement_cache();
    }

    fn cancel(&self) -> Option<BoxFuture<'static, io::Result<()>>> {
        let (token, target) = (self.client().cancel_token(), self.target.clone());
        Some(Box::pin(async move { target.cancel(&token).await }))
    }

    fn can_cancel(&self) -> bool {
        true
    }
}

impl<T: MakeTlsConnect<CancelStream> + Clone> Target<T> {
    /// Sends the request to every server of the configuration: only one knows the key.
    async fn cancel(&self, token: &CancelToken) -> io::Result<()> {
        let servers = self.config.get_hosts().len().max(self.config.get_hostaddrs().len());
        let mut result = Err(io::Error::other("the configuration names no server"));
        for index in 0..servers {
            match self.connect(index).await {
                Ok(stream) => {
                    let tls = self.tls.clone().make_tls_connect(self.host(index)).map_err(io::Error::other)?;
                    token.cancel_query_raw(stream, tls).await.map_err(io::Error::other)?;
                    result = Ok(());
                }
                // One of several servers may be down.
                Err(error) => result = result.or(Err(error)),
            }
        }
        result
    }

    async fn connect(&self, index: usize) -> io::Result<CancelStream> {
        let ports = self.config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let stream = match (self.config.get_hostaddrs().get(index), self.config.get_hosts().get(index)) {
            (Some(address), _) => Stream::Tcp(TcpStream::connect((*address, port)).await?),
            #[cfg(unix)]
            (None, Some(Host::Unix(folder))) => {
                Stream::Unix(UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?)
            }
            (None, _) => Stream::Tcp(TcpStream::connect((self.host(index), port)).await?),
        };
        Ok(CancelStream(stream))
    }

    /// The host's name; empty for a socket.
    fn host(&self, index: usize) -> &str {
        match self.config.get_hosts().get(index) {
            Some(Host::Tcp(host)) => host,
            _ => "",
        }
    }
}

/// The connection of a cancel request. Its shutdown reads it to its end.
///
/// Name it in bounds, if you are generic over the TLS of a [`WithCancel`]:
///
/// ```
/// use retry_runtime::CancelStream;
/// use tokio_postgres::tls::MakeTlsConnect;
///
/// fn cancels<T: MakeTlsConnect<CancelStream>>(tls: &T) {}
/// # cancels(&tokio_postgres::NoTls);
/// ```
#[derive(Debug)]
pub struct CancelStream(Stream);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Runs an expression with the socket, of either kind.
macro_rules! with_socket {
    ($stream:expr, $socket:ident => $do:expr) => {
        match &mut $stream.0 {
            Stream::Tcp($socket) => $do,
            #[cfg(unix)]
            Stream::Unix($socket) => $do,
        }
    };
}

impl AsyncRead for CancelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_socket!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for CancelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        with_socket!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rest = [0; 64];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            match ready!(self.as_mut().poll_read(cx, &mut rest)) {
                Ok(()) if rest.filled().is_empty() => return Poll::Ready(Ok(())),
                Ok(()) => {}
                // The server has closed it, as it should.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
