//! What is asked of certificates of a device's initial keys, beyond their chain.

use crate::der::{self, DerError, Element, Reader};
use crate::x509::certificate::Certificate;
use crate::x509::chain::ChainFault;
use crate::x509::fields::{FieldError, SUBJECT_ALT_NAME, only};

/// `id-on-hardwareModuleName`, 1.3.6.1.5.5.7.8.4
const HARDWARE_MODULE_NAME: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04];
/// The type of hardware that a TPM 2.0 is, 2.23.133.1.2
const TPM_2: &[u8] = &[0x67, 0x81, 0x05, 0x01, 0x02];

// Tags of a GeneralName and of the value in an otherName: RFC 5280, 4.2.1.6.
const OTHER_NAME: u8 = 0xa0;
const VALUE: u8 = 0xa0;

/// Checks that a certificate is a leaf, and that the hardware which it names, if it names one, is a
/// TPM.
pub(super) fn check(certificate: &Certificate) -> Result<(), ChainFault> {
    if certificate.is_self_issued() {
        return Err(ChainFault::SelfSigned);
    }
    let fields = certificate.fields()?;
    if fields.is_ca().map_err(FieldError::Der)? {
        return Err(ChainFault::IsCa);
    }
    let Some(names) = fields.extension(SUBJECT_ALT_NAME) else {
        return Ok(());
    };
    if names_tpm(names.value).map_err(FieldError::Der)? {
        Ok(())
    } else {
        Err(ChainFault::SubjectAltName)
    }
}

/// False when a hardware module of another type is named.
// RFC 4108, 5: HardwareModuleName
fn names_tpm(extension: &[u8]) -> Result<bool, DerError> {
    let mut names = only(extension, der::SEQUENCE)?.inside();
    while let Some(name) = names.next()? {
        if name.tag == OTHER_NAME && !is_tpm(name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_tpm(other_name: Element<'_>) -> Result<bool, DerError> {
    let mut parts: Reader<'_> = other_name.inside();
    if parts.expect(der::OID)?.content != HARDWARE_MODULE_NAME {
        return Ok(true);
    }
    let value = parts.expect(VALUE)?;
    parts.finish()?;
    let mut module = only(value.content, der::SEQUENCE)?.inside();
    Ok(module.expect(der::OID)?.content == TPM_2)
}
