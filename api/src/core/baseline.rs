//! A baseline: the policy that a machine's own measurement list makes, as a candidate. (L08)
//!
//! The list is unproven when it arrives. What is kept beside the policy is where the list ends
//! when it is replayed: the policy becomes the group's only when a quote of the enrolled machine
//! has passed through exactly that point.

use rat_engine::crypto::{self, FileKey};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::{Committed, DecodeError, Decoder, Entry, Event, LogFormat, Template};
use rat_engine::malformed::Malformed;
use rat_engine::pcr::PcrIndex;
use rat_engine::policy::{GenerateError, GenerateOptions, Measured, MeasuredKind, generate};
use thiserror::Error;

use crate::limits::BASELINE_BODY_BYTES_MAX;

/// Paths that every baseline excludes: scratch files of `mktemp`, and what package managers and
/// the cloud agent rewrite all the time. Each ends where the path ends: a pattern that is tied to
/// the start alone would also let `/tmp/tmp.x/evil` pass. (L10)
pub const DEFAULT_EXCLUDES: [&str; 4] = [
    r"^/tmp/tmp\.[A-Za-z0-9]+\Z",
    r"^/var/cache/apt/.*\Z",
    r"^/var/lib/apt/.*\Z",
    r"^/var/lib/google-cloud-ops-agent/.*\Z",
];

/// The hash in the lists that kernels write, whatever banks the TPM has.
const LIST_HASH: HashAlg = HashAlg::Sha1;

/// What a list makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// The policy's JSON text.
    pub policy: String,
    /// Where the list ends, in every bank: none can be left out, or a quote of that bank alone
    /// would pass through here without being compared.
    pub covers: Committed,
}

/// Why a list makes no baseline. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaselineError {
    /// It has no entry.
    #[error("the list is empty")]
    Empty,
    /// A line is no entry.
    #[error("line {line}: {fault}")]
    Line {
        /// The line.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// The entries make no policy.
    #[error(transparent)]
    Policy(#[from] GenerateError),
}

/// Why a line is no entry of a baseline.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineFault {
    /// Nothing is on it; the kernel writes no such line.
    #[error("the line is empty")]
    Blank,
    /// It cannot be read.
    #[error("{0}")]
    Decode(DecodeError),
    /// Its data is not what its template says.
    #[error("{0}")]
    Event(Malformed),
    /// The hash on the line is not that of its data: it was edited.
    #[error("the template hash is not the hash of the entry")]
    Hash,
    /// A violation: nothing is known of what was read there.
    #[error("a violation: the file changed while it was measured, so that nothing is known of it")]
    Violation,
    /// It belongs to another PCR than IMA's.
    #[error("PCR {0} is not the one that IMA measures into")]
    Pcr(u32),
}

/// The policy that this ascii list makes, and where the list ends.
///
/// # Errors
/// [`BaselineError`], for the first line at fault. Violations are refused, never left out.
///
/// # Cost
/// Each entry is hashed once for every bank: some microseconds.
pub fn from_ascii(list: &[u8], timestamp: &str) -> Result<Baseline, BaselineError> {
    refuse_blank_lines(list)?;
    let mut reading = Reading::new();
    let limit = u64::try_from(BASELINE_BODY_BYTES_MAX).unwrap_or(u64::MAX);
    let mut decoder = Decoder::new(LogFormat::Ascii, LIST_HASH, limit);
    let decoded = {
        let mut sink = |entry: Entry<'_>| reading.entry(&entry);
        decoder
            .feed(list, &mut sink)
            .and_then(|()| decoder.finish(&mut sink))
    };
    if let Some(error) = reading.error {
        return Err(error);
    }
    decoded.map_err(|error| BaselineError::Line {
        line: error.entry.saturating_add(1),
        fault: LineFault::Decode(error),
    })?;
    if reading.position == 0 {
        return Err(BaselineError::Empty);
    }
    let excludes = DEFAULT_EXCLUDES.map(str::to_owned);
    let options = GenerateOptions {
        excludes: &excludes,
        log_hash_alg: LIST_HASH,
        ..GenerateOptions::default()
    };
    let measured = reading.listed.iter().map(Listed::measured);
    let generated = generate(timestamp, measured, options)?;
    let running = reading
        .running
        .iter()
        .map(|value| (PcrIndex::IMA, *value))
        .collect();
    Ok(Baseline {
        policy: generated.text,
        covers: Committed::new(reading.position, running),
    })
}

/// A decoder passes over blank lines; then lines and entries would be counted differently.
fn refuse_blank_lines(list: &[u8]) -> Result<(), BaselineError> {
    let lines = list.strip_suffix(b"\n").unwrap_or(list);
    let mut numbered = (1..).zip(lines.split(|byte| *byte == b'\n'));
    match numbered.find(|(_, line)| line.is_empty()) {
        Some((line, _)) if !list.is_empty() => Err(BaselineError::Line {
            line,
            fault: LineFault::Blank,
        }),
        _ => Ok(()),
    }
}

struct Reading {
    /// The IMA PCR's value in each bank.
    running: Vec<Digest>,
    position: u64,
    listed: Vec<Listed>,
    error: Option<BaselineError>,
}

