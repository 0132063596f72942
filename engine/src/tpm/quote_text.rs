//! The text in which Keylime's agents send a quote: `r<attestation>:<signature>:<PCR values>`, each
//! in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::limits::{ATTEST_BYTES_MAX, PCR_BLOB_BYTES_MAX, SIGNATURE_BYTES_MAX};
use crate::malformed::Malformed;
use crate::pcr::PcrValues;
use crate::tpm::pcr_values::parse_pcr_blob;

/// A quote, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteText {
    /// `TPMS_ATTEST`.
    pub message: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// What the sender says that the values are.
    pub values: PcrValues,
}

/// Why a text is no quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuoteTextError {
    /// It is not of this form.
    #[error("the quote must be `r` and three texts in base64, with `:` between them")]
    Form,
    /// A part is no base64 with the standard alphabet and padding.
    #[error("the quote's {0} is no base64")]
    Base64(&'static str),
    /// A part is longer than any real one.
    #[error("the quote's {part} is longer than {max} bytes")]
    TooLong {
        /// Which.
        part: &'static str,
        /// The limit.
        max: usize,
    },
    /// The PCR values cannot be read.
    #[error(transparent)]
    Pcrs(#[from] Malformed),
}

impl QuoteText {
    /// Reads the text.
    ///
    /// # Errors
    /// [`QuoteTextError`].
    ///
    /// # Security
    /// Nothing is authenticated.
    ///
    /// Source: Keylime, `tpm2_objects` and `tpm_util`: the texts between the colons are `TPMS_ATTEST`
    /// without its size, `TPMT_SIGNATURE`, and what [`parse_pcr_blob`] reads.
    pub fn parse(text: &str) -> Result<Self, QuoteTextError> {
        let mut parts = text
            .strip_prefix('r')
            .ok_or(QuoteTextError::Form)?
            .split(':');
        let (Some(message), Some(signature), Some(values), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(QuoteTextError::Form);
        };
        let (_, values) = parse_pcr_blob(&decode("PCR values", values, PCR_BLOB_BYTES_MAX)?)?;
        Ok(Self {
            message: decode("attestation", message, ATTEST_BYTES_MAX)?,
            signature: decode("signature", signature, SIGNATURE_BYTES_MAX)?,
            values,
        })
    }
}

fn decode(part: &'static str, text: &str, max: usize) -> Result<Vec<u8>, QuoteTextError> {
    // Four characters for three bytes, rounded up.
    if text.len() > max.div_ceil(3).saturating_mul(4) {
        return Err(QuoteTextError::TooLong { part, max });
    }
    STANDARD
        .decode(text)
        .map_err(|_| QuoteTextError::Base64(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_no_quote_are_refused_by_their_part() {
        let values = STANDARD.encode([0; 136]);
        let long = |bytes: usize| "A".repeat(bytes.div_ceil(3) * 4 + 4);
        for (text, expected) in [
            (String::new(), QuoteTextError::Form),
            ("d::".into(), QuoteTextError::Form),
            ("rAAAA:AAAA".into(), QuoteTextError::Form),
            (format!("rAAAA:AAAA:{values}:"), QuoteTextError::Form),
            ("rAAAA:AAAA:*".into(), QuoteTextError::Base64("PCR values")),
            (
                format!("rA:AAAA:{values}"),
                QuoteTextError::Base64("attestation"),
            ),
            (
                format!("rAAAA:A===:{values}"),
                QuoteTextError::Base64("signature"),
            ),
            (
                format!("r{}:AAAA:{values}", long(ATTEST_BYTES_MAX)),
                QuoteTextError::TooLong {
                    part: "attestation",
                    max: ATTEST_BYTES_MAX,
                },
            ),
            (
                format!("rAAAA:AAAA:{}", long(PCR_BLOB_BYTES_MAX)),
                QuoteTextError::TooLong {
                    part: "PCR values",
                    max: PCR_BLOB_BYTES_MAX,
                },
            ),
        ] {
            assert_eq!(QuoteText::parse(&text).unwrap_err(), expected);
        }
        assert!(matches!(
            QuoteText::parse("rAAAA:AAAA:AAAA"),
            Err(QuoteTextError::Pcrs(_))
        ));
        let read = QuoteText::parse(&format!("rAAAA:AAAA:{values}")).unwrap();
        assert!(read.values.is_empty() && read.message == [0; 3]);
    }
}
