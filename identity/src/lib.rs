//! Who may attest: EK certificate chains, credential activation, ratd's CA, agent certificates.
//!
//! A machine enrols in three steps. [`enrolment::check`] asks whether its endorsement key (EK)
//! belongs to a TPM that the operator knows, by a certificate chain or by a list ([`ek`]), whether
//! its attestation key can only attest, and whether it holds the key of its certificate request.
//! [`enrolment::challenge`] wraps a secret that only a TPM with both keys can release
//! ([`credential`]). [`enrolment::verify`] compares the answer. [`approval`] says whether that is
//! enough for the group, and [`ca`] issues the certificate that the machine shows from then on,
//! which [`agent_certificate`] reads.
//!
//! Nothing here knows HTTP or a store. Files are read and written by [`ca`] (its own folder) and
//! [`ek::EkTrust::load`] (what the operator named); the time and the randomness of credentials are
//! arguments.
#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

pub mod agent_certificate;
pub mod approval;
pub mod ca;
pub mod credential;
mod der;
pub mod ek;
pub mod enrolment;
pub mod keylime;
pub mod limits;
pub mod pem;
pub mod relay_certificate;
pub mod revocation_key;
pub mod v_key;
mod x509;

pub use der::DerError;
pub use x509::LibraryError;
pub use x509::chain::ChainFault;
pub use x509::fields::FieldError;
pub use x509::request::CsrError;
