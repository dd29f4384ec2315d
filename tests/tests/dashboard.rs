//! The Grafana dashboard in `docs` is the one that the table of metrics gives.
#![allow(missing_docs)]

#[test]
fn the_dashboard_has_a_panel_for_each_metric_of_the_guide() {
    let dashboard = include_str!("../../docs/grafana.json");
    let remedy = "run `cargo run -p retry-tests --bin dashboard > docs/grafana.json`";
    assert!(dashboard == retry_tests::dashboard::dashboard(), "{remedy}");
    let json: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = json["panels"].as_array().unwrap();
    let page = include_str!("../../retry-runtime/docs/operating.md");
    let rows = page.lines().filter(|line| line.starts_with("| `transactional_"));
    assert_eq!(panels.len(), rows.count());
    for panel in panels {
        let (name, expression) =
            (panel["description"].as_str().unwrap(), panel["targets"][0]["expr"].as_str().unwrap());
        assert!(expression.contains(name), "{name} is not in {expression}");
    }
}
