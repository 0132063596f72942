//! Enrolment: a token, a TPM and a key become a certificate.
//!
//! 1. The server's CA is checked against the token's fingerprint; before that nothing is sent.
//! 2. The token is validated, which says whether a baseline is wanted and for which group.
//! 3. Endorsement key, attestation key and a certificate request go to the server, with the
//!    measurement list for a baseline.
//! 4. The server seals a secret for both keys; opening it proves that one TPM holds them.
//! 5. The answer, bound to all of the above, brings the certificate.
//!
//! Doing it again on the same machine is safe: keys and id stay the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::agent_id::{AgentId, AgentIdError};
use rat_engine::evidence::{Enrolling, activation_proof};
use rat_engine::tpm::Public;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::{DeviceError, Endorsement, KeyKind, SealedSecret};
use crate::https::{CoreClient, HttpError, ServerUrl, Trust};
use crate::keys::{self, ClientKey, KeysError};
use crate::logs::LogError;
use crate::machine::{Interrupted, Machine};
use crate::state::{Enrolled, Mode};
use crate::token::Token;

/// What an operator gives.
#[derive(Debug, Clone)]
pub struct EnrolOptions {
    /// The token.
    pub token: Token,
    /// The server.
    pub server: ServerUrl,
    /// The name to enrol under; `None` for one that follows from the endorsement key.
    pub agent: Option<AgentId>,
    /// The machine's name, for people.
    pub hostname: String,
    /// The type of the device's keys.
    pub kind: KeyKind,
}

/// Why a machine is not enrolled.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The server said no, or was not reached.
    #[error("{source}{}", remedy(source))]
    Http {
        /// What happened.
        #[from]
        source: HttpError,
    },
    /// A key or certificate.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The measurement list, for a baseline.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The work with the device was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The server contradicts the token.
    #[error("the server takes this token for one of another kind; ask for a new token")]
    KindOfToken,
    /// A field of an answer is not what it should be.
    #[error("the server's answer has a field that cannot be read: {0}")]
    Field(&'static str),
    /// No id follows from the endorsement key.
    #[error(transparent)]
    Id(#[from] AgentIdError),
    /// The certificate is for another CA than the token's.
    #[error("the server handed out CA certificates without the one that the token names")]
    CaSet,
}

impl EnrolError {
    /// How long to wait at least before another attempt may end otherwise; `None` when it will not,
    /// unless somebody changes something here.
    pub fn passes_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Http { source } => source.passes_after(),
            _ => None,
        }
    }
}

const fn remedy(error: &HttpError) -> &'static str {
    match error {
        HttpError::Refused { status, .. } => match status {
            401 => "; tokens expire and baseline tokens serve once: ask for a new one",
            404 => "; is this a ratd server of this version?",
            _ => "",
        },
        _ => "",
    }
}

#[derive(Serialize)]
struct Validate<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct InstallConfig {
    is_baseline: bool,
    group_id: String,
}

#[derive(Serialize)]
struct Enrol<'a> {
    token: &'a str,
    hostname: &'a str,
    agent_uuid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ek_cert: Option<String>,
    ek_public: String,
    ak_public: String,
    csr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ima_log: Option<String>,
}

#[derive(Deserialize)]
struct EnrolReply {
    activation: Activation,
}

#[derive(Deserialize)]
struct Activation {
    id: String,
    blob: String,
    secret: String,
}

#[derive(Serialize)]
struct Activate<'a> {
    activation_id: &'a str,
    proof: String,
}

#[derive(Deserialize)]
struct Activated {
    certificate: String,
    ca: Vec<String>,
    evidence: Evidence,
    settings: AgentSettings,
}

#[derive(Deserialize)]
struct Evidence {
    addresses: Vec<String>,
    server_name: String,
}

#[derive(Deserialize)]
struct AgentSettings {
    interval_ms: u64,
    mode: Mode,
}

/// Who this machine is, before anyone is told.
struct Applicant {
    agent: AgentId,
    endorsement: Endorsement,
    ek_sha256: [u8; 32],
    ak_public: Vec<u8>,
    ak_name: Vec<u8>,
    key: ClientKey,
}

/// Enrols `machine`. What comes of it is for the caller to save.
///
/// Id and key of `before`, an earlier enrolment of this machine, are used again.
///
/// # Errors
/// [`EnrolError`].
///
/// # Security
/// The token is sent only over a channel whose CA has the token's own fingerprint.
pub async fn enrol(
    machine: &Machine,
    options: &EnrolOptions,
    before: Option<&Enrolled>,
) -> Result<Enrolled, EnrolError> {
    let token = &options.token;
    let trust = Trust::Fingerprint(*token.ca_sha256());
    let client = CoreClient::new(options.server.clone(), trust)?;
    let validate = Validate {
        token: token.as_str(),
    };
    let config: InstallConfig = client.post("/tokens/validate", &validate).await?;
    if config.is_baseline != token.is_baseline() {
        return Err(EnrolError::KindOfToken);
    }
    let applicant = applicant(machine, options, before).await?;
    let activation = apply(machine, options, &client, &applicant).await?;
    let sealed = SealedSecret {
        blob: from_base64(&activation.blob, "activation.blob")?,
        secret: from_base64(&activation.secret, "activation.secret")?,
    };
    let secret = machine
        .with(move |parts| parts.device.activate(&sealed))
        .await??;
    let proof = activation_proof(
        &secret,
        &Enrolling {
            agent: &applicant.agent,
            activation_id: &activation.id,
            ek_sha256: &applicant.ek_sha256,
            ak_name: &applicant.ak_name,
            token_sha256: &token.sha256(),
            group: &config.group_id,
            client_key_sha256: &applicant.key.sha256()?,
        },
    );
    let activate = Activate {
        activation_id: &activation.id,
        proof: hex::encode(proof),
    };
    let path = format!("/agents/{}/activate", applicant.agent);
    let activated: Activated = client.post(&path, &activate).await?;
    checked(options, config.group_id, &applicant, activated)
}

