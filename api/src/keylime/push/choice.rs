//! What is asked of an agent, of what it offers and what its tenant accepts.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::evidence::Challenge;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::shard::{Accepted, QuoteScheme};
use serde::Serialize;

use super::capabilities::{KeyOffer, LogOffer, Offered, QuoteOffer};
use super::errors::Refused;

const AT: &str = "/data/attributes/evidence_supported";
/// The formats in which logs are taken.
const BOOT_LOG_FORMAT: &str = "application/octet-stream";
const IMA_FORMAT: &str = "text/plain";
/// The version of TPMs whose quotes are read.
const TPM_VERSION: &str = "2.0";

/// How an agent is to quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) scheme: QuoteScheme,
    pub(super) hash: HashAlg,
    pub(super) key: KeyOffer,
}

/// One kind of evidence that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Requested {
    pub(super) evidence_class: &'static str,
    pub(super) evidence_type: &'static str,
    pub(super) chosen_parameters: Parameters,
}

/// How it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Parameters {
    Quote {
        challenge: String,
        signature_scheme: &'static str,
        hash_algorithm: &'static str,
        selected_subjects: BTreeMap<String, Option<Vec<u8>>>,
        certification_key: Box<KeyOffer>,
    },
    Log {
        #[serde(skip_serializing_if = "Option::is_none")]
        starting_offset: Option<u64>,
        format: &'static str,
    },
}

/// Chooses key, scheme and hash, in the order in which the tenant prefers them.
///
/// # Errors
/// [`Refused`] when nothing that the agent offers is accepted.
pub(super) fn choose(
    offer: &QuoteOffer,
    accepted: &Accepted,
    ak_public: &[u8],
) -> Result<Chosen, Refused> {
    if offer.component_version.as_deref() != Some(TPM_VERSION) {
        let detail = "only TPMs of version 2.0 are known";
        return Err(Refused::data(
            format!("{AT}/0/capabilities/component_version"),
            detail,
        ));
    }
    let key = offer
        .certification_keys
        .iter()
        .find(|key| is_key(key, ak_public));
    let named =
        |key: &&KeyOffer| key.public.is_none() && key.server_identifier.as_deref() == Some("ak");
    let key = key.or_else(|| offer.certification_keys.iter().find(named));
    let at_keys = || format!("{AT}/0/capabilities/certification_keys");
    let Some(key) = key else {
        return Err(Refused::data(
            at_keys(),
            "the enrolled attestation key is not among them",
        ));
    };
    let algorithm = key.key_algorithm.as_deref().unwrap_or_default();
    let fits = |scheme: &QuoteScheme| match scheme {
        QuoteScheme::RsaSsa | QuoteScheme::RsaPss => algorithm == "rsa",
        QuoteScheme::Ecdsa => algorithm == "ecc",
    };
    let allowed = |names: &Option<Vec<String>>, name: &str| {
        names
            .as_ref()
            .is_none_or(|names| names.iter().any(|it| it == name))
    };
    let scheme = accepted.schemes.iter().copied().find(|scheme| {
        fits(scheme)
            && offer.signature_schemes.iter().any(|it| it == scheme.name())
            && allowed(&key.allowable_signature_schemes, scheme.name())
    });
    let Some(scheme) = scheme else {
        let detail = format!(
            "no accepted signature scheme can be used with a key of algorithm '{}'",
            algorithm.escape_debug()
        );
        return Err(Refused::data(at_keys(), detail));
    };
    let hash = accepted.hashes.iter().copied().find(|hash| {
        let name = hash.name();
        offer.hash_algorithms.iter().any(|it| it == name)
            && offer.available_subjects.contains_key(name)
            && allowed(&key.allowable_hash_algorithms, name)
    });
    let Some(hash) = hash else {
        let detail = "no accepted hash algorithm is offered with a bank of PCRs";
        return Err(Refused::data(
            format!("{AT}/0/capabilities/hash_algorithms"),
            detail,
        ));
    };
    Ok(Chosen {
        scheme,
        hash,
        key: key.clone(),
    })
}

