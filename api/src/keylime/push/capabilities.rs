//! What an agent that pushes says it can send, read strictly.
//!
//! Source: Keylime 7.14 `keylime/models/verifier/evidence.py`; rust-keylime 0.2.9
//! `keylime/src/structures/capabilities_negotiation.rs`.

use std::collections::BTreeMap;

use rat_engine::calendar::from_rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::errors::Refused;
use crate::limits::{PUSH_EVIDENCE_ITEMS_MAX, PUSH_NAMES_MAX};

/// Where the capabilities stand in a document.
const AT: &str = "/data/attributes/evidence_supported";

/// A document about an attestation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document<'a, A> {
    pub(super) data: Resource<A>,
    #[serde(default, borrow, rename = "jsonapi")]
    _jsonapi: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "links")]
    _links: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "meta")]
    _meta: Option<&'a RawValue>,
}

/// What it is about.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource<A> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) attributes: A,
}

/// What an agent says when it begins an attestation.
#[derive(Debug, Deserialize)]
pub(super) struct Begun<'a> {
    #[serde(default, borrow)]
    evidence_supported: Option<Vec<Item<'a>>>,
    system_info: Option<SystemInfo>,
}

#[derive(Debug, Deserialize)]
struct Item<'a> {
    evidence_class: String,
    evidence_type: String,
    #[serde(borrow)]
    capabilities: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct SystemInfo {
    boot_time: Option<BootTime>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum BootTime {
    Text(String),
    Seconds(f64),
}

/// What it can send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) quote: QuoteOffer,
    pub(super) uefi_log: Option<LogOffer>,
    pub(super) ima_log: Option<LogOffer>,
    /// When it booted, as it says, in milliseconds; Keylime's agents wait for it in the answer.
    pub(super) boot_unix_ms: Option<u64>,
}

/// How it can quote.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct QuoteOffer {
    pub(super) component_version: Option<String>,
    pub(super) signature_schemes: Vec<String>,
    pub(super) hash_algorithms: Vec<String>,
    pub(super) available_subjects: BTreeMap<String, Vec<u8>>,
    pub(super) certification_keys: Vec<KeyOffer>,
}

/// A key that it can quote with. It is told back as it came: agents compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyOffer {
    pub(super) key_class: String,
    pub(super) key_algorithm: Option<String>,
    pub(super) key_size: Option<u32>,
    pub(super) server_identifier: Option<String>,
    pub(super) local_identifier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allowable_signature_schemes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allowable_hash_algorithms: Option<Vec<String>>,
    pub(super) public: Option<String>,
}

/// How it can send a log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct LogOffer {
    pub(super) entry_count: Option<u64>,
    #[serde(default)]
    pub(super) supports_partial_access: bool,
    #[serde(default)]
    pub(super) formats: Vec<String>,
}

impl<'a, A: Deserialize<'a>> Document<'a, A> {
    /// Reads a document; `None` for what is none.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

