//! A verdict for people: why first, then what was counted, then warnings.

use std::io::{self, Write};

use rat_engine::verdict::Verdict;

use crate::output::{Look, Terminal, counted, name_text, pcr_ranges, printable};

use super::report::{BootFacts, ImaFacts, Objection, QuoteFacts, Report};

/// Writes the report.
pub(super) fn write(report: &Report, terminal: &mut Terminal) -> io::Result<()> {
    writeln!(terminal, "{}", headline(report, terminal))?;
    for finding in &report.findings {
        writeln!(terminal)?;
        objection(finding, Look::Red, terminal)?;
    }
    writeln!(terminal)?;
    section("Quote", &quote_lines(&report.quote), terminal)?;
    section("IMA log", &ima_lines(report), terminal)?;
    section("Boot log", &boot_lines(report), terminal)?;
    if !report.warnings.is_empty() {
        let heading = terminal.styled(Look::Bold, "Warnings (--strict makes them fail)");
        writeln!(terminal, "{heading}")?;
        for warning in &report.warnings {
            objection(warning, Look::Yellow, terminal)?;
        }
    }
    Ok(())
}

/// The verdict, and in a sentence why.
fn headline(report: &Report, terminal: &Terminal) -> String {
    match &report.verdict {
        Verdict::Trusted(trusted) => format!(
            "{}: every check passed, and the policy allows all {} measured entries.",
            terminal.styled(Look::Green, "TRUSTED"),
            trusted.cut()
        ),
        Verdict::Authentic => format!(
            "{}: every check passed. No runtime policy was given to say what may run.",
            terminal.styled(Look::Green, "AUTHENTIC")
        ),
        Verdict::Untrusted => {
            let first = report.findings.first();
            let cause = first.map_or("A check failed.", |finding| finding.cause);
            let further = match report.findings.len().saturating_sub(1) {
                0 => String::new(),
                more => {
                    let more = u64::try_from(more).unwrap_or(u64::MAX);
                    format!(" ({})", counted(more, "further fault", "further faults"))
                }
            };
            let word = terminal.styled(Look::Red, "UNTRUSTED");
            format!("{word}: {cause}{further}")
        }
    }
}

fn objection(objection: &Objection, look: Look, terminal: &mut Terminal) -> io::Result<()> {
    let code = terminal.styled(look, objection.code.as_str());
    writeln!(terminal, "  {code}: {}", printable(&objection.detail))?;
    if let Some(path) = &objection.path {
        writeln!(terminal, "    path   {}", name_text(path))?;
    }
    if let Some(entry) = objection.entry {
        writeln!(terminal, "    entry  {entry} (the first is 0)")?;
    }
    if let Some(pcr) = objection.pcr {
        writeln!(terminal, "    PCR    {pcr}")?;
    }
    writeln!(terminal, "    do     {}", objection.remedy)
}

type Lines = Vec<(&'static str, String)>;

fn section(title: &str, lines: &Lines, terminal: &mut Terminal) -> io::Result<()> {
    writeln!(terminal, "{}", terminal.styled(Look::Bold, title))?;
    let width = lines
        .iter()
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    for (label, text) in lines {
        writeln!(terminal, "  {label:width$}  {text}")?;
    }
    Ok(())
}

fn quote_lines(quote: &QuoteFacts) -> Lines {
    let key = quote.key.unwrap_or("not accepted");
    let mut lines = vec![("key", format!("{key}, from {}", quote.ak_form))];
    let Some(proven) = &quote.proven else {
        let scheme = quote.scheme.unwrap_or("unknown");
        lines.push(("signature", format!("{scheme}; nothing is proven")));
        return lines;
    };
    let scheme = quote.scheme.unwrap_or("unknown");
    lines.push(("signature", format!("{scheme} with {}, valid", proven.hash)));
    lines.push(match quote.nonce.len() {
        0 => (
            "nonce",
            "empty, as expected: nothing says when this was made".to_owned(),
        ),
        bytes => ("nonce", format!("{bytes} bytes, as expected")),
    });
    let banks = proven.selection.iter();
    let banks = banks.map(|(bank, pcrs)| format!("{bank} {}", pcr_ranges(*pcrs)));
    lines.push(("PCRs", banks.collect::<Vec<_>>().join("; ")));
    lines.push((
        "clock",
        format!(
            "{} ms{}",
            proven.clock_ms,
            match proven.safe {
                true => "",
                false => ", not safe: power was lost",
            }
        ),
    ));
    lines.push((
        "resets",
        format!("{}, restarts {}", proven.reset_count, proven.restart_count),
    ));
    lines.push(("firmware", format!("{:#018x}", proven.firmware_version)));
    lines
}

fn ima_lines(report: &Report) -> Lines {
    let ImaFacts {
        given,
        pcrs,
        counts,
        cut,
        boot_aggregate,
    } = &report.ima;
    let Some(counts) = counts.as_ref().filter(|_| *given) else {
        return unproven(*given, report);
    };
    let mut entries = format!("{}, proven by PCR {}", counts.entries, pcr_ranges(*pcrs));
    if let Some(cut) = cut.filter(|cut| *cut != counts.entries) {
        entries.push_str(&format!(" up to entry {cut}"));
    }
    let mut lines = vec![("entries", entries)];
    if counts.pending > 0 || counts.pending_malformed {
        let malformed = match counts.pending_malformed {
            true => ", then one that cannot be read",
            false => "",
        };
        let text = format!(
            "{} newer than the quote, not judged{malformed}",
            counts.pending
        );
        lines.push(("pending", text));
    }
    lines.push(("violations", counts.violations.to_string()));
    if let Some(evidence) = boot_aggregate {
        lines.push(("boot aggregate", (*evidence).to_owned()));
    }
    if report.policy.is_some() {
        lines.push(("denied", counts.denied.to_string()));
        lines.push(("excluded", counts.excluded.to_string()));
        lines.push(("signed", counts.signed.to_string()));
    }
    lines
}

fn boot_lines(report: &Report) -> Lines {
    let BootFacts { given, events, .. } = &report.boot;
    match (events, report.boot.explained) {
        (Some(events), Some(pcrs)) => {
            let pcrs = pcr_ranges(pcrs);
            let text = format!("{events}; they give the quoted values of PCR {pcrs}");
            vec![("events", text)]
        }
        _ => unproven(*given, report),
    }
}

/// What to say of a log that proves nothing.
fn unproven(given: bool, report: &Report) -> Lines {
    let text = match (given, &report.quote.proven) {
        (false, None) => "not given",
        (false, Some(_)) => "not given: its PCRs are known from the quote alone",
        (true, None) => "not read: without a genuine quote there is nothing to compare it with",
        (true, Some(_)) => "proves nothing: see the faults above",
    };
    vec![("result", text.to_owned())]
}
