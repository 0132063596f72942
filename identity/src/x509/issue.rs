//! Keys and certificates as they are made.

use std::net::IpAddr;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509Builder, X509Name, X509NameBuilder};

use crate::x509::LibraryError;
use crate::x509::certificate::Certificate;

/// The longest common name that X.509 knows (RFC 5280, A.1: ub-common-name).
const COMMON_NAME_CHARACTERS_MAX: usize = 64;

/// A private key.
#[derive(Clone)]
pub(crate) struct SigningKey(PKey<Private>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// A new key on P-256.
    pub(crate) fn generate() -> Result<Self, LibraryError> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        Ok(Self(PKey::from_ec_key(EcKey::generate(&group)?)?))
    }

    /// The key in PKCS#8 or, as older tools write it, in PKCS#1 or SEC1.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, LibraryError> {
        Ok(Self(PKey::private_key_from_der(der)?))
    }

    /// PKCS#8, not encrypted.
    pub(crate) fn to_pkcs8_der(&self) -> Result<Vec<u8>, LibraryError> {
        Ok(self.0.private_key_to_pkcs8()?)
    }

    /// The canonical `SubjectPublicKeyInfo`.
    pub(crate) fn public_key_info(&self) -> Result<Vec<u8>, LibraryError> {
        Ok(self.0.public_key_to_der()?)
    }

    /// The hash that fits the key.
    fn digest(&self) -> MessageDigest {
        match self.0.ec_key().ok().map(|key| key.group().order_bits()) {
            Some(384) => MessageDigest::sha384(),
            _ => MessageDigest::sha256(),
        }
    }
}

/// From when to when a certificate is valid, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before_unix_ms: u64,
    pub(crate) not_after_unix_ms: u64,
}

/// What a leaf is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// A TLS server of these names and addresses.
    Server(&'a [ServerName]),
    /// A TLS client with this URI.
    Client(&'a str),
    /// A TLS client of this name.
    NamedClient(&'a str),
    /// A TLS client with this URI, which is a TLS server of this name, too.
    Both(&'a str, &'a str),
}

/// How clients find a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerName {
    Dns(String),
    Address(IpAddr),
}

/// A CA's own certificate.
pub(crate) fn root(
    key: &SigningKey,
    common_name: &str,
    validity: Validity,
) -> Result<Vec<u8>, LibraryError> {
    let mut builder = builder(&key.0, validity)?;
    let name = name(common_name)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    let usage = KeyUsage::new()
        .critical()
        .key_cert_sign()
        .crl_sign()
        .build()?;
    builder.append_extension(usage)?;
    let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(identifier)?;
    builder.sign(&key.0, key.digest())?;
    Ok(builder.build().to_der()?)
}

/// A certificate for a key that its holder has proven, signed by `issuer`.
pub(crate) fn leaf(
    issuer: &Certificate,
    issuer_key: &SigningKey,
    public_key_info: &[u8],
    common_name: &str,
    purpose: Purpose<'_>,
    validity: Validity,
) -> Result<Vec<u8>, LibraryError> {
    let subject_key = PKey::public_key_from_der(public_key_info)?;
    let mut builder = builder(&subject_key, validity)?;
    builder.set_subject_name(&*name(common_name)?)?;
    builder.set_issuer_name(issuer.library.subject_name())?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    let mut extended = ExtendedKeyUsage::new();
    let mut names = SubjectAlternativeName::new();
    match purpose {
        Purpose::Server(server) => {
            extended.server_auth();
            for name in server {
                match name {
                    ServerName::Dns(dns) => names.dns(dns),
                    ServerName::Address(address) => names.ip(&address.to_string()),
                };
            }
        }
        Purpose::Client(uri) => {
            extended.client_auth();
            names.uri(uri);
        }
        Purpose::NamedClient(dns) => {
            extended.client_auth();
            names.dns(dns);
        }
        Purpose::Both(uri, dns) => {
            extended.client_auth().server_auth();
            names.uri(uri).dns(dns);
        }
    }
    builder.append_extension(extended.build()?)?;
    let context = builder.x509v3_context(Some(&issuer.library), None);
    let names = names.build(&context)?;
    let subject = SubjectKeyIdentifier::new().build(&context)?;
    // An operator's CA may have no identifier to point to.
    let authority = match issuer.library.subject_key_id() {
        Some(_) => Some(AuthorityKeyIdentifier::new().keyid(true).build(&context)?),
        None => None,
    };
    for extension in [Some(names), Some(subject), authority]
        .into_iter()
        .flatten()
    {
        builder.append_extension(extension)?;
    }
    builder.sign(&issuer_key.0, issuer_key.digest())?;
    Ok(builder.build().to_der()?)
}

fn builder<T: openssl::pkey::HasPublic>(
    key: &PKey<T>,
    validity: Validity,
) -> Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(128, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509Builder::new()?;
    // Version 3 is written as 2.
    builder.set_version(2)?;
    builder.set_serial_number(&*Asn1Integer::from_bn(&serial)?)?;
    builder.set_not_before(&*time(validity.not_before_unix_ms)?)?;
    builder.set_not_after(&*time(validity.not_after_unix_ms)?)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

fn time(unix_ms: u64) -> Result<Asn1Time, ErrorStack> {
    let seconds = unix_ms.checked_div(1000).unwrap_or(0);
    Asn1Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn name(common_name: &str) -> Result<X509Name, ErrorStack> {
    // Whoever must know reads the alternative names, which have no such limit.
    let shown: String = common_name
        .chars()
        .take(COMMON_NAME_CHARACTERS_MAX)
        .collect();
    let mut builder = X509NameBuilder::new()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, &shown)?;
    Ok(builder.build())
}
