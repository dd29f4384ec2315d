//! Prints the Grafana dashboard: `cargo run -p retry-tests --bin dashboard > docs/grafana.json`.

fn main() {
    print!("{}", retry_tests::dashboard::dashboard());
}