impl Reading {
    fn new() -> Self {
        Self {
            running: HashAlg::ALL.map(Digest::zero).to_vec(),
            position: 0,
            listed: Vec::new(),
            error: None,
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        if self.error.is_some() {
            return;
        }
        let line = self.position.saturating_add(1);
        match Listed::read(entry) {
            Ok(listed) => self.listed.push(listed),
            Err(fault) => {
                self.error = Some(BaselineError::Line { line, fault });
                return;
            }
        }
        for value in &mut self.running {
            let event = crypto::digest(value.alg(), entry.data);
            *value = crypto::extend(value, &event);
        }
        self.position = line;
    }
}

/// One entry, as a policy lists it.
struct Listed {
    kind: Kind,
    name: Vec<u8>,
    alg: Vec<u8>,
    digest: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Key,
    Buffer,
}

impl Listed {
    fn read(entry: &Entry<'_>) -> Result<Self, LineFault> {
        if entry.is_violation() {
            return Err(LineFault::Violation);
        }
        if entry.pcr != u32::from(PcrIndex::IMA.get()) {
            return Err(LineFault::Pcr(entry.pcr));
        }
        if crypto::digest(LIST_HASH, entry.data).as_bytes() != entry.template_hash {
            return Err(LineFault::Hash);
        }
        let event = Event::parse(entry.template, entry.data).map_err(LineFault::Event)?;
        let kind = match event.template {
            // A buffer with a key in it, usable or not, was added to a keyring.
            Template::ImaBuf => match FileKey::from_measured(event.tail) {
                Ok(None) => Kind::Buffer,
                Ok(Some(_)) | Err(_) => Kind::Key,
            },
            _ => Kind::File,
        };
        Ok(Self {
            kind,
            name: event.name.to_vec(),
            alg: event.digest.alg.to_vec(),
            digest: event.digest.bytes.to_vec(),
        })
    }

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

#[cfg(test)]
mod tests {
    use rat_engine::policy::{Exclusion, RuntimePolicy};

    use super::*;

    /// A line of `ima-ng`, with the hash that its data has.
    fn line(path: &str) -> String {
        let file = crypto::digest(HashAlg::Sha256, path.as_bytes());
        let digest = [&b"sha256:\0"[..], file.as_bytes()].concat();
        let name = [path.as_bytes(), b"\0"].concat();
        let mut data = Vec::new();
        for field in [&digest, &name] {
            data.extend((field.len() as u32).to_le_bytes());
            data.extend(field);
        }
        let hash = crypto::digest(HashAlg::Sha1, &data).to_hex();
        format!("10 {hash} ima-ng sha256:{} {path}\n", file.to_hex())
    }

    #[test]
    fn l08_a_list_makes_a_policy_and_the_point_where_it_ends() {
        let list = [
            line("boot_aggregate"),
            line("/usr/bin/a"),
            line("/usr/bin/b"),
        ]
        .concat();
        let baseline = from_ascii(list.as_bytes(), "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(baseline.covers.position(), 3);
        assert_eq!(baseline.covers.running().len(), HashAlg::ALL.len());
        let policy = RuntimePolicy::parse(baseline.policy.as_bytes()).unwrap();
        assert_eq!(policy.compiled().path_count(), 2, "no boot_aggregate");
        // Another list, even a longer one, ends elsewhere.
        let longer = from_ascii([list.clone(), line("/c")].concat().as_bytes(), "").unwrap();
        assert_ne!(longer.covers.running(), baseline.covers.running());
        // The last newline may be missing.
        let cut = from_ascii(list.trim_end().as_bytes(), "").unwrap();
        assert_eq!(cut.covers, baseline.covers);
    }

    #[test]
    fn l08_violations_and_broken_lines_are_refused_by_their_number() {
        let zero = "0".repeat(40);
        let violation = format!("10 {zero} ima-ng sha256:{} /x\n", "0".repeat(64));
        let edited = line("/usr/bin/a").replace("/usr/bin/a", "/usr/bin/e");
        let other_pcr = line("/usr/bin/a").replacen("10", "11", 1);
        for (second, fault) in [
            (violation.as_str(), Some(LineFault::Violation)),
            (&edited, Some(LineFault::Hash)),
            (&other_pcr, Some(LineFault::Pcr(11))),
            ("not a line\n", None),
            ("\n", Some(LineFault::Blank)),
            ("10 \x1b[2J\n", None),
        ] {
            let list = [&line("boot_aggregate"), second, &line("/z")].concat();
            match from_ascii(list.as_bytes(), "") {
                Err(BaselineError::Line {
                    line: 2,
                    fault: found,
                }) => {
                    assert!(fault.is_none_or(|fault| fault == found), "{found:?}");
                    assert!(
                        found.to_string().chars().all(|c| !c.is_control()),
                        "{found}"
                    );
                }
                other => panic!("{second}: {other:?}"),
            }
        }
        assert_eq!(from_ascii(b"", ""), Err(BaselineError::Empty));
    }

    #[test]
    fn l10_default_excludes_end_where_the_path_ends() {
        let list = line("boot_aggregate");
        let baseline = from_ascii(list.as_bytes(), "").unwrap();
        let policy = RuntimePolicy::parse(baseline.policy.as_bytes()).unwrap();
        let excluded = |path: &str| {
            let exclusion = policy.compiled().excluded(path.as_bytes());
            matches!(exclusion, Exclusion::Excluded { .. })
        };
        for path in [
            "/tmp/tmp.aB3",
            "/var/cache/apt/pkgcache.bin",
            "/var/lib/apt/lists/x",
        ] {
            assert!(excluded(path), "{path}");
        }
        for path in [
            "/tmp/tmp.aB3/evil",
            "/tmp/tmp.aB3\n",
            "/tmp/tmp.",
            "/tmp/_MEIabc/evil",
            "/x/tmp/tmp.a",
            "/var/lib/aptx/a",
            "/usr/bin/a",
        ] {
            assert!(!excluded(path), "{path}");
        }
    }
}
