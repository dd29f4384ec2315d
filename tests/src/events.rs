//! A look at the events that the runtime emits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

/// An event's fields as text, its message under `message` and its level under `level`.
pub type Fields = BTreeMap<&'static str, String>;

/// Collects what `retry_runtime` emits on this thread, from its making until it is dropped.
pub struct Events {
    seen: Seen,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Fields>>>);

impl Events {
    /// Begins to collect.
    #[must_use]
    pub fn capture() -> Self {
        let seen = Seen::default();
        let guard = tracing::subscriber::set_default(registry().with(seen.clone()));
        Self { seen, _guard: guard }
    }

    /// The events so far with this message.
    #[must_use]
    pub fn of(&self, message: &str) -> Vec<Fields> {
        self.all().into_iter().filter(|fields| fields["message"] == message).collect()
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Fields> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl<S: Subscriber> Layer<S> for Seen {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() == "retry_runtime" {
            let mut fields = Fields::from([("level", event.metadata().level().to_string())]);
            event.record(&mut Text(&mut fields));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
        }
    }
}

struct Text<'a>(&'a mut Fields);

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
