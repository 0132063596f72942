//! What a machine says of itself when it enrols: members of R4 and R5, none of them proven.

use rat_engine::agent_id::AgentId;
use rat_engine::limits::PUBLIC_BYTES_MAX;
use rat_identity::limits::{CERTIFICATE_BYTES_MAX, REQUEST_BYTES_MAX};

use crate::error::{ApiError, MemberFault};
use crate::json::Object;
use crate::limits::HOSTNAME_CHARACTERS_MAX;

/// The claims of one request, each in its form and within its limit.
///
/// # Security
/// Nothing here is authenticated: `rat_identity::enrolment::check` holds the claims against each
/// other and against known TPMs, and only the activation proves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The id that the machine asks for.
    pub agent: AgentId,
    /// Its name for people: letters, digits, `.`, `-` and `_`. (X07)
    pub hostname: String,
    /// The EK's certificate, in DER.
    pub ek_certificate: Option<Vec<u8>>,
    /// The EK's public area.
    pub ek_public: Vec<u8>,
    /// The AK's public area.
    pub ak_public: Vec<u8>,
    /// The request for a certificate, PKCS#10 in DER.
    pub csr: Vec<u8>,
}

impl Claims {
    /// The claims in a request's body.
    ///
    /// # Errors
    /// [`ApiError::Member`] for the first member at fault; [`ApiError::NotSupported`] for a
    /// request without any key.
    pub fn read(request: &Object<'_>) -> Result<Self, ApiError> {
        let (agent, hostname) = named(request)?;
        if !has_keys(request) {
            return Err(ApiError::NotSupported(
                "enrolment without ek_public, ak_public and csr is for Keylime's agents: they \
                 register with Keylime's registrar, and are not attested here yet",
            ));
        }
        let bytes = |name, max| {
            let bytes = request.optional_bytes(name, max)?;
            bytes.ok_or_else(|| ApiError::member(name, MemberFault::Missing))
        };
        Ok(Self {
            agent,
            hostname,
            ek_certificate: request.optional_bytes("ek_cert", CERTIFICATE_BYTES_MAX)?,
            ek_public: bytes("ek_public", PUBLIC_BYTES_MAX)?,
            ak_public: bytes("ak_public", PUBLIC_BYTES_MAX)?,
            csr: bytes("csr", REQUEST_BYTES_MAX)?,
        })
    }
}

/// Whether a request brings any key of the machine's.
pub(super) fn has_keys(request: &Object<'_>) -> bool {
    let keys = ["ek_public", "ak_public", "csr"];
    keys.iter().any(|name| request.has(name))
}

/// The id and the name that a machine claims.
///
/// # Errors
/// [`ApiError::Member`] for the first at fault.
pub(super) fn named(request: &Object<'_>) -> Result<(AgentId, String), ApiError> {
    let hostname = hostname(request)?;
    // A longer text is refused by the id's own rule, which names it.
    let agent = request.text("agent_uuid", HOSTNAME_CHARACTERS_MAX)?;
    let agent = AgentId::parse(agent)
        .map_err(|error| ApiError::member("agent_uuid", MemberFault::Value(error.to_string())))?;
    Ok((agent, hostname))
}

/// A host name of letters, digits, `.`, `-` and `_`: it is shown to people, in tables and pages.
/// (X07)
fn hostname(request: &Object<'_>) -> Result<String, ApiError> {
    let hostname = request.text("hostname", HOSTNAME_CHARACTERS_MAX)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if hostname.is_empty() || !hostname.bytes().all(allowed) {
        let fault = MemberFault::Encoding("1 or more letters, digits, `.`, `-` or `_`");
        return Err(ApiError::member("hostname", fault));
    }
    Ok(hostname.to_owned())
}