/// Whether this is the public area of the enrolled key, with its length before it or without.
fn is_key(key: &KeyOffer, ak_public: &[u8]) -> bool {
    let bytes = key
        .public
        .as_deref()
        .and_then(|text| STANDARD.decode(text).ok());
    bytes.is_some_and(|bytes| {
        let sized = bytes.split_first_chunk::<2>().map(|(_, rest)| rest);
        bytes == ak_public || sized == Some(ak_public)
    })
}

/// What is asked for, to answer this challenge.
///
/// # Errors
/// [`Refused`] when the agent does not offer what its policies need.
pub(super) fn requested(
    offered: &Offered,
    chosen: Chosen,
    challenge: &Challenge,
    sent: &[u8; 16],
) -> Result<Vec<Requested>, Refused> {
    let bank = chosen.hash.name();
    let available = offered.quote.available_subjects.get(bank);
    let available: PcrSet = available
        .into_iter()
        .flatten()
        .filter_map(|pcr| PcrIndex::new(u64::from(*pcr)))
        .collect();
    let wanted = challenge.selection.pcrs(chosen.hash);
    if let Some(pcr) = wanted.difference(available).iter().next() {
        let detail = format!("PCR {pcr} is not available in bank {bank}");
        return Err(Refused::data(
            format!("{AT}/0/capabilities/available_subjects"),
            detail,
        ));
    }
    let mut subjects = BTreeMap::new();
    for name in offered.quote.available_subjects.keys() {
        let pcrs = (name == bank).then(|| wanted.iter().map(PcrIndex::get).collect());
        subjects.insert(name.clone(), pcrs);
    }
    let mut requested = vec![Requested {
        evidence_class: "certification",
        evidence_type: "tpm_quote",
        chosen_parameters: Parameters::Quote {
            challenge: STANDARD.encode(sent),
            signature_scheme: chosen.scheme.name(),
            hash_algorithm: bank,
            selected_subjects: subjects,
            certification_key: Box::new(chosen.key),
        },
    }];
    if challenge.boot_log {
        needs(offered.uefi_log.as_ref(), "uefi_log", BOOT_LOG_FORMAT)?;
        requested.push(Requested {
            evidence_class: "log",
            evidence_type: "uefi_log",
            chosen_parameters: Parameters::Log {
                starting_offset: None,
                format: BOOT_LOG_FORMAT,
            },
        });
    }
    if let Some(from) = challenge.ima_from_entry {
        let log = needs(offered.ima_log.as_ref(), "ima_log", IMA_FORMAT)?;
        if from > 0 && !log.supports_partial_access {
            return Err(Refused::data(AT, "ima_log must support partial access"));
        }
        requested.push(Requested {
            evidence_class: "log",
            evidence_type: "ima_log",
            chosen_parameters: Parameters::Log {
                starting_offset: Some(from),
                format: IMA_FORMAT,
            },
        });
    }
    Ok(requested)
}

