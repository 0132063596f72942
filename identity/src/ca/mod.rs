//! ratd's certificate authority.
//!
//! The CA lives in a folder: `ca.key` holds everything (mode 0600), `ca.pem` the certificates, for
//! people and tools. A change is made when `ca.key` is replaced; should `ca.pem` alone fail to
//! follow, that is an error, and the next start writes it. The CA has a *current* key, which issues; a *next* one, whose certificate agents
//! learn beforehand; and, after a rotation, the certificate of the *previous* one, whose leaves
//! are good until they expire.

mod error;
pub(crate) mod file;

use std::path::{Path, PathBuf};

use rat_engine::agent_id::AgentId;

pub use error::CaError;

use crate::agent_certificate::URI_PREFIX;
use crate::ca::file::Contents;
use crate::limits;
use crate::relay_certificate::{self, RelayName};
use crate::x509::certificate::Certificate;
use crate::x509::issue::{self, Purpose, ServerName, SigningKey, Validity};
use crate::x509::request::{CertificateRequest, CsrError};
use crate::x509::sha256;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a CA of our own making is valid.
pub const ROOT_LIFE_MS: u64 = 3652 * DAY_MS;
/// How long certificates of agents and servers are valid.
pub const LEAF_LIFE_MS: u64 = 30 * DAY_MS;
/// Certificates begin this long before they are issued: clocks of machines are behind.
pub const BACKDATE_MS: u64 = 60 * 60 * 1000;

/// A key that issues, and its certificate.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) key: SigningKey,
    pub(crate) certificate: Certificate,
}

/// The certificate authority of one installation.
#[derive(Debug)]
pub struct Ca {
    folder: PathBuf,
    contents: Contents,
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate and then the CA's, in DER: a client that knows the CA by its fingerprint
    /// alone finds it here. (N14)
    pub chain_der: Vec<Vec<u8>>,
    /// The private key in PKCS#8.
    pub key_pkcs8_der: Vec<u8>,
    /// When to issue the next one.
    pub renew_at_unix_ms: u64,
    /// The last moment of validity.
    pub not_after_unix_ms: u64,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("renew_at_unix_ms", &self.renew_at_unix_ms)
            .field("not_after_unix_ms", &self.not_after_unix_ms)
            .finish_non_exhaustive()
    }
}

/// An agent's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToAgent {
    /// The certificate, in DER. The CA's is not part of it: servers know it.
    pub chain_der: Vec<Vec<u8>>,
    /// SHA-256 of the certified key's SubjectPublicKeyInfo.
    pub key_sha256: [u8; 32],
    /// When the agent is to ask for the next one.
    pub renew_at_unix_ms: u64,
    /// The last moment of validity.
    pub not_after_unix_ms: u64,
}

impl Ca {
    /// The CA in this folder, which is made with a current and a next key when there is none.
    ///
    /// # Errors
    /// [`CaError`]: a key that others can read, a damaged file, a CA that is not valid now, and
    /// certificates without their key: a new CA in their place would lock every agent out.
    ///
    /// # Security
    /// The file with the keys has mode 0600; any bit for group or others is refused. (A07)
    pub fn open(folder: &Path, now_unix_ms: u64) -> Result<Self, CaError> {
        let contents = match file::read(folder)? {
            Some(contents) => contents,
            None => {
                let contents = Contents {
                    current: make_authority(now_unix_ms)?,
                    next: Some(make_authority(now_unix_ms)?),
                    previous: None,
                };
                file::write(folder, &contents)?;
                contents
            }
        };
        file::export(folder, &contents)?;
        let ca = Self {
            folder: folder.to_owned(),
            contents,
        };
        ca.require_valid(now_unix_ms)?;
        Ok(ca)
    }

