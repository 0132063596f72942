//! Bars for work that takes a while, on stderr and only where a person looks.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `length` steps of `what`; hidden when stderr is no terminal.
pub(super) fn bar(what: &'static str, length: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style).with_prefix(what),
        Err(_) => bar,
    }
}
