//! The evidence that an agent pushes, read strictly.
//!
//! Source: Keylime 7.14 `keylime/models/verifier/evidence.py`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::evidence::{Binding, Challenge, ImaUpload, Submission};
use rat_engine::ima::LogFormat;
use rat_engine::limits::{
    ATTEST_BYTES_MAX, PCR_BLOB_BYTES_MAX, SIGNATURE_BYTES_MAX, UEFI_LOG_BYTES_MAX,
};
use rat_engine::tpm::pcr_values::parse_pcr_blob;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::choice::Requested;
use super::errors::Refused;

const AT: &str = "/data/attributes/evidence_collected";

/// What an agent sends.
#[derive(Debug, Deserialize)]
pub(super) struct Collected<'a> {
    #[serde(default, borrow)]
    evidence_collected: Option<Vec<Item<'a>>>,
}

#[derive(Debug, Deserialize)]
struct Item<'a> {
    evidence_class: String,
    evidence_type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct QuoteData<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    signature: Cow<'a, str>,
    #[serde(borrow)]
    subject_data: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct LogData<'a> {
    #[serde(borrow)]
    entries: Cow<'a, str>,
}

/// Evidence in the form in which every surface hands it over, and the list that follows it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) submission: Submission,
    pub(super) list: Vec<u8>,
}

/// Lists up to this length go along with their quote.
const SHORT_BYTES: usize = 64 * 1024;

impl Collected<'_> {
    /// The evidence that answers a challenge: exactly what was asked for, in that order.
    ///
    /// # Errors
    /// [`Refused`], with a pointer to the first thing that cannot be taken.
    ///
    /// # Security
    /// Nothing is authenticated but who sends it.
    pub(super) fn read(
        &self,
        requested: &[Requested],
        challenge: &Challenge,
        binding: Binding,
    ) -> Result<Read, Refused> {
        let items = self.evidence_collected.as_deref().unwrap_or_default();
        let is_asked = |(item, asked): (&Item<'_>, &Requested)| {
            item.evidence_class == asked.evidence_class && item.evidence_type == asked.evidence_type
        };
        if items.len() != requested.len() || !items.iter().zip(requested).all(is_asked) {
            let names = requested.iter().map(|asked| asked.evidence_type);
            let names = names.collect::<Vec<_>>().join(", ");
            let detail = format!("exactly what was requested is taken, in this order: {names}");
            return Err(Refused::data(AT, detail));
        }
        let mut read = Read {
            submission: Submission {
                challenge: challenge.id,
                binding,
                claimed_binding: None,
                quote: Vec::new(),
                signature: Vec::new(),
                pcr_values: Default::default(),
                boot_log: None,
                ima: None,
            },
            list: Vec::new(),
        };
        for (nth, item) in items.iter().enumerate() {
            let at = format!("{AT}/{nth}/data");
            match item.evidence_type.as_str() {
                "tpm_quote" => read.quote(item.data.get(), at)?,
                "uefi_log" => read.boot_log(item.data.get(), at)?,
                _ => read.list(item.data.get(), at, challenge.ima_from_entry.unwrap_or(0))?,
            }
        }
        Ok(read)
    }
}

impl Read {
    fn quote(&mut self, text: &str, at: String) -> Result<(), Refused> {
        let data: QuoteData<'_> = members(text, &at, "message, signature and subject_data")?;
        let submission = &mut self.submission;
        submission.quote = decode(&data.message, ATTEST_BYTES_MAX, &at, "message")?;
        submission.signature = decode(&data.signature, SIGNATURE_BYTES_MAX, &at, "signature")?;
        let values = decode(&data.subject_data, PCR_BLOB_BYTES_MAX, &at, "subject_data")?;
        let (_, values) = parse_pcr_blob(&values)
            .map_err(|error| Refused::data(format!("{at}/subject_data"), error.to_string()))?;
        submission.pcr_values = values;
        Ok(())
    }

    fn boot_log(&mut self, text: &str, at: String) -> Result<(), Refused> {
        let data: LogData<'_> = members(text, &at, "entries")?;
        let log = decode(&data.entries, UEFI_LOG_BYTES_MAX, &at, "entries")?;
        self.submission.boot_log = Some(log);
        Ok(())
    }

    fn list(&mut self, text: &str, at: String, from_entry: u64) -> Result<(), Refused> {
        let data: LogData<'_> = members(text, &at, "entries")?;
        let list = data.entries.into_owned().into_bytes();
        let length = u64::try_from(list.len()).unwrap_or(u64::MAX);
        let is_short = list.len() <= SHORT_BYTES;
        self.submission.ima = Some(ImaUpload {
            from_entry,
            format: LogFormat::Ascii,
            length,
            whole: is_short.then(|| list.clone()),
        });
        if !is_short {
            self.list = list;
        }
        Ok(())
    }
}

fn members<'a, T: Deserialize<'a>>(
    text: &'a str,
    at: &str,
    names: &'static str,
) -> Result<T, Refused> {
    serde_json::from_str(text)
        .map_err(|_| Refused::data(at.to_owned(), format!("an object with {names} is needed")))
}

