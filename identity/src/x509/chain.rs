//! Chains of certificates, from an EK certificate to a root that an operator named.

use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::X509StoreContext;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyParam;
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

/// A set of CA certificates; those that signed themselves are the roots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Anchors {
    roots: Vec<Certificate>,
    issuers: Vec<Certificate>,
}

impl Anchors {
    /// Adds a certificate that an operator named.
    pub(crate) fn add(&mut self, certificate: Certificate) {
        if certificate.is_self_signed() {
            self.roots.push(certificate);
        } else {
            self.issuers.push(certificate);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.roots.len().saturating_add(self.issuers.len())
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
        let store = self.store(now_unix_ms)?;
        let mut issuers = Stack::new()?;
        for issuer in &self.issuers {
            issuers.push(issuer.library.clone())?;
        }
        let mut context = X509StoreContext::new()?;
        context.init(&store, &leaf.library, &issuers, |context| {
            if !context.verify_cert()? {
                return Ok(Err(fault(context.error().as_raw())));
            }
            let chain = context.chain().into_iter().flatten();
            let read = |certificate: &openssl::x509::X509Ref| {
                let der = certificate.to_der().map_err(|_| FieldError::Unreadable)?;
                Certificate::parse(&der).map_err(ChainFault::Field)
            };
            Ok(chain.map(read).collect())
        })
    }

    /// The library's store: the roots, and nothing that this machine trusts otherwise.
    fn store(&self, now_unix_ms: u64) -> Result<X509Store, ErrorStack> {
        let mut param = X509VerifyParam::new()?;
        let now_s = now_unix_ms.checked_div(1000).unwrap_or(0);
        param.set_time(i64::try_from(now_s).unwrap_or(i64::MAX));
        // What the library counts are the issuers between leaf and root.
        let between = limits::CHAIN_CERTIFICATES_MAX.saturating_sub(2);
        param.set_depth(i32::try_from(between).unwrap_or(0));
        // 112 bits: RSA-2048, P-256, SHA-256; the signature of the root itself is not looked at.
        param.set_auth_level(2);
        let mut builder = X509StoreBuilder::new()?;
        for root in &self.roots {
            builder.add_cert(root.library.clone())?;
        }
        builder.set_param(&param)?;
        Ok(builder.build())
    }
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
        other => ChainFault::Other(other),
    }
}
