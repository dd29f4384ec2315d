//! What is seen while a run goes on: a bar on a terminal, a line a second elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::tally::Tally;

/// The progress of one run.
pub(crate) struct Progress<'a> {
    label: &'a str,
    tally: &'a Tally,
    started: Instant,
    length: Duration,
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    /// The lines printed elsewhere.
    lines: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn start(label: &'a str, length: Duration, tally: &'a Tally) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner:.green} {prefix:15} {bar:30.green/dim} {elapsed}\n  {msg}");
            let style = style.expect("a valid template").progress_chars("━━─").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏✓");
            let bar = ProgressBar::with_draw_target(Some(millis(length)), ProgressDrawTarget::stdout());
            bar.with_style(style).with_prefix(label.to_owned())
        });
        Self { label, tally, started: Instant::now(), length, bar, lines: 0 }
    }

    /// Shows the counts as they are. To be called ten times a second or so.
    pub(crate) fn update(&mut self) {
        let elapsed = self.started.elapsed();
        if let Some(bar) = &self.bar {
            bar.set_position(millis(elapsed));
            bar.set_message(self.tally.to_string());
            bar.tick();
        } else if elapsed.as_secs() > self.lines && elapsed < self.length {
            self.lines = elapsed.as_secs();
            println!("  {}, {} s: {}", self.label, self.lines, self.tally);
        }
    }

    /// Shows the final counts.
    pub(crate) fn finish(self, interrupted: bool) {
        if let Some(bar) = self.bar {
            // The terminal wrote ^C after the bar: drawn again, it would land below itself.
            if interrupted {
                bar.set_draw_target(ProgressDrawTarget::hidden());
            }
            bar.finish_with_message(self.tally.to_string());
            println!();
        } else {
            println!("  {}, {:.1} s: {}", self.label, self.started.elapsed().as_secs_f64(), self.tally);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
