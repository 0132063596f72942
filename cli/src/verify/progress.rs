//! A bar for logs that take a while.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter logs are done before a person could read a bar.
const BYTES_WITHOUT_BAR: u64 = 8 << 20;

/// A bar on stderr, when a person looks at it and the log is long; else nothing.
pub(super) fn bar(size_bytes: Option<u64>) -> ProgressBar {
    let long = size_bytes.filter(|size| *size > BYTES_WITHOUT_BAR);
    let Some(size_bytes) = long.filter(|_| io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("IMA log {wide_bar} {bytes}/{total_bytes} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
