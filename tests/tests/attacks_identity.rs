//! `GET /v2.6/verify/identity`: whose quote is whose, over TLS, by an agent that a tenant added; one
//! byte changed at each place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_tests::evidence::Machine;
use rat_tests::http_client::Answer;
use rat_tests::keylime::{NONCE, pcr_blob, quote_text, tpm2b};
use rat_tests::keylime_verifier::{Pusher, Served, shown};
use rat_tests::pull_tpm::TpmMachine;
use rat_tests::vectors::RecordedQuote;
use serde_json::{Value, json};

/// A quote in its parts.
#[derive(Debug, Clone)]
struct Parts {
    message: Vec<u8>,
    signature: Vec<u8>,
    blob: Vec<u8>,
}

impl Parts {
    fn text(&self) -> String {
        quote_text(&self.message, &self.signature, &self.blob)
    }

    fn read(text: &str) -> Self {
        let parts = text.strip_prefix('r').unwrap().split(':');
        let mut parts = parts.map(|part| BASE64.decode(part).unwrap());
        let mut next = || parts.next().unwrap();
        Self {
            message: next(),
            signature: next(),
            blob: next(),
        }
    }
}

/// A quote of PCR 16 alone, as agents give tenants, over [`NONCE`].
fn identity_quote(machine: &Machine) -> Parts {
    let pcrs: PcrSet = [PcrIndex::KEYLIME_DATA].into_iter().collect();
    let machine = Machine {
        banks: vec![(HashAlg::Sha256, pcrs)],
        ..machine.clone()
    };
    let submission = machine.attest(NONCE.as_bytes());
    Parts {
        message: submission.quote.clone(),
        signature: submission.signature.clone(),
        blob: pcr_blob(&machine.banks, &submission.values),
    }
}

/// As clients encode a parameter of a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn ask(served: &Served, query: &[(&str, &str)]) -> Answer {
    let query = query
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)));
    let query = query.collect::<Vec<_>>().join("&");
    let path = format!("/v2.6/verify/identity?{query}");
    served.anonymous().request_of_own("GET", &path, &[], b"")
}

fn verify(served: &Served, agent: &str, quote: &str, nonce: &str) -> Value {
    let answer = ask(
        served,
        &[
            ("agent_uuid", agent),
            ("quote", quote),
            ("nonce", nonce),
            ("hash_alg", "sha256"),
        ],
    );
    assert_eq!(answer.status, 200, "{}", shown(&answer));
    answer.json()["results"].clone()
}

/// Panics unless the quote is invalid; the codes that its reasons give.
#[track_caller]
fn codes(results: &Value) -> Vec<String> {
    assert_eq!(results["valid"], 0, "{results}");
    let reason = results["reason"].as_str().unwrap();
    let reasons = reason.replace("; {", "{");
    serde_json::Deserializer::from_str(&reasons)
        .into_iter()
        .map(|context: Result<Value, _>| context.unwrap()["code"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_quote_of_an_agent_is_valid_for_everybody_who_drew_the_nonce() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    served.add(&agent);
    let quote = identity_quote(&agent.machine);
    assert_eq!(
        verify(&served, "machine-1", &quote.text(), NONCE),
        json!({"valid": 1})
    );
    // Nothing is kept of a question: it is no attestation, and no second one differs. (S15)
    let standing = served.standing(&agent);
    assert_eq!(standing["attestation_status"], "PENDING", "{standing}");
    assert_eq!(standing["attestation_count"], 0);
    assert_eq!(
        verify(&served, "machine-1", &quote.text(), NONCE),
        json!({"valid": 1})
    );
}

#[test]
fn q07_one_byte_changed_anywhere_is_never_valid() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    served.add(&agent);
    let genuine = identity_quote(&agent.machine);
    let mut changed = 0;
    let length = |which: usize| match which {
        0 => genuine.message.len(),
        1 => genuine.signature.len(),
        _ => genuine.blob.len(),
    };
    for which in 0..3 {
        // Of the values, what is behind the only one is padding that nobody reads: the header, the
        // selection, the counts and the value itself are looked at.
        let until = if which == 2 {
            4 + 16 * 8 + 8 + 2 + 32
        } else {
            length(which)
        };
        for place in 0..until {
            // What lies behind the three bytes of the only selection in use means nothing.
            if which == 2 && (10..4 + 16 * 8).contains(&place) {
                continue;
            }
            let mut parts = genuine.clone();
            let part = match which {
                0 => &mut parts.message,
                1 => &mut parts.signature,
                _ => &mut parts.blob,
            };
            part[place] ^= 1;
            let results = verify(&served, "machine-1", &parts.text(), NONCE);
            assert!(!codes(&results).is_empty(), "part {which}, byte {place}");
            changed += 1;
        }
    }
    assert!(changed > 200, "{changed}");
    for place in 0..NONCE.len() {
        let mut nonce = NONCE.as_bytes().to_vec();
        nonce[place] ^= 1;
        let nonce = String::from_utf8(nonce).unwrap();
        let results = verify(&served, "machine-1", &genuine.text(), &nonce);
        assert_eq!(codes(&results), ["quote.nonce_mismatch"], "byte {place}");
    }
}

#[test]
fn q05_another_agents_quote_is_not_this_ones() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    let mut other = Pusher::new("machine-2");
    other.machine.ak = rat_tests::software_tpm::SoftwareAk::new(
        rat_tests::software_tpm::Scheme::Ecdsa(384),
        HashAlg::Sha256,
    );
    served.add(&agent);
    served.add(&other);
    let quote = identity_quote(&other.machine).text();
    assert_eq!(
        verify(&served, "machine-2", &quote, NONCE),
        json!({"valid": 1})
    );
    let codes = codes(&verify(&served, "machine-1", &quote, NONCE));
    assert!(!codes.is_empty());
}

