//! Where an agent is polled, and what it is known by.

use std::fmt;
use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::crypto::digest;
use rat_engine::evidence::Binding;
use rat_engine::hash::HashAlg;
use rat_engine::tpm::{Public, PublicError};
use rustls::pki_types::ServerName;
use thiserror::Error;

use super::version::AgentVersion;

/// Bytes of a V key, as tenants make it.
pub const V_KEY_BYTES: usize = 32;

/// The V key of an agent: half of the key of its payload. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct VKey(pub [u8; V_KEY_BYTES]);

impl fmt::Debug for VKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VKey(..)")
    }
}

/// One of Keylime's agents that is polled.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Its id.
    pub agent: AgentId,
    /// `TPMT_PUBLIC` of the attestation key that it is enrolled with.
    pub ak_public: Vec<u8>,
    /// An IP address, or a name that leads to one.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The certificate that it must show, DER; `None` for one that has none, and is polled over plain
    /// HTTP where [`Settings::plain_http`](super::Settings::plain_http) allows it.
    pub certificate: Option<Vec<u8>>,
    /// The version by which it attested: it may offer none that is older. `None` before its first.
    pub attested_by: Option<AgentVersion>,
    /// Hash algorithms that are accepted of it, as Keylime names them.
    pub accept_hash_algs: Vec<String>,
    /// Algorithms of keys.
    pub accept_encryption_algs: Vec<String>,
    /// Signature schemes.
    pub accept_signing_algs: Vec<String>,
    /// What it is given when it proved itself.
    pub v_key: Option<VKey>,
}

/// Why a contact cannot be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContactError {
    /// The attestation key is no `TPMT_PUBLIC`.
    #[error("the attestation key: {0}")]
    Key(#[from] PublicError),
    /// The host is neither an address nor a name.
    #[error("the host is neither an address nor a name")]
    Host,
    /// So many agents are polled already.
    #[error("no more agents can be polled")]
    TooMany,
}

/// A contact, and what follows from it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) contact: Contact,
    pub(super) ak_name: Vec<u8>,
    pub(super) ak_sha256: [u8; 32],
    pub(super) binding: Binding,
    /// The name under which TLS looks for the certificate: see [`super::tls`].
    pub(super) server_name: Option<ServerName<'static>>,
    /// The `Host` of requests.
    pub(super) authority: Arc<str>,
}

impl Known {
    pub(super) fn of(contact: Contact) -> Result<Self, ContactError> {
        let ak_name = Public::parse(&contact.ak_public)?.name().to_bytes();
        let host = contact.host.as_str();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(is_plain) {
            return Err(ContactError::Host);
        }
        let authority = match host.contains(':') {
            true => format!("[{host}]:{}", contact.port),
            false => format!("{host}:{}", contact.port),
        };
        let fingerprint = contact.certificate.as_deref().map(sha256);
        Ok(Self {
            ak_name,
            ak_sha256: sha256(&contact.ak_public),
            binding: Binding::KeylimePull(fingerprint.unwrap_or_default()),
            server_name: fingerprint.and_then(|it| super::tls::name_of(&it)),
            authority: authority.into(),
            contact,
        })
    }
}

/// RFC 1035, 2.3.4: the longest name.
const HOST_BYTES_MAX: usize = 255;

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(HashAlg::Sha256, bytes);
    // A SHA-256 digest has 32 bytes; the zeros are never reached.
    digest.as_bytes().try_into().unwrap_or_default()
}

impl Contact {
    /// Whether an algorithm is among those accepted. `rsa` and `rsa2048` are one to Keylime, and so
    /// are `ecc` and `ecc256`. (keylime.md section 3)
    pub(super) fn accepts_encryption(&self, name: &str) -> bool {
        let accepted = &self.accept_encryption_algs;
        accepted.iter().any(|it| whole_name(it) == whole_name(name))
    }
}

fn whole_name(name: &str) -> &str {
    match name {
        "rsa" => "rsa2048",
        "ecc" => "ecc256",
        name => name,
    }
}
