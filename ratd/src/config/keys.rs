//! Every configuration key with its meaning: the reference page is made of this.

use std::fmt::Write;

use figment::value::Value;

use super::Config;

/// One key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Its name, with its section.
    pub(crate) name: &'static str,
    /// What it means, in what unit, and what an empty or zero value stands for.
    pub(crate) meaning: &'static str,
}

impl Key {
    /// The variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("RATD_{}", self.name.replace('.', "_").to_uppercase())
    }
}

macro_rules! keys {
    ($($name:literal: $meaning:literal;)*) => {
        /// All keys, in the order of their documentation.
        pub(crate) const KEYS: &[Key] = &[$(Key { name: $name, meaning: $meaning },)*];
    };
}

keys! {
    "data_dir": "Where records and the CA are. Mode 0700; one server at a time. \
        Without it `$STATE_DIRECTORY`, as systemd sets it, if there is one.";
    "address": "The IP address or name under which agents and people reach this server. It stands \
        in the server's certificate and in what enrolling machines are told.";
    "core.listen": "Where the Core API, `/metrics`, `/livez` and `/readyz` are served.";
    "core.plain_http": "`true` serves plain HTTP there instead of TLS; only on a loopback address, \
        for a proxy on this machine. `/metrics` is then open to whatever the \
        proxy lets through, and all clients share the limits of one address.";
    "core.public_url": "The URL that clients are told. Empty: `https://`, `address`, and the port \
        of `core.listen`.";
    "core.requests_per_address_per_second": "Requests that one address (IPv6: one /64 network) may \
        make each second; four times as many at once. An enrolment takes three: raise it where \
        many machines share an address.";
    "evidence.listen": "The UDP address on which agents deliver evidence over QUIC.";
    "evidence.addresses": "`host:port` of the evidence listener as agents reach it, in order of \
        preference. Empty: `address` and the port of `evidence.listen`.";
    "evidence.connections": "Agents that may be connected at once, at about 40 KiB each.";
    "evidence.connections_per_address": "Of these, from one address (IPv6: one /64 network).";
    "evidence.handshakes_per_address": "Handshakes that may be under way at once from one address \
        (IPv6: one /64 network); more are refused. Raise it where a large fleet behind one address \
        connects at once.";
    "keylime.listen": "Where Keylime's verifier API is served, over TLS: `127.0.0.1:8881`, say. The \
        address of `core.listen` adds it there. Empty: nowhere, because whoever reaches it may ask \
        for evidence to be verified.";
    "keylime.requests_per_address_per_second": "As `core.requests_per_address_per_second`, counted \
        apart from that.";
    "keylime.verifications": "Evidence with logs or a runtime policy that is judged at once, beside \
        that of enrolled agents. 0: half as many as cores, one at least.";
    "keylime.registrar.listen": "Where Keylime's registrar is served to agents over plain HTTP, which \
        is how they speak by default: `127.0.0.1:8890`, say. Nothing that they send counts before \
        their TPM has proven it. Empty: nowhere.";
    "keylime.registrar.tls_listen": "Where it is served over TLS, to agents and, with a client \
        certificate of the CA in `cv_ca`, to tenants: `127.0.0.1:8891`, say. Empty: nowhere.";
    "keylime.registrar.ek_check": "What happens to a machine for whose endorsement key neither \
        `identity.ek_ca` nor `identity.ek_list` vouches. `enforce`: it is refused, and one of the two \
        must be there. `warn`: it registers, and log and metrics say so. `off`: nobody looks, as in \
        Keylime, where tenants do.";
    "keylime.registrar.tpm_identity": "What must identify a machine: `ek_cert_or_iak_idevid`, `ek_cert` \
        or `iak_idevid`. IAK and IDevID need certificates below `identity.ek_ca`.";
    "keylime.registrar.shared_ek": "`true` lets one TPM register under several ids.";
    "keylime.verifier.listen": "Where Keylime's verifier is served over TLS, to tenants with a client \
        certificate of the CA in `cv_ca` and to agents that push: `127.0.0.1:8881`, say. It verifies \
        evidence for anybody, too. Empty: nowhere.";
    "keylime.verifier.mode": "How evidence of agents comes that tenants add. `push`: all of them push. \
        `auto`: an agent with an address and a certificate is polled, the others push.";
    "keylime.verifier.uuid": "What `verifier_id` says, as Keylime's `uuid`.";
    "keylime.verifier.quote_interval_seconds": "Seconds from one attestation of an agent to its next: it \
        is told when to come. One that nothing was heard of for five of them is not trusted any more.";
    "keylime.verifier.challenge_lifetime_seconds": "Seconds in which an agent must send what it was \
        asked for; never more than four intervals.";
    "keylime.verifier.session_lifetime_seconds": "Seconds that an agent's token lasts after it was \
        granted, and after each attestation that passed.";
    "keylime.verifier.auto_recover_attestation_failures": "`true` trusts an agent again that failed and \
        passes. `false` waits for an operator, or for a change of the policy that it failed under.";
    "keylime.verifier.accept_violations": "`true` accepts files of the measurement list that were open \
        for writing when they were measured, as Keylime does by default.";
    "keylime.verifier.require_allow_list_signatures": "`true` refuses runtime policies that are not \
        signed (DSSE) by the key that comes with them.";
    "keylime.verifier.severity_labels": "What failures of agents are called, the least grave first. \
        `severity_level` is the place in this list.";
    "keylime.verifier.severity_policy": "Which failure has which label: \
        `[{event_id = \"ima[.].*\", severity_label = \"warning\"}, ...]`. The first rule counts whose \
        regular expression is the whole event id; without one, the gravest label. A polled agent that \
        fails gravely, or whose evidence cannot be judged to its end, is not polled again until it is \
        reactivated or its policy changes.";
    "keylime.measured_boot_policy_name": "The policy by which the content of boot logs is judged, \
        where there is a reference state: `accept-all`, `reject-all` or `example`. The log must \
        replay to the quoted PCRs with each of them.";
    "keylime.measured_boot_evaluate": "`always`: an agent with a reference state sends its boot \
        log with every quote, and `example` judges it. `once`: with the first of each boot, and after a \
        change of the reference state; none that comes with `verify/evidence` is judged then, as in \
        Keylime.";
    "keylime.pull.certificate": "A file with the certificate (PEM) that Keylime's agents are shown \
        when they are polled: one that their `trusted_client_ca` vouches for. Empty: \
        `cv_ca/client-cert.crt` in the data directory, with its key, if there is one; none otherwise, \
        which they refuse.";
    "keylime.pull.key": "A file with its private key (PEM), not encrypted.";
    "keylime.pull.plain_http": "`true` polls agents that have no certificate (`mtls_cert` \
        `disabled`) over plain HTTP. Without, they are not polled.";
    "keylime.pull.retry_interval_seconds": "An agent that gives no evidence is asked again after so \
        many seconds, to the power of its failures in a row; the longest pause is a minute, or its \
        interval.";
    "keylime.pull.exponential_backoff": "`false` leaves that pause the same.";
    "keylime.pull.exchanges": "Polls that may be under way at once.";
    "keylime.revocation.channels": "Who is told of an agent that failed, or that attested and is not \
        heard of any more: `agent`, all other agents that are polled; `zeromq`, whoever subscribes at \
        `keylime.revocation.zmq_listen`; `webhook`, each `[[webhook]]` whose `content` is `revocation`. \
        Nobody where `keylime.verifier.listen` is empty.";
    "keylime.revocation.zmq_listen": "Where revocations are published over ZeroMQ, to everybody: what \
        they say is signed with the agent's `revocation_key`.";
    "identity.ek_ca": "Files or folders of CA certificates (PEM or DER) that vouch for TPMs. \
        Empty: no certificate vouches for any.";
    "identity.ek_list": "Files with the SHA-256 of an endorsement key on each line: TPMs that are \
        known without a certificate, or that a group with `approval = list` takes.";
    "identity.server_names": "More names and IP addresses for the server's certificate.";
    "attestation.interval_ms": "Milliseconds from one challenge of an agent to the next. Failed \
        agents are asked at a sixth of that rate. A group can have an interval of its own.";
    "attestation.challenge_deadline_ms": "Milliseconds in which an agent must answer a challenge, \
        beside the time that its log takes to upload.";
    "attestation.max_age_ms": "Milliseconds after which trust ends unless it was earned again. At \
        least the interval and the deadline together. In a group with an interval of its own, it is \
        three of these.";
    "attestation.mode": "`stay`: agents keep their connection between challenges. `leave`: they \
        come back when they are due.";
    "runtime.workers": "Threads that drive shards. 0: as many as cores, less one of every four.";
    "runtime.arith_threads": "Threads that verify signatures and replay logs. 0: as many as cores.";
    "runtime.io_threads": "Threads that serve connections. 0: as many as cores, four at most.";
    "runtime.ima_cache_bytes": "Bytes for what the measurement lists of the fleet have in common \
        ([how](../adr/005-caches-of-measured-events.md)): about 250 for each distinct file. \
        `attest_ima_cache_total` shows whether they are enough.";
    "runtime.ima_cache_agent_bytes": "Of these, what one machine alone may fill. At most a quarter.";
    "log.format": "`text` or `json`, on standard error.";
    "log.level": "`error`, `warn`, `info`, `debug` or `trace`; or a list of `target=level`.";
    "drain.deadline_ms": "Milliseconds that everything under way has to end after SIGTERM: \
        requests and conversations with agents have half of it, commits what is left.";
    "webhook": "Who is told of changed statuses: a table `[[webhook]]` for each, with the members \
        below.";
}