#[test]
fn q09_sha1_and_unknown_hashes_are_no_hashes_of_a_quote() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    served.add(&agent);
    let quote = identity_quote(&agent.machine).text();
    for hash in ["sha1", "sha384", "md5", "SHA256 "] {
        let answer = ask(
            &served,
            &[
                ("agent_uuid", "machine-1"),
                ("quote", &quote),
                ("nonce", NONCE),
                ("hash_alg", hash),
            ],
        );
        let results = answer.json()["results"].clone();
        assert_eq!(codes(&results), ["quote.alg_not_allowed"], "{hash}");
    }
}

#[test]
fn x01_what_is_missing_or_unknown_is_said_and_broken_quotes_are_invalid() {
    let served = Served::start();
    let agent = Pusher::new("machine-1");
    served.add(&agent);
    let quote = identity_quote(&agent.machine).text();
    let all = [
        ("agent_uuid", "machine-1"),
        ("quote", &*quote),
        ("nonce", NONCE),
        ("hash_alg", "sha256"),
    ];
    for (place, (name, _)) in all.iter().enumerate() {
        let mut query = all.to_vec();
        query.remove(place);
        let answer = ask(&served, &query);
        let text = format!("missing query parameter '{name}'");
        assert_eq!(
            (answer.status, answer.json()["status"].as_str()),
            (400, Some(&*text))
        );
    }
    for unknown in ["machine-2", "no id!", "../machine-1"] {
        let mut query = all.to_vec();
        query[0].1 = unknown;
        let answer = ask(&served, &query);
        assert_eq!(answer.status, 404, "{unknown}: {}", shown(&answer));
    }
    for broken in ["r", "r::", "d:e:f", "r====:====:====", &quote[1..]] {
        let results = verify(&served, "machine-1", broken, NONCE);
        assert_eq!(codes(&results), ["quote.malformed"], "{broken}");
    }
    // Nobody's session opens what is open for all, and a wrong one closes it. (A01)
    let path = "/v2.6/verify/identity";
    let headers = ["authorization: Bearer nothing"];
    let answer = served
        .anonymous()
        .request_of_own("GET", path, &headers, b"");
    assert_eq!(answer.status, 401);
    for (path, status) in [
        ("/v2.6/verify/identity/", 400),
        ("/v2/verify/identity", 400),
        ("/v3.0/verify/identity", 404),
        ("/v2.9/verify/identity", 400),
    ] {
        let answer = served.anonymous().request_of_own("GET", path, &[], b"");
        assert_eq!(answer.status, status, "{path}");
    }
}

#[test]
fn quotes_of_swtpm_are_valid_for_their_machine_alone() {
    let served = Served::start();
    let tpm = TpmMachine::boot().unwrap();
    let agent = Pusher::new("machine-1");
    let mut body = agent.body();
    body["ak_tpm"] = json!(tpm2b(&tpm.ak_public().unwrap()));
    let added = served.ask("POST", &agent.path(), &body);
    assert_eq!(added.status, 200, "{}", shown(&added));
    served.add(&Pusher::new("machine-2"));
    let pcrs = PcrSet::from_bits(1 << 16).unwrap();
    let quote = tpm
        .quote(NONCE, pcrs, "-----BEGIN PUBLIC KEY-----")
        .unwrap();
    assert_eq!(
        verify(&served, "machine-1", &quote, NONCE),
        json!({"valid": 1})
    );
    assert!(!codes(&verify(&served, "machine-2", &quote, NONCE)).is_empty());
    let mut parts = Parts::read(&quote);
    let last = parts.signature.len() - 1;
    parts.signature[last] ^= 1;
    let results = verify(&served, "machine-1", &parts.text(), NONCE);
    assert_eq!(codes(&results), ["quote.signature"]);
}

#[test]
fn recorded_quotes_are_valid_for_the_key_that_made_them() {
    let served = Served::start();
    let recorded = RecordedQuote::read("sets/hpe-rsa-sha256-ima780-uefi/quote.json");
    let agent = Pusher::new("machine-1");
    let mut body = agent.body();
    body["ak_tpm"] = json!(BASE64.encode(recorded.ak_public.as_ref().unwrap()));
    let added = served.ask("POST", &agent.path(), &body);
    assert_eq!(added.status, 200, "{}", shown(&added));
    let banks = [(HashAlg::Sha256, recorded.values.pcrs(HashAlg::Sha256))];
    let quote = quote_text(
        &recorded.message,
        &recorded.signature,
        &pcr_blob(&banks, &recorded.values),
    );
    let nonce = String::from_utf8(recorded.nonce.unwrap()).unwrap();
    assert_eq!(
        verify(&served, "machine-1", &quote, &nonce),
        json!({"valid": 1})
    );
}
