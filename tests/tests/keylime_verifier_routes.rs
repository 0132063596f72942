//! Routes of the verifier for whoever asks: `GET /v2.6/verify/identity`, whether a quote is of an
//! agent that the verifier knows, and the roots of versions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use rat_tests::evidence::{Machine, Submission};
use rat_tests::http_client::Answer;
use rat_tests::keylime::{NONCE, pcr_blob, quote_text};
use rat_tests::keylime_verifier::{Pusher, Served, shown};
use serde_json::json;

fn text(machine: &Machine, submission: &Submission) -> String {
    let blob = pcr_blob(&machine.banks, &submission.values);
    quote_text(&submission.quote, &submission.signature, &blob)
}

fn ask(served: &Served, id: &str, quote: &str, nonce: &str, hash_alg: &str) -> Answer {
    let quote = quote
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let query = format!("agent_uuid={id}&quote={quote}&nonce={nonce}&hash_alg={hash_alg}");
    let path = format!("/v2.6/verify/identity?{query}");
    served.anonymous().request_of_own("GET", &path, &[], b"")
}

#[test]
fn q01_q11_a_quote_is_of_the_agent_whose_key_signed_it_over_this_nonce() {
    let served = Served::start();
    let agent = Pusher::new("known");
    served.add(&agent);
    let machine = &agent.machine;
    let genuine = machine.attest(NONCE.as_bytes());
    let answer = ask(&served, "known", &text(machine, &genuine), NONCE, "sha256");
    assert_eq!(
        (answer.status, answer.json()["results"].clone()),
        (200, json!({"valid": 1}))
    );

    let mut flipped = genuine.clone();
    *flipped.signature.last_mut().unwrap() ^= 1;
    let mut values = genuine.clone();
    values.values = machine.clone().with(|it| it.list.truncate(1)).values();
    let stranger = Machine::valid();
    let anothers = text(&stranger, &stranger.attest(NONCE.as_bytes()));
    for (quote, nonce, hash_alg, reason) in [
        (
            text(machine, &genuine),
            "anothernonce",
            "sha256",
            "quote.nonce_mismatch",
        ),
        (text(machine, &flipped), NONCE, "sha256", "quote.signature"),
        (anothers, NONCE, "sha256", "quote.signature"),
        (
            text(machine, &values),
            NONCE,
            "sha256",
            "pcr.digest_mismatch",
        ),
        (
            text(machine, &genuine),
            NONCE,
            "sha384",
            "quote.alg_not_allowed",
        ),
        (
            text(machine, &genuine),
            NONCE,
            "md5",
            "quote.alg_not_allowed",
        ),
        ("r::".to_owned(), NONCE, "sha256", "quote.malformed"),
    ] {
        let answer = ask(&served, "known", &quote, nonce, hash_alg);
        let results = answer.json()["results"].clone();
        assert_eq!(
            (answer.status, &results["valid"]),
            (200, &json!(0)),
            "{reason}"
        );
        let told = results["reason"].as_str().unwrap();
        assert!(told.contains(reason), "{reason}: {told}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_said_and_nothing_else_is_judged() {
    let served = Served::start();
    let agent = Pusher::new("known");
    served.add(&agent);
    let quote = text(&agent.machine, &agent.machine.attest(NONCE.as_bytes()));
    let unknown = ask(&served, "nobody", &quote, NONCE, "sha256");
    assert_eq!(
        (unknown.status, &unknown.json()["status"]),
        (404, &json!("agent id not found"))
    );
    let all = ["agent_uuid=known", "quote=r", "nonce=n", "hash_alg=sha256"];
    for missing in 0..all.len() {
        let rest = all.iter().enumerate().filter(|(nth, _)| *nth != missing);
        let query: Vec<&str> = rest.map(|(_, it)| *it).collect();
        let path = format!("/v2.6/verify/identity?{}", query.join("&"));
        let answer = served.anonymous().request_of_own("GET", &path, &[], b"");
        let name = all[missing].split('=').next().unwrap();
        assert_eq!(answer.status, 400, "{}", shown(&answer));
        let expected = format!("missing query parameter '{name}'");
        assert_eq!(answer.json()["status"], expected.as_str());
    }
    let twice =
        "/v2.6/verify/identity?agent_uuid=known&agent_uuid=other&quote=r&nonce=n&hash_alg=sha256";
    let twice = served.anonymous().request_of_own("GET", twice, &[], b"");
    // As everywhere in Keylime, the last one counts.
    assert_eq!(twice.status, 404, "{}", shown(&twice));
    // What it found out changes nothing of the agent.
    assert_eq!(served.standing(&agent)["attestation_count"], 0);
}

#[test]
fn roots_of_versions_say_where_the_routes_are() {
    let served = Served::start();
    let ask = |path: &str| served.anonymous().request_of_own("GET", path, &[], b"");
    let begin = ask("/");
    assert_eq!(
        (begin.status, begin.header("location")),
        (307, Some("/v3.0/"))
    );
    for (path, status) in [
        ("/v3.0/", 200),
        ("/v2.6/", 405),
        ("/v1.0/", 404),
        ("/v9/", 404),
    ] {
        let answer = ask(path);
        assert_eq!(answer.status, status, "{path}: {}", shown(&answer));
    }
    let told = ask("/v2.6/").json()["status"].clone();
    assert_eq!(told, "Not Implemented: Use /agents/ interface instead");
    // Version 3's routes for tenants are none of Keylime's either.
    for path in ["/v3.0/agents", "/v3.0/refstates/uefi", "/v3.0/policies/ima"] {
        let answer = served.admin().request_of_own("GET", path, &[], b"");
        assert_eq!(answer.status, 404, "{path}: {}", shown(&answer));
    }
}
