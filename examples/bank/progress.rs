//! Progress of a run: a bar on a terminal, otherwise one line a second.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::tally::Tally;

/// The progress of one run.
pub(crate) struct Progress<'a> {
    label: &'a str,
    tally: &'a Tally,
    started: Instant,
    /// Only on a terminal.
    bar: Option<ProgressBar>,
    /// Seconds for which a line was printed.
    seconds: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn start(label: &'a str, transfers: usize, tally: &'a Tally) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner:.green} {prefix:15} {bar:30.green/dim} {elapsed}\n  {msg}");
            let style = style.expect("a valid template").progress_chars("━━─").tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏✓");
            let bar = ProgressBar::with_draw_target(Some(transfers as u64), ProgressDrawTarget::stdout());
            bar.with_style(style).with_prefix(label.to_owned())
        });
        Self { label, tally, started: Instant::now(), bar, seconds: 0 }
    }

    /// Shows the current counts. To be called about ten times a second.
    pub(crate) fn update(&mut self) {
        let seconds = self.started.elapsed().as_secs();
        if let Some(bar) = &self.bar {
            bar.set_position(self.tally.finished());
            bar.set_message(self.tally.to_string());
            bar.tick();
        } else if seconds > self.seconds {
            self.seconds = seconds;
            println!("  {}, {seconds} s: {}", self.label, self.tally);
        }
    }

    /// Shows the final counts.
    pub(crate) fn finish(self, interrupted: bool) {
        if let Some(bar) = self.bar {
            if interrupted {
                // The terminal has written ^C after the bar. Drawn again, the bar would appear a second time.
                bar.set_draw_target(ProgressDrawTarget::hidden());
            }
            bar.finish_with_message(self.tally.to_string());
            println!();
        } else {
            println!("  {}, {:.1} s: {}", self.label, self.started.elapsed().as_secs_f64(), self.tally);
        }
    }
}
