//! What an agent answers to the request for its integrity quote.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rat_engine::crypto::{Hasher, digest};
use rat_engine::evidence::{Binding, Challenge, ImaUpload, Submission};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::LogFormat;
use rat_engine::pcr::{PcrIndex, PcrValues};
use rat_engine::tpm::QuoteText;
use serde::Deserialize;

use super::contact::Contact;
use super::failure::Failure;
use crate::limits;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    results: Results<'a>,
}

/// Members that nobody here reads (`boottime`, say) may be there too.
#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    quote: Cow<'a, str>,
    #[serde(borrow)]
    hash_alg: Cow<'a, str>,
    #[serde(borrow)]
    enc_alg: Cow<'a, str>,
    #[serde(borrow)]
    sign_alg: Cow<'a, str>,
    #[serde(default)]
    pubkey: Option<String>,
    #[serde(default)]
    ima_measurement_list: Option<String>,
    #[serde(default)]
    ima_measurement_list_entry: Option<u64>,
    #[serde(borrow, default)]
    mb_measurement_list: Option<Cow<'a, str>>,
}

/// An answer, taken apart. Nothing in it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the shard gets, without the pieces of a long list.
    pub submission: Submission,
    /// The list, when it is too long to be handed over with the quote.
    pub long_list: Option<Vec<u8>>,
    /// How many entries the agent says that its list has; `None` when it sent none.
    pub entries: Option<u64>,
    /// The key that the agent wants secrets encrypted for: PEM.
    pub public_key: Option<String>,
    /// What the agent says that PCR 16 holds.
    pub data_pcr: Option<Digest>,
}

impl Answer {
    /// Reads the body of an answer with status 200.
    ///
    /// # Errors
    /// [`Failure`]: the answer is none to this challenge, whatever it is worth otherwise.
    ///
    /// # Security
    /// Nothing is believed: that the quote is genuine and answers the challenge is the shard's to
    /// find. Logs that were not asked for are not looked at.
    pub fn read(
        body: &[u8],
        contact: &Contact,
        challenge: &Challenge,
        binding: Binding,
    ) -> Result<Self, Failure> {
        let said: Envelope<'_> =
            serde_json::from_slice(body).map_err(|_| Failure::Malformed("its evidence"))?;
        let said = said.results;
        check_algorithms(&said, contact, challenge)?;
        let QuoteText {
            message,
            signature,
            values,
        } = QuoteText::parse(&said.quote)?;
        let boot_log = match said.mb_measurement_list.filter(|_| challenge.boot_log) {
            Some(log) => Some(boot_log(&log)?),
            None => None,
        };
        let (ima, long_list, entries) = list(
            said.ima_measurement_list,
            said.ima_measurement_list_entry,
            challenge,
        )?;
        let bank = asked_bank(challenge);
        let data_pcr = bank.and_then(|bank| values.get(bank, PcrIndex::KEYLIME_DATA));
        Ok(Self {
            submission: submission(
                challenge,
                binding,
                (message, signature),
                values,
                boot_log,
                ima,
            ),
            long_list,
            entries,
            public_key: said
                .pubkey
                .filter(|key| key.len() <= limits::PULL_PUBLIC_KEY_BYTES_MAX),
            data_pcr,
        })
    }

    /// The key, when PCR 16 holds what agents extend it with to show that it is theirs: H(0…0 ‖
    /// H(PEM)). (keylime.md section 7.3)
    ///
    /// # Security
    /// It is bound only when the shard says that these are the values that were quoted.
    pub fn bound_key(&self) -> Option<(String, Digest)> {
        let (key, held) = (self.public_key.as_ref()?, self.data_pcr?);
        (data_pcr(held.alg(), key.as_bytes()) == held).then(|| (key.clone(), held))
    }
}

/// What PCR 16 of a bank holds after an agent showed this key.
pub fn data_pcr(bank: HashAlg, public_key_pem: &[u8]) -> Digest {
    let mut hasher = Hasher::new(bank);
    hasher.update(&vec![0; bank.size()]);
    hasher.update(digest(bank, public_key_pem).as_bytes());
    hasher.finish()
}

fn asked_bank(challenge: &Challenge) -> Option<HashAlg> {
    challenge.selection.banks().next().map(|(bank, _)| bank)
}

fn check_algorithms(
    said: &Results<'_>,
    contact: &Contact,
    challenge: &Challenge,
) -> Result<(), Failure> {
    let is_in = |list: &[String], name: &str| list.iter().any(|it| it == name);
    let hash = HashAlg::from_name(said.hash_alg.as_bytes())
        .filter(|_| is_in(&contact.accept_hash_algs, &said.hash_alg))
        .ok_or(Failure::Algorithm("hash_alg"))?;
    if !contact.accepts_encryption(&said.enc_alg) {
        return Err(Failure::Algorithm("enc_alg"));
    }
    if !is_in(&contact.accept_signing_algs, &said.sign_alg) {
        return Err(Failure::Algorithm("sign_alg"));
    }
    match asked_bank(challenge) == Some(hash) {
        true => Ok(()),
        false => Err(Failure::Bank(hash)),
    }
}

fn boot_log(text: &str) -> Result<Vec<u8>, Failure> {
    let max = limits::BOOT_LOG_BYTES_MAX;
    if text.len() > max.div_ceil(3).saturating_mul(4) {
        return Err(Failure::TooLong(u64::try_from(max).unwrap_or(u64::MAX)));
    }
    STANDARD
        .decode(text)
        .map_err(|_| Failure::Malformed("its boot log"))
}

/// The list that is handed over, what of it follows in pieces, and how many entries there are.
type List = (Option<ImaUpload>, Option<Vec<u8>>, Option<u64>);

fn list(text: Option<String>, entry: Option<u64>, challenge: &Challenge) -> Result<List, Failure> {
    let (Some(text), Some(asked)) = (text, challenge.ima_from_entry) else {
        return Ok((None, None, None));
    };
    let from_entry = entry.unwrap_or(0);
    if from_entry != 0 && from_entry != asked {
        return Err(Failure::Entry);
    }
    let bytes = text.into_bytes();
    let lines = bytes.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty()).count();
    let lines = u64::try_from(lines).unwrap_or(u64::MAX);
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let is_short = length <= limits::WHOLE_LIST_BYTES_MAX;
    let (whole, long) = match is_short {
        true => (Some(bytes), None),
        false => (None, Some(bytes)),
    };
    let upload = ImaUpload {
        from_entry,
        format: LogFormat::Ascii,
        length,
        whole,
    };
    Ok((Some(upload), long, Some(from_entry.saturating_add(lines))))
}

fn submission(
    challenge: &Challenge,
    binding: Binding,
    (quote, signature): (Vec<u8>, Vec<u8>),
    pcr_values: PcrValues,
    boot_log: Option<Vec<u8>>,
    ima: Option<ImaUpload>,
) -> Submission {
    Submission {
        challenge: challenge.id,
        binding,
        claimed_binding: None,
        quote,
        signature,
        pcr_values,
        boot_log,
        ima,
    }
}
