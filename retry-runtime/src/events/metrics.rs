//! Counters and histograms for the recorder of the crate `metrics`.

use std::time::Duration;

use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Unit, with_recorder};

use crate::events::{AttemptId, Event};

/// A metric. All have the label `function`.
struct Metric {
    name: &'static str,
    unit: Unit,
    /// The second label, if it has one.
    label: Option<&'static str>,
    help: &'static str,
}

/// Declares the metrics, and the table of them.
macro_rules! metrics {
    ($($metric:ident: $name:literal, $unit:ident, $label:expr, $help:literal;)*) => {
        $(const $metric: Metric = Metric { name: $name, unit: Unit::$unit, label: $label, help: $help };)*
        const TABLE: &[Metric] = &[$($metric),*];
    };
}

// The page `operating.md` has the same table.
metrics! {
    CALLS: "transactional_calls_total", Count, Some("result"), "Calls that have ended, by result";
    ATTEMPTS: "transactional_attempts_total", Count, None, "Attempts of the calls that have ended";
    RETRIES: "transactional_retries_total", Count, Some("class"), "Retries, by class or reason";
    GIVE_UPS: "transactional_give_ups_total", Count, Some("class"), "Calls that had no retry left, by class or reason";
    REFUSED_RETRIES: "transactional_refused_retries_total", Count, Some("reason"), "Retries that the layers around the pool refused, by layer";
    REFUSED_CALLS: "transactional_refused_calls_total", Count, None, "Attempts that an open circuit refused";
    UNANSWERED: "transactional_unanswered_commits_total", Count, None, "`COMMIT`s without a reply";
    IGNORED: "transactional_ignored_failures_total", Count, None, "Attempts whose body returned `Ok` after a failed statement";
    DISCARDED: "transactional_discarded_connections_total", Count, None, "Connections closed instead of given back";
    QUEUE_WAITS: "transactional_queue_waits_total", Count, None, "Attempts that waited in a queue of the function";
    CALL_TIME: "transactional_call_seconds", Seconds, None, "Time of a call, with all attempts and waits";
    ATTEMPT_TIME: "transactional_attempt_seconds", Seconds, None, "Time for which an attempt had its connection";
    WASTED_TIME: "transactional_wasted_seconds", Seconds, None, "Time of a call in failed attempts, if there were any";
    WAITING_TIME: "transactional_waiting_seconds", Seconds, None, "Time of a call in queues, for connections and before retries, if it waited";
}

const METADATA: Metadata<'static> = Metadata::new("retry_runtime", Level::INFO, Some(module_path!()));

impl Metric {
    fn key(&self, function: &'static str, value: Option<&'static str>) -> Key {
        let function = Label::from_static_parts("function", function);
        match self.label.zip(value) {
            Some((label, value)) => Key::from_parts(self.name, vec![function, Label::from_static_parts(label, value)]),
            None => Key::from_parts(self.name, vec![function]),
        }
    }

    fn counter(&self, id: AttemptId, value: Option<&'static str>) -> Counter {
        with_recorder(|recorder| recorder.register_counter(&self.key(id.function, value), &METADATA))
    }

    fn histogram(&self, id: AttemptId) -> Histogram {
        with_recorder(|recorder| recorder.register_histogram(&self.key(id.function, None), &METADATA))
    }

    fn add(&self, id: AttemptId, value: Option<&'static str>) {
        self.counter(id, value).increment(1);
    }

    fn time(&self, id: AttemptId, time: Duration) {
        self.histogram(id).record(time.as_secs_f64());
    }
}

pub(super) fn record(id: AttemptId, event: &Event<'_>) {
    match event {
        Event::AttemptEnded(end) => ATTEMPT_TIME.time(id, end.time),
        Event::CallEnded(end) => {
            CALLS.add(id, Some(end.result.as_str()));
            ATTEMPTS.counter(id, None).increment(end.attempts.into());
            CALL_TIME.time(id, end.time);
            if !end.wasted.is_zero() {
                WASTED_TIME.time(id, end.wasted);
            }
            if !end.waiting.is_zero() {
                WAITING_TIME.time(id, end.waiting);
            }
        }
        Event::Retrying { cause, .. } => RETRIES.add(id, Some(cause)),
        Event::GivingUp { cause, refused_by, .. } => {
            GIVE_UPS.add(id, Some(cause));
            if let Some(layer) = refused_by {
                REFUSED_RETRIES.add(id, Some(layer));
            }
        }
        Event::CircuitOpen { .. } => REFUSED_CALLS.add(id, None),
        Event::CommitUnknown => UNANSWERED.add(id, None),
        Event::IgnoredFailure => IGNORED.add(id, None),
        Event::ConnectionDiscarded => DISCARDED.add(id, None),
        Event::Queued { .. } => QUEUE_WAITS.add(id, None),
        _ => {}
    }
}

/// Tells the recorder of the crate [`metrics`] the unit and the description of each metric. Call it once, after the
/// recorder is installed.
///
/// [The guide](crate::guide::operating) has the table of metrics. They are recorded without this call too.
///
/// ```
/// retry_runtime::describe_metrics();
/// ```
pub fn describe_metrics() {
    for Metric { name, unit, help, .. } in TABLE {
        with_recorder(|recorder| match unit {
            Unit::Seconds => recorder.describe_histogram((*name).into(), Some(*unit), (*help).into()),
            _ => recorder.describe_counter((*name).into(), Some(*unit), (*help).into()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_has_the_same_table() {
        let rows = TABLE.iter().map(|Metric { name, unit, label, help }| {
            let kind = if *unit == Unit::Seconds { "histogram, seconds" } else { "counter" };
            let labels = label.map_or_else(|| "`function`".to_owned(), |label| format!("`function`, `{label}`"));
            format!("| `{name}` | {kind} | {labels} | {help} |")
        });
        let page = include_str!("../../docs/operating.md");
        let table = page.lines().filter(|line| line.starts_with("| `transactional_"));
        assert!(table.eq(rows.clone()), "the table must be\n{}", rows.collect::<Vec<_>>().join("\n"));
    }
}
