//! Queues of calls of one function in this process. They avoid conflicts, and are never needed for correctness.
//!
//! With `queue = "server"`, the transaction also locks a table for each key, so that calls of other processes wait too. A
//! call then leaves the queues of this process as soon as it has these locks. So for each key, one call runs and one waits
//! in the server. The next one to run is already there, and the others hold no connection.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::commit::QUEUES;
use crate::sync::{Head, Mutex, MutexGuard, Queue};

/// The queues of one function and pool. Tokio's mutexes are first in, first out.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Only queues with a call in them.
    by_key: Mutex<HashMap<QueueKey, KeyQueue>>,
    alone: Arc<Queue<()>>,
}

/// A queue, and how many calls are in it, including the one at its head.
#[derive(Debug, Default)]
struct KeyQueue {
    queue: Arc<Queue<()>>,
    calls: usize,
}

impl Queues {
    fn by_key(&self) -> MutexGuard<'_, HashMap<QueueKey, KeyQueue>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells keys apart: 128 bits. A collision is too rare to matter. It would only make two calls wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey([u64; 2]);

impl QueueKey {
    /// For queues in this process: from two hash functions that are random per process, so no caller can provoke a
    /// collision.
    pub fn of<K: Key + ?Sized>(key: &K) -> Self {
        static STATES: OnceLock<[RandomState; 2]> = OnceLock::new();
        let states = STATES.get_or_init(|| [RandomState::new(), RandomState::new()]);
        Self(states.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            key.hash_into(&mut hasher);
            hasher.finish()
        }))
    }

    /// For queues in the server: the same in all processes, as far as the key's [`Hash`] is.
    pub fn in_server<K: Key + ?Sized>(key: &K) -> Self {
        let mut hasher = SipHasher13::new();
        key.hash_into(&mut hasher);
        let hash = hasher.finish128();
        Self([hash.h1, hash.h2])
    }

    /// The number of the table to lock for this key of a function.
    fn table(self, function: &str) -> u64 {
        let mut hasher = SipHasher13::new();
        function.hash(&mut hasher);
        self.0.hash(&mut hasher);
        hasher.finish() % QUEUES
    }
}

/// The statement that locks the tables of these keys, to be appended to BEGIN. All calls lock them in one order, so that no
/// two wait for each other.
fn lock_sql(function: &str, keys: &[QueueKey]) -> String {
    let mut tables: Vec<u64> = keys.iter().map(|key| key.table(function)).collect();
    tables.sort_unstable();
    tables.dedup();
    let names: Vec<String> = tables.into_iter().map(|table| format!("transactional.queue_{table:02}")).collect();
    format!("; LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", "))
}

/// A call's place in a queue. Dropping it leaves the queue. The last call to leave removes the queue.
#[derive(Debug)]
struct QueueGuard {
    queues: Arc<Queues>,
    key: QueueKey,
    /// `None`: not yet at the head.
    head: Option<Head<()>>,
}

impl QueueGuard {
    async fn wait(queues: &Arc<Queues>, key: QueueKey) -> Self {
        let queue = {
            let mut by_key = queues.by_key();
            let used = by_key.entry(key).or_default();
            used.calls += 1;
            used.queue.clone()
        };
        let mut guard = Self { queues: queues.clone(), key, head: None };
        guard.head = Some(queue.lock_owned().await);
        guard
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        // First let the next call go. It is counted too, so the queue stays.
        self.head = None;
        let mut by_key = self.queues.by_key();
        if let Some(used) = by_key.get_mut(&self.key) {
            used.calls -= 1;
            if used.calls == 0 {
                by_key.remove(&self.key);
            }
        }
    }
}

/// The queues of one call, and its places in them. It keeps them over its attempts, unless its keys are locked in the server.
#[derive(Debug, Default)]
pub(crate) struct QueueGuards {
    keys: Vec<QueueKey>,
    guards: Vec<QueueGuard>,
    alone: Option<Head<()>>,
    /// The statement that locks the keys in the server. Empty without `queue = "server"`.
    locks: String,
}

impl QueueGuards {
    pub(crate) fn new(mut keys: Vec<QueueKey>) -> Self {
        // All calls keep this order, so that no two wait for each other.
        keys.sort_unstable();
        keys.dedup();
        Self { keys, ..Self::default() }
    }

    /// Makes the call lock its keys in the server, too.
    pub(crate) fn lock_in_server(&mut self, function: &str) {
        self.locks = lock_sql(function, &self.keys);
    }

    /// The statement that locks the keys in the server. Empty without `queue = "server"`.
    pub(crate) fn locks(&self) -> &str {
        &self.locks
    }

    /// The server has granted the locks: the next call of this process may wait there.
    pub(crate) fn locked_in_server(&mut self) {
        if !self.locks.is_empty() {
            self.guards.clear();
        }
    }

    /// Waits for its turn among the calls with equal keys.
    pub(crate) async fn wait_in_line(&mut self, queues: &Arc<Queues>) {
        while let Some(key) = self.keys.get(self.guards.len()) {
            let guard = QueueGuard::wait(queues, *key).await;
            self.guards.push(guard);
        }
    }

    /// Waits for its turn to run alone.
    pub(crate) async fn wait_for_turn(&mut self, queues: &Queues) {
        if self.alone.is_none() {
            self.alone = Some(queues.alone.clone().lock_owned().await);
        }
    }

    /// Whether this call has the turn to run alone.
    pub(crate) fn has_turn(&self) -> bool {
        self.alone.is_some()
    }

    /// Lets the other calls go ahead that wait to run alone.
    pub(crate) fn release_turn(&mut self) {
        self.alone = None;
    }

    /// Lets all other calls go ahead.
    pub(crate) fn release_all(&mut self) {
        self.alone = None;
        self.guards.clear();
    }
}

/// A key of `queue_by`: any type that implements [`Hash`].
#[diagnostic::on_unimplemented(
    message = "`queue_by` needs keys that can be hashed, and `{Self}` cannot",
    label = "does not implement `Hash`"
)]
pub trait Key {
    /// Feeds the key to a hasher.
    fn hash_into<H: Hasher>(&self, hasher: &mut H);
}

