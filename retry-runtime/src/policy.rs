//! The options of a function: retry budgets, isolation, timeouts and delays, fixed at compile time.

use std::time::Duration;

/// An isolation level, weakest first.
///
/// ```
/// use retry_runtime::Isolation;
///
/// assert!(Isolation::ReadCommitted < Isolation::Serializable);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Each statement sees what was committed before it began.
    ReadCommitted,
    /// All statements see what was committed before the first one began.
    RepeatableRead,
    /// As if transactions ran one after the other.
    Serializable,
}

impl Isolation {
    /// The level in SQL's words, as in `ISOLATION LEVEL SERIALIZABLE`.
    #[must_use]
    pub const fn as_sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }

    /// Reads a level as `SHOW transaction_isolation` returns it.
    pub(crate) fn from_sql(text: &str) -> Option<Self> {
        let mut levels = [Self::ReadCommitted, Self::RepeatableRead, Self::Serializable].into_iter();
        levels.find(|level| level.as_sql().eq_ignore_ascii_case(text))
    }
}

/// How much of a back-off delay is random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Jitter {
    /// All of it: uniform between zero and the whole delay.
    #[default]
    Full,
    /// Half of it: uniform between half of the delay and the whole delay.
    Equal,
    /// None of it: always the whole delay.
    None,
}

/// Whether calls on a pool run one at a time for a while after costly deadlocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Damping {
    /// They do.
    #[default]
    On,
    /// They never do.
    Off,
}

/// Where the queues of `queue_by` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Queue {
    /// In this process.
    #[default]
    Process,
    /// In this process and in the database: calls of all processes wait for each other.
    ///
    /// Each transaction locks a table for each key (`LOCK TABLE … IN EXCLUSIVE MODE`), in the message of `BEGIN`. It holds
    /// a connection while it waits. [`install_queues`](crate::install_queues()) creates the tables.
    Server,
}

/// Whether the body waits for the reply to `BEGIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Begin {
    /// The body runs once `BEGIN` has succeeded.
    Awaited,
    /// The body runs at once, and its first statement leaves together with `BEGIN`: a round trip less.
    ///
    /// No other statement leaves before the reply to `BEGIN`. If `BEGIN` fails, the attempt ends. But if `BEGIN` fails
    /// and the connection survives (for example after a stray cancel request), the first statement ran outside of the
    /// transaction, and what it wrote stays. So this is for functions whose first statement only reads.
    Pipelined,
}

/// What to do if there is no reply to `COMMIT`, so that the transaction may be committed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnknownCommit {
    /// Return [`Error::CommitUnknown`](crate::Error::CommitUnknown).
    #[default]
    Fail,
    /// Run the body again, on `retries`: for bodies that may be applied twice.
    Retry,
    /// Look the transaction up by its id, on another connection of the pool. PostgreSQL 13 or later only.
    ///
    /// This cannot decide after a crash or failover that the transaction seems to have survived, or if a call has no
    /// pool: then it is like `Fail`. The look-up lasts as long as the deadline allows, or 30 seconds. The outcome stays
    /// unknown while a synchronous standby does not acknowledge it. Costs one more query in the message of `BEGIN`. That
    /// takes the transaction's snapshot, and assigns it an id even if it writes nothing.
    Resolve,
    /// Write a token with the commit, and look for it on another connection of the pool. This survives failover and needs
    /// only a table. Costs one inserted row for each commit. [`install`](crate::install()) creates the table.
    Token,
}

