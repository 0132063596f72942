//! Keylime's registrar, attacked and used over its two listeners.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]
// swtpm's certificates begin at the moment of their making.
#![allow(clippy::disallowed_types)]

#[path = "attacks_keylime_registrar/admins.rs"]
mod admins;
#[path = "attacks_keylime_registrar/devices.rs"]
mod devices;
#[path = "attacks_keylime_registrar/identities.rs"]
mod identities;
#[path = "attacks_keylime_registrar/paths.rs"]
mod paths;
#[path = "attacks_keylime_registrar/real_tpms.rs"]
mod real_tpms;
#[path = "attacks_keylime_registrar/requests.rs"]
mod requests;
#[path = "attacks_keylime_registrar/staging.rs"]
mod staging;
#[path = "attacks_keylime_registrar/transcripts.rs"]
mod transcripts;

use rat_tests::http_client::Answer;
use serde_json::Value;

/// Status and the text beside it; the empty text without a body.
fn told(answer: &Answer) -> (u16, String) {
    if answer.body.is_empty() {
        return (answer.status, String::new());
    }
    let body = answer.json();
    assert_eq!(body["code"], answer.status);
    let text = body["status"].as_str().unwrap().to_owned();
    (answer.status, text)
}

/// What is refused without a word.
#[track_caller]
fn assert_empty(answer: &Answer, status: u16) {
    assert_eq!((answer.status, answer.body.as_slice()), (status, &b""[..]));
    assert!(answer.header("x-request-id").is_some());
}

const INVALID: (u16, &str) = (400, "Could not register agent with invalid data");

#[track_caller]
fn assert_invalid(answer: &Answer) {
    let (status, text) = told(answer);
    assert_eq!((status, text.as_str()), INVALID);
    assert_eq!(answer.json()["results"], Value::Object(Default::default()));
}
