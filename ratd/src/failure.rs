//! Why the program ends, as exit codes.

use std::fmt;
use std::process::ExitCode;

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed.
    Failed = 1,
    /// The configuration is wrong.
    Configuration = 3,
    /// Data directory, CA or listener cannot be used.
    Unusable = 4,
    /// Stopped before everything under way had ended.
    Forced = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Failed => Self::from(1),
            Exit::Configuration => Self::from(3),
            Exit::Unusable => Self::from(4),
            Exit::Forced => Self::from(5),
        }
    }
}

/// An error and the exit code that it means.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            exit: Exit::Failed,
            error: error.into(),
        }
    }
}

/// Gives an error its exit code.
pub(crate) trait Means<T> {
    /// This exit code.
    fn means(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> Means<T> for Result<T, E> {
    fn means(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}