impl Begun<'_> {
    /// What the agent offers.
    ///
    /// # Errors
    /// [`Refused`], with a pointer to the first thing that cannot be taken.
    pub(super) fn offered(&self) -> Result<Offered, Refused> {
        let items = self.evidence_supported.as_deref().unwrap_or_default();
        if items.is_empty() {
            // Keylime's own name of the member, and its pointer.
            let detail = "Attribute 'evidence' is required.";
            return Err(Refused::data("/data/attributes/evidence", detail));
        }
        if items.len() > PUSH_EVIDENCE_ITEMS_MAX {
            let detail = format!("at most {PUSH_EVIDENCE_ITEMS_MAX} kinds of evidence are read");
            return Err(Refused::data(AT, detail));
        }
        let mut quote = None;
        let (mut uefi_log, mut ima_log) = (None, None);
        for (nth, item) in items.iter().enumerate() {
            let at = |member: &str| format!("{AT}/{nth}/{member}");
            let class = match item.evidence_type.as_str() {
                "tpm_quote" => "certification",
                "uefi_log" | "ima_log" => "log",
                // What nobody here knows is not asked for.
                _ => continue,
            };
            if item.evidence_class != class {
                let detail = format!(
                    "evidence of type '{}' is of class '{class}'",
                    item.evidence_type
                );
                return Err(Refused::data(at("evidence_class"), detail));
            }
            let text = item.capabilities.get();
            let capabilities = at("capabilities");
            let is_again = match item.evidence_type.as_str() {
                "tpm_quote" => quote
                    .replace(QuoteOffer::read(text, capabilities)?)
                    .is_some(),
                "uefi_log" => uefi_log
                    .replace(LogOffer::read(text, capabilities)?)
                    .is_some(),
                _ => ima_log
                    .replace(LogOffer::read(text, capabilities)?)
                    .is_some(),
            };
            if is_again {
                let detail = "evidence of this type is offered twice";
                return Err(Refused::data(at("evidence_type"), detail));
            }
        }
        let quote = quote.ok_or_else(|| Refused::data(AT, "no tpm_quote is offered"))?;
        Ok(Offered {
            quote,
            uefi_log,
            ima_log,
            boot_unix_ms: self.boot_unix_ms()?,
        })
    }

    fn boot_unix_ms(&self) -> Result<Option<u64>, Refused> {
        let boot_time = self
            .system_info
            .as_ref()
            .and_then(|it| it.boot_time.as_ref());
        let read = match boot_time {
            None => return Ok(None),
            Some(BootTime::Text(text)) => from_rfc3339(text),
            Some(BootTime::Seconds(seconds)) => whole_ms(*seconds),
        };
        let detail = "boot_time must be a time of ISO 8601, or seconds since 1970";
        match read {
            Some(unix_ms) => Ok(Some(unix_ms)),
            None => Err(Refused::data(
                "/data/attributes/system_info/boot_time",
                detail,
            )),
        }
    }
}

/// A time in seconds, as whole milliseconds, until the year 9999.
fn whole_ms(seconds: f64) -> Option<u64> {
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    let is_time = (0.0..=SECONDS_MAX).contains(&seconds);
    let text = is_time.then(|| format!("{:.0}", seconds * 1_000.0))?;
    text.parse().ok()
}

impl QuoteOffer {
    fn read(text: &str, at: String) -> Result<Self, Refused> {
        let offer: Self = serde_json::from_str(text)
            .map_err(|error| Refused::data(at.clone(), printable(&error)))?;
        let counts = [
            ("signature_schemes", offer.signature_schemes.len()),
            ("hash_algorithms", offer.hash_algorithms.len()),
            ("available_subjects", offer.available_subjects.len()),
            ("certification_keys", offer.certification_keys.len()),
        ];
        for (name, count) in counts {
            if count == 0 || count > PUSH_NAMES_MAX {
                let detail = format!("{name} must have 1 to {PUSH_NAMES_MAX} members");
                return Err(Refused::data(format!("{at}/{name}"), detail));
            }
        }
        let mut banks = offer.available_subjects.keys();
        if let Some(bank) = banks.find(|bank| !offer.hash_algorithms.contains(bank)) {
            let bank: String = bank.chars().take(16).collect();
            let detail = format!(
                "bank '{}' is not among hash_algorithms",
                bank.escape_debug()
            );
            return Err(Refused::data(format!("{at}/available_subjects"), detail));
        }
        Ok(offer)
    }
}

impl LogOffer {
    fn read(text: &str, at: String) -> Result<Self, Refused> {
        let offer: Self = serde_json::from_str(text)
            .map_err(|error| Refused::data(at.clone(), printable(&error)))?;
        if offer.formats.len() > PUSH_NAMES_MAX {
            let detail = format!("formats may have {PUSH_NAMES_MAX} members");
            return Err(Refused::data(format!("{at}/formats"), detail));
        }
        if offer.entry_count.is_none() && offer.supports_partial_access {
            let detail = "Attribute 'entry_count' is required.";
            return Err(Refused::data(format!("{at}/entry_count"), detail));
        }
        Ok(offer)
    }

    /// Whether it comes in this format.
    pub(super) fn has(&self, format: &str) -> bool {
        self.formats.iter().any(|it| it == format)
    }
}