/// The members of a `[[webhook]]`, in the order of their documentation. Those without a default
/// must be there.
pub(crate) const WEBHOOK_MEMBERS: &[Key] = &[
    Key {
        name: "name",
        meaning: "Its name in the API, in metrics and in logs: of `a-z`, `0-9` and `-`. What waits \
            for a webhook hangs on its name: under another one, or none, it is dropped.",
    },
    Key {
        name: "url",
        meaning: "Where messages are posted: `https://host[:port]/path`.",
    },
    Key {
        name: "secret_file",
        meaning: "A file with the key that messages are signed with, 32 bytes or more (`openssl \
            rand -hex 32`), which only its owner can read. The end of its line is not part of it.",
    },
    Key {
        name: "ca_file",
        meaning: "CAs (PEM) that vouch for the receiver, in place of those of the system.",
    },
    Key {
        name: "content",
        meaning: "What it is told: `status`, changes of agents' statuses; or `revocation`, failures of \
            Keylime's agents as Keylime's own webhook is told of them. Then `groups` and `statuses` \
            are empty.",
    },
    Key {
        name: "groups",
        meaning: "Groups whose agents it is told of. Empty: all.",
    },
    Key {
        name: "statuses",
        meaning: "Effective statuses that it is told of when an agent gets them. Empty: all.",
    },
    Key {
        name: "allow",
        meaning: "Networks (`10.1.0.0/16`) that it may be at. Addresses that are not of the public \
            Internet are refused without, whatever name leads there.",
    },
    Key {
        name: "plain_http",
        meaning: "`true` allows a URL that begins with `http://`, at a loopback address, which \
            must be in `allow` too.",
    },
    Key {
        name: "timeout_ms",
        meaning: "Milliseconds that one attempt may take, name resolution and TLS included. At \
            most 20000.",
    },
    Key {
        name: "attempts_max",
        meaning: "Attempts after which a message is given up.",
    },
    Key {
        name: "give_up_after_hours",
        meaning: "Hours after which a message that is not taken is given up. At most 720.",
    },
];

