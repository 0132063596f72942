//! Endorsement keys: which TPMs the operator knows.
//!
//! A TPM is known by the chain of its EK certificate to a root that the operator named, by its key
//! on a list of the operator, or by its key that an operator let into the group that it asks for.
//! Nothing is known by default. (N09)
//!
//! What is *not* looked at: revocation. Vendors publish next to no lists of revoked EK
//! certificates; an operator takes a TPM off by removing its agent.

mod device;
mod list;
mod load;
mod profile;

use std::collections::HashSet;
use std::path::PathBuf;

use rat_engine::crypto::{KeyError, VerifyingKey};
use rat_engine::tpm::attributes::{KeyAttributeError, check_endorsement_key};
use rat_engine::tpm::{Public, PublicError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use load::{TrustError, read as read_trusted};

use crate::x509::LibraryError;
use crate::x509::certificate::{Certificate, without_nv_padding};
use crate::x509::chain::{Anchors, ChainFault};

/// The CAs and lists that an operator named.
#[derive(Debug, Default)]
pub struct EkTrust {
    anchors: Anchors,
    listed: HashSet<[u8; 32]>,
}

/// An endorsement key of a TPM that the operator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkProof {
    /// SHA-256 of the key's SubjectPublicKeyInfo: the machine's identity.
    pub ek_sha256: [u8; 32],
    /// How it is known.
    pub by: EkVouch,
}

/// How an endorsement key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EkVouch {
    /// By a certificate.
    Chain {
        /// SHA-256 of the root's certificate.
        root: [u8; 32],
    },
    /// By a list of the operator.
    List,
    /// By an operator who let this machine into the group that it asks for.
    Approved,
}

/// The identity of the machine with this endorsement key, a `TPMT_PUBLIC` or `TPM2B_PUBLIC`:
/// SHA-256 of its SubjectPublicKeyInfo. Whose it is, is not known.
///
/// # Errors
/// [`EkError`], when it is not of a default template.
pub fn machine_of(ek_public: &[u8]) -> Result<[u8; 32], EkError> {
    EndorsementKey::parse(ek_public).map(|key| key.sha256)
}

/// Why an endorsement key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EkError {
    /// The public area cannot be read.
    #[error("the endorsement key cannot be read: {0}")]
    Malformed(#[from] PublicError),
    /// The public area holds no key.
    #[error("the endorsement key is no key: {0}")]
    Key(KeyError),
    /// Not one of the default templates.
    #[error("the endorsement key is not from a default template: {0}")]
    Attributes(KeyAttributeError),
    /// The modulus has the fingerprint of weak primes (CVE-2017-15361).
    #[error("the endorsement key has the ROCA weakness (CVE-2017-15361)")]
    Roca,
    /// The certificate does not lead to a CA that the operator named, or is no EK certificate.
    #[error("the EK certificate is not accepted: {0}")]
    Chain(ChainFault),
    /// The certificate is that of another key.
    #[error("the EK certificate is that of another key")]
    KeyMismatch,
    /// There is no certificate, and the key is on no list.
    #[error("there is no EK certificate, and the key is on no list of the operator")]
    CertificateMissing,
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

impl EkError {
    /// The stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Key(_) => "ek.malformed",
            Self::Attributes(_) => "ek.attributes",
            Self::Roca => "ek.roca",
            Self::Chain(_) => "ek.chain_invalid",
            Self::KeyMismatch => "ek.key_mismatch",
            Self::CertificateMissing => "ek.certificate_missing",
            Self::Library(_) => "internal",
        }
    }
}

/// An endorsement key that is well-formed and of a default template. Whose it is, is not known.
#[derive(Debug, Clone)]
pub(crate) struct EndorsementKey<'a> {
    pub(crate) public: Public<'a>,
    pub(crate) key: VerifyingKey,
    pub(crate) sha256: [u8; 32],
}

impl<'a> EndorsementKey<'a> {
    /// Reads a `TPMT_PUBLIC` or `TPM2B_PUBLIC`. (N02, N13)
    pub(crate) fn parse(ek_public: &'a [u8]) -> Result<Self, EkError> {
        let public = Public::parse(ek_public)?;
        check_endorsement_key(&public).map_err(|error| match error {
            KeyAttributeError::Roca => EkError::Roca,
            other => EkError::Attributes(other),
        })?;
        let key = VerifyingKey::from_tpm(&public).map_err(EkError::Key)?;
        let sha256 = key.spki_sha256().map_err(|_| LibraryError)?;
        Ok(Self {
            public,
            key,
            sha256,
        })
    }
}

