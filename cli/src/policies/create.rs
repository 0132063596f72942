//! `rat policies create runtime`: a policy that allows what a measurement list holds.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use rat_engine::crypto::FileKey;
use rat_engine::hash::HashAlg;
use rat_engine::ima::{DigestOf, Entry, Event, Template};
use rat_engine::policy::{
    BOOT_AGGREGATE, Exclusion, GenerateOptions, Measured, MeasuredKind, RuntimePolicy, generate,
};
use serde_json::json;

use crate::Outcome;
use crate::arguments::CreateArguments;
use crate::input::{Input, InputError};
use crate::measurements;
use crate::output::{Terminal, counted, name_text};

/// Something that a policy lists. Ordered, so that equal ones meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    kind: Kind,
    name: Vec<u8>,
    alg: Vec<u8>,
    digest: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    File,
    Key,
    Buffer,
}

/// What was collected from a list.
struct Collected {
    log_hash: HashAlg,
    /// A policy with nothing but the exclude patterns.
    excludes: RuntimePolicy,
    listed: BTreeSet<Listed>,
    excluded: u64,
    violations: u64,
    /// The first violation, and the name that it claims.
    first_violation: Option<(u64, Vec<u8>)>,
    /// The first entry that no policy can hold, and why.
    fault: Option<(u64, String)>,
}

/// Makes a policy, and says on stderr what it holds.
pub(super) fn run(options: &CreateArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let mut log = Input::open("--from-ima-log", &options.from_ima_log)?;
    let mut collected = Collected::new(options)?;
    let reading = measurements::stream(&mut log, options.ima_log_hash, &mut |position, entry| {
        collected.take(position, entry);
    })?;
    if let Some(fault) = reading.fault {
        return Err(log.error(&fault).into());
    }
    if let Some((entry, fault)) = &collected.fault {
        return Err(log.error(&format_args!("entry {entry}: {fault}")).into());
    }
    if let Some((entry, name)) = &collected.first_violation {
        let (count, name) = (collected.violations, name_text(name));
        let count = counted(count, "violation", "violations");
        let (effect, advice) = if options.allow_violations {
            ("left out", "")
        } else {
            ("found", "\n     --allow-violations leaves them out")
        };
        writeln!(
            io::stderr(),
            "rat: {count} {effect}, the first at entry {entry}: {name}\n     \
             a file was written while it was measured, so nothing is known of it{advice}"
        )?;
        if !options.allow_violations {
            return Ok(Outcome::Failed);
        }
    }
    let text = collected
        .policy(options)
        .map_err(|fault| log.error(&fault))?;
    match &options.out {
        Some(path) => std::fs::write(path, format!("{text}\n"))
            .map_err(|error| InputError::new("--out", path, &error))?,
        None => writeln!(terminal, "{text}")?,
    }
    writeln!(
        io::stderr(),
        "rat: {} entries: {} file digests, {} keys, {} buffers, {} excluded\n     \
         verify the list with `rat verify` before you enforce the policy",
        reading.entries,
        collected.count(Kind::File),
        collected.count(Kind::Key),
        collected.count(Kind::Buffer),
        collected.excluded,
    )?;
    Ok(Outcome::Passed)
}

impl Collected {
    fn new(options: &CreateArguments) -> Result<Self, InputError> {
        let policy = json!({
            "meta": { "version": 1 }, "digests": {}, "excludes": options.exclude,
        });
        let excludes = RuntimePolicy::parse(policy.to_string().as_bytes())
            .map_err(|error| InputError::new("--exclude", Path::new("(text)"), &error))?;
        Ok(Self {
            log_hash: options.ima_log_hash,
            excludes,
            listed: BTreeSet::new(),
            excluded: 0,
            violations: 0,
            first_violation: None,
            fault: None,
        })
    }

    fn take(&mut self, position: u64, entry: &Entry<'_>) {
        if self.fault.is_none()
            && let Err(fault) = self.try_take(position, entry)
        {
            self.fault = Some((position, fault));
        }
    }

