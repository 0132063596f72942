//! What is told of an agent that failed, or that nothing is heard of: Keylime's message, and the
//! envelope around it.
//!
//! Source: Keylime 7.14 `keylime/cloud_verifier_common.py`, `keylime/crypto.py`.

use rat_engine::agent_id::AgentId;
use rat_engine::calendar::rfc3339;
use rat_store::KeylimeFacts;
use serde::Serialize;

/// Why something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The agent failed.
    Revocation,
    /// It attested once, and nothing is heard of it.
    CommError,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happened<'a> {
    pub(super) kind: Kind,
    pub(super) event_id: &'a str,
    pub(super) severity_label: &'a str,
    /// What it is, in a sentence.
    pub(super) detail: &'a str,
    pub(super) at_unix_ms: u64,
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: Kind,
    ip: Option<&'a str>,
    agent_id: &'a str,
    port: Option<u16>,
    tpm_policy: &'a str,
    meta_data: &'a str,
    event_time: String,
    event_id: &'a str,
    severity_label: &'a str,
    /// JSON as a text.
    context: String,
}

#[derive(Serialize)]
struct Context<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Envelope<'a> {
    msg: &'a str,
    signature: &'a str,
}

/// The message about an agent.
pub(super) fn message(agent: &AgentId, facts: &KeylimeFacts, happened: &Happened<'_>) -> String {
    let context = Context {
        message: happened.detail,
    };
    text(&Message {
        r#type: happened.kind,
        ip: facts.ip.as_deref(),
        agent_id: agent.as_str(),
        port: facts.port,
        tpm_policy: &facts.tpm_policy,
        meta_data: &facts.metadata,
        event_time: asctime(happened.at_unix_ms),
        event_id: happened.event_id,
        severity_label: happened.severity_label,
        context: text(&context),
    })
}

/// The envelope around a message, with its signature in base64, or none.
pub(super) fn envelope(message: &str, signature: &str) -> String {
    text(&Envelope {
        msg: message,
        signature,
    })
}

/// Serialising our own types of strings and numbers cannot fail.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The time as C's `asctime` writes it, in UTC: `Tue Jun  9 01:21:05 2026`. Empty when the calendar
/// ends before it.
fn asctime(unix_ms: u64) -> String {
    let day = usize::try_from(unix_ms.wrapping_div(DAY_MS).wrapping_rem(7)).unwrap_or_default();
    let written = || {
        let stamp = rfc3339(unix_ms)?;
        let (date, time) = stamp.split_once('T')?;
        let mut date = date.split('-');
        let (year, month, of_month) = (date.next()?, date.next()?, date.next()?);
        let month: usize = month.parse().ok()?;
        let of_month: u8 = of_month.parse().ok()?;
        let (day, month) = (DAYS.get(day)?, MONTHS.get(month.checked_sub(1)?)?);
        let time = time.get(..8)?;
        Some(format!("{day} {month} {of_month:2} {time} {year}"))
    };
    written().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rat_engine::hash::HashAlg;
    use serde_json::{Value, json};

    use super::*;

    fn facts() -> KeylimeFacts {
        KeylimeFacts {
            v: None,
            ip: Some("10.0.0.1".to_owned()),
            port: Some(9_002),
            tpm_policy: r#"{"mask": "0x400"}"#.to_owned(),
            metadata: "{}".to_owned(),
            ima_sign_verification_keys: String::new(),
            revocation_key: "secret".to_owned(),
            accept_tpm_hash_algs: Vec::new(),
            accept_tpm_encryption_algs: Vec::new(),
            accept_tpm_signing_algs: Vec::new(),
            mtls_cert: None,
            supported_version: "2.2".to_owned(),
            verifier_ip: "127.0.0.1".to_owned(),
            verifier_port: 8881,
            bank: HashAlg::Sha256,
        }
    }

    #[test]
    fn the_message_is_keylimes_in_an_envelope() {
        let agent = AgentId::parse("m1").unwrap();
        let hostile = "\u{1b}[31m\"},{\\\r\n\u{2028}";
        let happened = Happened {
            kind: Kind::Revocation,
            event_id: "ima.pcr_mismatch",
            severity_label: "emergency",
            detail: hostile,
            at_unix_ms: 1_767_225_599_000,
        };
        let written = message(&agent, &facts(), &happened);
        let envelope: Value = serde_json::from_str(&envelope(&written, "c2ln")).unwrap();
        assert_eq!(envelope["signature"], "c2ln");
        let read: Value = serde_json::from_str(envelope["msg"].as_str().unwrap()).unwrap();
        let expected = json!({
            "type": "revocation",
            "ip": "10.0.0.1",
            "agent_id": "m1",
            "port": 9002,
            "tpm_policy": "{\"mask\": \"0x400\"}",
            "meta_data": "{}",
            "event_time": "Wed Dec 31 23:59:59 2025",
            "event_id": "ima.pcr_mismatch",
            "severity_label": "emergency",
            "context": json!({"message": hostile}).to_string(),
        });
        assert_eq!(read, expected);
        assert!(!written.contains("secret"));
        let silent = Happened {
            kind: Kind::CommError,
            ..happened
        };
        let read: Value = serde_json::from_str(&message(&agent, &facts(), &silent)).unwrap();
        assert_eq!(read["type"], "comm_error");
    }

    #[test]
    fn times_are_written_as_c_writes_them() {
        for (unix_ms, expected) in [
            (86_400_000, "Fri Jan  2 00:00:00 1970"),
            (951_782_400_000, "Tue Feb 29 00:00:00 2000"),
            (1_780_968_065_000, "Tue Jun  9 01:21:05 2026"),
        ] {
            assert_eq!(asctime(unix_ms), expected);
        }
    }
}
