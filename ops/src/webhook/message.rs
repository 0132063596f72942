//! What a webhook is told.

use rat_engine::calendar::rfc3339;
use rat_engine::shard::EffectiveStatus;
use rat_engine::verdict::Code;
use rat_store::StatusChange;
use serde::Serialize;

/// The body of a message about an agent's status.
#[derive(Serialize)]
struct StatusMessage<'a> {
    id: &'a str,
    r#type: &'static str,
    time: Option<String>,
    agent_id: &'a str,
    hostname: Option<&'a str>,
    policy_group_id: &'a str,
    policy_id: Option<String>,
    from: Option<&'static str>,
    to: &'static str,
    code: Option<&'static str>,
    detail: Option<&'a str>,
}

/// The body of a test.
#[derive(Serialize)]
struct TestMessage<'a> {
    id: &'a str,
    r#type: &'static str,
    time: Option<String>,
    webhook: &'a str,
}

/// Why an agent has the status that it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Why {
    pub(super) code: Option<Code>,
    pub(super) detail: String,
}

/// A random id for a message; the same in all attempts. `None` when there are no random numbers.
pub(crate) fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

/// The body that tells of a change.
pub(super) fn status(id: &str, change: &StatusChange<'_>, why: &Why, now_unix_ms: u64) -> String {
    let group = change.group.as_str();
    let message = StatusMessage {
        id,
        r#type: "agent.status",
        time: rfc3339(now_unix_ms),
        agent_id: change.agent.as_str(),
        hostname: Some(change.hostname.as_str()).filter(|name| !name.is_empty()),
        policy_group_id: group,
        policy_id: change
            .enforced_version
            .map(|version| format!("p-{group}-{version:03}")),
        from: change.from.map(EffectiveStatus::as_str),
        to: change.to.as_str(),
        code: why.code.map(|code| code.as_str()),
        detail: Some(why.detail.as_str()).filter(|detail| !detail.is_empty()),
    };
    text(&message)
}

/// The body of a test.
pub(super) fn test(id: &str, webhook: &str, now_unix_ms: u64) -> String {
    text(&TestMessage {
        id,
        r#type: "webhook.test",
        time: rfc3339(now_unix_ms),
        webhook,
    })
}

/// Serialising our own types of strings cannot fail.
fn text(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rat_engine::agent_id::AgentId;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn x07_hostile_names_are_escaped_and_stay_what_they_are() {
        let agent = AgentId::parse("m1").unwrap();
        let hostile = "\u{0}\u{1b}[31m\r\n\"},{\\\u{2028}<script>\u{202e}\u{7f}";
        let change = StatusChange {
            note: 0,
            agent: &agent,
            hostname: hostile.to_owned(),
            group: "web".to_owned(),
            enforced_version: Some(3),
            from: Some(EffectiveStatus::Trusted),
            to: EffectiveStatus::Untrusted,
        };
        let why = Why {
            code: Some(Code::ImaPathNotListed),
            detail: hostile.to_owned(),
        };
        let body = status("0a", &change, &why, 1_767_225_599_000);
        assert!(!body.bytes().any(|byte| byte < b' '), "{body:?}");
        let read: Value = serde_json::from_str(&body).unwrap();
        let expected = json!({
            "id": "0a",
            "type": "agent.status",
            "time": "2025-12-31T23:59:59Z",
            "agent_id": "m1",
            "hostname": hostile,
            "policy_group_id": "web",
            "policy_id": "p-web-003",
            "from": "trusted",
            "to": "untrusted",
            "code": "ima.path_not_listed",
            "detail": hostile,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let agent = AgentId::parse("m1").unwrap();
        let change = StatusChange {
            note: 0,
            agent: &agent,
            hostname: String::new(),
            group: "web".to_owned(),
            enforced_version: None,
            from: None,
            to: EffectiveStatus::Overdue,
        };
        let body = status("0a", &change, &Why::default(), 1);
        let read: Value = serde_json::from_str(&body).unwrap();
        for member in ["hostname", "policy_id", "from", "code", "detail"] {
            assert_eq!(read[member], Value::Null, "{member}");
        }
        assert_eq!(read.as_object().unwrap().len(), 11);
    }

    #[test]
    fn ids_are_random() {
        let ids = [new_id().unwrap(), new_id().unwrap()];
        assert_ne!(ids[0], ids[1]);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
