//! Requests and answers, held against the OpenAPI document in the repository.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::http_client::Answer;
use crate::workspace_root;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = workspace_root().join("docs/openapi.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
});

/// Validators by their schema's text: to make one takes longer than to use it.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// Panics unless the answer to a request is one that the document describes. Where the document
/// has no such path or method, the answer must be a refusal in the shape of its API.
#[track_caller]
pub fn check(method: &str, target: &str, answer: &Answer) {
    // A connection that ended without an answer.
    if answer.status == 0 {
        return;
    }
    let path = target.split('?').next().unwrap();
    let operation = operation(method, path);
    let what = format!("{method} {path}: {}", answer.status);
    let Some(operation) = operation else {
        assert!(answer.status >= 400, "{what} is not described");
        let shape = match path.starts_with("/api/v1/") {
            true => "AccountError",
            false => "Error",
        };
        let shape = json!({"$ref": format!("#/components/schemas/{shape}")});
        return fits(&shape, &answer.json(), &what);
    };
    let responses = &operation["responses"];
    let described = responses.get(answer.status.to_string());
    let described = described.unwrap_or_else(|| {
        let body = String::from_utf8_lossy(&answer.body);
        panic!("{what} is not described: {body:.200}")
    });
    let Some(contents) = described.get("content").and_then(Value::as_object) else {
        return assert!(answer.body.is_empty(), "{what} should have no body");
    };
    let content_type = answer.header("content-type").unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap();
    let content = contents.get(content_type);
    let content = content.unwrap_or_else(|| panic!("{what} is {content_type:?}"));
    if content_type == "application/json" {
        fits(&content["schema"], &answer.json(), &what);
    }
}

/// Every operation, as `GET /agents/{agent_id}`.
pub fn operations() -> Vec<String> {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    let of_path = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys();
        let named = methods.map(|method| format!("{} {path}", method.to_uppercase()));
        named.collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}

/// Panics unless the document describes this request: its path, the parameters of its query, and
/// each member of its body. Returns the name of the operation.
#[track_caller]
pub fn check_request(method: &str, target: &str, body: &[u8]) -> String {
    let path = target.split('?').next().unwrap();
    check_members(method, target, body);
    format!("{method} {}", template(path).unwrap())
}

#[track_caller]
fn check_members(method: &str, target: &str, body: &[u8]) {
    let what = format!("{method} {target}");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let operation = operation(method, path).unwrap_or_else(|| panic!("{what} is not described"));
    let parameters = operation["parameters"].as_array();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split('=').next().unwrap();
        let is_it = |known: &Value| known["in"] == "query" && known["name"] == name;
        let is_known = parameters.is_some_and(|known| known.iter().any(is_it));
        assert!(is_known, "{what}: {name} is not described");
    }
    let described = &operation["requestBody"];
    if body.is_empty() {
        return assert_ne!(described["required"], true, "{what} should have a body");
    }
    let body: Value = serde_json::from_slice(body).unwrap();
    let members = body.as_object().unwrap();
    if described.is_null() {
        return assert!(members.is_empty(), "{what} should have no body: {body}");
    }
    let schema = &described["content"]["application/json"]["schema"];
    fits(schema, &body, &what);
    let known = &resolved(schema)["properties"];
    for name in members.keys() {
        assert!(!known[name].is_null(), "{what}: {name} is not described");
    }
}

/// A body with all members that the document describes for success; `None` for none.
pub fn sample(method: &str, target: &str) -> Option<Value> {
    let operation = operation(method, target.split('?').next().unwrap())?;
    let mut responses = operation["responses"].as_object().unwrap().iter();
    let success = responses.find(|(status, _)| status.starts_with('2'));
    let schema = &success.unwrap().1["content"]["application/json"]["schema"];
    (!schema.is_null()).then(|| sample_of(schema))
}

fn resolved(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(name) => DOCUMENT.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Texts are `x`, numbers 1; of alternatives the first.
fn sample_of(schema: &Value) -> Value {
    let schema = resolved(schema);
    if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = json!({});
        for part in parts {
            let Value::Object(part) = sample_of(part) else {
                panic!("no object: {part}")
            };
            whole.as_object_mut().unwrap().extend(part);
        }
        return whole;
    }
    if let Some(first) = schema["oneOf"].get(0).or(schema["enum"].get(0)) {
        return match first {
            Value::Object(_) => sample_of(first),
            value => value.clone(),
        };
    }
    let kind = &schema["type"];
    match kind.get(0).unwrap_or(kind).as_str() {
        Some("string") if schema["format"] == "date-time" => json!("2026-01-31T00:00:00Z"),
        Some("string") => json!("x"),
        Some("integer") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([sample_of(&schema["items"])]),
        Some("object") => {
            let members = schema["properties"].as_object().into_iter().flatten();
            let members = members.map(|(name, member)| (name.clone(), sample_of(member)));
            Value::Object(members.collect())
        }
        other => panic!("what is {other:?}? {schema}"),
    }
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    DOCUMENT["paths"][template(path)?].get(method.to_lowercase())
}

/// The template of this path, however it is written, that has the fewest parameters.
fn template(path: &str) -> Option<&'static str> {
    let templates = DOCUMENT["paths"].as_object().unwrap().keys();
    templates
        .filter(|template| spellings(template).any(|spelling| matches(spelling, path)))
        .min_by_key(|template| template.matches('{').count())
        .map(String::as_str)
}

/// A template, and the other ways to write it.
fn spellings(template: &str) -> impl Iterator<Item = &str> {
    let aliases = rat_api::core::ALIASES.iter();
    let aliases = aliases.filter(move |(canonical, _)| *canonical == template);
    std::iter::once(template).chain(aliases.flat_map(|(_, aliases)| aliases.iter().copied()))
}

fn matches(template: &str, path: &str) -> bool {
    let (wanted, found) = (template.split('/'), path.split('/'));
    let is_same = wanted.clone().count() == found.clone().count();
    is_same
        && wanted
            .zip(found)
            .all(|(wanted, found)| wanted == found || wanted.starts_with('{') && !found.is_empty())
}

#[track_caller]
fn fits(schema: &Value, body: &Value, what: &str) {
    let key = schema.to_string();
    let validator = VALIDATORS.lock().unwrap().get(&key).cloned();
    let validator = validator.unwrap_or_else(|| {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        let made = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&whole);
        let made = Arc::new(made.unwrap_or_else(|error| panic!("{what}: {error}")));
        VALIDATORS.lock().unwrap().insert(key, Arc::clone(&made));
        made
    });
    let faults: Vec<String> = validator
        .iter_errors(body)
        .map(|error| error.to_string())
        .collect();
    assert!(faults.is_empty(), "{what}: {faults:?}: {body}");
}
