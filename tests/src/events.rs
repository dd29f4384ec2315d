//! Captured events and spans: what the runtime emits through `tracing` while a test runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

/// An event's fields as text, with its message under `message`, its level under `level`, and the name of the span around
/// it under `span`.
pub type Fields = BTreeMap<&'static str, String>;

/// What has happened, in order.
#[derive(Default)]
struct Capture {
    events: Vec<Fields>,
    nodes: Vec<Node>,
}

/// A span or an event in the tree of spans.
struct Node {
    parent: Option<usize>,
    name: String,
    /// Of spans.
    fields: Fields,
}

type Captured = Arc<Mutex<Capture>>;

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
        lock(&self.captured).events.clone()
    }

    /// All spans so far, each on a line with its fields, and below it, indented, its spans and the runtime's events.
    #[must_use]
    pub fn tree(&self) -> String {
        fn write(tree: &mut String, nodes: &[Node], parent: Option<usize>, depth: usize) {
            for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.parent == parent) {
                tree.push_str(&"  ".repeat(depth));
                tree.push_str(&node.name);
                for (field, value) in &node.fields {
                    let _ = fmt::Write::write_fmt(tree, format_args!(" {field}={value}"));
                }
                tree.push('\n');
                write(tree, nodes, Some(index), depth + 1);
            }
        }
        let mut tree = String::new();
        write(&mut tree, &lock(&self.captured).nodes, None, 0);
        tree
    }
}

fn lock(captured: &Captured) -> MutexGuard<'_, Capture> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Passes each event and span to the capture of its thread.
struct ToThread;

/// The capture that a span is in, and its place there.
#[derive(Clone)]
struct Place(Captured, usize);

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for ToThread {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(captured) = CURRENT.with_borrow(Clone::clone) else { return };
        if event.metadata().target() == "retry_runtime" {
            let mut fields = Fields::from([("level", event.metadata().level().to_string())]);
            event.record(&mut Text(&mut fields));
            let span = context.event_span(event);
            let parent = span.as_ref().and_then(place_in(&captured));
            fields.extend(span.map(|span| ("span", span.name().to_owned())));
            let name = format!("{}: {}", fields["level"].to_lowercase(), fields["message"]);
            let mut capture = lock(&captured);
            capture.nodes.push(Node { parent, name, fields: Fields::new() });
            capture.events.push(fields);
        }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(captured) = CURRENT.with_borrow(Clone::clone) else { return };
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::new();
        attributes.record(&mut Text(&mut fields));
        let parent = span.parent().as_ref().and_then(place_in(&captured));
        let index = {
            let mut capture = lock(&captured);
            capture.nodes.push(Node { parent, name: span.name().to_owned(), fields });
            capture.nodes.len() - 1
        };
        span.extensions_mut().insert(Place(captured, index));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let place = context.span(id).and_then(|span| span.extensions().get::<Place>().cloned());
        if let Some(Place(captured, index)) = place {
            values.record(&mut Text(&mut lock(&captured).nodes[index].fields));
        }
    }
}

/// Finds a span's place in this capture, if it is in it.
fn place_in<'a, S: for<'s> LookupSpan<'s>>(captured: &'a Captured) -> impl Fn(&SpanRef<'_, S>) -> Option<usize> + 'a {
    |span| {
        let extensions = span.extensions();
        extensions.get::<Place>().filter(|place| Arc::ptr_eq(&place.0, captured)).map(|place| place.1)
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