/// The value of a key in a configuration, as TOML writes it.
pub(crate) fn value_text(config: &Config, name: &str) -> Option<String> {
    let value = Value::serialize(config).ok()?;
    value.find_ref(name).map(text)
}

/// Every key that a configuration has.
#[cfg(test)]
fn names_in(config: &Config) -> Vec<String> {
    fn walk(prefix: &str, dict: &figment::value::Dict, names: &mut Vec<String>) {
        for (key, value) in dict {
            let name = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            match value {
                Value::Dict(_, inner) => walk(&name, inner, names),
                _ => names.push(name),
            }
        }
    }
    let mut names = Vec::new();
    if let Ok(Value::Dict(_, dict)) = Value::serialize(config) {
        walk("", &dict, &mut names);
    }
    names
}

fn text(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => number.to_u128().map_or_else(
            || format!("{:?}", number.to_f64().unwrap_or_default()),
            |n| n.to_string(),
        ),
        Value::Array(_, items) => {
            let items: Vec<_> = items.iter().map(text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Dict(_, members) => {
            let member = |(name, value): (&String, &Value)| format!("{name} = {}", text(value));
            let members: Vec<_> = members.iter().map(member).collect();
            format!("{{ {} }}", members.join(", "))
        }
        _ => "\"\"".to_owned(),
    }
}

/// The reference page's table of the members of a `[[webhook]]`.
pub(crate) fn webhook_reference() -> String {
    let mut page = String::from("| member | default | meaning |\n|---|---|---|\n");
    let defaults = super::webhook::defaults();
    for member in WEBHOOK_MEMBERS {
        let default = defaults.find_ref(member.name).map(text);
        let default = default.map_or_else(String::new, |text| format!("`{text}`"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {default} | {} |",
            member.name, member.meaning
        );
    }
    page
}

/// The reference page's table.
pub(crate) fn reference() -> String {
    let defaults = Config::default();
    let mut page = String::from("| key | default | variable | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = value_text(&defaults, key.name).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | `{default}` | `{}` | {} |",
            key.name,
            key.variable(),
            key.meaning
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_key_is_documented_and_every_documented_key_is_there() {
        let documented: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        let there: BTreeSet<String> = names_in(&Config::default()).into_iter().collect();
        assert_eq!(documented, there);
        let variables: BTreeSet<String> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len(), "two keys share a variable");
    }

    #[test]
    fn the_reference_page_is_the_table_in_the_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = root.join("docs/reference/configuration.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let tables = [
            ("<!-- keys -->\n", reference()),
            ("<!-- webhook -->\n", webhook_reference()),
        ];
        let mut current = page.clone();
        for (mark, made) in tables {
            let (before, rest) = current.split_once(mark).unwrap();
            let (_, after) = rest.split_once("<!-- end -->").unwrap();
            current = format!("{before}{mark}{made}<!-- end -->{after}");
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, current).unwrap();
        } else {
            assert!(
                page == current,
                "{} is stale: run this test with UPDATE_DOCS=1",
                path.display()
            );
        }
    }

    #[test]
    fn every_member_of_a_webhook_is_documented() {
        let documented: Vec<&str> = WEBHOOK_MEMBERS.iter().map(|key| key.name).collect();
        let least = r#"{"name": "", "url": "", "secret_file": "x"}"#;
        let webhook: crate::config::webhook::Webhook = serde_json::from_str(least).unwrap();
        let members = serde_json::to_value(&webhook).unwrap();
        let there: BTreeSet<&str> = members
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(documented.iter().copied().collect::<BTreeSet<_>>(), there);
        assert_eq!(documented.len(), there.len());
    }

    /// Defaults are an interface: whoever changes one changes what servers without a
    /// configuration do.
    #[test]
    fn defaults_do_not_change() {
        let config = Config::default();
        let lines: Vec<String> = KEYS
            .iter()
            .map(|key| {
                let value = value_text(&config, key.name).unwrap();
                format!("{} = {value}", key.name)
            })
            .collect();
        let snapshot: Vec<&str> = include_str!("defaults.txt").lines().collect();
        assert_eq!(lines, snapshot);
    }
}
