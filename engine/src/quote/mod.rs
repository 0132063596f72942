//! A quote's way from bytes to proof: `Quote<Unverified> → Quote<Signed> → Quote<Bound>`.
//!
//! Each state is reached only through the check it is named for, and only the last one opens the
//! quoted PCR values. Fields that nothing vouches for yet are readable through methods whose
//! names say `unverified`.
//!
//! A quote whose signature was not verified has no PCR values to give:
//!
//! ```compile_fail
//! use rat_engine::quote::{Quote, PcrRules, Unverified};
//! fn skip(quote: Quote<'_, Unverified>, values: rat_engine::pcr::PcrValues) {
//!     let _ = quote.prove_pcrs(values, &PcrRules::default());
//! }
//! ```

mod pcrs;

pub use pcrs::{PcrError, PcrRules, QuotedPcrs};

use thiserror::Error;

use crate::crypto::{self, SignatureError, Verified, VerifyingKey};
use crate::fault::fault_point;
use crate::hash::{Digest, DigestSizeError, HashAlg};
use crate::tpm::{
    Attest, AttestError, Attested, ClockInfo, PcrSelection, Signature, SignatureFormatError,
};

/// Well-formed, and anybody's.
#[derive(Debug, Clone, Copy)]
pub struct Unverified(());

/// Signed by the attestation key; possibly long ago, for somebody else.
#[derive(Debug, Clone, Copy)]
pub struct Signed {
    hash: HashAlg,
}

/// Signed by the attestation key over the qualifying data that was expected.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    hash: HashAlg,
}

/// One TPM quote, in the state that its checks have reached.
#[derive(Debug, Clone, Copy)]
pub struct Quote<'a, State> {
    bytes: &'a [u8],
    attest: Attest<'a>,
    selection: PcrSelection,
    pcr_digest: &'a [u8],
    state: State,
}

/// What a bound quote says, without its bytes. Made by [`Quote::facts`] of a bound quote only:
///
/// ```compile_fail
/// use rat_engine::quote::BoundQuote;
/// fn forge(other: BoundQuote) -> BoundQuote {
///     BoundQuote { firmware_version: 0, ..other }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundQuote {
    clock: ClockInfo,
    firmware_version: u64,
    selection: PcrSelection,
    hash: HashAlg,
}

impl BoundQuote {
    /// The TPM's clock and counters.
    pub const fn clock(&self) -> &ClockInfo {
        &self.clock
    }

    /// The vendor's number of the TPM's firmware.
    pub const fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// The PCRs quoted, by bank in the TPM's own order.
    pub const fn selection(&self) -> &PcrSelection {
        &self.selection
    }

    /// The signing scheme's hash.
    pub const fn hash(&self) -> HashAlg {
        self.hash
    }
}