impl EkTrust {
    /// Reads the CAs and lists that an operator named.
    ///
    /// `chains` are files of certificates in PEM or DER, or folders of them (`.pem`, `.crt`,
    /// `.cer`, `.der`; other names are passed over): roots, which signed themselves, and
    /// intermediates between them and EK certificates. `lists` are text files with the SHA-256 of
    /// an EK's SubjectPublicKeyInfo in hexadecimal on each line; `#` begins a comment.
    ///
    /// # Errors
    /// [`TrustError`], with file, and block or line. A file or folder without a single entry is an
    /// error too, and so is a certificate that is not a CA's: single TPMs belong on a list.
    pub fn load(chains: &[PathBuf], lists: &[PathBuf]) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for path in chains {
            load::chains(path, &mut trust.anchors)?;
        }
        for path in lists {
            list::read(path, &mut trust.listed)?;
        }
        Ok(trust)
    }

    /// How many CA certificates and listed keys there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.anchors.len(), self.listed.len())
    }

    /// Whether the operator knows the TPM with this endorsement key.
    ///
    /// A key on a list needs no certificate; one that comes with it must still be for this key.
    ///
    /// # Errors
    /// [`EkError`].
    ///
    /// # Security
    /// A proof says that such a TPM exists. That the sender has it, only a credential activation
    /// shows. (N12)
    ///
    /// # Cost
    /// With a certificate, milliseconds, whatever the number of CAs: some signatures, and the
    /// library's reading of keys.
    ///
    /// Source: TCG EK Credential Profile 2.5, 3.2 "EK Certificate".
    pub fn verify(
        &self,
        ek_certificate: Option<&[u8]>,
        ek_public: &[u8],
        now_unix_ms: u64,
    ) -> Result<EkProof, EkError> {
        let key = EndorsementKey::parse(ek_public)?;
        self.vouch(ek_certificate, &key, None, now_unix_ms)
    }

    /// The same for a machine that asks to join a group into which an operator let the machine
    /// `approved`. What an operator said of one machine comes before what is said of many.
    pub(crate) fn vouch(
        &self,
        ek_certificate: Option<&[u8]>,
        key: &EndorsementKey<'_>,
        approved: Option<&[u8; 32]>,
        now_unix_ms: u64,
    ) -> Result<EkProof, EkError> {
        let certificate = ek_certificate.map(read_certificate).transpose()?;
        if let Some(certificate) = &certificate {
            let certified = certificate
                .key()
                .map_err(|_| EkError::Chain(ChainFault::Key))?;
            if certified != key.key {
                return Err(EkError::KeyMismatch);
            }
        }
        let by = if approved == Some(&key.sha256) {
            EkVouch::Approved
        } else if self.listed.contains(&key.sha256) {
            EkVouch::List
        } else {
            let certificate = certificate.ok_or(EkError::CertificateMissing)?;
            let root = self.chain_root(&certificate, key, now_unix_ms);
            let root = root.map_err(EkError::Chain)?;
            EkVouch::Chain { root }
        };
        Ok(EkProof {
            ek_sha256: key.sha256,
            by,
        })
    }

    /// Checks that a certificate of a device's initial key (IAK, IDevID) leads to a CA that the
    /// operator named.
    ///
    /// Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 8.
    pub(crate) fn vouch_device(
        &self,
        certificate: &Certificate,
        now_unix_ms: u64,
    ) -> Result<(), ChainFault> {
        device::check(certificate)?;
        self.anchors.verify(certificate, now_unix_ms).map(drop)
    }

    /// Whether a machine that was known in this way still is: lists and CAs may have been changed
    /// since, and what an operator let in one by one is not known here. (S10)
    ///
    /// # Cost
    /// For a chain, a hash over each CA certificate.
    pub fn vouches_still(&self, by: EkVouch, ek_sha256: &[u8; 32]) -> bool {
        match by {
            EkVouch::List => self.listed.contains(ek_sha256),
            EkVouch::Chain { root } => self.anchors.has_root(&root),
            EkVouch::Approved => true,
        }
    }

    /// The fingerprint of the root that a certificate leads to.
    fn chain_root(
        &self,
        certificate: &Certificate,
        key: &EndorsementKey<'_>,
        now_unix_ms: u64,
    ) -> Result<[u8; 32], ChainFault> {
        profile::check(certificate, key.key.material())?;
        let chain = self.anchors.verify(certificate, now_unix_ms)?;
        chain.iter().skip(1).try_for_each(profile::check_issuer)?;
        // The root is the last.
        chain
            .last()
            .map(Certificate::fingerprint)
            .ok_or(ChainFault::UnknownRoot)
    }
}

fn read_certificate(bytes: &[u8]) -> Result<Certificate, EkError> {
    without_nv_padding(bytes)
        .and_then(Certificate::parse)
        .map_err(|error| EkError::Chain(error.into()))
}

/// Reads an EK certificate as far as one can without trusting anyone: for fuzzing and for tools.
///
/// # Errors
/// [`EkError::Chain`] when it cannot be read or is no EK certificate.
pub fn check_certificate_form(bytes: &[u8]) -> Result<(), EkError> {
    let certificate = read_certificate(bytes)?;
    let key = certificate
        .key()
        .map_err(|_| EkError::Chain(ChainFault::Key))?;
    profile::check(&certificate, key.material()).map_err(EkError::Chain)
}
