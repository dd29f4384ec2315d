//! What the compiler says of faults: the messages beside the cases in `ui`. `TRYBUILD=overwrite` records them anew.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The compiler whose own wording the cases in `ui/rustc` and `ui/rustc-src` hold.
const RECORDED_WITH: &str = "rustc 1.95.";

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
    let version = rustc(&["--version"]);
    if !version.starts_with(RECORDED_WITH) {
        return leave_out(
            "ui/rustc and ui/rustc-src",
            &format!("recorded with {RECORDED_WITH}*, and this is {version}"),
        );
    }
    cases.compile_fail("ui/rustc/*.rs");
    // Errors in constants pass through the library, and rustc quotes it where it can.
    if Path::new(&rustc(&["--print", "sysroot"])).join("lib/rustlib/src").exists() {
        return leave_out("ui/rustc-src", "recorded without the component rust-src, which is installed");
    }
    cases.compile_fail("ui/rustc-src/*.rs");
}

/// Not by `eprintln!`, which a test that passes never shows.
fn leave_out(cases: &str, reason: &str) {
    writeln!(std::io::stderr(), "LEFT OUT: {cases}: {reason}").expect("stderr");
}

fn rustc(args: &[&str]) -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(args).output().expect("there is a compiler");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