/// The options of `#[transactional]`, one field each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the attribute")]
pub struct Policy {
    /// Retries after transient failures: a closed connection, a server starting up, a full pool. Default: 2.
    pub retries: u32,
    /// How long transient failures are retried, from the first of them on, beyond `retries`. `None`, the default: not
    /// beyond.
    pub retry_for: Option<Duration>,
    /// Retries after conflicts with concurrent transactions. `None`, the default: 5, or `retries` if that is greater.
    pub deadlock_retries: Option<u32>,
    /// The isolation level. `None`, the default: the session's.
    pub isolation: Option<Isolation>,
    /// Whether the transaction is `READ ONLY`. Default: `false`.
    pub read_only: bool,
    /// Whether the transaction is `DEFERRABLE`. Default: `false`.
    pub deferrable: bool,
    /// The upper bound of the first delay after a conflict; twenty times that after a transient failure. Default: 1 ms.
    /// The bound doubles with each retry. It grows faster if the budget is too small to reach `max_delay` that way.
    pub base_delay: Duration,
    /// The upper bound of the last delay after conflicts; twenty times that after transient failures. `None`, the
    /// default: 50 ms, or `base_delay` if that is longer.
    pub max_delay: Option<Duration>,
    /// How much of a delay is random. Default: [`Jitter::Full`].
    pub jitter: Jitter,
    /// The server's `statement_timeout` in this transaction. `None`, the default: the session's.
    pub statement_timeout: Option<Duration>,
    /// The server's `lock_timeout` in this transaction. `None`, the default: the session's.
    pub lock_timeout: Option<Duration>,
    /// The server's `idle_in_transaction_session_timeout` in this transaction. `None`, the default: the session's.
    pub idle_timeout: Option<Duration>,
    /// Further SQLSTATEs to retry, counted against `retries`. Default: none.
    pub retry_on: &'static [&'static str],
    /// The wall-clock limit of the whole call. `None`, the default: no limit.
    pub deadline: Option<Duration>,
    /// What to do if there is no reply to `COMMIT`. Default: [`UnknownCommit::Fail`].
    pub unknown_commit: UnknownCommit,
    /// Where the queues of `queue_by` are. Default: [`Queue::Process`].
    pub queue: Queue,
    /// After this many conflicts, retries of the function run one at a time, without sleeping between attempts. `None`,
    /// the default: never.
    pub escalate_after: Option<u32>,
    /// Whether the function's calls on a pool run one at a time for a while after deadlocks that cost more than
    /// concurrency gains. Default: [`Damping::On`].
    pub damping: Damping,
    /// Whether a call made inside another call's body may run in a transaction of its own on the same pool.
    /// Default: `false`, and such a call is refused with [`Error::NotNested`](crate::Error::NotNested).
    pub independent: bool,
    /// Whether a nested call is refused with [`Error::NestedDurable`](crate::Error::NestedDurable). Default: `false`.
    pub durable: bool,
    /// Whether `COMMIT` releases the transaction's locks before the log is flushed. The call still waits for the flush, in
    /// a second message of the same flight. Default: `false`.
    pub early_release: bool,
    /// Whether the body waits for the reply to `BEGIN`. `None`, the default: [`Begin::Pipelined`] if `read_only`,
    /// [`Begin::Awaited`] otherwise.
    pub begin: Option<Begin>,
}

impl Policy {
    /// Every option at its default.
    pub const DEFAULT: Self = Self {
        retries: 2,
        retry_for: None,
        deadlock_retries: None,
        isolation: None,
        read_only: false,
        deferrable: false,
        base_delay: Duration::from_millis(1),
        max_delay: None,
        jitter: Jitter::Full,
        statement_timeout: None,
        lock_timeout: None,
        idle_timeout: None,
        retry_on: &[],
        deadline: None,
        unknown_commit: UnknownCommit::Fail,
        queue: Queue::Process,
        escalate_after: None,
        damping: Damping::On,
        independent: false,
        durable: false,
        early_release: false,
        begin: None,
    };

    /// The retries after conflicts.
    #[must_use]
    pub const fn deadlock_retries(&self) -> u32 {
        match self.deadlock_retries {
            Some(retries) => retries,
            None if self.retries > 5 => self.retries,
            None => 5,
        }
    }

    /// Whether the body waits for the reply to `BEGIN`.
    #[must_use]
    pub const fn begin(&self) -> Begin {
        match self.begin {
            Some(begin) => begin,
            None if self.read_only => Begin::Pipelined,
            None => Begin::Awaited,
        }
    }

    /// The upper bound of the last delay after conflicts.
    #[must_use]
    pub const fn max_delay(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_millis(50);
        match self.max_delay {
            Some(delay) => delay,
            None if self.base_delay.as_nanos() > DEFAULT.as_nanos() => self.base_delay,
            None => DEFAULT,
        }
    }