    /// Takes an operator's CA: as the current one in an empty folder, as the next one where there
    /// is a CA already, so that agents learn it before [`Ca::rotate`] makes it issue.
    ///
    /// The certificate may be an intermediate of the operator's own; agents then trust it alone.
    ///
    /// # Errors
    /// [`CaError`]: not one certificate and its key, not a CA's, not allowed to sign certificates,
    /// weaker than 112 bits, not valid now, or so long that it, or an agent's certificate that names
    /// it, fits into no frame. Nothing is changed then.
    pub fn import(
        folder: &Path,
        certificate_pem: &str,
        key_pem: &str,
        now_unix_ms: u64,
    ) -> Result<Self, CaError> {
        let authority = file::authority(certificate_pem, key_pem)?;
        check_valid(&authority.certificate, now_unix_ms)?;
        check_largest_leaf(&authority, now_unix_ms)?;
        let contents = match file::read(folder)? {
            None => Contents {
                current: authority,
                next: None,
                previous: None,
            },
            Some(contents) => Contents {
                next: Some(authority),
                ..contents
            },
        };
        file::write(folder, &contents)?;
        file::export(folder, &contents)?;
        Ok(Self {
            folder: folder.to_owned(),
            contents,
        })
    }

    /// Makes a next key, when there is none.
    ///
    /// # Errors
    /// [`CaError`]; nothing is changed then.
    pub fn prepare_next(&mut self, now_unix_ms: u64) -> Result<(), CaError> {
        if self.contents.next.is_some() {
            return Ok(());
        }
        let next = Some(make_authority(now_unix_ms)?);
        self.replace(Contents {
            next,
            ..self.contents.clone()
        })
    }

    /// Lets the next key issue from now on, and destroys the current one.
    ///
    /// The certificate of the old key stays in [`Ca::certificates`] until the next rotation, for
    /// leaves that have not been renewed yet. There is no next key then: see
    /// [`Ca::prepare_next`] and [`Ca::import`].
    ///
    /// # Errors
    /// [`CaError::NextMissing`], or another fault; nothing is changed then.
    pub fn rotate(&mut self, now_unix_ms: u64) -> Result<(), CaError> {
        let old = &self.contents;
        let next = old.next.clone().ok_or(CaError::NextMissing)?;
        check_valid(&next.certificate, now_unix_ms)?;
        let previous = Some(old.current.certificate.clone());
        self.replace(Contents {
            current: next,
            next: None,
            previous,
        })
    }

    fn replace(&mut self, contents: Contents) -> Result<(), CaError> {
        file::write(&self.folder, &contents)?;
        self.contents = contents;
        file::export(&self.folder, &self.contents)
    }

