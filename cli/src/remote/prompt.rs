//! Questions to the person at the terminal, whatever standard input is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

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

/// Asks whether to go on.
pub(super) fn confirm(question: &str) -> Result<()> {
    let question = format!("{question} [y/N] ");
    match line(&question).context("give --yes")?.trim() {
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
struct Hidden<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Hidden<'t> {
    fn hide(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        // What was typed before the question is no answer to it.
        tcsetattr(terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