/// Why a quote is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The attestation cannot be read, or is not a quote.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The attestation is of another type.
    #[error("TPMS_ATTEST: a {found} attestation, expected a quote")]
    NotAQuote {
        /// What it is.
        found: &'static str,
    },
    /// The signature cannot be read.
    #[error(transparent)]
    SignatureFormat(#[from] SignatureFormatError),
    /// The signature is not the attestation key's over these bytes.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The qualifying data is not the expected one.
    #[error("extraData of {found} bytes is not the expected nonce of {expected} bytes")]
    NonceMismatch {
        /// Length of the quote's.
        found: usize,
        /// Length of the expected.
        expected: usize,
    },
    /// The qualifying data is that of another connection.
    #[error("extraData is bound to another connection than the one it came over")]
    ChannelMismatch,
    /// `pcrDigest` cannot be a digest of the signature's hash.
    #[error("pcrDigest: {0}")]
    PcrDigestSize(#[from] DigestSizeError),
}

impl<'a> Quote<'a, Unverified> {
    /// Reads exactly one `TPMS_ATTEST` of type quote.
    ///
    /// # Errors
    /// [`QuoteError::Attest`] and [`QuoteError::NotAQuote`].
    ///
    /// # Security
    /// Nothing is authenticated.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        let attest = Attest::parse(bytes)?;
        match attest.attested {
            Attested::Quote {
                selection,
                pcr_digest,
            } => Ok(Self {
                bytes,
                attest,
                selection,
                pcr_digest,
                state: Unverified(()),
            }),
            Attested::Certify { .. } => Err(QuoteError::NotAQuote { found: "certify" }),
            Attested::Creation { .. } => Err(QuoteError::NotAQuote { found: "creation" }),
        }
    }

    /// The fields as they were sent, for looking up a nonce or showing them to a person.
    pub const fn unverified_attest(&self) -> &Attest<'a> {
        &self.attest
    }

    /// Verifies the signature over exactly the bytes that were parsed.
    ///
    /// # Errors
    /// [`QuoteError::Signature`]; SHA-1 is refused unless `allow_sha1`.
    ///
    /// # Security
    /// Afterwards every field is the TPM's own word, if `key` is a restricted key of that TPM.
    pub fn verify(
        self,
        key: &VerifyingKey,
        signature: &Signature<'_>,
        allow_sha1: bool,
    ) -> Result<Quote<'a, Signed>, QuoteError> {
        key.verify(signature, self.bytes, allow_sha1)?;
        Ok(self.with_state(Signed {
            hash: signature.hash(),
        }))
    }

    /// Verifies signature and nonce. When both are wrong the nonce is reported: a stale or
    /// foreign quote is not a forgery.
    ///
    /// # Errors
    /// [`QuoteError::NonceMismatch`] and [`QuoteError::Signature`].
    pub fn authenticate(
        self,
        key: &VerifyingKey,
        signature: &Signature<'_>,
        allow_sha1: bool,
        nonce: &[u8],
    ) -> Result<Quote<'a, Bound>, QuoteError> {
        check_nonce(self.attest.extra_data, nonce)?;
        self.verify(key, signature, allow_sha1)?.bind(nonce)
    }

    /// The same with what a batch found out about the signature.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    ///
    /// # Security
    /// A verdict about another key, message or hash counts for nothing: then the signature is
    /// verified here. (Q17)
    pub fn authenticate_verified(
        self,
        key: &VerifyingKey,
        signature: &Signature<'_>,
        allow_sha1: bool,
        nonce: &[u8],
        verified: &Verified,
    ) -> Result<Quote<'a, Bound>, QuoteError> {
        let hash = signature.hash();
        let is_about_this = (allow_sha1 || hash != HashAlg::Sha1)
            && verified.is_about(key, &crypto::digest(hash, self.bytes));
        if !is_about_this {
            return self.authenticate(key, signature, allow_sha1, nonce);
        }
        self.with_state(Signed { hash }).bind(nonce)
    }
}

impl<'a> Quote<'a, Signed> {
    /// Compares the signed qualifying data with the expected one, in constant time.
    ///
    /// # Errors
    /// [`QuoteError::NonceMismatch`]: the lengths must agree too.
    ///
    /// # Security
    /// Freshness is as good as `nonce` is: it must be unpredictable, and accepted once.
    pub fn bind(self, nonce: &[u8]) -> Result<Quote<'a, Bound>, QuoteError> {
        check_nonce(self.attest.extra_data, nonce)?;
        Ok(self.with_state(Bound {
            hash: self.state.hash,
        }))
    }
}

impl Quote<'_, Bound> {
    /// What it says, to be kept when the bytes are gone.
    pub const fn facts(&self) -> BoundQuote {
        BoundQuote {
            clock: self.attest.clock,
            firmware_version: self.attest.firmware_version,
            selection: self.selection,
            hash: self.state.hash,
        }
    }

    /// The TPM's clock and counters.
    pub const fn clock(&self) -> &ClockInfo {
        &self.attest.clock
    }

    /// The vendor's number of the TPM's firmware.
    pub const fn firmware_version(&self) -> u64 {
        self.attest.firmware_version
    }

    /// The PCRs quoted, by bank in the TPM's own order.
    pub const fn selection(&self) -> &PcrSelection {
        &self.selection
    }

    /// The signing scheme's hash, which is also `pcrDigest`'s.
    pub const fn hash(&self) -> HashAlg {
        self.state.hash
    }

    /// The digest over the values of the selected PCRs.
    ///
    /// # Errors
    /// [`QuoteError::PcrDigestSize`] when its size is not the signing hash's.
    fn pcr_digest(&self) -> Result<Digest, QuoteError> {
        Ok(Digest::new(self.state.hash, self.pcr_digest)?)
    }
}

impl<'a, State> Quote<'a, State> {
    fn with_state<Next>(&self, state: Next) -> Quote<'a, Next> {
        let Self {
            bytes,
            attest,
            selection,
            pcr_digest,
            ..
        } = *self;
        Quote {
            bytes,
            attest,
            selection,
            pcr_digest,
            state,
        }
    }
}

fn check_nonce(found: &[u8], expected: &[u8]) -> Result<(), QuoteError> {
    fault_point!(QuoteError::NonceMismatch {
        found: 0,
        expected: 0
    });
    if crypto::constant_time_eq(found, expected) {
        Ok(())
    } else {
        Err(QuoteError::NonceMismatch {
            found: found.len(),
            expected: expected.len(),
        })
    }
}