    /// Certificates to trust: of the current key first, then of the next and the previous one.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.contents
            .certificates()
            .map(|certificate| certificate.der().to_vec())
            .collect()
    }

    /// SHA-256 of the current key's certificate, in DER. (N14)
    pub fn fingerprint(&self) -> [u8; 32] {
        self.contents.current.certificate.fingerprint()
    }

    /// The last moment at which the current key can issue.
    ///
    /// # Errors
    /// [`CaError::Validity`] when its certificate cannot be read.
    pub fn not_after_unix_ms(&self) -> Result<u64, CaError> {
        let validity = self.contents.current.certificate.validity_unix_ms();
        validity.map(|(_, end)| end).ok_or(CaError::Validity)
    }

    /// A new key and a certificate for a TLS server of these names and IP addresses.
    ///
    /// # Errors
    /// [`CaError::ServerName`] for none, too many, or what is neither a DNS name nor an address;
    /// [`CaError::CertificateTooLong`] for names that are too long together;
    /// [`CaError::Validity`] when the CA is not valid now.
    pub fn issue_server(&self, names: &[String], now_unix_ms: u64) -> Result<Issued, CaError> {
        let names = server_names(names)?;
        let validity = self.leaf_validity(now_unix_ms)?;
        let key = SigningKey::generate()?;
        let shown = match names.first() {
            Some(ServerName::Dns(name)) => name.clone(),
            Some(ServerName::Address(address)) => address.to_string(),
            None => return Err(CaError::ServerName),
        };
        let current = &self.contents.current;
        let leaf = issue::leaf(
            &current.certificate,
            &current.key,
            &key.public_key_info()?,
            &shown,
            Purpose::Server(&names),
            validity,
        )?;
        check_carried("the server's certificate", &leaf)?;
        Ok(Issued {
            chain_der: vec![leaf, current.certificate.der().to_vec()],
            key_pkcs8_der: key.to_pkcs8_der()?,
            renew_at_unix_ms: renew_at(validity),
            not_after_unix_ms: validity.not_after_unix_ms,
        })
    }

    /// A certificate for an agent whose enrolment was proven.
    ///
    /// Of the request only the key is taken, with the proof that its sender holds it; the name is
    /// the agent's id.
    ///
    /// # Errors
    /// [`IssueError`].
    ///
    /// # Security
    /// Whoever calls this has verified the activation (N11).
    pub fn issue_agent(
        &self,
        csr_der: &[u8],
        agent: &AgentId,
        now_unix_ms: u64,
    ) -> Result<IssuedToAgent, IssueError> {
        let request = CertificateRequest::parse(csr_der)?;
        self.issue_to(&request, agent, now_unix_ms)
    }

    /// The next certificate of an agent that has one, for the same key.
    ///
    /// # Errors
    /// [`IssueError`]; [`CsrError::OtherKey`] when the request holds a key other than the one
    /// that is bound to the agent: only a new enrolment changes it.
    pub fn renew_agent(
        &self,
        csr_der: &[u8],
        agent: &AgentId,
        bound_key_sha256: &[u8; 32],
        now_unix_ms: u64,
    ) -> Result<IssuedToAgent, IssueError> {
        let request = CertificateRequest::parse(csr_der)?;
        if request.key_sha256() != *bound_key_sha256 {
            return Err(CsrError::OtherKey.into());
        }
        self.issue_to(&request, agent, now_unix_ms)
    }

    /// A certificate for a relay that an operator has named, with which it connects to the server
    /// and its agents to it.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_relay(
        &self,
        csr_der: &[u8],
        relay: &RelayName,
        now_unix_ms: u64,
    ) -> Result<IssuedToRelay, IssueError> {
        let request = CertificateRequest::parse(csr_der)?;
        let validity = self.leaf_validity(now_unix_ms)?;
        let uri = format!("{}{relay}", relay_certificate::URI_PREFIX);
        let current = &self.contents.current;
        let leaf = issue::leaf(
            &current.certificate,
            &current.key,
            &request.public_key_info,
            relay.as_str(),
            Purpose::Both(&uri, relay_certificate::TLS_NAME),
            validity,
        )
        .map_err(CaError::Library)?;
        check_carried("the relay's certificate", &leaf)?;
        Ok(IssuedToRelay {
            chain_der: vec![leaf],
            key_sha256: request.key_sha256(),
            not_after_unix_ms: validity.not_after_unix_ms,
        })
    }

    /// The next certificate of a relay, for the key that its agents' quotes are bound to.
    ///
    /// # Errors
    /// [`IssueError`]; [`CsrError::OtherKey`] for another key.
    pub fn renew_relay(
        &self,
        csr_der: &[u8],
        relay: &RelayName,
        bound_key_sha256: &[u8; 32],
        now_unix_ms: u64,
    ) -> Result<IssuedToRelay, IssueError> {
        let request = CertificateRequest::parse(csr_der)?;
        if request.key_sha256() != *bound_key_sha256 {
            return Err(CsrError::OtherKey.into());
        }
        self.issue_relay(csr_der, relay, now_unix_ms)
    }

    fn issue_to(
        &self,
        request: &CertificateRequest,
        agent: &AgentId,
        now_unix_ms: u64,
    ) -> Result<IssuedToAgent, IssueError> {
        let validity = self.leaf_validity(now_unix_ms)?;
        let uri = format!("{URI_PREFIX}{agent}");
        let current = &self.contents.current;
        let leaf = issue::leaf(
            &current.certificate,
            &current.key,
            &request.public_key_info,
            agent.as_str(),
            Purpose::Client(&uri),
            validity,
        )
        .map_err(CaError::Library)?;
        check_carried("the agent's certificate", &leaf)?;
        Ok(IssuedToAgent {
            chain_der: vec![leaf],
            key_sha256: request.key_sha256(),
            renew_at_unix_ms: renew_at(validity),
            not_after_unix_ms: validity.not_after_unix_ms,
        })
    }

    /// A leaf's validity, which never goes beyond that of the CA.
    fn leaf_validity(&self, now_unix_ms: u64) -> Result<Validity, CaError> {
        self.require_valid(now_unix_ms)?;
        let end = now_unix_ms.saturating_add(LEAF_LIFE_MS);
        Ok(Validity {
            not_before_unix_ms: now_unix_ms.saturating_sub(BACKDATE_MS),
            not_after_unix_ms: end.min(self.not_after_unix_ms()?),
        })
    }

    fn require_valid(&self, now_unix_ms: u64) -> Result<(), CaError> {
        check_valid(&self.contents.current.certificate, now_unix_ms)
    }
}

