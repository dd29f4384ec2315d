//! Captured events: what the runtime emits through `tracing` while a test runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::registry::LookupSpan;

/// An event's fields as text, with its message under `message`, its level under `level`, and the name of the span around
/// it under `span`.
pub type Fields = BTreeMap<&'static str, String>;

type Captured = Arc<Mutex<Vec<Fields>>>;

thread_local! {
    static CURRENT: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

/// Captures the events that `retry_runtime` emits on this thread, until it is dropped.
pub struct Events {
    captured: Captured,
    /// The capture that this one replaced.
    outer: Option<Captured>,
}

impl Events {
    /// Begins to capture.
    #[must_use]
    pub fn capture() -> Self {
        subscribe();
        let captured = Captured::default();
        let outer = CURRENT.replace(Some(captured.clone()));
        Self { captured, outer }
    }

    /// The events with this message so far.
    #[must_use]
    pub fn of(&self, message: &str) -> Vec<Fields> {
        self.all().into_iter().filter(|fields| fields["message"] == message).collect()
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Fields> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        CURRENT.set(self.outer.take());
    }
}

/// Subscribes for the whole process, once and before anything is emitted. Changing subscribers later would drop events of
/// other threads.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if the program has set another subscriber.
        let _ = tracing::subscriber::set_global_default(registry().with(ToThread));
    });
}

/// Passes each event to the capture of its thread.
struct ToThread;

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for ToThread {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(captured) = CURRENT.with_borrow(Clone::clone) else { return };
        if event.metadata().target() == "retry_runtime" {
            let mut fields = Fields::from([("level", event.metadata().level().to_string())]);
            event.record(&mut Text(&mut fields));
            fields.extend(context.event_span(event).map(|span| ("span", span.name().to_owned())));
            captured.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
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
