//! The reader: one pass over the text.

use std::collections::HashSet;

use serde::de::{DeserializeSeed as _, MapAccess, SeqAccess};
use serde_json::error::Category;

use super::{Fault, Meta, NeverMatches, PolicyError, RuntimePolicy, Warning};
use crate::crypto::digest;
use crate::hash::{Digest, HashAlg};
use crate::limits::{
    EXCLUDES_BYTES_MAX, EXCLUDES_MAX, EXCLUDES_PROGRAM_BYTES_MAX, IMA_KEYS_MAX, POLICY_BYTES_MAX,
    POLICY_DIGESTS_PER_PATH_MAX, POLICY_PATHS_MAX, POLICY_WARNINGS_MAX,
};
use crate::policy::compiled::{BOOT_AGGREGATE, CompiledPolicy};
use crate::policy::exclude::Pattern;
use crate::policy::json::{Array, Elements, Members, Object, Place, Skip, TextSeed};
use crate::policy::table::{DigestTable, Seed, TableError};
use crate::policy::verification_keys;

pub(super) fn read(text: &[u8], seed: u64) -> Result<RuntimePolicy, PolicyError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLarge {
            bytes: text.len(),
            max: POLICY_BYTES_MAX,
        });
    }
    let mut reader = Reader::new(digest(HashAlg::Sha256, text), &Seed::new(seed));
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut top = Top {
        reader: &mut reader,
        seen: Seen::default(),
    };
    let result = Object(&mut top).deserialize(&mut json);
    let seen = top.seen;
    let result = result.and_then(|()| json.end());
    if seen.payload && seen.payload_type && !seen.digests {
        return Err(PolicyError::SignedEnvelope);
    }
    result.map_err(|error| reader.located(&error))?;
    if !seen.meta {
        return Err(PolicyError::Missing { member: "meta" });
    }
    if reader.meta.version == 0 {
        let member = "meta.version";
        return Err(PolicyError::Missing { member });
    }
    if !seen.digests {
        return Err(PolicyError::Missing { member: "digests" });
    }
    Ok(reader.finish())
}

/// What has been read so far.
struct Reader {
    place: Place,
    warnings: Vec<Warning>,
    meta: Meta,
    release: u64,
    policy: CompiledPolicy,
    exclude_bytes: usize,
    exclude_program_bytes: usize,
}

impl Reader {
    fn new(text_digest: Digest, seed: &Seed) -> Self {
        Self {
            place: Place::default(),
            warnings: Vec::new(),
            meta: Meta::default(),
            release: 0,
            exclude_bytes: 0,
            exclude_program_bytes: 0,
            policy: CompiledPolicy {
                digest: text_digest,
                paths: DigestTable::new(seed.clone()),
                keyrings: DigestTable::new(seed.clone()),
                buffers: DigestTable::new(seed.clone()),
                boot_aggregates: Vec::new(),
                lists_boot_aggregate: false,
                excludes: Vec::new(),
                ignored_keyrings: Vec::new(),
                log_hash_alg: HashAlg::Sha1,
                verification_keys: Vec::new(),
            },
        }
    }

    fn finish(mut self) -> RuntimePolicy {
        self.policy.paths.shrink();
        self.policy.keyrings.shrink();
        self.policy.buffers.shrink();
        RuntimePolicy {
            meta: self.meta,
            release: self.release,
            compiled: self.policy,
            warnings: self.warnings,
        }
    }

    /// The typed error behind an error of the JSON reader.
    fn located(&mut self, error: &serde_json::Error) -> PolicyError {
        let (line, column) = (error.line(), error.column());
        let fault = match (self.place.fault(), error.classify()) {
            (Some(fault), _) => fault,
            (None, Category::Data) => Fault::Type,
            (None, Category::Syntax | Category::Eof | Category::Io) => {
                return PolicyError::Json { line, column };
            }
        };
        PolicyError::Content {
            at: self.place.path(),
            line,
            column,
            fault,
        }
    }

    fn refuse<E: serde::de::Error>(&mut self, fault: Fault) -> E {
        self.place.refuse(fault)
    }