/// What is wrong with JSON, without what stands in it: names of members may be anything.
fn printable(error: &serde_json::Error) -> String {
    let text: String = error.to_string().chars().take(200).collect();
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTE: &str = r#"{"evidence_class":"certification","evidence_type":"tpm_quote",
        "capabilities":{"component_version":"2.0","hash_algorithms":["sha1","sha256"],
        "signature_schemes":["rsassa"],"available_subjects":{"sha256":[0,10]},
        "certification_keys":[{"key_class":"asymmetric","key_algorithm":"rsa","key_size":2048,
        "server_identifier":"ak","local_identifier":"000b","public":"AAEA"}]}}"#;
    const IMA: &str = r#"{"evidence_class":"log","evidence_type":"ima_log","capabilities":
        {"entry_count":20,"supports_partial_access":true,"formats":["text/plain"]}}"#;

    fn offered(items: &str, more: &str) -> Result<Offered, Refused> {
        let body = format!(
            r#"{{"data":{{"type":"attestation","attributes":{{"evidence_supported":[{items}]{more}}}}}}}"#
        );
        let document: Document<'_, Begun<'_>> = Document::read(body.as_bytes()).unwrap();
        assert_eq!(document.data.kind, "attestation");
        document.data.attributes.offered()
    }

    #[test]
    fn what_is_offered_is_read_and_what_nobody_knows_is_passed_over() {
        let other = r#"{"evidence_class":"log","evidence_type":"other","capabilities":[1]}"#;
        let items = format!("{QUOTE},{IMA},{other}");
        let info = r#","system_info":{"boot_time":"2026-11-22T07:50:49Z"}"#;
        let offered = offered(&items, info).unwrap();
        assert_eq!(offered.quote.available_subjects["sha256"], [0, 10]);
        assert_eq!(offered.ima_log.unwrap().entry_count, Some(20));
        assert_eq!(offered.uefi_log, None);
        assert_eq!(offered.boot_unix_ms, Some(1_795_333_849_000));
    }

    #[test]
    fn boot_times_are_texts_and_numbers() {
        for (text, expected) in [
            (
                r#""2026-11-22T07:50:49.000000+00:00""#,
                Some(1_795_333_849_000),
            ),
            ("1795333849", Some(1_795_333_849_000)),
            ("1795333849.25", Some(1_795_333_849_250)),
            ("-1", None),
            ("1e300", None),
            (r#""yesterday""#, None),
        ] {
            let info = format!(r#","system_info":{{"boot_time":{text}}}"#);
            let read = offered(QUOTE, &info);
            assert_eq!(read.ok().and_then(|it| it.boot_unix_ms), expected, "{text}");
        }
    }

    #[test]
    fn x01_what_cannot_be_taken_is_pointed_at() {
        let pointer = |items: &str| {
            let refused = offered(items, "").unwrap_err();
            format!("{refused:?}")
        };
        for (items, expected) in [
            (String::new(), "/data/attributes/evidence\""),
            (IMA.to_owned(), "evidence_supported\""),
            (format!("{QUOTE},{QUOTE}"), "/1/evidence_type"),
            (
                QUOTE.replace("certification\",", "log\","),
                "/0/evidence_class",
            ),
            (
                QUOTE.replace(r#"["rsassa"]"#, "[]"),
                "/0/capabilities/signature_schemes",
            ),
            (
                QUOTE.replace(r#"{"sha256":[0,10]}"#, "[0,10]"),
                "/0/capabilities",
            ),
            (QUOTE.replace("[0,10]", "[256]"), "/0/capabilities"),
            (
                QUOTE.replace(r#"{"sha256""#, r#"{"sha512""#),
                "/0/capabilities/available_subjects",
            ),
            (
                format!("{QUOTE},{}", IMA.replace(r#""entry_count":20,"#, "")),
                "/1/capabilities/entry_count",
            ),
            (
                format!("{QUOTE},{}", IMA.replace("20", "-1")),
                "/1/capabilities",
            ),
        ] {
            let found = pointer(&items);
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn x01_documents_of_another_form_are_none() {
        for body in [
            "",
            "{}",
            "xx",
            r#"{"data":[]}"#,
            r#"{"data":{"type":"attestation"}}"#,
            r#"{"data":{"type":"attestation","attributes":{},"other":1}}"#,
            r#"{"data":{"type":"attestation","attributes":{}},"data":{}}"#,
        ] {
            assert!(
                Document::<Begun<'_>>::read(body.as_bytes()).is_none(),
                "{body}"
            );
        }
    }
}
