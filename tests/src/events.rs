//! A look at the events that the runtime emits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::registry::LookupSpan;

/// An event's fields as text, its message under `message`, its level under `level`, and the name of the span that it is
/// in under `span`.
pub type Fields = BTreeMap<&'static str, String>;

type Seen = Arc<Mutex<Vec<Fields>>>;

thread_local! {
    static CAPTURE: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Collects what `retry_runtime` emits on this thread, from its making until it is dropped.
pub struct Events {
    seen: Seen,
    /// Who collected before.
    outer: Option<Seen>,
}

impl Events {
    /// Begins to collect.
    #[must_use]
    pub fn capture() -> Self {
        subscribe();
        let seen = Seen::default();
        let outer = CAPTURE.replace(Some(seen.clone()));
        Self { seen, outer }
    }

    /// The events so far with this message.
    #[must_use]
    pub fn of(&self, message: &str) -> Vec<Fields> {
        self.all().into_iter().filter(|fields| fields["message"] == message).collect()
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Fields> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        CAPTURE.set(self.outer.take());
    }
}

/// Subscribes for the whole process, once and before anything is emitted: while subscribers come and go, events of other
/// threads get lost.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only in a program that has a subscriber of its own.
        let _ = tracing::subscriber::set_global_default(registry().with(ToThread));
    });
}

/// Hands events to whoever collects on their thread.
struct ToThread;

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for ToThread {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(seen) = CAPTURE.with_borrow(Clone::clone) else { return };
        if event.metadata().target() == "retry_runtime" {
            let mut fields = Fields::from([("level", event.metadata().level().to_string())]);
            event.record(&mut Text(&mut fields));
            fields.extend(context.event_span(event).map(|span| ("span", span.name().to_owned())));
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
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