    fn warn<E: serde::de::Error>(&mut self, warning: Warning) -> Result<(), E> {
        if self.warnings.len() >= POLICY_WARNINGS_MAX {
            return Err(self.limit("POLICY_WARNINGS_MAX", POLICY_WARNINGS_MAX));
        }
        self.warnings.push(warning);
        Ok(())
    }

    fn limit<E: serde::de::Error>(&mut self, limit: &'static str, max: usize) -> E {
        self.refuse(Fault::Limit { limit, max })
    }

    /// Reads past a member that we do not know.
    fn unknown<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let at = self.place.path();
        self.warn(Warning::UnknownMember { at })?;
        map.next_value_seed(Skip(&mut self.place))
    }

    /// What `text` says as a digest; none when it never matches.
    fn digest<E: serde::de::Error>(&mut self, text: &str) -> Result<Option<Digest>, E> {
        let (alg, hexadecimal) = match text.split_once(':') {
            Some((alg, hexadecimal)) => (Some(alg), hexadecimal),
            None => (None, text),
        };
        let bytes = hexadecimal.as_bytes();
        if !bytes.iter().all(u8::is_ascii_hexdigit) || !(40..=128).contains(&bytes.len()) {
            return Err(self.refuse(Fault::NotDigest));
        }
        if bytes.iter().any(u8::is_ascii_uppercase) {
            return Err(self.refuse(Fault::UpperCaseDigest));
        }
        // 40, 64, 96 and 128 characters are the algorithms' sizes; no other length has one.
        let by_length = HashAlg::ALL
            .into_iter()
            .find(|alg| alg.size().saturating_mul(2) == bytes.len());
        let alg = match alg.map(|name| HashAlg::from_name(name.as_bytes())) {
            None => by_length,
            Some(Some(named)) if by_length == Some(named) => by_length,
            Some(Some(_)) => return Err(self.refuse(Fault::DigestLength)),
            Some(None) => {
                self.never_matches(NeverMatches::Algorithm)?;
                return Ok(None);
            }
        };
        let Some(alg) = alg else {
            let characters = bytes.len();
            self.never_matches(NeverMatches::Length { characters })?;
            return Ok(None);
        };
        match Digest::from_hex(alg, bytes) {
            Some(digest) => Ok(Some(digest)),
            None => Err(self.refuse(Fault::NotDigest)),
        }
    }

    fn never_matches<E: serde::de::Error>(&mut self, reason: NeverMatches) -> Result<(), E> {
        let at = self.place.path();
        self.warn(Warning::DigestNeverMatches { at, reason })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    meta: bool,
    digests: bool,
    payload: bool,
    payload_type: bool,
}

/// The policy object.
struct Top<'a> {
    reader: &'a mut Reader,
    seen: Seen,
}

impl Members for Top<'_> {
    const EXPECTED: &'static str = "a runtime policy";

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let reader = &mut *self.reader;
        match name {
            "meta" => {
                self.seen.meta = true;
                map.next_value_seed(Object(&mut MetaMembers(reader)))
            }
            "release" => {
                reader.release = map.next_value()?;
                Ok(())
            }
            "digests" => {
                self.seen.digests = true;
                read_table(reader, TableKind::Paths, map)
            }
            "keyrings" => read_table(reader, TableKind::Keyrings, map),
            "ima-buf" => read_table(reader, TableKind::Buffers, map),
            "excludes" => map.next_value_seed(Array(&mut Excludes(reader))).map(drop),
            "ima" => map.next_value_seed(Object(&mut ImaMembers(reader))),
            "verification-keys" => {
                let text = map.next_value_seed(TextSeed)?;
                match verification_keys::parse(&text) {
                    Ok(keys) => reader.policy.verification_keys = keys,
                    Err(error) => return Err(reader.refuse(Fault::VerificationKeys(error))),
                }
                Ok(())
            }
            _ => {
                self.seen.payload |= name == "payload";
                self.seen.payload_type |= name == "payloadType";
                reader.unknown(map)
            }
        }
    }
}

