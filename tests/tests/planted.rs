//! The bugs that `scripts/planted` plants still fit the code.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;

/// The lines of a hunk that its file must have: context, and what the patch removes.
fn old_lines(hunk: &str) -> String {
    let lines = hunk.lines().skip(1).filter_map(|line| line.strip_prefix([' ', '-']));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn every_planted_bug_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut count = 0;
    for entry in fs::read_dir(root.join("tests/planted")).unwrap() {
        let patch = entry.unwrap().path();
        let text = fs::read_to_string(&patch).unwrap();
        let (sentence, diff) = text.split_once("\n\n").unwrap();
        assert!(sentence.ends_with('.') && sentence.lines().count() == 1, "no sentence first: {}", patch.display());
        for file in diff.split("\n--- a/").skip(1) {
            let (source, hunks) = file.split_once('\n').unwrap();
            let code = fs::read_to_string(root.join(source)).unwrap();
            for hunk in hunks.split("\n@@ ").skip(1) {
                assert!(code.contains(&old_lines(hunk)), "{} does not apply to {source}", patch.display());
                count += 1;
            }
        }
    }
    assert!(count >= 20, "{count}");
}
