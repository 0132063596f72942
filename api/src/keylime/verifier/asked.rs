//! What a tenant says of an agent that it adds.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::limits::PUBLIC_BYTES_MAX;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::policy::dsse::{self, Admitted};
use rat_engine::shard::AgentPath;
use rat_engine::tpm::Public;
use rat_engine::tpm::attributes::check_attestation_key;
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_identity::revocation_key::check_revocation_key;
use rat_store::KeylimeFacts;

use super::{Mode, Verifier};
use crate::error::ApiError;
use crate::json::Object;
use crate::keylime::envelope;
use crate::limits::{KEYLIME_TEXT_CHARACTERS_MAX, POLICY_BODY_BYTES_MAX};

/// What is to be added.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) path: AgentPath,
    /// `TPMT_PUBLIC`.
    pub(super) ak_public: Vec<u8>,
    pub(super) facts: KeylimeFacts,
    pub(super) runtime_policy_name: Option<String>,
    /// The text of the policy, when there is one, and whether it demands anything.
    pub(super) runtime_policy: Option<PolicyText>,
    pub(super) mb_policy_name: Option<String>,
    pub(super) mb_policy: Option<PolicyText>,
}

/// A policy as it was brought, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::keylime) struct PolicyText {
    pub(in crate::keylime) text: Vec<u8>,
    judges: Judges,
}

/// What of a text is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Judges {
    /// Nothing: it demands nothing. A runtime policy says so by Keylime's `generator`, and a
    /// reference state of a boot by being empty.
    Nothing,
    /// All of it.
    Itself,
    /// What it is an envelope of.
    Payload(Vec<u8>),
}

impl PolicyText {
    /// The policy that judges, if it demands anything.
    pub(in crate::keylime) fn judging(&self) -> Option<&[u8]> {
        match &self.judges {
            Judges::Nothing => None,
            Judges::Itself => Some(&self.text),
            Judges::Payload(policy) => Some(policy),
        }
    }
}

/// Why a request is refused: a status and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::keylime) struct Refused(
    pub(in crate::keylime) StatusCode,
    pub(in crate::keylime) String,
);

impl Refused {
    pub(super) fn request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// Keylime's words for what its handlers stumble over.
    fn exception(error: &ApiError) -> Self {
        Self::request(format!("Exception error: {error}"))
    }

    pub(super) fn answer(&self) -> Response {
        envelope::bare(self.0, &self.1)
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::exception(&error)
    }
}

/// Members that must be there.
const NEEDED: [&str; 9] = [
    "tpm_policy",
    "metadata",
    "ima_sign_verification_keys",
    "revocation_key",
    "accept_tpm_hash_algs",
    "accept_tpm_encryption_algs",
    "accept_tpm_signing_algs",
    "ak_tpm",
    "runtime_policy",
];

/// Algorithms that one list may name.
const NAMES_MAX: usize = 32;
const V_BYTES: usize = 32;

impl Wanted {
    /// Reads a body, whatever its media type is said to be: tenants say none.
    pub(super) fn read(body: &[u8], verifier: &Verifier) -> Result<Self, Refused> {
        if body.is_empty() {
            return Err(Refused::request("Expected non zero content length"));
        }
        let object = Object::parse(body)?;
        needs(&object)?;
        let text =
            |name| Ok::<_, Refused>(object.optional_text(name, KEYLIME_TEXT_CHARACTERS_MAX)?);
        let owned = |name| Ok::<_, Refused>(text(name)?.unwrap_or_default().to_owned());
        let names = |name| {
            let names = object.optional_texts(name, NAMES_MAX)?.unwrap_or_default();
            Ok::<_, Refused>(
                names
                    .iter()
                    .map(|name| name.to_string())
                    .collect::<Vec<_>>(),
            )
        };
        let mtls_cert = text("mtls_cert")?.map(str::to_owned);
        let (ip, port) = (
            text("cloudagent_ip")?.map(str::to_owned),
            port_of(&object, "cloudagent_port")?,
        );
        let path = path(verifier.mode, ip.as_deref(), port, mtls_cert.as_deref());
        if path == AgentPath::KeylimePull && verifier.polls.is_none() {
            let text = "nobody polls agents here; one without cloudagent_ip and cloudagent_port \
                        pushes";
            return Err(Refused(StatusCode::NOT_IMPLEMENTED, text.to_owned()));
        }
        // As Keylime: an agent that pushes has no address.
        let is_polled = path == AgentPath::KeylimePull;
        let (ip, port) = (ip.filter(|_| is_polled), port.filter(|_| is_polled));
        let accept_tpm_hash_algs = names("accept_tpm_hash_algs")?;
        let facts = KeylimeFacts {
            v: object.optional_bytes("v", V_BYTES)?,
            bank: first_bank(&accept_tpm_hash_algs)?,
            ip,
            port,
            tpm_policy: owned("tpm_policy")?,
            metadata: owned("metadata")?,
            ima_sign_verification_keys: owned("ima_sign_verification_keys")?,
            revocation_key: owned("revocation_key")?,
            accept_tpm_hash_algs,
            accept_tpm_encryption_algs: names("accept_tpm_encryption_algs")?,
            accept_tpm_signing_algs: names("accept_tpm_signing_algs")?,
            mtls_cert,
            supported_version: owned("supported_version")?,
            verifier_ip: text("verifier_ip")?.unwrap_or(&verifier.ip).to_owned(),
            // Where the tenant reaches this server, who asks there again.
            verifier_port: port_of(&object, "verifier_port")?.unwrap_or(verifier.port),
        };
        are_admitted(&facts)?;
        let some = |text: Option<&str>| text.filter(|it| !it.is_empty()).map(str::to_owned);
        let mb_policy = text("mb_policy")?.filter(|text| !text.is_empty());
        Ok(Self {
            path,
            ak_public: ak_public(&object)?,
            runtime_policy_name: some(text("runtime_policy_name")?),
            runtime_policy: runtime_policy(&object, verifier.require_policy_signatures)?,
            mb_policy_name: some(text("mb_policy_name")?),
            mb_policy: mb_policy
                .map(|text| boot_policy(text, verifier.boot_policy))
                .transpose()?,
            facts,
        })
    }
}

