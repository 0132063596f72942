//! How the content of event logs is judged: settings of the whole server, as in Keylime.

use std::fmt;
use std::str::FromStr;

use rat_engine::uefi::policy::PolicyName;

/// Which policy judges, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeasuredBoot {
    /// The policy. The reference state is the request's or the agent's.
    pub policy_name: PolicyName,
    /// When the content is judged. The log is replayed every time.
    pub evaluate: Evaluate,
}

/// When the content of a log is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Evaluate {
    /// With the first attestation of a machine. Evidence of a machine that is not enrolled has no
    /// first attestation: its content is never judged.
    Once,
    /// Whenever there is a log.
    #[default]
    Always,
}

impl Evaluate {
    /// Keylime's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for Evaluate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Evaluate {
    type Err = UnknownEvaluate;

    fn from_str(text: &str) -> Result<Self, UnknownEvaluate> {
        match text {
            "once" => Ok(Self::Once),
            "always" => Ok(Self::Always),
            _ => Err(UnknownEvaluate),
        }
    }
}

/// A word that is neither of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event logs are judged once or always")]
pub struct UnknownEvaluate;
