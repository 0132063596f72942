//! The forms in which tools write keys and PCR values.

use rat_engine::crypto::{KeyError, VerifyingKey};
use rat_engine::pcr::PcrValues;
use rat_engine::tpm::pcr_values::{parse_pcr_blob, parse_pcr_json};
use rat_engine::tpm::{PcrSelection, Public, PublicError};

/// A public attestation key, as its file describes it.
#[derive(Debug)]
pub(crate) struct AttestationKey<'b> {
    /// The form of the file.
    pub(crate) form: &'static str,
    /// The key, or why a key of this kind is not accepted.
    pub(crate) key: Result<VerifyingKey, KeyError>,
    /// The TPM's description of it, which PEM lacks.
    pub(crate) public: Option<Public<'b>>,
}

/// Why a file holds no key.
#[derive(Debug)]
pub(crate) enum AkError {
    /// It is neither PEM nor a public area.
    Public(PublicError),
    /// It is PEM, and not of one public key.
    Pem(KeyError),
}

impl std::fmt::Display for AkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public(error) => {
                write!(f, "neither PEM nor a TPM's public area: {error}")
            }
            Self::Pem(error) => error.fmt(f),
        }
    }
}

impl<'b> AttestationKey<'b> {
    /// Reads PEM, `TPM2B_PUBLIC` or `TPMT_PUBLIC`.
    pub(crate) fn parse(bytes: &'b [u8]) -> Result<Self, AkError> {
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            let key = VerifyingKey::from_pem(bytes);
            return match key {
                Err(error @ (KeyError::Pem | KeyError::Der)) => Err(AkError::Pem(error)),
                key => Ok(Self {
                    form: "PEM",
                    key,
                    public: None,
                }),
            };
        }
        let public = Public::parse(bytes).map_err(AkError::Public)?;
        let is_bare = public.raw.len() == bytes.len();
        Ok(Self {
            form: if is_bare {
                "TPMT_PUBLIC"
            } else {
                "TPM2B_PUBLIC"
            },
            key: VerifyingKey::from_tpm(&public),
            public: Some(public),
        })
    }
}

/// PCR values, as their file lists them.
#[derive(Debug)]
pub(crate) struct PcrFile {
    /// The form of the file.
    pub(crate) form: &'static str,
    /// The selection that a blob begins with.
    pub(crate) selection: Option<PcrSelection>,
    /// The values.
    pub(crate) values: PcrValues,
}

impl PcrFile {
    /// Reads JSON or the blob of tpm2-tools; errors are text, because only people read them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        // A blob begins with a count of at most 16, never with a brace.
        if bytes.trim_ascii_start().starts_with(b"{") {
            let values = parse_pcr_json(bytes).map_err(|error| error.to_string())?;
            return Ok(Self {
                form: "JSON",
                selection: None,
                values,
            });
        }
        let (selection, values) = parse_pcr_blob(bytes).map_err(|error| error.to_string())?;
        Ok(Self {
            form: "tpm2-tools",
            selection: Some(selection),
            values,
        })
    }
}
