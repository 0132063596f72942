//! What the author of a reference state should know.

use std::fmt;

use super::{MeasuredBootPolicy, RefState, Rules};
use crate::policy::exclude::{Engine, Match};
use crate::policy::{Severity, Warning};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MbLint {
    /// No log can pass: a list of alternatives is empty.
    NothingPasses {
        /// The member.
        member: &'static str,
    },
    /// An element of `scrtm_and_bios` or `platform_firmware` has no digest that can be compared.
    NeverFits {
        /// Where.
        member: &'static str,
        /// Its place in the list.
        index: usize,
    },
    /// Secure Boot is to be off: what firmware starts is judged by digest alone.
    WithoutSecureBoot,
    /// dbx need not forbid anything.
    DbxEmpty,
    /// The pattern for the command line accepts one that hands the machine over.
    CommandLineOpen {
        /// The place in `kernels`.
        index: usize,
        /// A command line that it accepts.
        example: &'static str,
    },
    /// The pattern needs the backtracking engine.
    CommandLineBacktracks {
        /// The place in `kernels`.
        index: usize,
    },
    /// What reading warned of.
    Reading(Warning),
}

/// Command lines that no reference state should accept.
const HANDED_OVER: [&str; 3] = [
    "kernel_cmdline: /vmlinuz init=/bin/sh",
    "kernel_cmdline: /vmlinuz ima_appraise=off ima_policy=",
    "kernel_cmdline: x",
];

impl MbLint {
    /// A stable name for scripts and documentation.
    pub const fn id(&self) -> &'static str {
        match self {
            Self::NothingPasses { .. } => "boot.nothing_passes",
            Self::NeverFits { .. } => "boot.never_fits",
            Self::WithoutSecureBoot => "boot.without_secure_boot",
            Self::DbxEmpty => "boot.dbx_empty",
            Self::CommandLineOpen { .. } => "boot.command_line_open",
            Self::CommandLineBacktracks { .. } => "boot.command_line_backtracks",
            Self::Reading(Warning::UnknownMember { .. }) => "member.unknown",
            Self::Reading(_) => "digest.never_matches",
        }
    }

    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NothingPasses { .. } | Self::CommandLineOpen { .. } => Severity::Danger,
            Self::NeverFits { .. } | Self::DbxEmpty | Self::Reading(_) => Severity::Warning,
            Self::WithoutSecureBoot | Self::CommandLineBacktracks { .. } => Severity::Note,
        }
    }
}

impl fmt::Display for MbLint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingPasses { member } => {
                write!(f, "{member} is empty: no event log passes")
            }
            Self::NeverFits { member, index } => write!(
                f,
                "{member}[{index}] lists no digest of a known algorithm: no event log fits it"
            ),
            Self::WithoutSecureBoot => f.write_str(
                "has_secureboot is false: shim, GRUB, kernel and initial RAM disk are judged by \
                 digest, and nothing forbids others before they are measured",
            ),
            Self::DbxEmpty => f.write_str("dbx is empty: revoked boot loaders may be allowed"),
            Self::CommandLineOpen { index, example } => write!(
                f,
                "kernels[{index}].kernel_cmdline accepts other command lines, such as {example:?}"
            ),
            Self::CommandLineBacktracks { index } => write!(
                f,
                "kernels[{index}].kernel_cmdline runs on the backtracking engine, whose steps are \
                 capped: beyond the cap it does not match"
            ),
            Self::Reading(warning) => warning.fmt(f),
        }
    }
}

impl MeasuredBootPolicy {
    /// What is doubtful about the reference state, the worst first.
    pub fn lint(&self) -> Vec<MbLint> {
        let reading = self.warnings.iter().cloned().map(MbLint::Reading);
        let mut findings: Vec<_> = reading.collect();
        if let Rules::Example(state) = &self.rules {
            of_state(state, &mut findings);
        }
        findings.sort_by_key(MbLint::severity);
        findings
    }
}

fn of_state(state: &RefState, findings: &mut Vec<MbLint>) {
    let lists = [
        ("scrtm_and_bios", state.firmware.is_empty()),
        ("kernels", state.kernels.is_empty()),
    ];
    let empty = lists.into_iter().filter(|(_, is_empty)| *is_empty);
    findings.extend(empty.map(|(member, _)| MbLint::NothingPasses { member }));
    for (index, firmware) in state.firmware.iter().enumerate() {
        if firmware.scrtm.is_empty() || firmware.blobs.iter().any(Vec::is_empty) {
            let member = "scrtm_and_bios";
            findings.push(MbLint::NeverFits { member, index });
        }
    }
    if !state.has_secureboot {
        findings.push(MbLint::WithoutSecureBoot);
    } else if state.dbx.is_empty() {
        findings.push(MbLint::DbxEmpty);
    }
    for (index, kernel) in state.kernels.iter().enumerate() {
        let pattern = &kernel.command_line;
        let accepts = |line: &&&str| pattern.excludes(line) == Match::Excluded;
        if let Some(example) = HANDED_OVER.iter().find(accepts) {
            findings.push(MbLint::CommandLineOpen { index, example });
        }
        if pattern.engine() == Engine::Backtracking {
            findings.push(MbLint::CommandLineBacktracks { index });
        }
    }
}
