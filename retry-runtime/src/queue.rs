//! Calls of one function that wait for each other in this process. Nothing here is needed for correctness: it spares
//! the attempts that would be lost.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use tokio::sync::{Mutex, MutexGuard};

/// How many queues the keys of a function are spread over.
const STRIPES: u64 = 1024;

/// A place at the head of a queue. Dropped, the next call's turn comes.
type Turn = MutexGuard<'static, ()>;

/// The queues of one function. Tokio's mutexes are first in, first out.
#[derive(Debug)]
pub(crate) struct Queues {
    stripes: OnceLock<Box<[Mutex<()>]>>,
    alone: Mutex<()>,
}

impl Queues {
    pub(crate) const fn new() -> Self {
        Self { stripes: OnceLock::new(), alone: Mutex::const_new(()) }
    }

    fn stripe(&self, stripe: Stripe) -> &Mutex<()> {
        let stripes = self.stripes.get_or_init(|| (0..STRIPES).map(|_| Mutex::new(())).collect());
        &stripes[usize::try_from(stripe.0).expect("less than STRIPES")]
    }
}

/// The queue of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stripe(u64);

impl Stripe {
    /// Keys that are equal have the same queue, and a few others share it.
    pub fn of<K: Key + ?Sized>(key: &K) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash_into(&mut hasher);
        Self(hasher.finish() % STRIPES)
    }
}

/// What one call waits for, and its turns, which it keeps over its attempts.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    stripes: Vec<Stripe>,
    turns: Vec<Turn>,
    alone: Option<Turn>,
}

impl Waits {
    pub(crate) fn new(mut stripes: Vec<Stripe>) -> Self {
        // In an order that all calls keep, so that no two wait for each other.
        stripes.sort_unstable();
        stripes.dedup();
        Self { stripes, ..Self::default() }
    }

    /// Waits for its turn among the calls with equal keys.
    pub(crate) async fn wait_in_line(&mut self, queues: &'static Queues) {
        while let Some(stripe) = self.stripes.get(self.turns.len()) {
            let turn = queues.stripe(*stripe).lock().await;
            self.turns.push(turn);
        }
    }

    /// Waits for its turn to run alone.
    pub(crate) async fn wait_to_be_alone(&mut self, queues: &'static Queues) {
        if self.alone.is_none() {
            self.alone = Some(queues.alone.lock().await);
        }
    }

    /// Whether it is this call's turn to run alone.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Lets the others that escalated go ahead.
    pub(crate) fn leave_alone(&mut self) {
        self.alone = None;
    }

    /// Lets all others go ahead.
    pub(crate) fn leave(&mut self) {
        self.alone = None;
        self.turns.clear();
    }
}

/// What calls can queue by: whatever can be hashed.
#[diagnostic::on_unimplemented(
    message = "`queue_by` takes keys that can be hashed, and `{Self}` cannot",
    label = "does not implement `Hash`"
)]
pub trait Key {
    /// Feeds the key to a hasher.
    fn hash_into(&self, hasher: &mut DefaultHasher);
}

#[diagnostic::do_not_recommend]
impl<K: Hash + ?Sized> Key for K {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        self.hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_one_queue_and_the_others_are_spread() {
        assert_eq!(Stripe::of(&7_i64), Stripe::of(&7_i64));
        assert_eq!(Stripe::of("seven"), Stripe::of(&String::from("seven")));
        let waits = Waits::new((0..10_000_i64).map(|key| Stripe::of(&key)).collect());
        assert_eq!(waits.stripes.len() as u64, STRIPES);
    }

    #[test]
    fn queues_are_entered_in_order_and_once() {
        let [a, b] = [Stripe(3), Stripe(900)];
        assert_eq!(Waits::new(vec![b, a, b]).stripes, [a, b]);
    }
}
