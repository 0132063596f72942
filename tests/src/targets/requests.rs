//! Targets of what clients ask of the HTTP surfaces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_api::auth::credential::Credential;
use rat_api::core::claims::Claims;
use rat_api::core::tokens::Token;
use rat_api::error::{ApiError, JsonFault};
use rat_api::json::Object;
use rat_api::limits;
use serde_json::{Value, json};

use super::one_longer;

/// Members of texts that requests have, with their limits in characters.
const TEXTS: [(&str, usize); 6] = [
    ("token", limits::TOKEN_CHARACTERS_MAX),
    ("hostname", limits::HOSTNAME_CHARACTERS_MAX),
    ("agent_uuid", limits::HOSTNAME_CHARACTERS_MAX),
    ("activation_id", limits::ACTIVATION_ID_CHARACTERS_MAX),
    ("proof", limits::PROOF_CHARACTERS_MAX),
    ("ima_log", limits::BASELINE_BODY_BYTES_MAX),
];

/// Members of bytes in base64, and a limit that is easily reached.
const BYTES: [&str; 4] = ["ek_cert", "ek_public", "ak_public", "csr"];
const BYTES_MAX: usize = 100;

/// The body of a request of the Core API: what is read of it is what any other JSON reader would
/// read, and what is not read cannot be read in one way only.
pub fn core_json(data: &[u8]) {
    let other = serde_json::from_slice::<Value>(data);
    let object = match Object::parse(data) {
        Ok(object) => object,
        Err(error) => return is_rightly_refused(&error, other.ok().as_ref(), data),
    };
    let value = other.expect("two readers of JSON disagree");
    members_equal(&object, &value);
    assert!(Object::parse(&one_longer(data)).is_err());
    let again = serde_json::to_vec(&value).unwrap();
    let again = Object::parse(&again).expect("what was read, written and read again");
    members_equal(&again, &value);
    let claims = Claims::read(&object);
    assert_eq!(claims, Claims::read(&again));
    if let Ok(claims) = claims {
        let written = written(&claims).to_string();
        let object = Object::parse(written.as_bytes()).unwrap();
        assert_eq!(Claims::read(&object), Ok(claims));
    }
}