/// Whether everything stands there that Keylime reads without asking whether it does.
fn needs(object: &Object<'_>) -> Result<(), Refused> {
    for name in NEEDED.iter().chain(&["mb_policy"]) {
        if !object.names(name) {
            return Err(Refused::request(format!("Exception error: '{name}'")));
        }
    }
    Ok(())
}

/// Whether what is asked of an agent is what is verified here.
pub(in crate::keylime) fn are_admitted(facts: &KeylimeFacts) -> Result<(), Refused> {
    if !facts.ima_sign_verification_keys.is_empty() {
        let text = "ima_sign_verification_keys are taken as verification-keys of the runtime \
                    policy only";
        return Err(Refused::request(text));
    }
    if !facts.revocation_key.is_empty() {
        check_revocation_key(&facts.revocation_key)
            .map_err(|error| Refused::request(format!("revocation_key {error}")))?;
    }
    PcrPolicy::parse(facts.tpm_policy.as_bytes())
        .map_err(|error| Refused::request(format!("tpm_policy is malformatted: {error}")))?;
    Ok(())
}

/// A reference state of a boot, checked by the policy that judges with it.
pub(in crate::keylime) fn boot_policy(text: &str, name: PolicyName) -> Result<PolicyText, Refused> {
    let policy = MeasuredBootPolicy::parse(name, text.as_bytes())
        .map_err(|error| malformed("mb_policy", &error))?;
    Ok(PolicyText {
        text: text.as_bytes().to_vec(),
        judges: match policy {
            Some(_) => Judges::Itself,
            None => Judges::Nothing,
        },
    })
}

/// The policy in base64, plain or in a DSSE envelope, read and checked; an empty text is none.
///
/// # Errors
/// [`Refused`]; 401 where its signature is not what is demanded of it.
pub(super) fn runtime_policy(
    object: &Object<'_>,
    require_signatures: bool,
) -> Result<Option<PolicyText>, Refused> {
    let bytes = object.optional_bytes("runtime_policy", POLICY_BODY_BYTES_MAX)?;
    let Some(text) = bytes.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let key = object.optional_bytes("runtime_policy_key", KEYLIME_TEXT_CHARACTERS_MAX)?;
    let key = key.filter(|key| !key.is_empty());
    check_policy(text, key.as_deref(), require_signatures).map(Some)
}

/// A runtime policy, plain or in a DSSE envelope, read and checked.
///
/// # Errors
/// [`Refused`]; 401 where its signature is not what is demanded of it.
pub(in crate::keylime) fn check_policy(
    text: Vec<u8>,
    key: Option<&[u8]>,
    require_signatures: bool,
) -> Result<PolicyText, Refused> {
    let what = "Runtime policy";
    let admitted = dsse::admit(&text, key, require_signatures).map_err(|refusal| {
        let status = StatusCode::from_u16(refusal.keylime_status());
        let Refused(_, why) = malformed(what, &refusal);
        Refused(status.unwrap_or(StatusCode::BAD_REQUEST), why)
    })?;
    let Admitted {
        policy,
        text: judged,
        ..
    } = admitted;
    // One that says of itself that it is none. Any other that lists nothing allows nothing.
    let is_none = policy.is_empty() && policy.meta().generator.is_some_and(|it| it <= 1);
    let judges = match judged {
        _ if is_none => Judges::Nothing,
        Cow::Borrowed(_) => Judges::Itself,
        Cow::Owned(payload) => Judges::Payload(payload),
    };
    Judge::new(Arc::new(policy)).map_err(|error| malformed(what, &error))?;
    Ok(PolicyText { judges, text })
}

