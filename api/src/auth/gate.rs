//! The gate: whether a caller has what a route demands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use rat_engine::crypto::constant_time_eq;
use rat_store::{Standing, Store};

use super::caller::{Caller, Link, Peer};
use super::credential::{Credential, CredentialKind, sha256};
use super::password::Passwords;
use super::permission::Permission;
use super::throttle::LoginRate;
use crate::address::TokenGuard;
use crate::clock::unix_ms;
use crate::error::ApiError;
use crate::keylime::push::Push;
use crate::keylime::push::sessions::{Proven, Sessions};
use crate::keylime::{Identity, KeylimeCaller};
use crate::metrics;

/// Decides whether a caller has a permission.
pub struct Gate {
    store: Store,
    guard: TokenGuard,
    logins: LoginRate,
    passwords: Passwords,
    /// Sessions of Keylime's agents, where they are served.
    keylime: Option<Arc<Sessions>>,
}

/// Whom a route lets in.
#[derive(Debug, Clone)]
pub enum Admitted {
    /// Whoever calls.
    Anybody,
    /// Somebody with a credential of ours.
    Caller(Caller),
    /// Somebody whom Keylime's API knows.
    Keylime(KeylimeCaller),
}

/// What is left of a permission when a credential is needed for it.
#[derive(Clone, Copy)]
enum Demand {
    AnySession,
    Session,
    Action(&'static str),
}

impl Demand {
    const fn not_met(self) -> ApiError {
        match self {
            Self::AnySession | Self::Session => ApiError::NeedsLogin,
            Self::Action(action) => ApiError::NotPermitted(action),
        }
    }
}

/// A credential that is valid now.
struct Authenticated {
    caller: Caller,
    kind: CredentialKind,
    standing: Standing,
}

impl Admitted {
    /// The caller, where the route demands a credential of ours.
    pub fn caller(self) -> Option<Caller> {
        match self {
            Self::Caller(caller) => Some(caller),
            Self::Anybody | Self::Keylime(_) => None,
        }
    }
}

impl Gate {
    /// A gate for the people and programs of this store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            guard: TokenGuard::new(),
            logins: LoginRate::new(),
            passwords: Passwords::default(),
            keylime: None,
        }
    }

    /// The same, where Keylime's agents push.
    #[must_use]
    pub fn with_push(self, push: &Push) -> Self {
        Self {
            keylime: Some(push.sessions()),
            ..self
        }
    }

    /// The guard that counts tokens that were not valid, of every kind.
    pub const fn token_guard(&self) -> &TokenGuard {
        &self.guard
    }

    /// Where passwords are hashed and verified.
    pub const fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Counts an attempt at the password of this username.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub fn count_login(&self, address: IpAddr, username: &str) -> Result<(), ApiError> {
        self.logins.take(address, username)
    }

    /// Counts an attempt of a user, who is logged in, at the present password.
    ///
    /// # Errors
    /// [`ApiError::Limited`].
    pub fn count_password_check(&self, user: &str) -> Result<(), ApiError> {
        self.logins.take_check(user)
    }

    /// Lets a request pass, or says why not. The caller is named where the route demands a
    /// credential.
    ///
    /// # Errors
    /// [`ApiError::NotAuthenticated`], [`ApiError::NotPermitted`], [`ApiError::NeedsLogin`],
    /// [`ApiError::PasswordChangeRequired`], [`ApiError::Limited`], or [`ApiError::Unavailable`]
    /// when the records cannot be read.
    ///
    /// # Security
    /// A client certificate is an agent's, and gives an operator's permission to nobody; whoever
    /// presents one beside a token has the lesser of both. (A02)
    ///
    /// # Cost
    /// One read of the store where a credential is demanded; nothing is remembered, so that what
    /// was ended or taken away is refused from then on. (A03)
    pub async fn admit(
        &self,
        permission: Permission,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Admitted, ApiError> {
        let demand = match permission {
            Permission::Public
            | Permission::Password
            | Permission::PendingActivation
            | Permission::KeylimeSession => {
                return Ok(Admitted::Anybody);
            }
            Permission::KeylimePublic
            | Permission::KeylimeAdmin(_)
            | Permission::KeylimeAgent(_)
            | Permission::KeylimeAgentOrAdmin(_) => {
                return self.admit_keylime(permission, peer, headers);
            }
            Permission::EnrolmentToken => {
                self.guard.admit(peer.address.ip())?;
                return Ok(Admitted::Anybody);
            }
            Permission::LoopbackOrOperator(_) if is_loopback(&peer.address) => {
                return Ok(Admitted::Anybody);
            }
            Permission::AnySession => Demand::AnySession,
            Permission::Session => Demand::Session,
            Permission::LoopbackOrOperator(action) | Permission::Operator(action) => {
                Demand::Action(action)
            }
        };
        if !headers.contains_key(header::AUTHORIZATION) {
            return Err(match peer.certificate {
                Some(_) => demand.not_met(),
                None => ApiError::NotAuthenticated,
            });
        }
        self.guard.admit(peer.address.ip())?;
        let Some(authenticated) = self.authenticate(headers).await? else {
            metrics::counter_of(metrics::TOKEN_FAILURES, "kind", "operator");
            self.guard.failed(peer.address.ip());
            return Err(ApiError::NotAuthenticated);
        };
        if peer.certificate.is_some() {
            return Err(demand.not_met());
        }
        met(demand, authenticated).map(Admitted::Caller)
    }

    /// The order is Keylime's: what the connection lacks, then a credential that is not valid, then
    /// who calls. A credential never gives way to a certificate. (A02)
    fn admit_keylime(
        &self,
        permission: Permission,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Admitted, ApiError> {
        let is_public = permission == Permission::KeylimePublic;
        if !is_public && peer.link == Link::Plain {
            return Err(ApiError::NeedsTls);
        }
        let agent = self.keylime_agent(headers)?;
        match (permission, agent, Identity::of(peer)) {
            (Permission::KeylimeAgent(_) | Permission::KeylimeAgentOrAdmin(_), Some(agent), _) => {
                Ok(Admitted::Keylime(KeylimeCaller::Agent(agent)))
            }
            (Permission::KeylimeAgent(action), None, _) => Err(ApiError::NotKeylimeAgent(action)),
            (
                Permission::KeylimeAdmin(_) | Permission::KeylimeAgentOrAdmin(_),
                None,
                Identity::Admin(_),
            ) => Ok(Admitted::Keylime(KeylimeCaller::Admin)),
            (Permission::KeylimeAdmin(action) | Permission::KeylimeAgentOrAdmin(action), ..) => {
                Err(ApiError::NotKeylimeAdmin(action))
            }
            _ => Ok(Admitted::Anybody),
        }
    }

    /// The agent whose token the request carries; `None` without one.
    fn keylime_agent(&self, headers: &HeaderMap) -> Result<Option<Proven>, ApiError> {
        let mut presented = headers.get_all(header::AUTHORIZATION).iter();
        let Some(first) = presented.next() else {
            return Ok(None);
        };
        let is_alone = presented.next().is_none();
        let token = first.to_str().ok().and_then(bearer).filter(|_| is_alone);
        let (Some(token), Some(sessions)) = (token, &self.keylime) else {
            return Err(ApiError::NotAuthenticated);
        };
        let proven = sessions.of_token(token);
        proven.map(Some).map_err(|_| ApiError::NotAuthenticated)
    }

    /// Whose credential the request carries; `None` when it is not valid now.
    ///
    /// # Security
    /// Whether the id is unknown, the secret wrong, or the credential expired, revoked or
    /// somebody's who is disabled cannot be told from outside: each takes one read of the store
    /// and one comparison. (A03, X08)
    async fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Authenticated>, ApiError> {
        let mut presented = headers.get_all(header::AUTHORIZATION).iter();
        let first = presented.next().and_then(|value| value.to_str().ok());
        let text = first.and_then(bearer).unwrap_or_default();
        // One header, one scheme: two of them might be read differently by a proxy.
        let is_alone = presented.next().is_none();
        let parsed = Credential::parse(text).ok().filter(|_| is_alone);
        // A text of another form is looked up too, under an id that no token has.
        let id = parsed.as_ref().map_or("-", Credential::id);
        let (sha256, now) = (sha256(text), unix_ms());
        match parsed.as_ref().map(Credential::kind) {
            Some(CredentialKind::Session) => {
                let Some(stored) = self.store.session(id).await? else {
                    return Ok(nobody(&sha256));
                };
                let admitted = stored.admits(&sha256, now);
                Ok(admitted.ok().map(|()| Authenticated {
                    caller: Caller::of_session(&stored),
                    kind: CredentialKind::Session,
                    standing: stored.user.standing,
                }))
            }
            Some(CredentialKind::ApiToken) | None => {
                let Some(stored) = self.store.api_token(id).await? else {
                    return Ok(nobody(&sha256));
                };
                if stored.admits(&sha256, now).is_err() {
                    return Ok(None);
                }
                // Whether a use was noted decides nothing about it.
                if let Err(error) = self.store.note_api_token_use(&stored, now).await {
                    tracing::warn!(%error, "the use of an API token was not noted");
                }
                let owner = stored.owner.as_ref();
                Ok(Some(Authenticated {
                    caller: Caller::of_api_token(&stored),
                    kind: CredentialKind::ApiToken,
                    standing: owner.map_or(Standing::Active, |owner| owner.standing),
                }))
            }
        }
    }
}

/// Compares where there is no record to compare with.
fn nobody(sha256: &[u8; 32]) -> Option<Authenticated> {
    let _ = constant_time_eq(sha256, &[0; 32]);
    None
}

/// Whether a valid credential meets a demand.
fn met(demand: Demand, authenticated: Authenticated) -> Result<Caller, ApiError> {
    let Authenticated {
        caller,
        kind,
        standing,
    } = authenticated;
    match (demand, standing) {
        (_, Standing::Disabled) => return Err(ApiError::NotAuthenticated),
        (Demand::AnySession, _) | (_, Standing::Active) => {}
        (_, Standing::MustChangePassword) => return Err(ApiError::PasswordChangeRequired),
    }
    let is_met = match demand {
        Demand::AnySession | Demand::Session => kind == CredentialKind::Session,
        Demand::Action(action) => caller.may(action),
    };
    if is_met {
        Ok(caller)
    } else {
        Err(demand.not_met())
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
