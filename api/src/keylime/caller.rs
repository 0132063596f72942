//! Who calls a route of Keylime's.

use rat_identity::keylime::admin_name;

use crate::auth::{Link, Peer};

/// Who calls, as Keylime tells callers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Somebody without a credential that counts.
    Anonymous,
    /// The holder of a certificate of the CA for Keylime's clients, by its common name.
    Admin(String),
}

impl Identity {
    /// Who is at the other end of this connection.
    ///
    /// # Security
    /// Only a listener that asks for certificates of the CA for Keylime's clients, and of no other,
    /// has administrators. A certificate that ratd's own CA issued to an agent or a relay is never
    /// one's, whatever stands above that CA. (A02)
    pub fn of(peer: &Peer) -> Self {
        let certificate = match peer.link {
            Link::KeylimeTls => peer.certificate.as_deref(),
            Link::Plain | Link::Tls => None,
        };
        let name = certificate.and_then(admin_name);
        name.map_or(Self::Anonymous, Self::Admin)
    }

    /// How the audit log names them.
    pub fn actor(&self) -> String {
        match self {
            Self::Anonymous => "keylime:".to_owned(),
            Self::Admin(name) => format!("keylime:{name}"),
        }
    }
}