/// A refusal is for what another reader finds too, or for what only a careful one looks for.
fn is_rightly_refused(error: &ApiError, other: Option<&Value>, data: &[u8]) {
    let text = error.to_string();
    assert!(text.len() < 200 && !text.contains(char::is_control));
    let count = |wanted: &[u8]| data.iter().filter(|byte| wanted.contains(byte)).count();
    let expected = match error {
        ApiError::NotAnObject => {
            assert!(!other.is_some_and(Value::is_object));
            422
        }
        ApiError::Json(fault) => {
            match fault {
                JsonFault::Syntax { .. } => assert_eq!(other, None),
                JsonFault::Depth => assert!(count(b"[{") > limits::JSON_DEPTH_MAX),
                JsonFault::Members => assert!(count(b",") >= limits::JSON_MEMBERS_MAX),
                JsonFault::Duplicate => assert!(count(b"\"") >= 4),
            }
            400
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(error.status().as_u16(), expected);
}

fn members_equal(object: &Object<'_>, value: &Value) {
    assert!(depth(value) <= limits::JSON_DEPTH_MAX);
    assert!(members(value) <= limits::JSON_MEMBERS_MAX);
    for (name, max) in TEXTS {
        let member = &value[name];
        assert_eq!(object.has(name), !member.is_null());
        match (object.optional_text(name, max), member) {
            (Ok(text), Value::Null) => assert_eq!(text, None),
            (Ok(text), member) => {
                assert_eq!(text, member.as_str());
                assert!(text.is_none_or(|text| text.chars().count() <= max));
            }
            (Err(error), Value::String(text)) => {
                assert_eq!(error.status().as_u16(), 422);
                assert!(text.chars().count() > max);
            }
            (Err(error), member) => {
                assert_eq!(error.status().as_u16(), 422);
                assert!(!member.is_null());
            }
        }
    }
    for name in BYTES {
        let read = object.optional_bytes(name, BYTES_MAX);
        if let Ok(Some(bytes)) = read {
            assert!(bytes.len() <= BYTES_MAX);
            assert_eq!(Some(BASE64.encode(bytes).as_str()), value[name].as_str());
        }
    }
    others_equal(object, value);
    let token = object.text("token", limits::TOKEN_CHARACTERS_MAX);
    if let Some(parsed) = token
        .as_ref()
        .ok()
        .and_then(|token| Token::parse(token).ok())
    {
        assert_eq!(
            (Ok(parsed.as_str()), parsed.id().len()),
            (token.clone(), 16)
        );
        assert!(
            !format!("{parsed:?}").contains(parsed.as_str()),
            "a secret is shown"
        );
    }
    if let Some(parsed) = token
        .as_ref()
        .ok()
        .and_then(|token| Credential::parse(token).ok())
    {
        assert_eq!((Ok(parsed.as_str()), parsed.id().len()), (token, 16));
        assert!(
            !format!("{parsed:?}").contains(parsed.as_str()),
            "a secret is shown"
        );
    }
}

/// Members that are no texts.
fn others_equal(object: &Object<'_>, value: &Value) {
    match object.optional_texts("roles", limits::ROLES_MAX) {
        Ok(None) => assert!(value["roles"].is_null()),
        Ok(Some(read)) => {
            let read: Vec<&str> = read.iter().map(AsRef::as_ref).collect();
            assert!(read.len() <= limits::ROLES_MAX);
            assert_eq!(Some(read), array_of_texts(&value["roles"]));
        }
        Err(_) => {
            let texts = array_of_texts(&value["roles"]);
            assert!(texts.is_none_or(|texts| texts.len() > limits::ROLES_MAX));
        }
    }
    match object.optional_number("ttl_hours", 0..=u64::MAX) {
        Ok(None) => assert!(value["ttl_hours"].is_null()),
        Ok(number) => assert_eq!(number, value["ttl_hours"].as_u64()),
        Err(_) => assert_eq!(value["ttl_hours"].as_u64(), None),
    }
    match object.optional_flag("disabled") {
        Ok(None) => assert!(value["disabled"].is_null()),
        Ok(flag) => assert_eq!(flag, value["disabled"].as_bool()),
        Err(_) => assert_eq!(value["disabled"].as_bool(), None),
    }
}

fn array_of_texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// How deeply a value is nested; one object has one level.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(values) => values.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0) + 1
}

/// Members of the largest object.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(members).max().unwrap_or(0),
        Value::Object(object) => {
            let inner = object.values().map(members).max().unwrap_or(0);
            object.len().max(inner)
        }
        _ => 0,
    }
}

/// The request that makes these claims.
fn written(claims: &Claims) -> Value {
    let mut request = json!({
        "agent_uuid": claims.agent.as_str(),
        "hostname": claims.hostname,
        "ek_public": BASE64.encode(&claims.ek_public),
        "ak_public": BASE64.encode(&claims.ak_public),
        "csr": BASE64.encode(&claims.csr),
    });
    if let Some(certificate) = &claims.ek_certificate {
        request["ek_cert"] = BASE64.encode(certificate).into();
    }
    request
}

/// A registration with Keylime's registrar, as a body in JSON. What fits together fits together again,
/// with whatever stands between its members.
pub fn keylime_registration(data: &[u8]) {
    if !rat_api::keylime::registrar::check_body(data) {
        return;
    }
    let value: Value = serde_json::from_slice(data).expect("it was read");
    assert!(value["ek_tpm"].is_string() && value["aik_tpm"].is_string());
    let spaced = serde_json::to_vec_pretty(&value).expect("a value is written");
    assert!(rat_api::keylime::registrar::check_body(&spaced));
}