struct MetaMembers<'a>(&'a mut Reader);

impl Members for MetaMembers<'_> {
    const EXPECTED: &'static str = "the policy's meta object";

    fn place(&mut self) -> &mut Place {
        &mut self.0.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "version" => match map.next_value()? {
                1 => self.0.meta.version = 1,
                found => return Err(self.0.refuse(Fault::Version { found })),
            },
            "generator" => match map.next_value()? {
                found if found > 3 => return Err(self.0.refuse(Fault::Generator { found })),
                found => self.0.meta.generator = Some(found),
            },
            "timestamp" => {
                let text = map.next_value_seed(TextSeed)?;
                self.0.meta.timestamp = Some(text.into_owned());
            }
            _ => self.0.unknown(map)?,
        }
        Ok(())
    }
}

struct ImaMembers<'a>(&'a mut Reader);

impl Members for ImaMembers<'_> {
    const EXPECTED: &'static str = "the policy's ima object";

    fn place(&mut self) -> &mut Place {
        &mut self.0.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "ignored_keyrings" => {
                map.next_value_seed(Array(&mut IgnoredKeyrings(self.0)))?;
            }
            "log_hash_alg" => {
                let text = map.next_value_seed(TextSeed)?;
                match HashAlg::from_name(text.as_bytes()) {
                    Some(alg) => self.0.policy.log_hash_alg = alg,
                    None => return Err(self.0.refuse(Fault::LogHashAlg)),
                }
            }
            "dm_policy" => {
                let value: Option<serde::de::IgnoredAny> = map.next_value()?;
                if value.is_some() {
                    return Err(self.0.refuse(Fault::DeviceMapperPolicy));
                }
            }
            _ => self.0.unknown(map)?,
        }
        Ok(())
    }
}

struct IgnoredKeyrings<'a>(&'a mut Reader);

impl Elements for IgnoredKeyrings<'_> {
    const EXPECTED: &'static str = "an array of keyring names";

    fn place(&mut self) -> &mut Place {
        &mut self.0.place
    }

    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error> {
        let Some(name) = array.next_element_seed(TextSeed)? else {
            return Ok(false);
        };
        if self.0.policy.ignored_keyrings.len() >= IMA_KEYS_MAX {
            return Err(self.0.limit("IMA_KEYS_MAX", IMA_KEYS_MAX));
        }
        self.0.policy.ignored_keyrings.push(name.into_owned());
        Ok(true)
    }
}

struct Excludes<'a>(&'a mut Reader);

impl Elements for Excludes<'_> {
    const EXPECTED: &'static str = "an array of regular expressions";

    fn place(&mut self) -> &mut Place {
        &mut self.0.place
    }

    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error> {
        let Some(source) = array.next_element_seed(TextSeed)? else {
            return Ok(false);
        };
        let reader = &mut *self.0;
        if reader.policy.excludes.len() >= EXCLUDES_MAX {
            return Err(reader.limit("EXCLUDES_MAX", EXCLUDES_MAX));
        }
        reader.exclude_bytes = reader.exclude_bytes.saturating_add(source.len());
        if reader.exclude_bytes > EXCLUDES_BYTES_MAX {
            return Err(reader.limit("EXCLUDES_BYTES_MAX", EXCLUDES_BYTES_MAX));
        }
        match Pattern::compile(&source) {
            Ok(pattern) => {
                let size = pattern.size_bytes();
                reader.exclude_program_bytes = reader.exclude_program_bytes.saturating_add(size);
                if reader.exclude_program_bytes > EXCLUDES_PROGRAM_BYTES_MAX {
                    let limit = "EXCLUDES_PROGRAM_BYTES_MAX";
                    return Err(reader.limit(limit, EXCLUDES_PROGRAM_BYTES_MAX));
                }
                reader.policy.excludes.push(pattern);
            }
            Err(error) => return Err(reader.refuse(Fault::Pattern(error))),
        }
        Ok(true)
    }
}

/// Which of the three tables is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableKind {
    Paths,
    Keyrings,
    Buffers,
}