#[diagnostic::do_not_recommend]
impl<K: Hash + ?Sized> Key for K {
    fn hash_into<H: Hasher>(&self, hasher: &mut H) {
        self.hash(hasher);
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn equal_keys_have_one_queue_and_others_their_own() {
        assert_eq!(QueueKey::of(&7_i64), QueueKey::of(&7_i64));
        assert_eq!(QueueKey::of("seven"), QueueKey::of(&String::from("seven")));
        let guards = QueueGuards::new((0..100_000_i64).map(|key| QueueKey::of(&key)).collect());
        assert_eq!(guards.keys.len(), 100_000);
    }

    /// These numbers must never change: processes with different releases of this crate must agree on them.
    #[test]
    fn keys_have_the_same_table_in_all_processes() {
        let table = |key| QueueKey::table(key, "bank::transfer");
        let tables = [
            table(QueueKey::in_server(&7_i64)),
            table(QueueKey::in_server("seven")),
            table(QueueKey::in_server(&(7_u8, String::from("seven")))),
            QueueKey::in_server(&7_i64).table("bank::debit"),
        ];
        assert_eq!(tables, [62, 45, 18, 33]);
    }

    #[test]
    fn keys_are_spread_over_the_tables() {
        let mut keys = [0; 64];
        for key in 0..6_400_i64 {
            keys[usize::try_from(QueueKey::in_server(&key).table("f")).expect("a table")] += 1;
        }
        assert!(keys.iter().all(|keys| (60..150).contains(keys)), "{keys:?}");
    }

    #[test]
    fn tables_are_locked_in_one_order_and_once() {
        let keys: Vec<QueueKey> = (0..1_000_i64).map(|key| QueueKey::in_server(&key)).collect();
        let names: Vec<String> = (0..QUEUES).map(|table| format!("transactional.queue_{table:02}")).collect();
        assert_eq!(lock_sql("f", &keys), format!("; LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", ")));
    }

    #[test]
    fn queues_are_entered_in_order_and_once() {
        let [a, b] = [QueueKey([3, 9]), QueueKey([3, 900])];
        assert_eq!(QueueGuards::new(vec![b, a, b]).keys, [a, b]);
    }

    #[test]
    fn a_queue_is_gone_with_its_last_call() {
        let queues = Arc::new(Queues::default());
        let guards = |keys: &[i64]| QueueGuards::new(keys.iter().map(QueueKey::of).collect());
        for key in 0..1_000 {
            let [mut first, mut second, mut dropped] = [guards(&[key, -1]), guards(&[-1, key]), guards(&[key])];
            assert!(poll(pin!(first.wait_in_line(&queues))).is_ready());
            {
                let mut second = pin!(second.wait_in_line(&queues));
                assert!(poll(second.as_mut()).is_pending());
                assert!(poll(pin!(dropped.wait_in_line(&queues))).is_pending());
                assert_eq!(queues.by_key().len(), 2);
                first.release_all();
                assert!(poll(second).is_ready());
            }
            assert_eq!(queues.by_key().len(), 2);
            second.release_all();
            assert!(queues.by_key().is_empty());
        }
    }

    #[test]
    fn a_call_that_is_dropped_when_its_turn_comes_passes_it_on() {
        let queues = Arc::new(Queues::default());
        let key = QueueKey::of(&());
        let mut first = Some(Box::pin(QueueGuard::wait(&queues, key)));
        let Poll::Ready(head) = poll(first.as_mut().expect("it is there").as_mut()) else { panic!("it is the first") };
        let mut waiting = [0; 3].map(|_| Some(Box::pin(QueueGuard::wait(&queues, key))));
        for call in waiting.iter_mut().flatten() {
            assert!(poll(call.as_mut()).is_pending());
        }
        waiting[1] = None;
        drop(head);
        // It is at the head by now, and does not know.
        waiting[0] = None;
        let last = waiting[2].as_mut().expect("it is there");
        let Poll::Ready(head) = poll(last.as_mut()) else { panic!("its turn is lost") };
        assert_eq!(queues.by_key().len(), 1);
        drop(head);
        assert!(queues.by_key().is_empty());
    }
}
