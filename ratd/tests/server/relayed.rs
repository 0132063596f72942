//! Agents that speak through a relay. (Q16)

use rat_agent::relay::settings::RelaySettings;
use rat_agent::relay::{self, Relay};
use rat_agent::run::Through;
use rat_agent::state::StateDir;
use serde_json::{Value, json};

use crate::attested::{Attested, GROUP};
use crate::process::{eventually, metric};

/// A relay that an operator has named.
struct Named {
    settings: RelaySettings,
    answer: Value,
}

impl Named {
    fn new(attested: &Attested, name: &str) -> Self {
        let settings = RelaySettings {
            state_dir: Some(attested.server.home.path(name)),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            ..RelaySettings::default()
        };
        let mut request = Vec::new();
        relay::request(&settings, &mut request).unwrap();
        let request = String::from_utf8(request).unwrap();
        let lines = request.lines().filter(|line| !line.starts_with("-----"));
        let csr: String = lines.collect();
        let body = json!({ "name": name, "csr": csr });
        let answer = attested.server.expect("POST", "/relays/", Some(&body), 201);
        let file = attested.server.home.path(&format!("{name}.json"));
        std::fs::write(&file, answer.to_string()).unwrap();
        assert_eq!(relay::install(&settings, &file).unwrap(), name);
        Self { settings, answer }
    }

    fn start(&self, attested: &Attested) -> Relay {
        let _entered = attested.runtime.enter();
        let state = StateDir::open(&self.settings.state_dir()).unwrap();
        Relay::start(&self.settings, state).unwrap()
    }

    fn key(&self) -> &str {
        self.answer["key_sha256"].as_str().unwrap()
    }
}

fn through(relay: &Relay, key: Option<&str>) -> Through {
    Through::new(&relay.address().unwrap().to_string(), key).unwrap()
}

fn token(attested: &Attested) -> String {
    let body = json!({ "policy_group_id": GROUP });
    let path = "/tokens/generate";
    let issued = attested.server.expect("POST", path, Some(&body), 200);
    issued["token"].as_str().unwrap().to_owned()
}

fn speaks_through(attested: &Attested, relay: Option<&str>) -> Value {
    let body = json!({ "relay": relay });
    let path = "/agents/m1/relay";
    attested.server.expect("POST", path, Some(&body), 200)
}

fn connected(attested: &Attested, relays: f64, agents: f64) -> bool {
    let exposition = String::from_utf8(attested.server.get("/metrics").body).unwrap();
    let figure = |name| metric(&exposition, name, &[]);
    figure("attest_transport_relays") == relays
        && figure("attest_transport_relayed_agents") == agents
}

#[test]
fn q16_an_agent_attests_through_the_relay_that_its_record_names() {
    let mut attested = Attested::trusted();
    let named = Named::new(&attested, "site-1");
    let shown = speaks_through(&attested, Some("site-1"));
    assert_eq!(shown["relay_key_sha256"], named.key());
    let relay = named.start(&attested);
    let token = token(&attested);
    attested
        .enrol_through(&token, through(&relay, Some(named.key())))
        .unwrap();
    attested.passes_again(3);
    attested.becomes("trusted");
    eventually("one relay, one agent", || connected(&attested, 1.0, 1.0));
    // What fails it directly fails it through a relay: its key has signed for it.
    attested.runs("/tmp/implant");
    attested.becomes("untrusted");
    attested.stop();
    eventually("the agent left", || connected(&attested, 1.0, 0.0));
    attested.runtime.block_on(relay.stop());
    eventually("the relay left", || connected(&attested, 0.0, 0.0));
}
