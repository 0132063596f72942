//! What the TCG asks of an EK certificate, beyond its chain.
//!
//! Source: TCG EK Credential Profile 2.5, 3.2.

use rat_engine::crypto::KeyMaterial;

use crate::der::{self, DerError, Element, Reader};
use crate::x509::certificate::Certificate;
use crate::x509::chain::ChainFault;
use crate::x509::fields::{FieldError, Fields, SUBJECT_ALT_NAME, only};

/// `tcg-kp-EKCertificate`, 2.23.133.8.1
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// `anyExtendedKeyUsage`, 2.5.29.37.0
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
/// `tcg-at-tpmManufacturer`, `-tpmModel`, `-tpmVersion`: 2.23.133.2.1 to .3
const TPM_ATTRIBUTES: [&[u8]; 3] = [
    &[0x67, 0x81, 0x05, 0x02, 0x01],
    &[0x67, 0x81, 0x05, 0x02, 0x02],
    &[0x67, 0x81, 0x05, 0x02, 0x03],
];

// Tags of a GeneralName: RFC 5280, 4.2.1.6.
const OTHER_NAME: u8 = 0xa0;
const DIRECTORY_NAME: u8 = 0xa4;

/// Checks that a certificate, whoever signed it, is one for an endorsement key.
///
/// `tcg-kp-EKCertificate` must be among the extended key usages, if there are any: clouds issue EK
/// certificates without. The key usage, if there is one, must allow what an endorsement key does,
/// which certificates of attestation keys by the same issuers do not.
pub(super) fn check(certificate: &Certificate, key: &KeyMaterial) -> Result<(), ChainFault> {
    let fields = certificate.fields()?;
    if certificate.is_self_issued() {
        return Err(ChainFault::SelfSigned);
    }
    if fields.is_ca().map_err(FieldError::Der)? {
        return Err(ChainFault::IsCa);
    }
    check_purpose(&fields, &[EK_CERTIFICATE])?;
    let usage = fields.key_usage().map_err(FieldError::Der)?;
    let fits = usage.is_none_or(|usage| match key {
        KeyMaterial::Rsa { .. } => usage.key_encipherment,
        KeyMaterial::Ecc { .. } => usage.key_agreement,
    });
    if !fits {
        return Err(ChainFault::KeyUsage);
    }
    match fields.extension(SUBJECT_ALT_NAME) {
        Some(names) if names.critical => check_names(names.value),
        _ => Ok(()),
    }
}

/// Checks that an issuer may issue EK certificates, if it is said what it may issue.
pub(super) fn check_issuer(issuer: &Certificate) -> Result<(), ChainFault> {
    check_purpose(&issuer.fields()?, &[EK_CERTIFICATE, ANY_PURPOSE])
}

fn check_purpose(fields: &Fields<'_>, accepted: &[&[u8]]) -> Result<(), ChainFault> {
    let purposes = fields.extended_key_usage().map_err(FieldError::Der)?;
    let allowed =
        purposes.is_none_or(|purposes| purposes.iter().any(|purpose| accepted.contains(purpose)));
    if allowed {
        Ok(())
    } else {
        Err(ChainFault::ExtendedKeyUsage)
    }
}

/// Whether a critical subjectAltName is one that we understand: the description of a TPM.
///
/// One directoryName with manufacturer, model and version, each once, in one RDN or in three; and
/// otherNames, in which newer certificates repeat them for machines.
fn check_names(extension: &[u8]) -> Result<(), ChainFault> {
    let described = read_names(extension).map_err(|error| ChainFault::Field(error.into()))?;
    if described {
        Ok(())
    } else {
        Err(ChainFault::SubjectAltName)
    }
}

fn read_names(extension: &[u8]) -> Result<bool, DerError> {
    let mut names = only(extension, der::SEQUENCE)?.inside();
    let mut descriptions = 0_usize;
    while let Some(name) = names.next()? {
        match name.tag {
            OTHER_NAME => {}
            DIRECTORY_NAME if describes_tpm(name)? => {
                descriptions = descriptions.saturating_add(1);
            }
            _ => return Ok(false),
        }
    }
    Ok(descriptions == 1)
}

/// Whether a directoryName holds each attribute of a TPM once, with a value.
fn describes_tpm(name: Element<'_>) -> Result<bool, DerError> {
    let mut names = only(name.content, der::SEQUENCE)?.inside();
    let mut found = [0_usize; TPM_ATTRIBUTES.len()];
    while !names.rest().is_empty() {
        let mut attributes: Reader<'_> = names.expect(der::SET)?.inside();
        while !attributes.rest().is_empty() {
            let mut attribute = attributes.expect(der::SEQUENCE)?.inside();
            let oid = attribute.expect(der::OID)?.content;
            let value = attribute.next()?.ok_or(DerError::Truncated)?;
            attribute.finish()?;
            for (known, count) in TPM_ATTRIBUTES.iter().zip(&mut found) {
                if *known == oid && !value.content.is_empty() {
                    *count = count.saturating_add(1);
                }
            }
        }
    }
    Ok(found.iter().all(|count| *count == 1))
}
