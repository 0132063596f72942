//! The agent's own key, requests for its certificate, and forms of public keys.
//!
//! The only module of the agent that names `openssl`.

use std::fmt;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameBuilder, X509ReqBuilder};
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use thiserror::Error;

/// Why a key or certificate cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The library refused.
    #[error("{what}: {source}")]
    Library {
        /// What was being done.
        what: &'static str,
        /// The library's reason.
        source: ErrorStack,
    },
    /// A PEM text without a certificate.
    #[error("there is no certificate in what the server sent")]
    NoCertificate,
    /// The certificate is for another key than ours.
    #[error("the certificate is not for this machine's key")]
    OtherKey,
}

fn failed(what: &'static str) -> impl FnOnce(ErrorStack) -> KeysError {
    move |source| KeysError::Library { what, source }
}

/// The key with which the agent speaks to the server: P-256, made on this machine.
#[derive(Clone)]
pub struct ClientKey(PKey<Private>);

impl ClientKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn generate() -> Result<Self, KeysError> {
        let make = || {
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            PKey::from_ec_key(EcKey::generate(&group)?)
        };
        make().map(Self).map_err(failed("making a key"))
    }

    /// The key in this PEM text.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn from_pem(pem: &str) -> Result<Self, KeysError> {
        PKey::private_key_from_pem(pem.as_bytes())
            .map(Self)
            .map_err(failed("reading the agent's key"))
    }

    /// PKCS#8 in PEM.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn to_pem(&self) -> Result<String, KeysError> {
        let pem = self
            .0
            .private_key_to_pem_pkcs8()
            .map_err(failed("writing the agent's key"))?;
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    /// PKCS#8 in DER.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn to_pkcs8_der(&self) -> Result<Vec<u8>, KeysError> {
        self.0
            .private_key_to_pkcs8()
            .map_err(failed("writing the agent's key"))
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn sha256(&self) -> Result<[u8; 32], KeysError> {
        let spki = self
            .0
            .public_key_to_der()
            .map_err(failed("writing the agent's public key"))?;
        Ok(sha256(&spki))
    }

    /// A PKCS#10 request in DER, signed with this key. Its subject is a hint: the server names
    /// certificates itself.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn certificate_request(&self, agent: &AgentId) -> Result<Vec<u8>, KeysError> {
        self.request(agent.as_str())
    }

    /// A request for a relay's certificate, likewise.
    ///
    /// # Errors
    /// [`KeysError::Library`].
    pub fn relay_request(&self) -> Result<Vec<u8>, KeysError> {
        self.request("relay")
    }

    fn request(&self, hint: &str) -> Result<Vec<u8>, KeysError> {
        // X.520 bounds a common name to 64 characters; ids may have 80.
        let hint: String = hint.chars().take(64).collect();
        let make = || {
            let mut name = X509NameBuilder::new()?;
            name.append_entry_by_nid(Nid::COMMONNAME, &hint)?;
            let mut request = X509ReqBuilder::new()?;
            request.set_version(0)?;
            request.set_subject_name(&name.build())?;
            request.set_pubkey(&self.0)?;
            request.sign(&self.0, MessageDigest::sha256())?;
            request.build().to_der()
        };
        make().map_err(failed("making a certificate request"))
    }
}

/// Never the key.
impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKey").finish_non_exhaustive()
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From, in milliseconds since 1970.
    pub not_before_unix_ms: u64,
    /// Until, in milliseconds since 1970.
    pub not_after_unix_ms: u64,
}

impl Validity {
    /// The end of two thirds of it: time to ask for the next certificate.
    pub const fn renewal_unix_ms(&self) -> u64 {
        let life = self
            .not_after_unix_ms
            .saturating_sub(self.not_before_unix_ms);
        // Thirds of a life are far below the largest number.
        self.not_before_unix_ms
            .saturating_add(life.saturating_sub(life.wrapping_div(3)))
    }
}

