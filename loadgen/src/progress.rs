//! How far a run is, for a person who waits for it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

const TICK: Duration = Duration::from_millis(200);

/// A bar for so many things, on standard error when that is a terminal; else nothing.
pub fn bar(what: &'static str, things: usize) -> ProgressBar {
    let things = u64::try_from(things).unwrap_or(u64::MAX);
    styled(what, things, "{prefix} {wide_bar} {pos}/{len} {eta}")
}

fn styled(what: &'static str, length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let bar = bar.with_prefix(what);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A bar that fills with time, until this is dropped.
#[derive(Debug)]
pub struct Running {
    bar: ProgressBar,
    ticking: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ticking.abort();
        self.bar.finish_and_clear();
    }
}

/// Shows what passes of this time, and what is `said` of the run.
pub fn running(
    what: &'static str,
    time: Duration,
    said: impl Fn() -> String + Send + 'static,
) -> Running {
    let template = "{prefix} {wide_bar} {pos}/{len} s  {msg}";
    let bar = styled(what, time.as_secs(), template);
    let shown = bar.clone();
    let begun = Instant::now();
    let ticking = tokio::spawn(async move {
        while !shown.is_hidden() {
            shown.set_position(begun.elapsed().as_secs());
            shown.set_message(said());
            sleep(TICK).await;
        }
    });
    Running {
        bar,
        ticking: ticking.abort_handle(),
    }
}
