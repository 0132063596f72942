//! Commands to simulated machines, one a line.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Result;
use rat_engine::agent_id::AgentId;
use thiserror::Error;
use tokio::sync::mpsc;

/// Commands that wait until the one before is done.
const WAITING_MAX: usize = 64;
const LINE_BYTES_MAX: usize = 4096;

/// What a machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `run MACHINE PATH [CONTENT]`: run a file; without content, the path is its content.
    Run {
        /// The machine.
        machine: AgentId,
        /// The file.
        path: String,
        /// What is in it.
        content: Option<String>,
    },
    /// `hide MACHINE`: run a file that the list does not show.
    Hide(AgentId),
    /// `reboot MACHINE`.
    Reboot(AgentId),
    /// `quit`.
    Quit,
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// It is none of the commands.
    #[error("commands are: run MACHINE PATH [CONTENT], hide MACHINE, reboot MACHINE, quit")]
    Unknown,
    /// The machine's name cannot be one.
    #[error("that cannot be a machine's name: {0}")]
    Machine(#[from] rat_engine::agent_id::AgentIdError),
}

impl Command {
    /// The command in this line.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn parse(line: &str) -> Result<Self, CommandError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["run", machine, path, content @ ..] => Ok(Self::Run {
                machine: AgentId::parse(machine)?,
                path: (*path).to_owned(),
                content: (!content.is_empty()).then(|| content.join(" ")),
            }),
            ["hide", machine] => Ok(Self::Hide(AgentId::parse(machine)?)),
            ["reboot", machine] => Ok(Self::Reboot(AgentId::parse(machine)?)),
            ["quit"] => Ok(Self::Quit),
            _ => Err(CommandError::Unknown),
        }
    }

    /// The machine it is for.
    pub const fn machine(&self) -> Option<&AgentId> {
        match self {
            Self::Run { machine, .. } | Self::Hide(machine) | Self::Reboot(machine) => {
                Some(machine)
            }
            Self::Quit => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { machine, path, .. } => write!(f, "run {machine} {path}"),
            Self::Hide(machine) => write!(f, "hide {machine}"),
            Self::Reboot(machine) => write!(f, "reboot {machine}"),
            Self::Quit => f.write_str("quit"),
        }
    }
}

/// Lines of standard input, or of a FIFO that writers may open and close as they like.
///
/// The channel ends with standard input; a FIFO never ends.
///
/// # Errors
/// When no thread can be started.
pub(super) fn commands(fifo: Option<PathBuf>) -> Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    // Reading blocks, also when the process is to end: so the thread is its own, and ends with it.
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || match fifo {
            None => forward(std::io::stdin().lock(), &sender),
            Some(path) => loop {
                match File::open(&path) {
                    Ok(file) => forward(BufReader::new(file), &sender),
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "no commands");
                        return;
                    }
                }
                if sender.is_closed() {
                    return;
                }
            },
        })?;
    Ok(receiver)
}

fn forward(lines: impl BufRead, to: &mpsc::Sender<String>) {
    for line in lines.lines() {
        let Ok(line) = line else { return };
        let is_command = !line.trim().is_empty() && line.len() <= LINE_BYTES_MAX;
        if is_command && to.blocking_send(line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_errors() {
        let machine = AgentId::parse("m1").unwrap();
        let run = Command::parse(" run m1 /usr/bin/ls some content ").unwrap();
        assert_eq!(run.machine(), Some(&machine));
        let Command::Run { path, content, .. } = run else {
            panic!("{run:?}")
        };
        assert_eq!(
            (path.as_str(), content.as_deref()),
            ("/usr/bin/ls", Some("some content"))
        );
        assert_eq!(
            Command::parse("hide m1"),
            Ok(Command::Hide(machine.clone()))
        );
        assert_eq!(Command::parse("reboot m1"), Ok(Command::Reboot(machine)));
        assert_eq!(Command::parse("quit"), Ok(Command::Quit));
        for line in ["", "run m1", "hide", "hide m1 m2", "exit"] {
            assert_eq!(Command::parse(line), Err(CommandError::Unknown), "{line}");
        }
        assert!(Command::parse("hide a/b").is_err());
    }
}