/// The validity of a certificate in DER, which must be for this key.
///
/// # Errors
/// [`KeysError`].
pub fn validity(certificate_der: &[u8], key: &ClientKey) -> Result<Validity, KeysError> {
    let certificate = X509::from_der(certificate_der).map_err(failed("reading a certificate"))?;
    let is_ours = certificate
        .public_key()
        .is_ok_and(|public| public.public_eq(&key.0));
    if !is_ours {
        return Err(KeysError::OtherKey);
    }
    let read = || {
        Ok(Validity {
            not_before_unix_ms: unix_ms(certificate.not_before())?,
            not_after_unix_ms: unix_ms(certificate.not_after())?,
        })
    };
    read().map_err(failed("reading the dates of a certificate"))
}

/// The first moment of the validity of a certificate in DER, in milliseconds since 1970.
///
/// # Errors
/// [`KeysError::Library`].
pub fn issued_unix_ms(certificate_der: &[u8]) -> Result<u64, KeysError> {
    let read = || unix_ms(X509::from_der(certificate_der)?.not_before());
    read().map_err(failed("reading the dates of a certificate"))
}

fn unix_ms(time: &Asn1TimeRef) -> Result<u64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let days = u64::try_from(since.days).unwrap_or(0);
    let seconds = u64::try_from(since.secs).unwrap_or(0);
    Ok(days
        .saturating_mul(86_400)
        .saturating_add(seconds)
        .saturating_mul(1000))
}

/// The certificates of a PEM text, in DER.
///
/// # Errors
/// [`KeysError::NoCertificate`] when there is none.
pub fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, KeysError> {
    let read = X509::stack_from_pem(pem.as_bytes()).map_err(failed("reading certificates"))?;
    if read.is_empty() {
        return Err(KeysError::NoCertificate);
    }
    read.iter()
        .map(|certificate| {
            certificate
                .to_der()
                .map_err(failed("reading a certificate"))
        })
        .collect()
}

/// Certificates as one PEM text.
///
/// # Errors
/// [`KeysError::Library`] when one of them is none.
pub fn to_pem<'c>(
    certificates: impl IntoIterator<Item = &'c Vec<u8>>,
) -> Result<String, KeysError> {
    let mut text = String::new();
    for der in certificates {
        let pem = X509::from_der(der)
            .and_then(|certificate| certificate.to_pem())
            .map_err(failed("reading a certificate"))?;
        text.push_str(&String::from_utf8_lossy(&pem));
    }
    Ok(text)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let value = digest(HashAlg::Sha256, bytes);
    value.as_bytes().try_into().unwrap_or([0; 32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_by_its_own_key_and_long_ids_fit() {
        let key = ClientKey::generate().unwrap();
        let agent = AgentId::parse(&"x".repeat(80)).unwrap();
        let der = key.certificate_request(&agent).unwrap();
        let request = openssl::x509::X509Req::from_der(&der).unwrap();
        assert!(request.verify(&request.public_key().unwrap()).unwrap());
        let spki = request.public_key().unwrap().public_key_to_der().unwrap();
        assert_eq!(key.sha256().unwrap(), sha256(&spki));
        let again = ClientKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.sha256().unwrap(), key.sha256().unwrap());
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_a_life() {
        let validity = Validity {
            not_before_unix_ms: 1_000,
            not_after_unix_ms: 31_000,
        };
        assert_eq!(validity.renewal_unix_ms(), 21_000);
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (ours, other) = (
            ClientKey::generate().unwrap(),
            ClientKey::generate().unwrap(),
        );
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(&other.0).unwrap();
        let (from, until) = (Asn1Time::from_unix(1_000), Asn1Time::from_unix(100_000_000));
        builder.set_not_before(&from.unwrap()).unwrap();
        builder.set_not_after(&until.unwrap()).unwrap();
        builder.sign(&other.0, MessageDigest::sha256()).unwrap();
        let der = builder.build().to_der().unwrap();
        assert!(matches!(validity(&der, &ours), Err(KeysError::OtherKey)));
        let read = validity(&der, &other).unwrap();
        assert_eq!(
            (read.not_before_unix_ms, read.not_after_unix_ms),
            (1_000_000, 100_000_000_000)
        );
        let pem = to_pem([&der]).unwrap();
        assert_eq!(certificates(&pem).unwrap(), [der]);
        assert!(certificates("").is_err());
    }
}
