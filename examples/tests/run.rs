//! Runs every example, and compares what it prints with the block after "Prints" in its documentation.
//!
//! `cargo test -p retry-examples` builds the examples first. With `--test run` or the name of a test, cargo does not.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs, iter};

/// One test for each example.
macro_rules! examples {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                let (printed, promised) = (run(stringify!($name), &[]), promise(stringify!($name)));
                assert_eq!(without_numbers(&printed, &promised), promised, "it prints\n{printed}");
            }
        )*
    };
}

examples! {
    deadlock,
    job_queue,
    loyalty,
    metrics,
    opentelemetry,
    optimistic,
    outbox,
    own_pool,
    report,
    repository,
    serializable_counter,
    tenants,
    timeouts,
    transfer,
    upsert,
    web,
}

/// Its counts and times vary, but not its checks.
#[test]
fn bank() {
    let printed = run("bank", &["--transfers", "200", "--workers", "4", "--outage", "0.5"]);
    assert_eq!(printed.lines().filter(|line| line.starts_with('✓')).count(), 2, "{printed}");
    // The outage would stop a server that is not the demo's.
    let outages = if env::var_os("DATABASE_URL").is_some() { 0 } else { 3 };
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with(" outage ")).collect();
    assert_eq!(rows.len(), outages, "{printed}");
    let is_without_failures = |row: &&&str| row.contains(" 0 (0%) ");
    let retry_for = rows.iter().filter(|row| row.contains("retry_for")).filter(is_without_failures).count();
    assert_eq!(retry_for, outages / 3, "{printed}");
}

/// It needs the feature, which a release build of the other examples cannot have.
#[cfg(feature = "testing")]
#[test]
fn faults() {
    assert_eq!(run("faults", &[]), promise("faults"));
}

/// It makes the first transfer of `transfer`.
#[test]
fn transfer_expanded() {
    assert_eq!(run("transfer_expanded", &[]), "500 cents moved from account 1 to account 2\n");
}

#[test]
fn every_example_is_run_and_listed() {
    let manifest = include_str!("../Cargo.toml");
    let names: Vec<&str> =
        manifest.split("[[example]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names.len(), NAMES.len() + 3, "besides `bank`, `faults` and `transfer_expanded`");
    for name in names {
        assert!(include_str!("../README.md").contains(&format!("[`{name}`](")), "README.md does not list {name}");
    }
}

/// Runs an example, and returns what it prints.
fn run(name: &str, arguments: &[&str]) -> String {
    let this = env::current_exe().expect("the path of this test");
    let target = this.ancestors().nth(2).expect("the test is in target/PROFILE/deps");
    let program = target.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    assert_is_built(&program);
    let output = Command::new(&program).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Fails if the program is missing, or older than one of the sources that cargo has listed beside it.
fn assert_is_built(program: &Path) {
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let built = modified(program).unwrap_or(SystemTime::UNIX_EPOCH);
    let sources = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let is_old = sources.split_whitespace().any(|source| modified(Path::new(source)).is_some_and(|time| time > built));
    let is_built = !is_old && !sources.is_empty();
    assert!(is_built, "{} is not up to date: run `cargo build -p retry-examples --examples`", program.display());
}

/// What the documentation of an example says that it prints.
fn promise(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = [folder.join(name).with_extension("rs"), folder.join(name).join("main.rs")];
    let source = paths.iter().find_map(|path| fs::read_to_string(path).ok()).expect("its source");
    let documentation =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.trim_start_matches(' '));
    let block =
        documentation.skip_while(|line| !line.starts_with("Prints")).skip_while(|line| *line != "```text").skip(1);
    let lines: Vec<&str> = block.take_while(|line| *line != "```").collect();
    assert!(!lines.is_empty(), "its documentation has no block after \"Prints\"");
    lines.join("\n") + "\n"
}

/// What was printed, with … in place of each number that the documentation says varies. The number must not be 0.
fn without_numbers(printed: &str, promised: &str) -> String {
    let promised = promised.split_inclusive([' ', '\n']).chain(iter::repeat(""));
    let words = printed.split_inclusive([' ', '\n']).zip(promised);
    let without_number = words.map(|(word, promised)| {
        let is_number = word.trim_end().parse::<u32>().is_ok_and(|number| number > 0);
        if is_number && promised.trim_end() == "…" { promised } else { word }
    });
    without_number.collect()
}
