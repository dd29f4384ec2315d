//! Draws the results of the other commands as SVG. The background is opaque and the fonts are the viewer's own, so a
//! chart is readable on light and dark pages.

mod bars;
pub(crate) mod lines;
mod scatter;
pub(crate) mod style;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;

use crate::contention;
use crate::overhead;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file of `overhead --csv`
    #[arg(long)]
    overhead: Option<PathBuf>,

    /// The file of `contention --csv`
    #[arg(long)]
    contention: Option<PathBuf>,

    /// The folder to draw into
    #[arg(long, default_value = "docs/charts")]
    out: PathBuf,
}

/// Draws one chart per environment and scenario in the files.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out)?;
    if let Some(file) = &args.overhead {
        for (title, lines) in grouped(file, overhead::Line::title)? {
            bars::draw(&path(&args.out, "overhead", &title), &title, &lines)?;
        }
    }
    if let Some(file) = &args.contention {
        for (title, lines) in grouped(file, contention::Line::title)? {
            scatter::draw(&path(&args.out, "contention", &title), &title, &lines)?;
        }
    }
    Ok(())
}

/// The lines of a CSV file, by title.
fn grouped<T: DeserializeOwned>(file: &Path, title: fn(&T) -> String) -> anyhow::Result<BTreeMap<String, Vec<T>>> {
    let mut groups = BTreeMap::<String, Vec<T>>::new();
    for line in csv::Reader::from_path(file).with_context(|| file.display().to_string())?.deserialize() {
        let line: T = line?;
        groups.entry(title(&line)).or_default().push(line);
    }
    Ok(groups)
}

fn path(folder: &Path, kind: &str, title: &str) -> PathBuf {
    let words: Vec<_> =
        title.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|word| !word.is_empty()).collect();
    let path = folder.join(format!("{kind}-{}.svg", words.join("-")));
    println!("{}", path.display());
    path
}
