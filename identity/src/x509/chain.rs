//! Chains of certificates, from an EK certificate to a root that an operator named.

use std::collections::{HashMap, HashSet};

use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyParam;
use openssl::x509::{X509Ref, X509StoreContext};
use thiserror::Error;

use crate::limits;
use crate::x509::certificate::Certificate;
use crate::x509::fields::FieldError;

/// Why no chain leads from a certificate to a named root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainFault {
    /// The certificate, or one that issued it, cannot be read.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// The certificate's issuer, or an issuer above it, is not among those that were named.
    #[error("no chain leads to a CA that the operator named")]
    UnknownRoot,
    /// The certificate was made by its own key.
    #[error("the certificate is self-signed")]
    SelfSigned,
    /// A certificate of the chain has expired.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// A certificate of the chain is not valid yet.
    #[error("a certificate of the chain is not valid yet")]
    NotYetValid,
    /// A signature does not verify.
    #[error("a signature of the chain does not verify")]
    Signature,
    /// A signature with MD5 or SHA-1, or a key under 112 bits of strength.
    #[error("a signature or key of the chain is too weak")]
    Weak,
    /// An issuer is no CA, or may not sign certificates.
    #[error("an issuer of the chain may not issue certificates")]
    Issuer,
    /// More issuers than one of them allows, or than we follow.
    #[error("the chain is longer than allowed")]
    Length,
    /// A name outside what an issuer may name.
    #[error("a name of the chain is outside its issuer's constraints")]
    NameConstraint,
    /// A critical extension that nobody here understands.
    #[error("a certificate of the chain has a critical extension that is not understood")]
    CriticalExtension,
    /// The certificate is a CA's.
    #[error("the certificate is that of a CA")]
    IsCa,
    /// An extended key usage without `tcg-kp-EKCertificate`.
    #[error("the extended key usage does not allow endorsement keys")]
    ExtendedKeyUsage,
    /// A key usage that does not allow what an endorsement key does.
    #[error("the key usage allows neither encryption nor agreement, as the key needs")]
    KeyUsage,
    /// A critical subjectAltName that does not describe a TPM.
    #[error("the critical subjectAltName does not describe a TPM")]
    SubjectAltName,
    /// The certified key is of no kind that endorsement keys have.
    #[error("the certified key is of no kind that endorsement keys have")]
    Key,
    /// Another fault, by the number that the library gives it.
    #[error("the chain does not verify (fault {0} of the library)")]
    Other(i32),
}

/// A CA certificate that an operator named.
#[derive(Debug, Clone)]
struct Anchor {
    certificate: Certificate,
    /// Whether it signed itself: only such a certificate ends a chain.
    is_root: bool,
}

/// CA certificates by the hash of their subject's canonical form, as the library compares names.
///
/// A chain is looked for among those only that the names in it lead to: the library's own store
/// sorts all of them for each that is added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Anchors(HashMap<u32, Vec<Anchor>>);

