//! Network latency: a proxy that delays what clients send.
//!
//! Every message leaves a fixed time after it arrived, in order. Messages sent together arrive together. Replies are not
//! delayed. The proxy uses threads, because tokio's timers have a resolution of 1 ms. Waking the threads adds about
//! 0.1 ms per round trip, which `Cluster::start` measures and prints.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The name of a server's socket on the default port.
const SOCKET: &str = ".s.PGSQL.5432";

/// A proxy on its own socket. Its threads end with the connections, or with the process.
#[derive(Debug)]
pub(crate) struct Delay {
    dir: TempDir,
}

impl Delay {
    /// Starts a proxy for the server whose socket is in the folder `server`.
    pub(crate) fn start(server: &Path, delay: Duration) -> io::Result<Self> {
        let dir = TempDir::with_prefix("delay-")?;
        let listener = UnixListener::bind(dir.path().join(SOCKET))?;
        let server = server.join(SOCKET);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // If this fails, the client sees a closed connection.
                let _ = forward(client, &server, delay);
            }
        });
        Ok(Self { dir })
    }

    /// The folder of its socket.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

fn forward(client: UnixStream, server: &Path, delay: Duration) -> io::Result<()> {
    let server = UnixStream::connect(server)?;
    let (sender, receiver) = mpsc::channel();
    let (mut requests, mut replies) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = read_requests(&mut requests, &sender, delay);
    });
    thread::spawn(move || {
        let _ = write_requests(&receiver, server);
    });
    thread::spawn(move || {
        let mut client = client;
        let _ = io::copy(&mut replies, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn read_requests(
    client: &mut UnixStream,
    requests: &mpsc::Sender<(Instant, Vec<u8>)>,
    delay: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = client.read(&mut buffer)?;
        let request = (Instant::now() + delay, buffer[..length].to_vec());
        if length == 0 || requests.send(request).is_err() {
            return Ok(());
        }
    }
}

fn write_requests(requests: &mpsc::Receiver<(Instant, Vec<u8>)>, mut server: UnixStream) -> io::Result<()> {
    for (due, request) in requests {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        server.write_all(&request)?;
    }
    server.shutdown(Shutdown::Both)
}