fn decode(text: &str, max: usize, at: &str, name: &'static str) -> Result<Vec<u8>, Refused> {
    // Four characters for three bytes, rounded up.
    let characters = max.div_ceil(3).saturating_mul(4);
    let refused = |detail: String| Refused::data(format!("{at}/{name}"), detail);
    if text.len() > characters {
        return Err(refused(format!("at most {max} bytes are read")));
    }
    STANDARD
        .decode(text)
        .map_err(|_| refused("it is no base64".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rat_engine::evidence::{ChallengeId, Nonce};
    use rat_engine::hash::HashAlg;
    use rat_engine::pcr::PcrSet;
    use rat_engine::tpm::PcrSelection;

    use super::super::capabilities::KeyOffer;
    use super::super::choice::Parameters;
    use super::*;

    fn challenge() -> Challenge {
        Challenge {
            id: ChallengeId([1; 16]),
            nonce: Nonce([2; 32]),
            selection: PcrSelection::new([(HashAlg::Sha256, PcrSet::BOOT)]).unwrap(),
            ima_from_entry: Some(7),
            boot_log: false,
            deadline_ms: 1,
        }
    }

    fn requested() -> Vec<Requested> {
        let key = KeyOffer {
            key_class: "asymmetric".into(),
            key_algorithm: None,
            key_size: None,
            server_identifier: None,
            local_identifier: None,
            allowable_signature_schemes: None,
            allowable_hash_algorithms: None,
            public: None,
        };
        vec![
            Requested {
                evidence_class: "certification",
                evidence_type: "tpm_quote",
                chosen_parameters: Parameters::Quote {
                    challenge: String::new(),
                    signature_scheme: "",
                    hash_algorithm: "sha256",
                    selected_subjects: BTreeMap::new(),
                    certification_key: Box::new(key),
                },
            },
            Requested {
                evidence_class: "log",
                evidence_type: "ima_log",
                chosen_parameters: Parameters::Log {
                    starting_offset: Some(7),
                    format: "text/plain",
                },
            },
        ]
    }

    fn items(list: &str) -> Vec<String> {
        let values = STANDARD.encode([0; 136]);
        vec![
            format!(
                r#"{{"evidence_class":"certification","evidence_type":"tpm_quote","data":
                {{"message":"AAAA","signature":"AAAA","subject_data":"{values}"}}}}"#
            ),
            format!(
                r#"{{"evidence_class":"log","evidence_type":"ima_log","data":
                {{"entries":"{list}","entry_count":1}}}}"#
            ),
        ]
    }

    fn read(items: &[String]) -> Result<Read, Refused> {
        let text = format!(r#"{{"evidence_collected":[{}]}}"#, items.join(","));
        let collected: Collected<'_> = serde_json::from_str(&text).unwrap();
        collected.read(&requested(), &challenge(), Binding::KeylimePush([3; 32]))
    }

    #[test]
    fn lists_go_along_when_they_are_short_and_follow_when_they_are_long() {
        let short = read(&items(r"10 aa ima-ng\n")).unwrap();
        let upload = short.submission.ima.unwrap();
        assert_eq!((upload.from_entry, upload.length), (7, 13));
        assert_eq!(upload.whole.as_deref(), Some(&b"10 aa ima-ng\n"[..]));
        assert!(short.list.is_empty());
        let long = read(&items(&"a".repeat(SHORT_BYTES + 1))).unwrap();
        let upload = long.submission.ima.unwrap();
        assert_eq!((upload.length, upload.whole), (65_537, None));
        assert_eq!(long.list.len(), 65_537);
    }

    #[test]
    fn x01_what_was_not_asked_for_is_refused_and_what_is_malformed_pointed_at() {
        let good = items("");
        let refused = |items: &[String]| format!("{:?}", read(items).unwrap_err());
        let swapped = [good[1].clone(), good[0].clone()];
        for items in [
            &[][..],
            &good[..1],
            &swapped,
            &[good.clone(), good.clone()].concat(),
        ] {
            assert!(
                refused(items).contains("exactly what was requested"),
                "{items:?}"
            );
        }
        for (from, to, at) in [
            (r#""message":"AAAA""#, r#""message":"A""#, "/0/data/message"),
            (r#""signature":"AAAA","#, "", "/0/data"),
            (
                r#""subject_data":""#,
                r#""subject_data":"AAAA"#,
                "/0/data/subject_data",
            ),
        ] {
            let changed = [good[0].replace(from, to), good[1].clone()];
            assert!(refused(&changed).contains(at), "{}", refused(&changed));
        }
        let long = "A".repeat(ATTEST_BYTES_MAX.div_ceil(3) * 4 + 4);
        let changed = [
            good[0].replace(r#"message":"AAAA"#, &format!(r#"message":"{long}"#)),
            good[1].clone(),
        ];
        assert!(
            refused(&changed).contains("at most"),
            "{}",
            refused(&changed)
        );
        let changed = [
            good[0].clone(),
            good[1].replace(r#""entries":"""#, r#""entries":7"#),
        ];
        assert!(
            refused(&changed).contains("/1/data"),
            "{}",
            refused(&changed)
        );
    }
}