    /// Refuses contradictions at compile time. The macro refuses them only between values that the attribute states.
    pub(crate) const fn validate(&self) {
        assert!(self.base_delay.as_nanos() <= self.max_delay().as_nanos(), "`base_delay` is longer than `max_delay`");
        assert!(
            !self.deferrable || (self.read_only && matches!(self.isolation, Some(Isolation::Serializable))),
            "`deferrable` has an effect only together with `read_only` and `isolation = \"serializable\"`"
        );
        assert!(
            !(self.read_only && matches!(self.queue, Queue::Server)),
            "`queue = \"server\"` locks tables, which the server refuses in a `read_only` transaction"
        );
        assert!(
            !matches!(self.escalate_after, Some(0)),
            "`escalate_after` must be at least 1; to run calls one at a time from the first attempt, use `queue_by = ()`"
        );
        assert!(
            self.retry_on.is_empty() || self.retries > 0,
            "`retry_on` never takes effect: it uses `retries`, which is 0"
        );
        if let Some(after) = self.escalate_after {
            assert!(
                after <= self.deadlock_retries(),
                "`escalate_after` never takes effect: it is greater than `deadlock_retries`, by default 5"
            );
        }
        let timeouts = [self.statement_timeout, self.lock_timeout, self.idle_timeout];
        let mut i = 0;
        while i < timeouts.len() {
            if let Some(timeout) = timeouts[i] {
                assert!(timeout.as_millis() > 0, "the server counts in milliseconds; the shortest timeout is 1 ms");
                assert!(
                    timeout.as_micros().div_ceil(1_000) <= i32::MAX as u128,
                    "the server's longest timeout is 2147483647 ms"
                );
            }
            i += 1;
        }
    }

    /// Whether the message of `BEGIN` asks for the transaction's identity. A read-only transaction needs none.
    pub(crate) fn asks_identity(&self) -> bool {
        self.unknown_commit == UnknownCommit::Resolve && !self.read_only
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlock_retries_default_to_five_or_the_greater_budget() {
        let policy = |retries, deadlock_retries| Policy { retries, deadlock_retries, ..Policy::DEFAULT };
        assert_eq!(policy(2, None).deadlock_retries(), 5);
        assert_eq!(policy(9, None).deadlock_retries(), 9);
        assert_eq!(policy(9, Some(0)).deadlock_retries(), 0);
    }

    #[test]
    fn max_delay_defaults_to_fifty_milliseconds_or_the_longer_base() {
        let policy = |base, max_delay| Policy { base_delay: Duration::from_millis(base), max_delay, ..Policy::DEFAULT };
        assert_eq!(policy(1, None).max_delay(), Duration::from_millis(50));
        assert_eq!(policy(80, None).max_delay(), Duration::from_millis(80));
        assert_eq!(policy(1, Some(Duration::ZERO)).max_delay(), Duration::ZERO);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |policy: Policy| std::panic::catch_unwind(move || policy.validate()).is_err();
        let ms = Duration::from_millis;
        assert!(!refused(Policy::DEFAULT));
        assert!(!refused(Policy { base_delay: Duration::ZERO, max_delay: Some(Duration::ZERO), ..Policy::DEFAULT }));
        assert!(!refused(Policy { base_delay: ms(51), ..Policy::DEFAULT }));
        assert!(refused(Policy { base_delay: ms(51), max_delay: Some(ms(50)), ..Policy::DEFAULT }));
        assert!(!refused(Policy { lock_timeout: Some(ms(2_147_483_647)), ..Policy::DEFAULT }));
        assert!(refused(Policy { lock_timeout: Some(ms(2_147_483_648)), ..Policy::DEFAULT }));
        assert!(refused(Policy { deferrable: true, read_only: true, ..Policy::DEFAULT }));
        assert!(refused(Policy { lock_timeout: Some(Duration::from_micros(999)), ..Policy::DEFAULT }));
        assert!(refused(Policy { idle_timeout: Some(Duration::MAX), ..Policy::DEFAULT }));
        assert!(refused(Policy { escalate_after: Some(0), ..Policy::DEFAULT }));
        assert!(refused(Policy { queue: Queue::Server, read_only: true, ..Policy::DEFAULT }));
        let escalates = |retries, deadlock_retries, escalate_after| {
            let escalate_after = Some(escalate_after);
            !refused(Policy { retries, deadlock_retries, escalate_after, ..Policy::DEFAULT })
        };
        assert!(escalates(2, None, 5) && escalates(7, None, 7) && escalates(0, Some(1), 1));
        assert!(!escalates(2, None, 6) && !escalates(7, None, 8) && !escalates(9, Some(1), 2));
        assert!(!refused(Policy { retry_on: &["23505"], retries: 1, ..Policy::DEFAULT }));
        assert!(refused(Policy { retry_on: &["23505"], retries: 0, ..Policy::DEFAULT }));
    }
}