fn needs<'o>(log: Option<&'o LogOffer>, name: &str, format: &str) -> Result<&'o LogOffer, Refused> {
    let log = log.ok_or_else(|| Refused::data(AT, format!("{name} is needed and not offered")))?;
    match log.has(format) {
        true => Ok(log),
        false => Err(Refused::data(
            AT,
            format!("{name} is needed in format {format}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use rat_engine::evidence::{ChallengeId, Nonce};
    use rat_engine::tpm::PcrSelection;

    use super::*;

    fn key(algorithm: &str, public: &[u8]) -> KeyOffer {
        KeyOffer {
            key_class: "asymmetric".into(),
            key_algorithm: Some(algorithm.into()),
            key_size: Some(2048),
            server_identifier: Some("ak".into()),
            local_identifier: None,
            allowable_signature_schemes: None,
            allowable_hash_algorithms: None,
            public: Some(STANDARD.encode(public)),
        }
    }

    fn offer(schemes: &[&str], hashes: &[&str], key: KeyOffer) -> QuoteOffer {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        QuoteOffer {
            component_version: Some("2.0".into()),
            signature_schemes: names(schemes),
            hash_algorithms: names(hashes),
            available_subjects: hashes
                .iter()
                .map(|name| ((*name).to_owned(), (0..24).collect()))
                .collect(),
            certification_keys: vec![key],
        }
    }

    fn accepted(hashes: &[HashAlg], schemes: &[QuoteScheme]) -> Accepted {
        Accepted {
            hashes: hashes.into(),
            schemes: schemes.into(),
        }
    }

    const AK: &[u8] = b"the enrolled key";

    #[test]
    fn the_tenants_order_decides_and_keys_of_curves_serve() {
        let all = accepted(
            &[HashAlg::Sha512, HashAlg::Sha384, HashAlg::Sha256],
            &[QuoteScheme::RsaSsa, QuoteScheme::Ecdsa],
        );
        let sized = [&[0, 16][..], AK].concat();
        for (algorithm, public, scheme) in [("rsa", AK, "rsassa"), ("ecc", &*sized, "ecdsa")] {
            let offer = offer(
                &["ecdsa", "ecschnorr", "rsassa"],
                &["sha1", "sha256", "sha384"],
                key(algorithm, public),
            );
            let chosen = choose(&offer, &all, AK).unwrap();
            assert_eq!(
                (chosen.scheme.name(), chosen.hash),
                (scheme, HashAlg::Sha384)
            );
        }
    }

    #[test]
    fn n03_another_key_and_what_is_not_accepted_are_refused() {
        let usual = accepted(&[HashAlg::Sha256], &[QuoteScheme::RsaSsa]);
        let schemes: &[&str] = &["rsassa", "ecdsa"];
        for (offer, reason) in [
            (
                offer(schemes, &["sha256"], key("rsa", b"another")),
                "not among them",
            ),
            (offer(schemes, &["sha256"], key("ecc", AK)), "scheme"),
            (offer(&["rsapss"], &["sha256"], key("rsa", AK)), "scheme"),
            (offer(schemes, &["sha1"], key("rsa", AK)), "hash algorithm"),
        ] {
            let refused = choose(&offer, &usual, AK).unwrap_err();
            assert!(format!("{refused:?}").contains(reason), "{refused:?}");
        }
    }

    #[test]
    fn what_the_policies_need_is_asked_for_and_no_more() {
        let quote = offer(&["rsassa"], &["sha1", "sha256"], key("rsa", AK));
        let chosen = choose(
            &quote,
            &accepted(&[HashAlg::Sha256], &[QuoteScheme::RsaSsa]),
            AK,
        )
        .unwrap();
        let log = |format: &str| LogOffer {
            entry_count: Some(20),
            supports_partial_access: true,
            formats: vec![format.to_owned()],
        };
        let mut offered = Offered {
            quote,
            uefi_log: Some(log(BOOT_LOG_FORMAT)),
            ima_log: Some(log(IMA_FORMAT)),
            boot_unix_ms: None,
        };
        let pcrs: PcrSet = [10, 16].into_iter().filter_map(PcrIndex::new).collect();
        let mut challenge = Challenge {
            id: ChallengeId([1; 16]),
            nonce: Nonce([2; 32]),
            selection: PcrSelection::new([(HashAlg::Sha256, pcrs)]).unwrap(),
            ima_from_entry: Some(20),
            boot_log: false,
            deadline_ms: 1,
        };
        let asked = requested(&offered, chosen.clone(), &challenge, &[3; 16]).unwrap();
        let text = serde_json::to_string(&asked).unwrap();
        assert!(
            text.contains(r#""selected_subjects":{"sha1":null,"sha256":[10,16]}"#),
            "{text}"
        );
        assert!(
            text.contains(r#"{"starting_offset":20,"format":"text/plain"}"#),
            "{text}"
        );
        assert_eq!(asked.len(), 2);
        challenge.boot_log = true;
        let asked = requested(&offered, chosen.clone(), &challenge, &[3; 16]).unwrap();
        assert_eq!(asked[1].evidence_type, "uefi_log");
        offered.ima_log = None;
        assert!(requested(&offered, chosen.clone(), &challenge, &[3; 16]).is_err());
        challenge.ima_from_entry = None;
        assert!(requested(&offered, chosen.clone(), &challenge, &[3; 16]).is_ok());
        offered
            .quote
            .available_subjects
            .insert("sha256".into(), vec![10]);
        let refused = requested(&offered, chosen, &challenge, &[3; 16]).unwrap_err();
        assert!(format!("{refused:?}").contains("PCR 16"), "{refused:?}");
    }
}
