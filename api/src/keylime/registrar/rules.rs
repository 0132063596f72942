//! What a registration may change of the one that is there.
//!
//! Endorsement key, its certificate, and attestation key stay once they are set: only an operator's
//! removal ends that. (N06) Everything else of an active registration is *staged*: it is in place
//! once the TPM has answered the challenge that came with it. (N10)

use rat_store::{
    KeylimeChallenge, KeylimeDetails, KeylimeDevice, KeylimeMtlsCertificate, KeylimeRegistration,
    KeylimeStanding, KeylimeVouch,
};

use super::asked::{Asked, Fault};
use crate::keylime::params::Given;

/// What would be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) ek_public: Vec<u8>,
    pub(super) ak_public: Vec<u8>,
    /// How the TPM is known is not said yet.
    pub(super) details: KeylimeDetails,
    /// Whether the IAK must certify the attestation key: it is new here.
    pub(super) needs_certified: bool,
}

/// Why it is not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It would change what identifies the machine. (N06)
    Identity(&'static str),
    /// Something is missing or does not belong together.
    Invalid(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

/// What an agent asks for, over what is registered of it.
pub(super) fn merge(
    present: Option<&KeylimeRegistration>,
    asked: &Asked,
) -> Result<Wanted, Refused> {
    let old = present.map(|present| &present.details);
    let ek_public = lasting(
        "ek_tpm",
        present.map(|present| &present.ek_public),
        &asked.ek_public,
    )?;
    let ak_public = lasting(
        "aik_tpm",
        present.map(|present| &present.ak_public),
        &asked.ak_public,
    )?;
    let ek_certificate = lasting(
        "ekcert",
        old.and_then(|old| old.ek_certificate.as_ref()),
        &asked.ek_certificate,
    )?;
    let missing = |name: &str| Fault::new("request", format!("{name} is missing"));
    let device = device(old.and_then(|old| old.device.clone()), asked)?;
    let old_device = old.and_then(|old| old.device.as_ref());
    Ok(Wanted {
        ek_public: ek_public.ok_or_else(|| missing("ek_tpm"))?,
        ak_public: ak_public.ok_or_else(|| missing("aik_tpm"))?,
        needs_certified: device.is_some() && device.as_ref() != old_device,
        details: KeylimeDetails {
            ek_certificate,
            vouch: old.map_or(KeylimeVouch::Unchecked, |old| old.vouch),
            device,
            ip: asked.ip.clone().over(old.and_then(|old| old.ip.clone())),
            port: asked.port.clone().over(old.and_then(|old| old.port)),
            mtls_cert: match (&asked.mtls_cert, old) {
                (Given::Value(certificate), _) => certificate.clone(),
                (Given::Absent, Some(old)) => old.mtls_cert.clone(),
                (Given::Absent, None) | (Given::Null, _) => KeylimeMtlsCertificate::Absent,
            },
        },
    })
}

/// What must stay once it is there.
fn lasting(
    name: &'static str,
    present: Option<&Vec<u8>>,
    asked: &Given<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Refused> {
    match (present, asked) {
        (Some(_), Given::Null) => Err(Refused::Identity(name)),
        (Some(present), Given::Value(other)) if present != other => Err(Refused::Identity(name)),
        _ => Ok(asked.clone().over(present.cloned())),
    }
}

/// IAK and IDevID: both with their certificates, or nothing of it.
fn device(present: Option<KeylimeDevice>, asked: &Asked) -> Result<Option<KeylimeDevice>, Refused> {
    let given = [
        &asked.iak_public,
        &asked.iak_certificate,
        &asked.idevid_public,
        &asked.idevid_certificate,
    ];
    if !given.iter().any(|given| matches!(given, Given::Value(_))) {
        let is_kept = given.iter().all(|given| **given == Given::Absent);
        return Ok(present.filter(|_| is_kept));
    }
    let part = |given: &Given<Vec<u8>>, old: fn(&KeylimeDevice) -> &Vec<u8>| {
        let over = given
            .clone()
            .over(present.as_ref().map(|it| old(it).clone()));
        let detail = "iak_tpm, iak_cert, idevid_tpm and idevid_cert belong together";
        over.ok_or_else(|| Fault::new("device.missing", detail))
    };
    Ok(Some(KeylimeDevice {
        iak_public: part(&asked.iak_public, |it| &it.iak_public)?,
        iak_certificate: part(&asked.iak_certificate, |it| &it.iak_certificate)?,
        idevid_public: part(&asked.idevid_public, |it| &it.idevid_public)?,
        idevid_certificate: part(&asked.idevid_certificate, |it| &it.idevid_certificate)?,
    }))
}

/// A question that was made for a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) answer_sha256: [u8; 32],
    pub(super) expires_unix_ms: u64,
}

/// The registration with what is wanted, and what its TPM is asked.
///
/// One that was never active takes everything at once: it counts for nothing before the answer, and
/// another registration in between makes another question. Of an active one nothing changes but the
/// question. (N10)
pub(super) fn registered(
    present: Option<&KeylimeRegistration>,
    new: KeylimeRegistration,
    question: Question,
) -> KeylimeRegistration {
    let Question {
        answer_sha256,
        expires_unix_ms,
    } = question;
    let challenge = |staged| KeylimeChallenge {
        answer_sha256,
        expires_unix_ms,
        staged,
    };
    let Some(present) = present else {
        return KeylimeRegistration {
            challenge: Some(challenge(None)),
            standing: KeylimeStanding::Pending { expires_unix_ms },
            ..new
        };
    };
    if present.standing == KeylimeStanding::Active {
        // How the TPM is known says nothing that the machine could prove.
        let is_same = KeylimeDetails {
            vouch: present.details.vouch,
            ..new.details.clone()
        } == present.details;
        return KeylimeRegistration {
            challenge: Some(challenge((!is_same).then_some(new.details))),
            ..present.clone()
        };
    }
    let identity =
        |details: &KeylimeDetails| (details.ek_certificate.clone(), details.device.clone());
    let is_anew = identity(&present.details) != identity(&new.details);
    KeylimeRegistration {
        regcount: present.regcount.saturating_add(u64::from(is_anew)),
        registered_unix_ms: present.registered_unix_ms,
        challenge: Some(challenge(None)),
        standing: KeylimeStanding::Pending { expires_unix_ms },
        ..new
    }
}

#[cfg(test)]
mod tests;
