//! Questions to the person at the terminal, whatever standard input is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

const TERMINAL: &str = "/dev/tty";
const LINE_BYTES_MAX: u64 = 2048;

fn open() -> Result<File> {
    let terminal = File::options().read(true).write(true).open(TERMINAL);
    terminal.context("there is no terminal to ask at")
}

/// Asks for a line.
pub(super) fn line(question: &str) -> Result<String> {
    ask(&open()?, question)
}

/// Asks for a line that is not shown.
pub(super) fn secret(question: &str) -> Result<String> {
    let terminal = open()?;
    let hidden = Hidden::hide(&terminal).context("the terminal cannot hide what is typed")?;
    let answer = ask(&terminal, question);
    drop(hidden);
    answer
}

/// Asks whether to go on. Where nobody can be asked, `otherwise` says what to give instead.
pub(super) fn confirm(question: &str, otherwise: &'static str) -> Result<()> {
    let question = format!("{question} [y/N] ");
    match line(&question).context(otherwise)?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

fn ask(mut terminal: &File, question: &str) -> Result<String> {
    terminal.write_all(crate::output::printable(question).as_bytes())?;
    terminal.flush()?;
    let mut line = Vec::new();
    BufReader::new(terminal.take(LINE_BYTES_MAX)).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        bail!("no answer");
    }
    String::from_utf8(line).context("the answer is not UTF-8")
}

/// While this lives the terminal does not show what is typed, but for the end of the line.
struct Hidden;

/// A terminal, and how it was before it hid what is typed.
struct Before {
    terminal: File,
    modes: Termios,
}

/// What is to be put back by whoever comes first: the prompt, or a signal that ends the program.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

/// What a person ends a program with, by a key or by closing the window, and what others do.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

impl Hidden {
    fn hide(terminal: &File) -> io::Result<Self> {
        restore_at_signals()?;
        let modes = tcgetattr(terminal)?;
        let mut hiding = modes.clone();
        hiding.local_modes.remove(LocalModes::ECHO);
        hiding.local_modes.insert(LocalModes::ECHONL);
        let was = Before {
            terminal: terminal.try_clone()?,
            modes,
        };
        // Held, so that no signal comes in between.
        let mut before = before();
        // What was typed before the question is no answer to it.
        tcsetattr(terminal, OptionalActions::Flush, &hiding)?;
        *before = Some(was);
        Ok(Self)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(was) = before().take() {
            was.restore();
        }
    }
}

impl Before {
    fn restore(&self) {
        // There is nobody left to tell.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes);
    }
}

fn before() -> MutexGuard<'static, Option<Before>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the terminal is as it was before a signal ends the program.
fn restore_at_signals() -> io::Result<()> {
    static WATCHED: Mutex<bool> = Mutex::new(false);
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*watched {
        let mut signals = Signals::new(ENDING)?;
        let watch = move || {
            for signal in signals.forever() {
                if let Some(was) = before().take() {
                    was.restore();
                    // The line of the question has no end yet.
                    let _ = (&was.terminal).write_all(b"\n");
                }
                // As if nobody had caught it: a shell that waits must see what ended the program.
                let _ = emulate_default_handler(signal);
            }
        };
        thread::Builder::new().spawn(watch)?;
        *watched = true;
    }
    Ok(())
}
