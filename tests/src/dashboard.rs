//! A Grafana dashboard, made from the table of metrics in the guide: a panel for each metric.

use serde_json::{Value, json};

/// The page with the table.
const PAGE: &str = include_str!("../../retry-runtime/docs/operating.md");
/// The size of a panel, in columns of 24 and in rows.
const WIDTH: usize = 12;
const HEIGHT: usize = 8;

/// A row of the table.
struct Metric<'a> {
    name: &'a str,
    is_histogram: bool,
    /// The label besides `function`, if there is one.
    label: Option<&'a str>,
    meaning: &'a str,
}

/// The dashboard as JSON, for "Import dashboard".
///
/// # Panics
/// If the page has no table.
#[must_use]
pub fn dashboard() -> String {
    let panels: Vec<Value> = metrics().iter().enumerate().map(|(index, metric)| panel(index, metric)).collect();
    assert!(!panels.is_empty(), "the page has no table of metrics");
    let dashboard = json!({
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
        "uid": "transactional",
        "title": "#[transactional]",
        "description": "Calls, retries and waits of transactional functions",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [{
            "name": "function",
            "type": "query",
            "datasource": source(),
            "query": "label_values(transactional_calls_total, function)",
            "includeAll": true,
            "multi": true,
            "current": {"text": "All", "value": "$__all"},
        }]},
        "panels": panels,
    });
    format!("{dashboard:#}\n")
}

fn metrics() -> Vec<Metric<'static>> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `transactional_"));
    let cells = rows.map(|row| row.trim_end_matches(" |").split(" | ").collect::<Vec<_>>());
    cells.filter_map(|cells| metric(&cells)).collect()
}

fn metric<'a>(cells: &[&'a str]) -> Option<Metric<'a>> {
    let [name, kind, labels, meaning] = cells else { return None };
    let label = labels.split(", ").nth(1).map(|label| label.trim_matches('`'));
    Some(Metric { name: name.trim_end_matches('`'), is_histogram: kind.starts_with("histogram"), label, meaning })
}

fn panel(index: usize, metric: &Metric<'_>) -> Value {
    let Metric { name, is_histogram, label, meaning } = metric;
    let (unit, targets) = if *is_histogram {
        ("s", [0.5, 0.99].map(|quantile| quantile_of(name, quantile)).to_vec())
    } else {
        ("ops", vec![rate_of(name, *label)])
    };
    json!({
        "id": index + 1,
        "type": "timeseries",
        "title": meaning.replace('`', ""),
        "description": format!("transactional_{name}"),
        "datasource": source(),
        "gridPos": {"x": index % 2 * WIDTH, "y": index / 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": targets,
    })
}

fn rate_of(name: &str, label: Option<&str>) -> Value {
    let (by, legend) = match label {
        Some(label) => (format!("function, {label}"), format!("{{{{function}}}} {{{{{label}}}}}")),
        None => ("function".to_owned(), "{{function}}".to_owned()),
    };
    let rate = format!("rate(transactional_{name}{{function=~\"$function\"}}[$__rate_interval])");
    json!({"refId": "A", "expr": format!("sum by ({by}) ({rate})"), "legendFormat": legend})
}

fn quantile_of(name: &str, quantile: f64) -> Value {
    let rate = format!("rate(transactional_{name}_bucket{{function=~\"$function\"}}[$__rate_interval])");
    json!({
        "refId": format!("p{}", quantile * 100.0),
        "expr": format!("histogram_quantile({quantile}, sum by (function, le) ({rate}))"),
        "legendFormat": format!("{{{{function}}}} p{}", quantile * 100.0),
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${DS_PROMETHEUS}"})
}
