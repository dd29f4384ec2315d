//! Adds the runtime's events to the log of the call that they are about.

use std::fmt::Write;
use std::sync::{Arc, Once};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::call::Log;

tokio::task_local! {
    /// The log of the call that this task makes, and when the call began.
    pub(crate) static CALL: (Arc<Log>, Instant);
}

/// Subscribes for the whole process.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if the program has set another subscriber.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ToCall));
    });
}

struct ToCall;

impl<S: Subscriber> Layer<S> for ToCall {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "retry_runtime" {
            return;
        }
        // Background tasks that clean up have no log.
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
