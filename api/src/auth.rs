//! Who may do what: each route declares its permission as data, and one function decides.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use rat_engine::crypto::{constant_time_eq, digest};
use rat_engine::hash::{Digest, HashAlg};
use rustls::pki_types::CertificateDer;

use crate::address::TokenGuard;
use crate::error::ApiError;

/// What a route demands of whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Nothing: it tells nobody anything, and changes nothing.
    Public,
    /// A valid enrolment token in the body; the handler checks it, and what kind it is.
    EnrolmentToken,
    /// The random, single-use id of a pending activation, and the proof that belongs to it.
    PendingActivation,
    /// This `area:action`, which an operator's credential gives.
    Operator(&'static str),
    /// Nothing from a loopback address, this `area:action` from elsewhere.
    LoopbackOrOperator(&'static str),
}

/// The other end of a connection, as the listener saw it. No header can change it. (A02)
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate, when it presented one that a trusted CA signed.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Who calls a route that demands an operator's credential; the route's handler finds it among the
/// request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
}

impl Caller {
    /// The name that audit entries have.
    pub fn actor(&self) -> &str {
        &self.name
    }
}

/// The administrator's token, of which only the hash is kept in memory.
#[derive(Debug, Clone)]
pub struct AdminToken {
    sha256: Digest,
}

impl AdminToken {
    /// The token with this text.
    pub fn new(text: &str) -> Self {
        Self {
            sha256: digest(HashAlg::Sha256, text.as_bytes()),
        }
    }

    /// Whether `presented` is this token. Digests are compared, in constant time. (A03)
    fn is(&self, presented: &str) -> bool {
        let presented = digest(HashAlg::Sha256, presented.as_bytes());
        constant_time_eq(self.sha256.as_bytes(), presented.as_bytes())
    }
}

/// Decides whether a caller has a permission.
pub struct Gate {
    admin: AdminToken,
    guard: TokenGuard,
}

impl Gate {
    /// A gate that knows one operator: whoever has this token may do everything.
    pub fn new(admin: AdminToken) -> Self {
        Self {
            admin,
            guard: TokenGuard::new(),
        }
    }

    /// The guard that counts tokens that were not valid, of every kind.
    pub const fn token_guard(&self) -> &TokenGuard {
        &self.guard
    }

    /// Lets a request pass, or says why not. The caller is named where the route demands an
    /// operator's credential.
    ///
    /// # Errors
    /// [`ApiError::NotAuthenticated`], [`ApiError::NotPermitted`] or [`ApiError::Limited`].
    ///
    /// # Security
    /// A client certificate is an agent's, and gives an operator's permission to nobody; whoever
    /// presents one beside a token has the lesser of both. (A02)
    pub fn admit(
        &self,
        permission: Permission,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, ApiError> {
        let action = match permission {
            Permission::Public | Permission::PendingActivation => return Ok(None),
            Permission::EnrolmentToken => {
                self.guard.admit(peer.address.ip())?;
                return Ok(None);
            }
            Permission::LoopbackOrOperator(_) if is_loopback(&peer.address) => return Ok(None),
            Permission::LoopbackOrOperator(action) | Permission::Operator(action) => action,
        };
        let Some(presented) = headers.get(header::AUTHORIZATION) else {
            return Err(match peer.certificate {
                Some(_) => ApiError::NotPermitted(action),
                None => ApiError::NotAuthenticated,
            });
        };
        self.guard.admit(peer.address.ip())?;
        // One header, one scheme: two of them might be read differently by a proxy.
        let several = headers.get_all(header::AUTHORIZATION).iter().count() > 1;
        let token = presented.to_str().ok().and_then(bearer);
        match token {
            Some(token) if !several && self.admin.is(token) => {}
            _ => {
                self.guard.failed(peer.address.ip());
                return Err(ApiError::NotAuthenticated);
            }
        }
        match peer.certificate {
            Some(_) => Err(ApiError::NotPermitted(action)),
            None => Ok(Some(Caller {
                name: "admin".into(),
            })),
        }
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The token of `Bearer TOKEN`; the scheme's name has no case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer {
            address: address.parse().unwrap(),
            certificate: None,
        }
    }

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a02_only_the_token_opens_an_operators_route() {
        let gate = Gate::new(AdminToken::new("right"));
        let operator = Permission::Operator("agents:view");
        let remote = peer("192.0.2.1:9");
        let admit = |headers: &HeaderMap| gate.admit(operator, &remote, headers);
        for right in ["Bearer right", "bearer right"] {
            let caller = admit(&with(right)).unwrap().unwrap();
            assert_eq!(caller.actor(), "admin");
        }
        for refused in [
            "Bearer wrong",
            "Bearer",
            "Bearer ",
            "Basic right",
            "right",
            "Bearer right right",
        ] {
            assert_eq!(
                admit(&with(refused)),
                Err(ApiError::NotAuthenticated),
                "{refused}"
            );
        }
        assert_eq!(admit(&HeaderMap::new()), Err(ApiError::NotAuthenticated));
        let mut twice = with("Bearer right");
        twice.append(header::AUTHORIZATION, "Bearer right".parse().unwrap());
        assert_eq!(admit(&twice), Err(ApiError::NotAuthenticated));
        let with_certificate = Peer {
            certificate: Some(CertificateDer::from(vec![0])),
            ..remote.clone()
        };
        assert_eq!(
            gate.admit(operator, &with_certificate, &with("Bearer right")),
            Err(ApiError::NotPermitted("agents:view"))
        );
    }

    #[test]
    fn a02_loopback_is_the_connections_address_not_a_headers() {
        let gate = Gate::new(AdminToken::new("right"));
        let metrics = Permission::LoopbackOrOperator("metrics:view");
        let none = HeaderMap::new();
        assert_eq!(gate.admit(metrics, &peer("127.0.0.1:9"), &none), Ok(None));
        assert_eq!(gate.admit(metrics, &peer("[::1]:9"), &none), Ok(None));
        let mut forged = HeaderMap::new();
        forged.append("x-forwarded-for", "127.0.0.1".parse().unwrap());
        forged.append("forwarded", "for=127.0.0.1".parse().unwrap());
        assert_eq!(
            gate.admit(metrics, &peer("192.0.2.1:9"), &forged),
            Err(ApiError::NotAuthenticated)
        );
    }
}
