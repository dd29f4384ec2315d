//! The structure of both crates: no modules import each other in a circle. In the runtime, imports point one way, and only
//! the adapter names the driver.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each line uses only itself and the lines before it. `ARCHITECTURE.md` draws this.
const FLOORS: &[&[&str]] = &[
    &["error", "policy", "classify", "backoff", "events", "sync"],
    &["driver"],
    &["pool"],
    &["testing"],
    &["transaction"],
    &["commit"],
    &["call"],
    &["__private", "guide", "lib"],
];

/// The modules that may name tokio-postgres: the adapter, and the public error.
const ADAPTER: &[&str] = &["driver", "pool", "transaction", "error"];
/// Except these: they decide, and use the adapter.
const NO_ADAPTER: &[&str] = &[
    "pool::clean_up",
    "transaction::begin_reply",
    "transaction::context",
    "transaction::deadline",
    "transaction::hooks",
    "transaction::status",
];

/// The code of each module of a crate by its path (`call::begin`), without comments and unit tests.
fn modules(package: &str) -> BTreeMap<String, String> {
    fn visit(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(package).join("src");
    let mut files = Vec::new();
    visit(&root, &mut files);
    let module = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().with_extension("").to_str().unwrap().replace(['/', '\\'], "::");
        let code = fs::read_to_string(file).unwrap();
        let code = code.split("mod tests {").next().unwrap();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (name.strip_suffix("::mod").map_or(name.clone(), str::to_owned), code.join("\n"))
    };
    files.into_iter().map(module).collect()
}

/// The modules that `code` of `module` names, by `crate::` or `self::`.
fn imports(module: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (prefix, root) in [("crate::", ""), ("self::", module)] {
        for (at, _) in code.match_indices(prefix) {
            let path = &code[at + prefix.len()..];
            let end = path.find(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).unwrap_or(path.len());
            let stem = format!("{root}::{}", &path[..end]);
            let group =
                path[end..].strip_prefix('{').and_then(|group| group.split_once('}')).map_or("", |(group, _)| group);
            for item in group.split(',') {
                let full = format!("{stem}{}", item.trim());
                let mut path = full.trim_start_matches("::");
                // The longest part of the path that is a module.
                while !modules.contains_key(path) {
                    // What is in no module is exported by the crate.
                    path = path.rsplit_once("::").map_or("lib", |(parent, _)| parent);
                }
                if path != module {
                    found.insert(path.to_owned());
                }
            }
        }
    }
    found
}

fn floor(module: &str) -> usize {
    let room = module.split("::").next().unwrap();
    FLOORS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} is in no floor"))
}

#[test]
fn no_module_uses_one_of_a_later_floor() {
    let modules = modules("retry-runtime");
    assert!(modules.len() > 30, "{:?}", modules.keys());
    for (module, code) in modules.iter().filter(|(module, _)| *module != "lib") {
        for used in imports(module, code, &modules) {
            assert!(floor(&used) <= floor(module), "{module} uses {used}");
        }
    }
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    for package in ["retry-macros", "retry-runtime"] {
        let modules = modules(package);
        assert!(modules.len() > 10, "{:?}", modules.keys());
        let mut uses: BTreeMap<&String, BTreeSet<String>> =
            modules.iter().map(|(module, code)| (module, imports(module, code, &modules))).collect();
        // Take away what uses nothing that is left, until nothing is left.
        while !uses.is_empty() {
            let (free, rest): (Vec<_>, Vec<_>) = uses.into_iter().partition(|(_, used)| used.is_empty());
            assert!(!free.is_empty(), "a circle: {rest:#?}");
            uses = rest.into_iter().collect();
            for used in uses.values_mut() {
                used.retain(|used| !free.iter().any(|(module, _)| *module == used));
            }
        }
    }
}

#[test]
fn only_the_adapter_names_the_driver() {
    for (module, code) in modules("retry-runtime") {
        let room = module.split("::").next().unwrap();
        if !ADAPTER.contains(&room) || NO_ADAPTER.contains(&&*module) {
            assert!(!code.contains("tokio_postgres"), "{module} names tokio_postgres");
        }
    }
}
