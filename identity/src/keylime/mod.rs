//! What Keylime's registrar asks of a machine: keys that fit together, and a secret that only its TPM
//! releases.
//!
//! [`check`] holds a registration's keys and certificates against each other and against what the
//! operator trusts. [`challenge`] wraps a secret for the TPM, and [`is_answer`] knows the right
//! answer. [`admin_name`] says who a client certificate of Keylime's CA is; [`KeylimeCa`] is that CA.
//!
//! Nothing here knows HTTP or a store.
//!
//! Source: Keylime 7.14 `keylime/models/registrar`, `keylime/tpm/tpm_util.py`.

mod admin;
mod ca;
mod certify;
mod challenge;
mod claims;

pub use admin::admin_name;
pub use ca::{CA_FOLDER, FILES as CA_FILES, KeylimeCa, KeylimeCaError, ServerFiles};
pub use certify::{Certified, CertifyError};
pub use challenge::{Challenge, answer, challenge, is_answer};
pub use claims::{
    Checked, Claims, Device, EkCheck, Policy, RegistrationError, TpmIdentity, Vouch,
    certificate_of, check,
};
