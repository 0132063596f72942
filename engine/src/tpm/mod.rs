//! Bounded parsers of the TPM structures that an Attester sends, and checks of its keys.
//!
//! Everything here takes bytes that nobody has authenticated yet. A parser borrows from its
//! input, refuses trailing bytes and unknown values, and gives the same answer for equal bytes.
//! What a structure *means* is decided later, after its signature was verified.
//!
//! Source: TPM 2.0 Library, Part 2 "Structures".

pub mod attest;
pub mod attributes;
pub mod pcr_values;
pub mod public;
pub mod quote_text;
pub mod selection;
pub mod signature;

pub use attest::{Attest, AttestError, Attested, ClockInfo};
pub use attributes::ObjectAttributes;
pub use pcr_values::{MissingPcr, pcr_digest};
pub use public::{Name, Public, PublicError};
pub use quote_text::{QuoteText, QuoteTextError};
pub use selection::PcrSelection;
pub use signature::{Signature, SignatureFormatError};