fn read_table<'de, A: MapAccess<'de>>(
    reader: &mut Reader,
    kind: TableKind,
    map: &mut A,
) -> Result<(), A::Error> {
    map.next_value_seed(Object(&mut TableMembers { reader, kind }))
}

struct TableMembers<'a> {
    reader: &'a mut Reader,
    kind: TableKind,
}

impl TableMembers<'_> {
    fn table(&mut self) -> &mut DigestTable {
        let policy = &mut self.reader.policy;
        match self.kind {
            TableKind::Paths => &mut policy.paths,
            TableKind::Keyrings => &mut policy.keyrings,
            TableKind::Buffers => &mut policy.buffers,
        }
    }

    /// Whether this is the boot aggregate, which is no path.
    fn is_boot_aggregate(&self, name: &str) -> bool {
        self.kind == TableKind::Paths && name.as_bytes() == BOOT_AGGREGATE
    }
}

impl Members for TableMembers<'_> {
    const EXPECTED: &'static str = "an object of digests by name";
    // The table does, without keeping a million names twice.
    const KEEPS_NAMES: bool = false;

    fn place(&mut self) -> &mut Place {
        &mut self.reader.place
    }

    fn member<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let boot_aggregate = self.is_boot_aggregate(name);
        if boot_aggregate {
            if self.reader.policy.lists_boot_aggregate {
                return Err(self.reader.refuse(Fault::DuplicateMember));
            }
            self.reader.policy.lists_boot_aggregate = true;
        } else {
            if self.table().len() >= POLICY_PATHS_MAX {
                return Err(self.reader.limit("POLICY_PATHS_MAX", POLICY_PATHS_MAX));
            }
            match self.table().push_name(name.as_bytes()) {
                Ok(()) => {}
                Err(TableError::Duplicate) => {
                    return Err(self.reader.refuse(Fault::DuplicateMember));
                }
                Err(TableError::Full) => {
                    return Err(self.reader.limit("POLICY_BYTES_MAX", POLICY_BYTES_MAX));
                }
            }
        }
        let mut digests = DigestElements {
            table: self,
            boot_aggregate,
            count: 0,
            first: None,
            others: HashSet::new(),
        };
        let found = map.next_value_seed(Array(&mut digests))?;
        if found == 0 {
            return Err(self.reader.refuse(Fault::NoDigests));
        }
        Ok(())
    }
}

struct DigestElements<'a, 'b> {
    table: &'a mut TableMembers<'b>,
    boot_aggregate: bool,
    count: usize,
    first: Option<Digest>,
    others: HashSet<Digest>,
}

impl Elements for DigestElements<'_, '_> {
    const EXPECTED: &'static str = "an array of digests";

    fn place(&mut self) -> &mut Place {
        &mut self.table.reader.place
    }

    fn element<'de, A: SeqAccess<'de>>(&mut self, array: &mut A) -> Result<bool, A::Error> {
        let Some(text) = array.next_element_seed(TextSeed)? else {
            return Ok(false);
        };
        self.count = self.count.saturating_add(1);
        if self.count > POLICY_DIGESTS_PER_PATH_MAX {
            let max = POLICY_DIGESTS_PER_PATH_MAX;
            return Err(self.table.reader.limit("POLICY_DIGESTS_PER_PATH_MAX", max));
        }
        let Some(digest) = self.table.reader.digest(&text)? else {
            return Ok(true);
        };
        // Most names have one digest, which needs no set.
        let is_new = match self.first {
            None => {
                self.first = Some(digest);
                true
            }
            Some(first) => first != digest && self.others.insert(digest),
        };
        if !is_new {
            let at = self.table.reader.place.path();
            self.table.reader.warn(Warning::DuplicateDigest { at })?;
        } else if self.boot_aggregate {
            self.table.reader.policy.boot_aggregates.push(digest);
        } else if self.table.table().push_digest(&digest).is_err() {
            let limit = self
                .table
                .reader
                .limit("POLICY_BYTES_MAX", POLICY_BYTES_MAX);
            return Err(limit);
        }
        Ok(true)
    }
}
