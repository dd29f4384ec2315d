//! What the runtime says of a call, for its log.

use std::fmt::Write;
use std::sync::{Arc, Once};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::call::Log;

tokio::task_local! {
    /// The call that this task makes, and when it began.
    pub(crate) static CALL: (Arc<Log>, Instant);
}

/// Subscribes for the whole process.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only in a program that has a subscriber of its own.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ToCall));
    });
}

struct ToCall;

impl<S: Subscriber> Layer<S> for ToCall {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "retry_runtime" {
            return;
        }
        // Clean-ups run in tasks of their own.
        let _ = CALL.try_with(|(log, began)| {
            let mut text = Text(format!("{:.3?}", began.elapsed()));
            event.record(&mut text);
            log.lock().events.push(text.0);
        });
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // The report names the function.
        if field.name() != "function" {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}
