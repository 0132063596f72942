//! A shell that is typed to, as a person at a terminal does.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// However busy the machine is, what a page shows comes sooner.
const PATIENCE: Duration = Duration::from_secs(150);

/// A shell, and all that it has printed.
pub(crate) struct Terminal {
    child: Child,
    input: ChildStdin,
    screen: Arc<Screen>,
    /// Whether a program stays, which gets what is typed.
    pub(crate) is_occupied: bool,
    blocks: usize,
}

#[derive(Default)]
struct Screen {
    printed: Mutex<Printed>,
    more: Condvar,
}

#[derive(Default)]
struct Printed {
    text: Vec<u8>,
    is_over: bool,
}

impl Terminal {
    /// A shell that ends at the first command that fails. It has a session of its own: no program
    /// can ask whoever runs the tests at a terminal, and all end with it.
    pub(crate) fn open(folder: &Path, variables: &[(String, String)]) -> Self {
        let mut child = Command::new("setsid")
            .args(["bash", "--noprofile", "--norc", "-s"])
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input
            .write_all(b"exec 2>&1\numask 022\nset -eo pipefail\n")
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let screen = Arc::new(Screen::default());
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = output.read(&mut bytes).unwrap_or(0);
                let mut printed = shown.printed.lock().unwrap();
                printed.text.extend_from_slice(&bytes[..read]);
                printed.is_over = read == 0;
                shown.more.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            screen,
            is_occupied: false,
            blocks: 0,
        }
    }

    /// Types lines; where the screen is then.
    pub(crate) fn type_in(&mut self, lines: &str) -> usize {
        let from = self.screen.printed.lock().unwrap().text.len();
        // A shell that has ended says so by its output.
        let _ = self.input.write_all(format!("{lines}\n").as_bytes());
        from
    }

    /// Runs the commands in a file to their end; what they printed, and the exit code.
    ///
    /// The file is read by the shell itself, so that what it changes stays, and its programs read
    /// nothing that is meant for the shell.
    pub(crate) fn run(&mut self, script: &Path, code: i32) -> Result<(String, i32), String> {
        self.blocks += 1;
        let end = format!("--- end of block {} ", self.blocks);
        let script = script.display();
        let (before, after) = match code {
            0 => ("", ""),
            _ => ("set +e\n", "set -e\n"),
        };
        let from = self.type_in(&format!(
            "{before}source '{script}' </dev/null\ncode=$?\n{after}printf '\\n%s%s\\n' '{end}' \"$code\""
        ));
        let text = self.wait(from, |text| {
            let end = text.split_once(&end).map(|(_, code)| code);
            end.is_some_and(|code| code.contains('\n'))
        })?;
        let (printed, code) = text.split_once(&end).unwrap();
        let code = code.lines().next().unwrap_or_default().parse();
        Ok((printed.trim_end_matches('\n').to_owned(), code.unwrap()))
    }

    /// Waits until what was printed since is complete; all of it.
    ///
    /// # Errors
    /// What was printed, when it never is.
    pub(crate) fn wait(
        &self,
        from: usize,
        is_complete: impl Fn(&str) -> bool,
    ) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut printed = self.screen.printed.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&printed.text[from..]).into_owned();
            let left = deadline.saturating_duration_since(Instant::now());
            if is_complete(&text) {
                return Ok(text);
            }
            if printed.is_over || left.is_zero() {
                return Err(text);
            }
            printed = self.screen.more.wait_timeout(printed, left).unwrap().0;
        }
    }

    /// All that was printed.
    pub(crate) fn screen(&self) -> String {
        let printed = self.screen.printed.lock().unwrap();
        String::from_utf8_lossy(&printed.text).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