impl Anchors {
    /// Adds a certificate that an operator named.
    pub(crate) fn add(&mut self, certificate: Certificate) {
        let subject = certificate.library.subject_name_hash();
        let is_root = certificate.is_self_signed();
        self.0.entry(subject).or_default().push(Anchor {
            certificate,
            is_root,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether the root with this fingerprint is among them.
    pub(crate) fn has_root(&self, fingerprint: &[u8; 32]) -> bool {
        let mut anchors = self.0.values().flatten();
        anchors.any(|it| it.is_root && it.certificate.fingerprint() == *fingerprint)
    }

    /// Every certificate that could stand above `leaf`.
    fn above(&self, leaf: &Certificate) -> Vec<&Anchor> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut issuers = vec![leaf.library.issuer_name_hash()];
        for _ in 1..limits::CHAIN_CERTIFICATES_MAX {
            let mut next = Vec::new();
            for issuer in issuers {
                let named = self.0.get(&issuer).filter(|_| seen.insert(issuer));
                for anchor in named.into_iter().flatten() {
                    next.push(anchor.certificate.library.issuer_name_hash());
                    found.push(anchor);
                }
            }
            issuers = next;
        }
        found
    }

    /// The chain from `leaf` to a root, both included.
    ///
    /// Checks signatures, their strength, validity at `now`, CA flags, `keyCertSign`, path lengths,
    /// name constraints and that all critical extensions are known. Key purposes are the caller's.
    pub(crate) fn verify(
        &self,
        leaf: &Certificate,
        now_unix_ms: u64,
    ) -> Result<Vec<Certificate>, ChainFault> {
        let found = self.run(leaf, now_unix_ms);
        let chain = found.map_err(|_| ChainFault::Other(0))??;
        // The library takes a root of an old version, or one that says nothing, for a CA.
        for issuer in chain.iter().skip(1) {
            let fields = issuer.fields()?;
            let signs = fields.key_usage().map_err(FieldError::Der)?;
            if !fields.is_ca().map_err(FieldError::Der)?
                || signs.is_some_and(|usage| !usage.key_cert_sign)
            {
                return Err(ChainFault::Issuer);
            }
        }
        Ok(chain)
    }

    fn run(
        &self,
        leaf: &Certificate,
        now_unix_ms: u64,
    ) -> Result<Result<Vec<Certificate>, ChainFault>, ErrorStack> {
        let (roots, between): (Vec<_>, Vec<_>) = self
            .above(leaf)
            .into_iter()
            .partition(|anchor| anchor.is_root);
        let store = store(&roots, now_unix_ms)?;
        let mut issuers = Stack::new()?;
        for issuer in between {
            issuers.push(issuer.certificate.library.clone())?;
        }
        let mut context = X509StoreContext::new()?;
        context.init(&store, &leaf.library, &issuers, |context| {
            if !context.verify_cert()? {
                return Ok(Err(fault(context.error().as_raw())));
            }
            let chain = context.chain().into_iter().flatten();
            let read = |certificate: &X509Ref| Certificate::of_library(certificate.to_owned());
            Ok(chain
                .map(read)
                .collect::<Result<_, _>>()
                .map_err(ChainFault::Field))
        })
    }
}

/// The library's store: these roots, and nothing that this machine trusts otherwise.
fn store(roots: &[&Anchor], now_unix_ms: u64) -> Result<X509Store, ErrorStack> {
    let mut param = X509VerifyParam::new()?;
    let now_s = now_unix_ms.checked_div(1000).unwrap_or(0);
    param.set_time(i64::try_from(now_s).unwrap_or(i64::MAX));
    // What the library counts are the issuers between leaf and root.
    let between = limits::CHAIN_CERTIFICATES_MAX.saturating_sub(2);
    param.set_depth(i32::try_from(between).unwrap_or(0));
    // 112 bits: RSA-2048, P-256, SHA-256; the signature of the root itself is not looked at.
    param.set_auth_level(2);
    let mut builder = X509StoreBuilder::new()?;
    for root in roots {
        builder.add_cert(root.certificate.library.clone())?;
    }
    builder.set_param(&param)?;
    Ok(builder.build())
}

/// The library's numbers, as its manual page X509_STORE_CTX_get_error lists them.
fn fault(code: i32) -> ChainFault {
    match code {
        2 | 19..=21 | 27 => ChainFault::UnknownRoot,
        18 => ChainFault::SelfSigned,
        4 | 6 | 7 | 24 | 76..=78 => ChainFault::Signature,
        9 => ChainFault::NotYetValid,
        10 => ChainFault::Expired,
        22 | 25 => ChainFault::Length,
        32 | 79 => ChainFault::Issuer,
        34 => ChainFault::CriticalExtension,
        47..=49 | 51..=53 => ChainFault::NameConstraint,
        66..=68 => ChainFault::Weak,
        94 => ChainFault::Key,
        other => ChainFault::Other(other),
    }
}
