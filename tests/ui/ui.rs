//! Compile errors: each case in these folders has its messages beside it. `TRYBUILD=overwrite` records them.
#![forbid(unsafe_code)]
#![warn(clippy::pedantic)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The compiler that recorded `rustc` and `rustc-src`, which contain messages of its own.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
    let version = rustc(&["--version"]);
    if !version.starts_with(RECORDED_WITH) {
        return report_left_out(
            "tests/ui/rustc and tests/ui/rustc-src",
            &format!("recorded with {RECORDED_WITH}*, and this is {version}"),
        );
    }
    cases.compile_fail("rustc/*.rs");
    // Errors in constants come from inside the standard library. rustc quotes its source if it is installed.
    if Path::new(&rustc(&["--print", "sysroot"])).join("lib/rustlib/src").exists() {
        return report_left_out("tests/ui/rustc-src", "recorded without the component rust-src, which is installed");
    }
    cases.compile_fail("rustc-src/*.rs");
}

/// Writes to stderr directly: `eprintln!` shows nothing if the test passes.
fn report_left_out(cases: &str, reason: &str) {
    writeln!(std::io::stderr(), "LEFT OUT: {cases}: {reason}").expect("stderr");
}

fn rustc(args: &[&str]) -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(args).output().expect("there is a compiler");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