    fn try_take(&mut self, position: u64, entry: &Entry<'_>) -> Result<(), String> {
        if !measurements::hash_fits(entry, self.log_hash) {
            return Err("the logged template hash is not the hash of the template data".to_owned());
        }
        let event = Event::parse(entry.template, entry.data).map_err(|error| error.to_string())?;
        if entry.is_violation() {
            self.violations = self.violations.saturating_add(1);
            self.first_violation
                .get_or_insert_with(|| (position, event.name.to_vec()));
            return Ok(());
        }
        // It is recomputed from quoted PCRs, and never listed.
        if event.name == BOOT_AGGREGATE {
            return Ok(());
        }
        let kind = kind_of(&event);
        let excluded = self.excludes.compiled().excluded(event.name);
        if kind == Kind::File && matches!(excluded, Exclusion::Excluded { .. }) {
            self.excluded = self.excluded.saturating_add(1);
            return Ok(());
        }
        if event.digest.of == DigestOf::Verity {
            return Err("an fs-verity digest, which a policy cannot list".to_owned());
        }
        // Said here, where the entry's position is known.
        if std::str::from_utf8(event.name).is_err() {
            let name = name_text(event.name);
            return Err(format!("{name} is not UTF-8, so JSON cannot hold it"));
        }
        if HashAlg::from_name(event.digest.alg).is_none() {
            let alg = name_text(event.digest.alg);
            return Err(format!("digests of {alg} are not supported"));
        }
        let listed = Listed {
            kind,
            name: event.name.to_vec(),
            alg: event.digest.alg.to_vec(),
            digest: event.digest.bytes.to_vec(),
        };
        self.listed.insert(listed);
        Ok(())
    }

    fn count(&self, kind: Kind) -> usize {
        self.listed
            .iter()
            .filter(|listed| listed.kind == kind)
            .count()
    }

    /// The policy's text, with the exclude patterns in it.
    fn policy(&self, options: &CreateArguments) -> Result<String, String> {
        let measured = self.listed.iter().map(Listed::measured);
        let timestamp = timestamp(UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
        let options = GenerateOptions {
            excludes: &options.exclude,
            log_hash_alg: self.log_hash,
            ..GenerateOptions::default()
        };
        let generated = generate(&timestamp, measured, options);
        generated
            .map(|generated| generated.text)
            .map_err(|error| error.to_string())
    }
}

impl Listed {
    fn measured(&self) -> Measured<'_> {
        let (alg_name, digest) = (self.alg.as_slice(), self.digest.as_slice());
        let kind = match self.kind {
            Kind::File => MeasuredKind::File { alg_name, digest },
            Kind::Key => MeasuredKind::Key { alg_name, digest },
            Kind::Buffer => MeasuredKind::Buffer { alg_name, digest },
        };
        Measured {
            name: &self.name,
            kind,
        }
    }
}

/// A buffer that holds a key, usable or not, belongs to a keyring.
fn kind_of(event: &Event<'_>) -> Kind {
    if event.template != Template::ImaBuf {
        return Kind::File;
    }
    match FileKey::from_measured(event.tail) {
        Ok(None) => Kind::Buffer,
        Ok(Some(_)) | Err(_) => Kind::Key,
    }
}

/// `2026-01-31 23:59:59Z`, of seconds since 1970.
fn timestamp(seconds: u64) -> String {
    let part = |unit: u64, size: u64| {
        let units = seconds.checked_div(unit).unwrap_or(0);
        units.checked_rem(size).unwrap_or(0)
    };
    let mut days = seconds.checked_div(86_400).unwrap_or(0);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // A loop over years and months: a policy is made once, and its author may read this.
    let mut year = 1970;
    while let Some(rest) = days.checked_sub(if is_leap(year) { 366 } else { 365 }) {
        days = rest;
        year = year.saturating_add(1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1_u64;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        let Some(rest) = days.checked_sub(length) else {
            break;
        };
        days = rest;
        month = month.saturating_add(1);
    }
    let day = days.saturating_add(1);
    let (hour, minute, second) = (part(3600, 24), part(60, 60), part(1, 60));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
