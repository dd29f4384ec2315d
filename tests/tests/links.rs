//! The links of the Markdown pages: to files on GitHub, and to modules and items in rustdoc.
#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// The links that rustdoc follows in place of a page's own. `cargo doc` checks where they lead.
const IN_RUSTDOC: &str = include_str!("../../retry-runtime/src/guide/links.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The Markdown files of these folders.
fn pages(folders: &[&str]) -> Vec<PathBuf> {
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The target of each link and image: `](target)`, and `[label]: target` at the start of a line.
fn targets(page: &str) -> Vec<&str> {
    let inline = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    inline.chain(definitions(page).map(|(_, target)| target)).collect()
}

fn definitions(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut checked = 0;
    for page in pages(&[".", "docs", "retry-runtime", "retry-runtime/docs", "retry-macros", "examples"]) {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text).into_iter().filter(|target| !target.starts_with("https://")) {
            let file = page.parent().unwrap().join(target);
            assert!(file.exists(), "{}: {target}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} links were found");
}

#[test]
fn rustdoc_replaces_every_link_to_a_file() {
    let replaced: Vec<&str> = definitions(IN_RUSTDOC).map(|(label, _)| label).collect();
    let mut pages = pages(&["retry-runtime/docs"]);
    pages.push(root().join("retry-runtime/README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let inline: Vec<_> = text.split("](").skip(1).filter(|rest| !rest.starts_with("https://")).collect();
        assert!(inline.is_empty(), "{}: dead in rustdoc: {inline:?}", page.display());
        for (label, target) in definitions(&text) {
            assert!(replaced.contains(&label), "{}: dead in rustdoc: [{label}]: {target}", page.display());
        }
    }
}
