//! Keylime's runtime policy as JSON text, read straight into its compiled form.

mod read;
#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

use super::compiled::CompiledPolicy;
use super::exclude::PatternError;
use super::verification_keys::VerificationKeysError;

/// A runtime policy that has been read.
///
/// The text itself is the caller's to keep unchanged. Nothing here is authenticated.
#[derive(Debug, Clone)]
pub struct RuntimePolicy {
    meta: Meta,
    release: u64,
    compiled: CompiledPolicy,
    warnings: Vec<Warning>,
}

/// The policy's `meta` member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The format's version: 1.
    pub version: u64,
    /// What made the policy: 0 unknown, 1 the empty allow list, 2 a compatible tool, 3 a legacy
    /// allow list or Keylime's own tools. Absent in hand-written policies.
    pub generator: Option<u64>,
    /// When it was made, as the tool wrote it.
    pub timestamp: Option<String>,
}

/// Something in a policy that is kept or passed over, and that its author should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A member that we do not know; its value is not used.
    UnknownMember {
        /// Its place in the document.
        at: String,
    },
    /// A digest that no log entry of ours can equal.
    DigestNeverMatches {
        /// Its place in the document.
        at: String,
        /// Why.
        reason: NeverMatches,
    },
    /// The same digest twice under one name.
    DuplicateDigest {
        /// The second one's place in the document.
        at: String,
    },
}

/// Why a digest of a policy can never match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeverMatches {
    /// Its length is of no algorithm that we compute.
    Length {
        /// Hexadecimal characters.
        characters: usize,
    },
    /// It names an algorithm that we do not compute.
    Algorithm,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMember { at } => write!(f, "{at}: unknown member, not used"),
            Self::DigestNeverMatches { at, reason } => match reason {
                NeverMatches::Length { characters } => write!(
                    f,
                    "{at}: {characters} hexadecimal characters are a digest of no known \
                     algorithm and never match"
                ),
                NeverMatches::Algorithm => {
                    write!(f, "{at}: a digest of an unknown algorithm never matches")
                }
            },
            Self::DuplicateDigest { at } => write!(f, "{at}: the digest is listed already"),
        }
    }
}

/// Why a text is not a runtime policy that we can use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The text is longer than [`crate::limits::POLICY_BYTES_MAX`].
    #[error("the policy has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The text is not JSON, or too deeply nested.
    #[error("line {line} column {column}: not JSON")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The text is a DSSE envelope around a policy, where a plain policy is expected.
    #[error("this is a signed policy (DSSE envelope), a plain policy is expected here")]
    SignedEnvelope,
    /// A member that every policy has is missing.
    #[error("the member {member} is missing")]
    Missing {
        /// Its name.
        member: &'static str,
    },
    /// A value that we do not accept.
    #[error("{at}, line {line} column {column}: {fault}")]
    Content {
        /// Its place in the document, for example `digests["/usr/bin/dd"][0]`.
        at: String,
        /// Line, from 1, where reading stopped.
        line: usize,
        /// Column, from 1, where reading stopped.
        column: usize,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with a value of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The value has another JSON type, or a number is out of range.
    #[error("a value of another type is expected")]
    Type,
    /// An object has two members of one name.
    #[error("the member is given twice")]
    DuplicateMember,
    /// `meta.version` is not 1.
    #[error("policy version {found} is not known")]
    Version {
        /// The version found.
        found: u64,
    },
    /// `meta.generator` is not one that Keylime's schema knows.
    #[error("generator {found} is not known")]
    Generator {
        /// The generator found.
        found: u64,
    },
    /// Not sha1, sha256, sha384 or sha512. Keylime falls back to SHA-1 here; we do not.
    #[error("the log's hash algorithm is not sha1, sha256, sha384 or sha512")]
    LogHashAlg,
    /// A device-mapper policy. Keylime's schema demands null as well.
    #[error("device-mapper policies are not supported")]
    DeviceMapperPolicy,
    /// A list of digests without one. Keylime's schema demands at least one.
    #[error("the list of digests is empty")]
    NoDigests,
    /// Not 40 to 128 hexadecimal characters.
    #[error("not a digest of 40 to 128 hexadecimal characters")]
    NotDigest,
    /// Upper-case hexadecimal: Keylime's schema refuses it, and its text comparison never matches.
    #[error("a digest is written in lower case")]
    UpperCaseDigest,
    /// A digest with an algorithm's name but not its length.
    #[error("the digest has not the length of its algorithm")]
    DigestLength,
    /// Not `0x` and hexadecimal digits of whole bytes.
    #[error("not 0x and hexadecimal digits of whole bytes")]
    NotHex,
    /// An object lacks members.
    #[error("one of {members} is missing")]
    Incomplete {
        /// Their names.
        members: &'static str,
    },
    /// Not a GUID in text form.
    #[error("not a GUID")]
    NotGuid,
    /// More items than a limit allows.
    #[error("more than {max} ({limit})")]
    Limit {
        /// The name of the limit in [`limits`](mod@crate::limits).
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// An exclude pattern that cannot be used.
    #[error("{0}")]
    Pattern(PatternError),
    /// Keys that cannot be used.
    #[error("{0}")]
    VerificationKeys(VerificationKeysError),
}

impl RuntimePolicy {
    /// Reads and compiles a policy.
    ///
    /// Bare digests have the algorithm of their length; `sha256:` and the like are accepted when
    /// name and length agree. A digest of 40 to 128 characters that is of no algorithm we compute
    /// is accepted, because Keylime's schema does, with a warning: it never matches. Missing
    /// members other than `meta` and `digests` are empty. Members that we do not know are warned of.
    ///
    /// # Errors
    /// [`PolicyError`], which says where and why.
    ///
    /// Source: Keylime, `keylime/ima/ima.py`, `RUNTIME_POLICY_SCHEMA`.
    pub fn parse(text: &[u8]) -> Result<Self, PolicyError> {
        Self::parse_seeded(text, 0)
    }

    /// The same for a policy that somebody else than an operator may have made, as machines make
    /// baselines.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    ///
    /// # Security
    /// With a random `seed` nobody can choose names that are slow to look up. It changes nothing
    /// else.
    pub fn parse_seeded(text: &[u8], seed: u64) -> Result<Self, PolicyError> {
        read::read(text, seed)
    }

    /// The policy's `meta` member.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The policy's release number, as its author counts.
    pub fn release(&self) -> u64 {
        self.release
    }

    /// The form that is asked about measurements.
    pub fn compiled(&self) -> &CompiledPolicy {
        &self.compiled
    }

    /// The compiled form alone.
    pub fn into_compiled(self) -> CompiledPolicy {
        self.compiled
    }

    /// What its author should know, in the order of the document.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Whether this is a placeholder that can allow nothing: no digest is listed, and there is no
    /// key by which a signature could be accepted, or the generator says that the policy is empty
    /// (Keylime: generator 0 and 1 mean "no runtime policy"). Excludes do not fill a policy.
    pub fn is_empty(&self) -> bool {
        let generator_says_empty = self.meta.generator.is_some_and(|generator| generator <= 1);
        let lists_nothing = self.compiled.path_count() == 0 && !self.compiled.lists_boot_aggregate;
        let keyless =
            self.compiled.verification_keys.is_empty() && self.compiled.keyrings.len() == 0;
        lists_nothing && (keyless || generator_says_empty)
    }
}