async fn applicant(
    machine: &Machine,
    options: &EnrolOptions,
    before: Option<&Enrolled>,
) -> Result<Applicant, EnrolError> {
    let keys = machine.with(|parts| {
        let endorsement = parts.device.endorsement()?;
        Ok::<_, DeviceError>((endorsement, parts.device.attestation_key()?))
    });
    let (endorsement, ak_public) = keys.await??;
    let ek_sha256 = endorsement.sha256()?;
    let ak = Public::parse(&ak_public).map_err(DeviceError::from)?;
    let ak_name = ak.name().to_bytes();
    let (agent, key) = match before {
        Some(before) => (before.agent.clone(), ClientKey::from_pem(&before.key_pem)?),
        None => (agent_of(&ek_sha256)?, ClientKey::generate()?),
    };
    Ok(Applicant {
        agent: options.agent.clone().unwrap_or(agent),
        endorsement,
        ek_sha256,
        ak_public,
        ak_name,
        key,
    })
}

async fn apply(
    machine: &Machine,
    options: &EnrolOptions,
    client: &CoreClient,
    applicant: &Applicant,
) -> Result<Activation, EnrolError> {
    let baseline = options.token.is_baseline();
    let ima_log = if baseline {
        let list = machine.with(|parts| parts.logs.ascii()).await??;
        // Names in the list are bytes; what is no UTF-8 cannot stand in JSON, nor in a policy.
        Some(String::from_utf8(list).map_err(|_| EnrolError::Field("ima_log"))?)
    } else {
        None
    };
    let enrol = Enrol {
        token: options.token.as_str(),
        hostname: &options.hostname,
        agent_uuid: applicant.agent.as_str(),
        ek_cert: applicant
            .endorsement
            .certificate
            .as_ref()
            .map(|der| BASE64.encode(der)),
        ek_public: BASE64.encode(&applicant.endorsement.public),
        ak_public: BASE64.encode(&applicant.ak_public),
        csr: BASE64.encode(applicant.key.certificate_request(&applicant.agent)?),
        ima_log,
    };
    let path = if baseline {
        "/agents/enroll-baseline"
    } else {
        "/agents/enroll"
    };
    let reply: EnrolReply = client.post(path, &enrol).await?;
    Ok(reply.activation)
}

/// What the server handed out, when it fits this machine.
fn checked(
    options: &EnrolOptions,
    group: String,
    applicant: &Applicant,
    activated: Activated,
) -> Result<Enrolled, EnrolError> {
    let chain = keys::certificates(&activated.certificate)?;
    let leaf = chain.first().ok_or(KeysError::NoCertificate)?;
    keys::validity(leaf, &applicant.key)?;
    let mut named = false;
    for pem in &activated.ca {
        for der in keys::certificates(pem)? {
            named |= keys::sha256(&der) == *options.token.ca_sha256();
        }
    }
    if !named {
        return Err(EnrolError::CaSet);
    }
    let Evidence {
        addresses,
        server_name,
    } = activated.evidence;
    if addresses.is_empty() {
        return Err(EnrolError::Field("evidence.addresses"));
    }
    Ok(Enrolled {
        agent: applicant.agent.clone(),
        group,
        server: options.server.to_string(),
        evidence_addresses: addresses,
        evidence_server_name: server_name,
        key_pem: applicant.key.to_pem()?,
        certificate_pem: activated.certificate,
        ca_pem: activated.ca,
        ca_changes: Vec::new(),
        kind: options.kind,
        ak_name: hex::encode(&applicant.ak_name),
        interval_ms: activated.settings.interval_ms,
        mode: activated.settings.mode,
    })
}

fn from_base64(text: &str, field: &'static str) -> Result<Vec<u8>, EnrolError> {
    BASE64.decode(text).map_err(|_| EnrolError::Field(field))
}

/// A UUID that follows from the endorsement key: the same machine always has the same one, two
/// machines never, and it says nothing about the key. Version 8 of RFC 9562.
fn agent_of(ek_sha256: &[u8; 32]) -> Result<AgentId, AgentIdError> {
    let message = [&b"ratd agent id v1\0"[..], ek_sha256].concat();
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(keys::sha256(&message)) {
        *to = from;
    }
    for (byte, keep, set) in [(6, 0x0f, 0x80), (8, 0x3f, 0x80)] {
        if let Some(byte) = uuid.get_mut(byte) {
            *byte = *byte & keep | set;
        }
    }
    let digits = hex::encode(uuid);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let text: Vec<&str> = parts
        .into_iter()
        .filter_map(|part| digits.get(part))
        .collect();
    AgentId::parse(&text.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_machines_are_uuids_that_differ() {
        let (one, two) = (agent_of(&[1; 32]).unwrap(), agent_of(&[2; 32]).unwrap());
        assert_ne!(one, two);
        assert_eq!(Ok(&one), agent_of(&[1; 32]).as_ref());
        let text = one.as_str();
        assert_eq!((text.len(), &text[14..15]), (36, "8"), "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
    }
}
