//! Who a client certificate of Keylime's CA is.

use crate::x509::certificate::Certificate;

/// What stands at the beginning of the URI in every certificate that ratd's own CA issues to an agent
/// or a relay.
const OWN_URI: &str = "urn:ratd:";
/// The longest common name that X.509 knows (RFC 5280, A.1: ub-common-name).
const CHARACTERS_MAX: usize = 64;

/// The common name in a certificate, of somebody who may be an administrator.
///
/// `None` when there is none, when it is no plain text, and for certificates of agents and relays of
/// ratd itself: whoever holds one of these is never an administrator, whichever CA stands above
/// ratd's. (A02)
///
/// # Security
/// The caller has verified the certificate against the CA for Keylime's clients.
pub fn admin_name(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::parse(certificate).ok()?;
    if certificate.has_uri_beginning(OWN_URI) {
        return None;
    }
    let name = certificate.common_name()?;
    let is_plain = !name.is_empty()
        && name.chars().count() <= CHARACTERS_MAX
        && !name.chars().any(char::is_control);
    is_plain.then_some(name)
}
