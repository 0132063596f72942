//! Who calls.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use rat_identity::keylime::admin_name;
use rat_store::{StoredApiToken, StoredSession};
use rustls::pki_types::CertificateDer;

use super::roles::Granted;

/// The other end of a connection, as the listener saw it. No header can change it. (A02)
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate, when it presented one that a trusted CA signed.
    pub certificate: Option<ClientCertificate>,
    /// What lies between it and us.
    pub link: Link,
}

/// The certificate of a client, which the handshake verified. It is read once, however often
/// somebody asks on its connection.
#[derive(Debug, Clone)]
pub struct ClientCertificate(Arc<Presented>);

#[derive(Debug)]
struct Presented {
    der: CertificateDer<'static>,
    admin: OnceLock<Option<String>>,
}

impl ClientCertificate {
    /// This certificate.
    pub fn new(der: CertificateDer<'static>) -> Self {
        let admin = OnceLock::new();
        Self(Arc::new(Presented { der, admin }))
    }

    /// The certificate itself.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// What [`admin_name`] says of it.
    ///
    /// # Security
    /// As there: it must be of the CA for Keylime's clients.
    pub fn admin_name(&self) -> Option<&str> {
        let Presented { der, admin } = &*self.0;
        admin.get_or_init(|| admin_name(der)).as_deref()
    }
}

/// How a connection is secured, and whose certificates its clients may present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Anybody on the way can read and change what is sent.
    Plain,
    /// TLS; a client certificate is an agent's.
    #[default]
    Tls,
    /// TLS; a client certificate is of the CA for Keylime's clients, and of no other.
    KeylimeTls,
}

/// Who calls a route that demands a credential; the route's handler finds it among the request's
/// extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    credential: CallerCredential,
    granted: Granted,
}

/// By what a caller is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerCredential {
    /// A login.
    Session {
        /// The session's id; no secret.
        id: String,
        /// The user's id.
        user: String,
    },
    /// A program's token.
    ApiToken {
        /// Its id; no secret.
        id: String,
    },
}

impl Caller {
    /// The name that audit entries have: the user's, or `api-token:` and the token's id. No user's
    /// name holds a colon.
    pub fn actor(&self) -> &str {
        &self.name
    }

    /// By what the caller is known.
    pub const fn credential(&self) -> &CallerCredential {
        &self.credential
    }

    /// Whether the caller may do this `area:action`.
    pub fn may(&self, action: &str) -> bool {
        self.granted.gives(action)
    }

    /// What the caller may do.
    pub const fn granted(&self) -> &Granted {
        &self.granted
    }

    pub(super) fn of_session(stored: &StoredSession) -> Self {
        Self {
            name: stored.user.username.as_str().into(),
            credential: CallerCredential::Session {
                id: stored.session.id.clone(),
                user: stored.user.id.clone(),
            },
            granted: Granted::to_user(&stored.user.roles),
        }
    }

    pub(super) fn of_api_token(stored: &StoredApiToken) -> Self {
        let owner = stored.owner.as_ref().map(|owner| owner.roles.as_slice());
        Self {
            name: format!("api-token:{}", stored.token.id).into(),
            credential: CallerCredential::ApiToken {
                id: stored.token.id.clone(),
            },
            granted: Granted::to_token(&stored.token.role, owner),
        }
    }
}
