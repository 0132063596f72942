//! `rat policies lint`: what a policy's author should know before it is enforced.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use rat_engine::policy::{Lint, Severity, lint};

use crate::Outcome;
use crate::output::{Format, Look, Record, Terminal, printable};

use super::read;

/// Reads a policy and prints what is doubtful about it.
pub(super) fn run(path: &Path, format: Format, terminal: &mut Terminal) -> Result<Outcome> {
    let policy = read("FILE", path, None)?;
    let findings = lint(&policy);
    match format {
        Format::Table => {
            for finding in &findings {
                let severity = finding.severity();
                let look = match severity {
                    Severity::Danger => Look::Red,
                    Severity::Warning => Look::Yellow,
                    Severity::Note => Look::Bold,
                };
                let severity = terminal.styled(look, &format!("{:7}", severity.to_string()));
                let text = printable(&finding.to_string());
                writeln!(terminal, "{severity}  {}: {text}", finding.id())?;
            }
            writeln!(terminal, "{}", summary(&findings))?;
        }
        _ => {
            let findings: Vec<_> = findings.iter().map(to_record).collect();
            terminal.document(format, &Record::new().with("findings", findings))?;
        }
    }
    let failed = findings
        .iter()
        .any(|finding| finding.severity() == Severity::Danger);
    Ok(if failed {
        Outcome::Failed
    } else {
        Outcome::Passed
    })
}

/// One finding for programs.
pub(crate) fn to_record(finding: &Lint) -> Record {
    Record::new()
        .with("id", finding.id())
        .with("severity", finding.severity().to_string())
        .with("detail", finding.to_string())
}

/// `2 dangers, 0 warnings, 1 note`.
pub(crate) fn summary(findings: &[Lint]) -> String {
    let severities = [Severity::Danger, Severity::Warning, Severity::Note];
    let counts = severities.map(|severity| {
        let count = findings
            .iter()
            .filter(|finding| finding.severity() == severity)
            .count();
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {severity}{plural}")
    });
    counts.join(", ")
}
