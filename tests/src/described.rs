//! Answers, held against the OpenAPI document in the repository.

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
        return fits(&shape, answer, &what);
    };
    let responses = &operation["responses"];
    let class = format!("{}XX", answer.status / 100);
    let described = [answer.status.to_string(), class]
        .iter()
        .find_map(|status| responses.get(status));
    let described = described.unwrap_or_else(|| panic!("{what} is not described"));
    let Some(contents) = described.get("content").and_then(Value::as_object) else {
        return assert!(answer.body.is_empty(), "{what} should have no body");
    };
    let content_type = answer.header("content-type").unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap();
    let content = contents.get(content_type);
    let content = content.unwrap_or_else(|| panic!("{what} is {content_type:?}"));
    if content_type == "application/json" {
        fits(&content["schema"], answer, &what);
    }
}

/// The operation of the template that has the fewest parameters.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    // A collection's path is taken without its slash, too.
    let with_slash = format!("{path}/");
    let mut found: Vec<_> = paths
        .iter()
        .filter(|(template, _)| matches(template, path) || **template == with_slash)
        .collect();
    found.sort_by_key(|(template, _)| template.matches('{').count());
    found.first()?.1.get(method.to_lowercase())
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
fn fits(schema: &Value, answer: &Answer, what: &str) {
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
    let body = answer.json();
    let faults: Vec<String> = validator
        .iter_errors(&body)
        .map(|error| error.to_string())
        .collect();
    assert!(faults.is_empty(), "{what}: {faults:?}: {body}");
}
