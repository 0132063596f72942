//! A measurement list: counts, its ends, and on demand every entry.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::Write;

use anyhow::Result;
use rat_engine::hash::HashAlg;
use rat_engine::ima::{DigestOf, Entry, Event, LogFormat, Template};

use crate::Outcome;
use crate::arguments::InspectArguments;
use crate::input::Input;
use crate::measurements::{self, Reading};
use crate::output::{Format, Item, Record, Terminal, name_text};

use super::{FILE, headline, unverified};

/// Entries shown from each end.
const ENDS: usize = 3;

/// What is counted over a list.
#[derive(Default)]
struct Counts {
    templates: BTreeMap<&'static str, u64>,
    pcrs: BTreeMap<u32, u64>,
    algorithms: BTreeMap<String, u64>,
    violations: u64,
    /// Entries whose template hash is not the hash of their data.
    wrong_hashes: u64,
    /// The first entry whose data does not follow its template, and why.
    malformed: Option<String>,
    first: Vec<Shown>,
    last: VecDeque<Shown>,
}

/// One entry, as it is shown.
#[derive(Clone)]
struct Shown {
    entry: u64,
    pcr: u32,
    template: &'static str,
    digest: Option<String>,
    path: Option<Vec<u8>>,
    remarks: Vec<&'static str>,
}

/// Shows a measurement list.
pub(super) fn run(options: &InspectArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut log = Input::open(FILE, &options.file)?;
    let (format, log_hash) = (options.output, options.ima_log_hash);
    let mut counts = Counts::default();
    if format == Format::Table {
        headline(terminal)?;
    }
    let mut written = Ok(());
    let reading = measurements::stream(&mut log, log_hash, &mut |position, entry| {
        let shown = counts.take(position, entry, log_hash);
        if options.entries && written.is_ok() && !terminal.is_closed() {
            written = match format {
                Format::Table => writeln!(terminal, "{shown}"),
                format => terminal.document_of_many(format, &shown.to_record()),
            };
        }
    })?;
    written?;
    let passed = reading.fault.is_none() && counts.wrong_hashes == 0 && counts.malformed.is_none();
    let summary = counts.summary(&reading, log_hash);
    match format {
        Format::Table if options.entries => write!(terminal, "\n{summary}")?,
        Format::Table => {
            write!(terminal, "{summary}\nfirst and last entries\n")?;
            for shown in counts.first.iter().chain(&counts.last) {
                writeln!(terminal, "{shown}")?;
            }
        }
        _ if options.entries => {
            let summary = Record::new().with("summary", unverified(summary));
            terminal.document_of_many(format, &summary)?;
        }
        _ => {
            let list = |list: &mut dyn Iterator<Item = &Shown>| {
                list.map(Shown::to_record).collect::<Vec<_>>()
            };
            let record = unverified(summary)
                .with("first", list(&mut counts.first.iter()))
                .with("last", list(&mut counts.last.iter()));
            terminal.document(format, &record)?;
        }
    }
    Ok(if passed {
        Outcome::Passed
    } else {
        Outcome::Failed
    })
}

impl Shown {
    fn to_record(&self) -> Record {
        Record::new()
            .with("entry", self.entry)
            .with("pcr", self.pcr)
            .with("template", self.template)
            .with("digest", self.digest.clone())
            .with("path", self.path.clone().map(Item::Name))
            .with("remarks", self.remarks.clone())
    }
}

/// On one line.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest.as_deref().unwrap_or("-");
        let path = self
            .path
            .as_ref()
            .map_or_else(|| "-".to_owned(), |path| name_text(path));
        write!(
            f,
            "{:6} {:2} {:8} {digest} {path}",
            self.entry, self.pcr, self.template
        )?;
        match self.remarks.as_slice() {
            [] => Ok(()),
            remarks => write!(f, " ({})", remarks.join(", ")),
        }
    }
}

impl Counts {
    /// Counts an entry, and returns it as it is shown.
    fn take(&mut self, position: u64, entry: &Entry<'_>, log_hash: HashAlg) -> Shown {
        count(&mut self.templates, entry.template.name());
        count(&mut self.pcrs, entry.pcr);
        let mut shown = Shown {
            entry: position,
            pcr: entry.pcr,
            template: entry.template.name(),
            digest: None,
            path: None,
            remarks: Vec::new(),
        };
        if entry.is_violation() {
            self.violations = self.violations.saturating_add(1);
            shown.remarks.push("violation");
        }
        if !measurements::hash_fits(entry, log_hash) {
            self.wrong_hashes = self.wrong_hashes.saturating_add(1);
            shown.remarks.push("wrong template hash");
        }
        match Event::parse(entry.template, entry.data) {
            Ok(event) => {
                let alg = match event.digest.of {
                    DigestOf::Content => name_text(event.digest.alg),
                    DigestOf::Verity => format!("verity:{}", name_text(event.digest.alg)),
                };
                shown.digest = Some(format!("{alg}:{}", hex::encode(event.digest.bytes)));
                shown.path = Some(event.name.to_vec());
                match (entry.template, event.tail) {
                    (_, []) => {}
                    (Template::ImaBuf, _) => shown.remarks.push("buffer"),
                    _ => shown.remarks.push("signature"),
                }
                count(&mut self.algorithms, alg);
            }
            Err(error) => {
                self.malformed
                    .get_or_insert_with(|| format!("entry {position}: {error}"));
                shown.remarks.push("malformed");
            }
        }
        if self.first.len() < ENDS {
            self.first.push(shown.clone());
        } else {
            self.last.push_back(shown.clone());
            if self.last.len() > ENDS {
                self.last.pop_front();
            }
        }
        shown
    }

    fn summary(&self, reading: &Reading, log_hash: HashAlg) -> Record {
        let form = match reading.format {
            LogFormat::Ascii => "ascii",
            LogFormat::Binary => "binary",
        };
        let fault = reading.fault.as_ref().map(ToString::to_string);
        Record::new()
            .with("form", form)
            .with("template_hash", log_hash.name())
            .with("entries", reading.entries)
            .with("bytes", reading.bytes)
            .with("violations", self.violations)
            .with("wrong_template_hashes", self.wrong_hashes)
            .with("fault", fault.or_else(|| self.malformed.clone()))
            .with("templates", counted(&self.templates))
            .with("pcrs", counted(&self.pcrs))
            .with("digests", counted(&self.algorithms))
    }
}

fn count<Key: Ord>(counts: &mut BTreeMap<Key, u64>, key: Key) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add(1);
}

fn counted<Key: ToString>(counts: &BTreeMap<Key, u64>) -> Record {
    let mut record = Record::new();
    for (key, count) in counts {
        record.push(key.to_string(), *count);
    }
    record
}
