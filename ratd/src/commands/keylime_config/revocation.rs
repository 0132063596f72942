//! How grave failures are, and who is told of them.

use rat_engine::verdict::severity::{SeverityPolicy, SeverityRule};
use serde::Deserialize;

use super::options::known;
use super::translate::{Fate, Remark, Translation};
use super::values::{names, socket, toml};

const SECTION: &str = "revocations";
const CHANNELS: &str = "enabled_revocation_notifications";

/// One of `severity_policy`.
#[derive(Deserialize)]
struct Rule {
    event_id: String,
    severity_label: String,
}

impl Translation<'_> {
    /// Labels and rules, which only make sense with each other.
    pub(super) fn severity(&mut self) {
        let (labels, rules) = ("severity_labels", "severity_policy");
        let texts = (self.text("verifier", labels), self.text("verifier", rules));
        let Some((found, policy)) = severities(texts) else {
            let what = "such that labels and rules are JSON and fit each other";
            self.invalid("verifier", labels, what);
            return self.invalid("verifier", rules, what);
        };
        let found: Vec<_> = found.iter().map(|label| toml(label)).collect();
        let policy = policy.iter().map(|rule| {
            let (event, label) = (toml(&rule.event_id), toml(&rule.severity_label));
            format!("{{ event_id = {event}, severity_label = {label} }}")
        });
        let policy: Vec<_> = policy.collect();
        for (option, key, values) in [
            (labels, "keylime.verifier.severity_labels", found),
            (rules, "keylime.verifier.severity_policy", policy),
        ] {
            let default = known("verifier", "verifier", option).and_then(|known| known.default);
            if default == Some(self.text("verifier", option)) {
                self.remark("verifier", option, Fate::Default, "as here");
            } else {
                let value = format!("[{}]", values.join(", "));
                self.set(key, value, "verifier", option);
            }
        }
    }

    /// `[revocations]`.
    pub(super) fn revocations(&mut self) {
        let mut is_on_zeromq = false;
        let given = self.given_in("verifier", SECTION, CHANNELS);
        if let Some(given) = given {
            let mut channels = Vec::new();
            let mut others = Vec::new();
            for name in names(&given.text) {
                match name {
                    "agent" | "zeromq" => channels.push(toml(name)),
                    "webhook" => {}
                    other => others.push(other),
                }
            }
            is_on_zeromq = channels.iter().any(|name| name == "\"zeromq\"");
            let key = "keylime.revocation.channels";
            let origin = format!("{SECTION}.{CHANNELS}, {}", given.origin);
            let value = format!("[{}]", channels.join(", "));
            self.draft.lines.insert(key, (value, origin));
            self.told(CHANNELS, Fate::Taken, key);
            if !others.is_empty() {
                let text = "names others than agent, zeromq and webhook";
                self.told(CHANNELS, Fate::Invalid, text);
            }
            if names(&given.text).any(|name| name == "webhook") {
                let text = "webhook is not in it: a [[webhook]] with content = \"revocation\" and a \
                            secret_file is needed first";
                self.told(CHANNELS, Fate::Insecure, text);
            }
        }
        self.zeromq(is_on_zeromq);
        let url = self.given_in("verifier", SECTION, "webhook_url");
        match url.is_some_and(|url| !url.text.is_empty()) {
            true => {
                let text = "write a [[webhook]] with content = \"revocation\", this url and a \
                            secret_file, and add webhook to keylime.revocation.channels";
                self.told("webhook_url", Fate::Elsewhere, text);
            }
            false => self.told("webhook_url", Fate::Default, "none"),
        }
    }

    fn zeromq(&mut self, is_on: bool) {
        let text = |option, default| {
            let given = self.given_in("verifier", SECTION, option);
            given.map_or(default, |value| value.text.as_str())
        };
        let (ip, port) = (text("zmq_ip", "127.0.0.1"), text("zmq_port", "8992"));
        let key = "keylime.revocation.zmq_listen";
        let (fate, text) = match socket(ip, port) {
            _ if !is_on => (Fate::Default, "zeromq is not among the channels"),
            None => (
                Fate::Invalid,
                "zmq_ip and zmq_port are no address; ratd's own stands",
            ),
            Some(socket) => {
                let origin = format!("{SECTION}.zmq_ip and zmq_port");
                let value = toml(&socket.to_string());
                self.draft.lines.insert(key, (value, origin));
                (Fate::Taken, key)
            }
        };
        for option in ["zmq_ip", "zmq_port"] {
            self.told(option, fate, text);
        }
    }

    /// A remark on an option of this section, if it is given.
    fn told(&mut self, option: &str, fate: Fate, text: &str) {
        if let Some(value) = self.given_in("verifier", SECTION, option) {
            self.draft.remarks.push(Remark {
                option: format!("{SECTION}.{option}"),
                origin: value.origin.clone(),
                fate,
                text: text.to_owned(),
            });
        }
    }
}

fn severities((labels, rules): (&str, &str)) -> Option<(Vec<String>, Vec<SeverityRule>)> {
    let labels: Vec<String> = serde_json::from_str(labels).ok()?;
    let rules: Vec<Rule> = serde_json::from_str(rules).ok()?;
    let rules = rules.into_iter().map(|rule| SeverityRule {
        event_id: rule.event_id,
        severity_label: rule.severity_label,
    });
    let rules: Vec<_> = rules.collect();
    SeverityPolicy::new(&labels, &rules).ok()?;
    Some((labels, rules))
}
