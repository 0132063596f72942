//! What can attest: a TPM, or in simulations a key in software.

pub mod tpm;

use std::fmt;

use rat_engine::crypto::{KeyError, VerifyingKey};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrValues;
use rat_engine::tpm::attest::AttestError;
use rat_engine::tpm::attributes::KeyAttributeError;
use rat_engine::tpm::{ClockInfo, PcrSelection, Public, PublicError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use tpm::{Authorizations, Tcti, TctiError, Tpm, TpmError, TpmSettings};

/// The type of the endorsement key and of the attestation key under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// RSA-2048: EK template L-1, AK signing RSASSA with SHA-256. Every TPM 2.0 has it.
    Rsa,
    /// P-256: EK template L-2, AK signing ECDSA with SHA-256. Quotes several times faster.
    Ecc,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "rsa",
            Self::Ecc => "ecc",
        })
    }
}

/// The endorsement key, as the device shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// The vendor's certificate in DER; `None` where the device holds none.
    pub certificate: Option<Vec<u8>>,
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
}

impl Endorsement {
    /// What a server's lists and approvals call the machine by: SHA-256 of the key's
    /// SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`DeviceError`] when the public area holds no key.
    pub fn sha256(&self) -> Result<[u8; 32], DeviceError> {
        let public = Public::parse(&self.public)?;
        Ok(VerifyingKey::from_tpm(&public)?.spki_sha256()?)
    }
}

/// A secret that only this device can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// `TPM2B_ID_OBJECT`.
    pub blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub secret: Vec<u8>,
}

/// A quote and the values that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Values that hash to the quote's `pcrDigest`.
    pub pcr_values: PcrValues,
    /// The TPM's clock and counters, read from `attest`.
    pub clock: ClockInfo,
}

/// Whatever holds an endorsement key and an attestation key.
///
/// Calls block, for up to a second each on a discrete TPM: make them where blocking is allowed.
pub trait Device: Send {
    /// The endorsement key.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn endorsement(&mut self) -> Result<Endorsement, DeviceError>;

    /// `TPMT_PUBLIC` of the attestation key, which is made when there is none yet. The same key
    /// comes back after a restart.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn attestation_key(&mut self) -> Result<Vec<u8>, DeviceError>;

    /// The secret in `sealed`, when it was sealed for this device's two keys.
    ///
    /// # Errors
    /// [`DeviceError`], also when it was sealed for others.
    fn activate(&mut self, sealed: &SealedSecret) -> Result<Vec<u8>, DeviceError>;

    /// A quote over `selection`, with the values of the same moment.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn quote(
        &mut self,
        qualifying_data: &[u8; 32],
        selection: &PcrSelection,
    ) -> Result<Quoted, DeviceError>;

    /// The clock and the counters of resets and restarts now.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn clock(&mut self) -> Result<ClockInfo, DeviceError>;

    /// The PCR banks that are in use.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn banks(&mut self) -> Result<Vec<HashAlg>, DeviceError>;
}

/// Why a device did not do what it was asked.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// What it says about one of its keys cannot be read.
    #[error("the device's public area cannot be read: {0}")]
    Public(#[from] PublicError),
    /// One of its keys is no key that we use.
    #[error("the device's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// One of its keys has attributes that a verifier refuses.
    #[error("the device's key would be refused: {0}")]
    Attributes(#[from] KeyAttributeError),
    /// What it signed cannot be read.
    #[error("the device's quote cannot be read: {0}")]
    Attest(#[from] AttestError),
    /// Its own signature does not verify with its own key.
    #[error("the device's signature does not verify with its own key; the device is faulty")]
    SignatureWrong,
    /// It quoted something other than what was asked for.
    #[error("the device quoted {quoted}, {asked} was asked for; is that bank switched on?")]
    SelectionNotQuoted {
        /// What was asked for.
        asked: PcrSelection,
        /// What it quoted.
        quoted: PcrSelection,
    },
    /// The PCRs changed between every quote and the reading of their values.
    #[error("the PCRs changed {tries} times while they were quoted")]
    PcrsNeverStill {
        /// How often it was tried.
        tries: u32,
    },
    /// A sealed secret was made for another endorsement or attestation key.
    #[error("the secret was sealed for other keys than this device's")]
    SealedForOthers,
    /// A software device failed.
    #[error("the software device failed: {0}")]
    Software(&'static str),
}
