//! What real clients and servers of Keylime were recorded to say; `tests/vectors/README.md` says
//! where it comes from.

use serde_json::Value;

use crate::workspace_root;

/// A recorded exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Whether the client had a certificate.
    pub is_admin: bool,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header lines of the request, without those that a connection has.
    pub headers: Vec<String>,
    /// Its body.
    pub body: String,
    /// The status of the answer.
    pub status: u16,
    /// Its body.
    pub answer: String,
}

/// A file of `tests/vectors/keylime`.
pub fn recorded(name: &str) -> Vec<Exchange> {
    let path = workspace_root().join("tests/vectors/keylime").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let exchanges = text.split("======== ").skip(1).map(|part| {
        let (about, rest) = part.split_once(">>> REQUEST\n").unwrap();
        let (request, answer) = rest.split_once("\n<<< RESPONSE\n").unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let (method, path) = (first.next().unwrap(), first.next().unwrap());
        let is_sent = |line: &&str| {
            let name = line.split(':').next().unwrap().to_ascii_lowercase();
            !matches!(name.as_str(), "host" | "content-length" | "connection")
        };
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, answer) = answer.split_once("\n\n").unwrap();
        Exchange {
            is_admin: about.contains("client_cert=subject"),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: lines.filter(is_sent).map(str::to_owned).collect(),
            body: body.trim_end().to_owned(),
            status,
            answer: answer.trim().to_owned(),
        }
    });
    exchanges.collect()
}

impl Exchange {
    /// Its header lines.
    pub fn headers(&self) -> Vec<&str> {
        self.headers.iter().map(String::as_str).collect()
    }

    /// Whether it is of this method, and of a path with this end.
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.ends_with(path)
    }

    /// The answer as it was recorded; null when it was no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.answer).unwrap_or(Value::Null)
    }

    /// The request's body; null when it was no JSON.
    pub fn asked(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Members whose values are of their moment: they are compared by their kind.
const OF_THEIR_MOMENT: [&str; 31] = [
    "attestation_count",
    "attestation_period",
    "attestation_status",
    "capabilities_received_at",
    "challenge",
    "challenges_expire_at",
    "created_at",
    "detail",
    "enc_alg",
    "evaluation",
    "evidence",
    "evidence_received_at",
    "hash_alg",
    "id",
    "last_event_id",
    "last_received_quote",
    "last_successful_attestation",
    "maximum_attestation_interval",
    "message",
    "operational_state",
    "response_received_at",
    "seconds_to_next_attestation",
    "self",
    "severity_level",
    "sign_alg",
    "signature",
    "starting_offset",
    "status",
    "token",
    "token_expires_at",
    "verifier_id",
];

/// Those of them that are null before something happened.
const NULL_BEFORE: [&str; 3] = ["last_event_id", "operational_state", "severity_level"];

/// Members of the answer to evidence that agents do not read, and that are left out with the
/// evidence itself.
const NOT_READ: [&str; 3] = [
    "capabilities_received_at",
    "challenges_expire_at",
    "system_info",
];

/// Where an answer lacks what a client reads in the recorded one: members that are not there, of
/// another kind, or of another value. More members than were recorded are none.
pub fn missing(recorded: &Value, answered: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(recorded, answered, &mut Vec::new(), &mut found);
    found
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn compare(recorded: &Value, answered: &Value, at: &mut Vec<String>, found: &mut Vec<String>) {
    let is_one_of = |names: &[&str]| at.last().is_some_and(|it| names.contains(&it.as_str()));
    let may_be_null = is_one_of(&NULL_BEFORE);
    let is_of_its_moment = is_one_of(&OF_THEIR_MOMENT);
    match (recorded, answered) {
        // Another PCR may be asked for beside them.
        (Value::Array(recorded), Value::Array(answered))
            if at.iter().any(|it| it == "selected_subjects")
                && recorded.iter().all(|pcr| answered.contains(pcr)) => {}
        (Value::Object(recorded), Value::Object(answered)) => {
            let is_evaluated = recorded.get("stage") == Some(&"evaluating_evidence".into());
            for (name, value) in recorded {
                at.push(name.clone());
                match answered.get(name) {
                    Some(answered) => compare(value, answered, at, found),
                    None if is_evaluated && NOT_READ.contains(&name.as_str()) => {}
                    None => found.push(format!("{} is not there", at.join("."))),
                }
                at.pop();
            }
        }
        (Value::Array(_), Value::Array(_)) if is_of_its_moment => {}
        (Value::Array(recorded), Value::Array(answered)) if recorded.len() == answered.len() => {
            for (recorded, answered) in recorded.iter().zip(answered) {
                compare(recorded, answered, at, found);
            }
        }
        (recorded, answered) if recorded == answered => {}
        (Value::Null, _) | (_, Value::Null) if may_be_null => {}
        (recorded, answered) if is_of_its_moment && kind(recorded) == kind(answered) => {}
        (recorded, answered) => {
            found.push(format!(
                "{}: {recorded} was recorded, not {answered}",
                at.join(".")
            ));
        }
    }
}
