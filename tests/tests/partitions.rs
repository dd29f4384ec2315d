//! A network that fails between any two messages of a call, in virtual time. The server is scripted, because PostgreSQL
//! cannot run in a simulation.
#![allow(missing_docs)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retry_runtime::{BoxFuture, Error, Pool, PoolError, Session, Transaction, transactional};
use retry_tests::scripted::Scripted;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

/// How long a message takes.
const TICK: Duration = Duration::from_millis(20);
/// How many ticks a call takes if nothing fails.
const CALL: u32 = 15;
const DEADLINE: Duration = Duration::from_secs(2);
/// By then, the session of the call is cleaned up, and the network is repaired.
const SETTLED: Duration = Duration::from_secs(3);

#[transactional(deadline = "2s")]
async fn write(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 1", &[]).await?;
    tx.execute("UPDATE accounts SET cents = 2", &[]).await?;
    Ok(())
}

/// Connects over the simulated network.
#[derive(Clone)]
struct SimulatedPool {
    server: Arc<Scripted>,
    idle: Arc<Mutex<Vec<Client>>>,
}

impl Pool for SimulatedPool {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let idle = self.idle.lock().expect("not poisoned").pop();
            let client = if let Some(client) = idle {
                client
            } else {
                let stream = TcpStream::connect(("server", 5432)).await.map_err(PoolError::timeout)?;
                let (client, connection) = self.server.config().connect_raw(stream, NoTls).await?;
                tokio::spawn(connection);
                client
            };
            Ok(Box::new(Lent { client: Some(client), idle: self.idle.clone() }) as Box<dyn Session>)
        })
    }
}

struct Lent {
    client: Option<Client>,
    idle: Arc<Mutex<Vec<Client>>>,
}

impl Session for Lent {
    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is not discarded")
    }

    fn discard(mut self: Box<Self>) {
        self.client = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.idle.lock().expect("not poisoned").extend(self.client.take());
    }
}

/// How the network fails, until it is repaired. Dropped messages are not sent again.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Hold,
    Drop,
    DropRequests,
    DropReplies,
}

impl Fault {
    fn begin(self, sim: &Sim<'_>) {
        match self {
            Self::Hold => sim.hold("app", "server"),
            Self::Drop => sim.partition("app", "server"),
            Self::DropRequests => sim.partition_oneway("app", "server"),
            Self::DropReplies => sim.partition_oneway("server", "app"),
        }
    }

    fn end(self, sim: &Sim<'_>) {
        match self {
            Self::Hold => sim.release("app", "server"),
            Self::Drop | Self::DropRequests | Self::DropReplies => sim.repair("app", "server"),
        }
    }
}

/// What a call told its caller, how long it took, and how many COMMITs the server has received.
struct Outcome {
    result: Result<(), Error>,
    took: Duration,
    commits: usize,
}

/// Makes a call in a network that fails from one time until another. Then makes a second one.
fn call_in(fault: Fault, from: Duration, until: Duration) -> Outcome {
    let mut sim = Builder::new()
        .tick_duration(TICK)
        .min_message_latency(TICK)
        .max_message_latency(TICK)
        .simulation_duration(SETTLED * 3)
        .build();
    let server = Arc::new(Scripted::without_listener());
    let listening = server.clone();
    sim.host("server", move || {
        let server = listening.clone();
        async move {
            let listener = TcpListener::bind(("0.0.0.0", 5432)).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        }
    });
    let outcome = Rc::new(RefCell::new(None));
    let told = outcome.clone();
    sim.client("app", async move {
        let pool = SimulatedPool { server: server.clone(), idle: Arc::default() };
        let commits = || server.received().iter().filter(|message| message.contains("COMMIT")).count();
        let began = Instant::now();
        let result = write(&pool).await;
        let took = began.elapsed();
        sleep(SETTLED).await;
        *told.borrow_mut() = Some(Outcome { result, took, commits: commits() });
        // The pool has no session that waits for a message that was dropped.
        write(&pool).await?;
        assert_eq!(commits(), 1);
        Ok(())
    });
    loop {
        if sim.elapsed() == from {
            fault.begin(&sim);
        }
        if sim.elapsed() == until {
            fault.end(&sim);
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => panic!("{fault:?} from {from:?} until {until:?}: {error}"),
        }
    }
    outcome.take().expect("the call has ended")
}

#[test]
fn a_network_that_fails_at_any_time_changes_no_outcome() {
    let mut seen = BTreeSet::new();
    for fault in [Fault::Hold, Fault::Drop, Fault::DropRequests, Fault::DropReplies] {
        for from in (0..=CALL).map(|ticks| TICK * ticks) {
            for until in [from + TICK * CALL, DEADLINE + TICK * 50] {
                let Outcome { result, took, commits } = call_in(fault, from, until);
                let (kind, allowed) = match &result {
                    Ok(()) => ("committed", 1..=1),
                    Err(Error::CommitUnknown { .. }) => ("unknown", 0..=1),
                    Err(Error::DeadlineExceeded { .. }) => ("deadline", 0..=0),
                    // Connections are refused while the network drops requests.
                    Err(Error::Pool(_)) => ("not connected", 0..=0),
                    Err(error) => panic!("{fault:?} from {from:?} until {until:?}: {error}"),
                };
                let place = format!("{fault:?} from {from:?} until {until:?}: {result:?}, {commits} commits");
                assert!(allowed.contains(&commits), "{place}");
                assert!(took <= DEADLINE + TICK, "{place} after {took:?}");
                seen.insert((kind, commits));
            }
        }
    }
    for outcome in [("committed", 1), ("unknown", 0), ("unknown", 1), ("deadline", 0)] {
        assert!(seen.contains(&outcome), "{seen:?}");
    }
}
