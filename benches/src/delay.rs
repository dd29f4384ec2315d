//! A network with latency: a proxy that holds back what clients send.
//!
//! Every message to the server leaves a fixed time after it came in, in order and independently of the ones before, so
//! that messages sent together also arrive together. Answers pass at once. Threads and not tokio, whose timers count in
//! milliseconds. The wake-ups of the threads come on top, some
//! 0.1 ms a round trip: `Cluster::start` measures it, and says so.

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

/// A proxy on a socket of its own. Its threads end with the connections, or with the process.
#[derive(Debug)]
pub(crate) struct Delay {
    dir: TempDir,
}

impl Delay {
    /// Stands in front of the server whose socket is in the folder `server`.
    pub(crate) fn start(server: &Path, delay: Duration) -> io::Result<Self> {
        let dir = TempDir::with_prefix("delay-")?;
        let listener = UnixListener::bind(dir.path().join(SOCKET))?;
        let server = server.join(SOCKET);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client whose forwarding fails sees a closed connection.
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
    let (mut requests, mut answers) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = read_requests(&mut requests, &sender, delay);
    });
    thread::spawn(move || {
        let _ = write_requests(&receiver, server);
    });
    thread::spawn(move || {
        let mut client = client;
        let _ = io::copy(&mut answers, &mut client);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_sent_together_arrive_together_and_late() {
        const DELAY: Duration = Duration::from_millis(50);
        let upstream = TempDir::new().unwrap();
        let listener = UnixListener::bind(upstream.path().join(SOCKET)).unwrap();
        let proxy = Delay::start(upstream.path(), DELAY).unwrap();
        let mut client = UnixStream::connect(proxy.dir().join(SOCKET)).unwrap();
        let (mut server, _) = listener.accept().unwrap();

        let sent = Instant::now();
        let mut received = [0; 2];
        for byte in [1, 2] {
            client.write_all(&[byte]).unwrap();
            thread::sleep(DELAY / 10);
        }
        server.read_exact(&mut received).unwrap();
        assert_eq!(received, [1, 2]);
        assert!((DELAY..DELAY * 2).contains(&sent.elapsed()), "{:?}", sent.elapsed());

        server.write_all(&[3]).unwrap();
        client.read_exact(&mut received[..1]).unwrap();
        assert_eq!(received[0], 3);
        assert!(sent.elapsed() < DELAY * 2, "answers are not delayed");
    }
}
