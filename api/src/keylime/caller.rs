//! Who calls a route of Keylime's.

use axum::http::StatusCode;
use axum::response::Response;
use rat_engine::agent_id::AgentId;

use super::envelope;
use super::push::sessions::Proven;
use crate::auth::{ClientCertificate, Link, Peer};

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
            Link::KeylimeTls => peer.certificate.as_ref(),
            Link::Plain | Link::Tls => None,
        };
        let name = certificate.and_then(ClientCertificate::admin_name);
        name.map_or(Self::Anonymous, |name| Self::Admin(name.to_owned()))
    }

    /// How the audit log names them.
    pub fn actor(&self) -> String {
        match self {
            Self::Anonymous => "keylime:".to_owned(),
            Self::Admin(name) => format!("keylime:{name}"),
        }
    }
}

/// Who has the permission of a route that Keylime's API has for agents or administrators.
#[derive(Debug, Clone)]
pub enum KeylimeCaller {
    /// An administrator.
    Admin,
    /// An agent, which proved its attestation key.
    Agent(Proven),
}

impl KeylimeCaller {
    /// The answer to an agent that asks for another one.
    pub(super) fn refuse_other_than(&self, agent: &AgentId) -> Option<Response> {
        match self {
            Self::Agent(proven) if proven.agent != *agent => {
                Some(not_its_own(&proven.agent, agent))
            }
            Self::Admin | Self::Agent(_) => None,
        }
    }
}

fn not_its_own(own: &AgentId, other: &AgentId) -> Response {
    let detail = format!("Agent {own} cannot access resource {other} (ownership required)");
    envelope::titled(StatusCode::FORBIDDEN, "Forbidden", detail)
}