/// What is wrong with a policy: one bounded, printable line.
fn malformed(what: &str, error: &dyn std::fmt::Display) -> Refused {
    let error: String = error.to_string().chars().take(300).collect();
    Refused::request(format!("{what} is malformatted: {}", error.escape_debug()))
}

/// A port, as a number or as text.
fn port_of(object: &Object<'_>, name: &'static str) -> Result<Option<u16>, Refused> {
    if let Ok(port) = object.optional_number(name, 1..=65_535) {
        return Ok(port.and_then(|port| u16::try_from(port).ok()));
    }
    let text = object.optional_text(name, 5)?;
    let port = text.map(str::parse).transpose();
    port.map_err(|_| Refused::request(format!("Exception error: '{name}' is no port number")))
}

pub(in crate::keylime) fn path(
    mode: Mode,
    ip: Option<&str>,
    port: Option<u16>,
    mtls_cert: Option<&str>,
) -> AgentPath {
    let has_address = ip.is_some_and(|ip| !ip.is_empty()) && port.is_some();
    let has_certificate = mtls_cert.is_some_and(|it| !it.is_empty() && it != "disabled");
    match mode {
        Mode::Auto if has_address && has_certificate => AgentPath::KeylimePull,
        Mode::Auto | Mode::Push => AgentPath::KeylimePush,
    }
}

/// What is asked for until the agent says what it has: SHA-256 where it is accepted, as every TPM 2.0
/// has it.
pub(in crate::keylime) fn first_bank(names: &[String]) -> Result<HashAlg, Refused> {
    let known = names
        .iter()
        .filter_map(|name| HashAlg::from_name(name.as_bytes()));
    let known: Vec<_> = known.collect();
    match known.contains(&HashAlg::Sha256) {
        true => Ok(HashAlg::Sha256),
        false => known.first().copied().ok_or_else(|| {
            Refused::request("accept_tpm_hash_algs names no algorithm that is known here")
        }),
    }
}

fn ak_public(object: &Object<'_>) -> Result<Vec<u8>, Refused> {
    ak_public_of(object.text("ak_tpm", PUBLIC_BYTES_MAX.saturating_mul(2))?)
}

/// The attestation key, whose TPM signs with it nothing but what it attests. (N03)
pub(in crate::keylime) fn ak_public_of(text: &str) -> Result<Vec<u8>, Refused> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| Refused::request("ak_tpm is no TPM2B_PUBLIC in base64"))?;
    let public =
        Public::parse(&bytes).map_err(|error| Refused::request(format!("ak_tpm: {error}")))?;
    check_attestation_key(&public, false)
        .map_err(|error| Refused::request(format!("ak_tpm: {error}")))?;
    rat_engine::crypto::VerifyingKey::from_tpm(&public)
        .map_err(|error| Refused::request(format!("ak_tpm: {error}")))?;
    let area = match bytes.split_first_chunk::<2>() {
        Some((size, area)) if usize::from(u16::from_be_bytes(*size)) == area.len() => area,
        _ => &bytes,
    };
    Ok(area.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_an_address_and_a_certificate_is_polled_unless_all_push() {
        let (ip, port, pem) = (Some("10.0.0.1"), Some(9_002), Some("-----BEGIN"));
        assert_eq!(path(Mode::Auto, ip, port, pem), AgentPath::KeylimePull);
        for (mode, ip, port, certificate) in [
            (Mode::Push, ip, port, pem),
            (Mode::Auto, None, port, pem),
            (Mode::Auto, ip, None, pem),
            (Mode::Auto, ip, port, Some("disabled")),
            (Mode::Auto, ip, port, None),
        ] {
            assert_eq!(path(mode, ip, port, certificate), AgentPath::KeylimePush);
        }
    }

    #[test]
    fn sha256_is_asked_for_first_where_it_is_accepted() {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let bank = |list: &[&str]| first_bank(&names(list));
        assert_eq!(bank(&["sha512", "sha384", "sha256"]), Ok(HashAlg::Sha256));
        assert_eq!(bank(&["sm3_256", "sha384"]), Ok(HashAlg::Sha384));
        assert!(bank(&["md5"]).is_err() && bank(&[]).is_err());
    }
}