/// A certificate for a relay's own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToRelay {
    /// Leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// SHA-256 of the certified key's SubjectPublicKeyInfo.
    pub key_sha256: [u8; 32],
    /// The last moment of its validity.
    pub not_after_unix_ms: u64,
}

/// Why an agent or a relay gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is at fault.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The CA is.
    #[error(transparent)]
    Ca(#[from] CaError),
}

const fn renew_at(validity: Validity) -> u64 {
    crate::agent_certificate::renew_at_unix_ms(
        validity.not_before_unix_ms,
        validity.not_after_unix_ms,
    )
}

pub(crate) fn check_valid(certificate: &Certificate, now_unix_ms: u64) -> Result<(), CaError> {
    match certificate.validity_unix_ms() {
        Some((start, end)) if (start..=end).contains(&now_unix_ms) => Ok(()),
        _ => Err(CaError::Validity),
    }
}

/// Whether frames carry this certificate.
pub(crate) fn check_carried(which: &'static str, der: &[u8]) -> Result<(), CaError> {
    if der.len() <= limits::CARRIED_CERTIFICATE_BYTES_MAX {
        return Ok(());
    }
    let found = der.len();
    Err(CaError::CertificateTooLong { which, found })
}

/// An RSA key of 4096 bits, the longest that requests may hold, as SubjectPublicKeyInfo.
const SUBJECT_KEY_BYTES_MAX: usize = 550;

/// Refuses a CA whose name is so long that agents could not be sent their certificates.
fn check_largest_leaf(authority: &Authority, now_unix_ms: u64) -> Result<(), CaError> {
    let key = authority.key.public_key_info()?;
    let agent = "a".repeat(rat_engine::limits::AGENT_ID_BYTES_MAX);
    let leaf = issue::leaf(
        &authority.certificate,
        &authority.key,
        &key,
        &agent,
        Purpose::Client(&format!("{URI_PREFIX}{agent}")),
        Validity {
            not_before_unix_ms: now_unix_ms,
            not_after_unix_ms: now_unix_ms,
        },
    )?;
    let longer_by = SUBJECT_KEY_BYTES_MAX.saturating_sub(key.len());
    let found = leaf.len().saturating_add(longer_by);
    if found <= limits::CARRIED_CERTIFICATE_BYTES_MAX {
        return Ok(());
    }
    let which = "an agent's certificate that names this CA";
    Err(CaError::CertificateTooLong { which, found })
}

fn make_authority(now_unix_ms: u64) -> Result<Authority, CaError> {
    let key = SigningKey::generate()?;
    // Current and next have names of their own, so that nobody takes one for the other.
    let print = hex::encode(sha256(&key.public_key_info()?));
    let name = format!("ratd CA {}", print.get(..16).unwrap_or_default());
    let validity = Validity {
        not_before_unix_ms: now_unix_ms.saturating_sub(BACKDATE_MS),
        not_after_unix_ms: now_unix_ms.saturating_add(ROOT_LIFE_MS),
    };
    let der = issue::root(&key, &name, validity)?;
    let certificate = Certificate::parse(&der)?;
    Ok(Authority { key, certificate })
}

pub(crate) fn server_names(names: &[String]) -> Result<Vec<ServerName>, CaError> {
    if names.is_empty() || names.len() > limits::SERVER_NAMES_MAX {
        return Err(CaError::ServerName);
    }
    names.iter().map(|name| server_name(name)).collect()
}

fn server_name(name: &str) -> Result<ServerName, CaError> {
    if let Ok(address) = name.parse() {
        return Ok(ServerName::Address(address));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // All digits in the last label would be an address that is none (1.2.3.256).
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let is_dns = name.len() <= limits::SERVER_NAME_BYTES_MAX
        && name.split('.').all(is_label)
        && !name.rsplit('.').next().is_some_and(is_number);
    if !is_dns {
        return Err(CaError::ServerName);
    }
    Ok(ServerName::Dns(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests;
