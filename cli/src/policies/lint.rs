//! `rat policies lint`: what a policy's author should know before it is enforced.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use rat_engine::limits::MB_POLICY_BYTES_MAX;
use rat_engine::policy::{Lint, RuntimePolicy, Severity, lint};
use rat_engine::uefi::policy::{MbLint, MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::Code;

use crate::Outcome;
use crate::input::{self, InputError};
use crate::output::{Format, Look, Record, Terminal, printable};

use super::check;

/// One finding, of either kind of policy.
struct Doubt {
    id: &'static str,
    severity: Severity,
    text: String,
}

impl From<&Lint> for Doubt {
    fn from(finding: &Lint) -> Self {
        Self {
            id: finding.id(),
            severity: finding.severity(),
            text: finding.to_string(),
        }
    }
}

impl From<&MbLint> for Doubt {
    fn from(finding: &MbLint) -> Self {
        Self {
            id: finding.id(),
            severity: finding.severity(),
            text: finding.to_string(),
        }
    }
}

/// Reads a policy of either kind. A measured boot reference state is told by its members.
fn doubts(path: &Path) -> Result<Vec<Doubt>, InputError> {
    const OPTION: &str = "FILE";
    let malformed = |reason: &dyn std::fmt::Display| {
        InputError::new(OPTION, path, reason).with_code(Code::PolicyMalformed)
    };
    let text = input::read(OPTION, path, "POLICY_BYTES_MAX")?;
    if is_boot_state(&text) {
        let policy = MeasuredBootPolicy::parse(PolicyName::Example, &text);
        let policy = policy.map_err(|error| malformed(&error))?;
        let findings = policy.map(|policy| policy.lint()).unwrap_or_default();
        return Ok(findings.iter().map(Doubt::from).collect());
    }
    let policy = RuntimePolicy::parse(&text).map_err(|error| malformed(&error))?;
    check(&policy).map_err(|error| malformed(&error))?;
    Ok(lint(&policy).iter().map(Doubt::from).collect())
}

/// Whether a text is a JSON object with members that only reference states have.
fn is_boot_state(text: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Members {
        scrtm_and_bios: Option<serde::de::IgnoredAny>,
        kernels: Option<serde::de::IgnoredAny>,
        digests: Option<serde::de::IgnoredAny>,
    }
    if text.len() > MB_POLICY_BYTES_MAX {
        return false;
    }
    let members = serde_json::from_slice::<Members>(text);
    members.is_ok_and(|it| {
        it.digests.is_none() && (it.scrtm_and_bios.is_some() || it.kernels.is_some())
    })
}

/// Reads a policy and prints what is doubtful about it.
pub(super) fn run(path: &Path, format: Format, terminal: &mut Terminal) -> Result<Outcome> {
    let findings = doubts(path)?;
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    match format {
        Format::Table => {
            for Doubt { id, severity, text } in &findings {
                let look = match severity {
                    Severity::Danger => Look::Red,
                    Severity::Warning => Look::Yellow,
                    Severity::Note => Look::Bold,
                };
                let severity = terminal.styled(look, &format!("{:7}", severity.to_string()));
                writeln!(terminal, "{severity}  {id}: {}", printable(text))?;
            }
            writeln!(terminal, "{}", counts(count))?;
        }
        _ => {
            let record = |it: &Doubt| {
                Record::new()
                    .with("id", it.id)
                    .with("severity", it.severity.to_string())
                    .with("detail", it.text.clone())
            };
            let findings: Vec<_> = findings.iter().map(record).collect();
            terminal.document(format, &Record::new().with("findings", findings))?;
        }
    }
    Ok(if count(Severity::Danger) > 0 {
        Outcome::Failed
    } else {
        Outcome::Passed
    })
}

/// `2 dangers, 0 warnings, 1 note`.
pub(crate) fn summary(findings: &[Lint]) -> String {
    counts(|severity| {
        let of_it = findings.iter().filter(|it| it.severity() == severity);
        of_it.count()
    })
}

fn counts(count: impl Fn(Severity) -> usize) -> String {
    let severities = [Severity::Danger, Severity::Warning, Severity::Note];
    let counts = severities.map(|severity| {
        let count = count(severity);
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {severity}{plural}")
    });
    counts.join(", ")
}
