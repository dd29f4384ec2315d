//! Counts calls and conflicts, from the runtime's events: it emits one for each retry and each give-up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::HumanCount;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Calls that returned `Ok`. The workers count these, as there is no event for a success.
    pub(crate) committed: AtomicU64,
    serialization: AtomicU64,
    deadlocks: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// Subscribes to the events of this process.
    pub(crate) fn install() -> Arc<Self> {
        let tally = Arc::new(Self::default());
        tracing_subscriber::registry().with(Counter(tally.clone())).init();
        tally
    }

    /// Sets all counts to zero.
    pub(crate) fn reset(&self) {
        for count in [&self.committed, &self.serialization, &self.deadlocks, &self.retried, &self.failed] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Retries.
    pub(crate) fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Calls that have returned.
    pub(crate) fn finished(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) + self.failed.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: &AtomicU64| HumanCount(count.load(Ordering::Relaxed));
        let conflicts = self.serialization.load(Ordering::Relaxed) + self.deadlocks.load(Ordering::Relaxed);
        write!(f, "{} committed, {} failed, ", count(&self.committed), count(&self.failed))?;
        write!(f, "{} retries; ", count(&self.retried))?;
        write!(f, "{} conflicts (deadlocks: {})", HumanCount(conflicts), count(&self.deadlocks))
    }
}

struct Counter(Arc<Tally>);

impl<S: Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "retry_runtime" {
            return;
        }
        let mut seen = Seen::default();
        event.record(&mut seen);
        let tally = &self.0;
        let counts = [
            (seen.class == "serialization", &tally.serialization),
            (seen.class == "deadlock", &tally.deadlocks),
            (seen.message == "retrying", &tally.retried),
            (seen.message == "giving up" || seen.message == "circuit open", &tally.failed),
        ];
        for (_, count) in counts.into_iter().filter(|(is_one, _)| *is_one) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Seen {
    class: String,
    message: String,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "class" {
            value.clone_into(&mut self.class);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
