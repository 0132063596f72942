//! Agents that speak through a relay. (Q16)

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rat_agent::relay::settings::RelaySettings;
use rat_agent::relay::{self, Relay};
use rat_agent::run::Through;
use rat_agent::state::StateDir;
use rat_load::swtpm::{Machines, SwtpmOptions};
use serde_json::{Value, json};

use crate::attested::{Attested, GROUP};
use crate::process::{Home, Ratd, eventually, metric};
use crate::road::{Fleet, INTERVAL, ek_ca, evidence, failure, status, url};

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
        let csr = request(&settings);
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

/// The base64 of a relay's request.
pub(crate) fn request(settings: &RelaySettings) -> String {
    let mut request = Vec::new();
    relay::request(settings, &mut request).unwrap();
    let request = String::from_utf8(request).unwrap();
    let lines = request.lines().filter(|line| !line.starts_with('-'));
    lines.collect()
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

/// How often somebody came by another way than the record's.
fn refused(attested: &Attested) -> f64 {
    let exposition = String::from_utf8(attested.server.get("/metrics").body).unwrap();
    let reason = ["reason=\"path.not_enrolled\""];
    metric(&exposition, "attest_transport_refusals_total", &reason)
}

#[test]
fn q16_only_the_way_of_the_record_is_taken_and_a_relay_is_taken_back_at_once() {
    let mut attested = Attested::trusted();
    let (first, second) = (
        Named::new(&attested, "site-1"),
        Named::new(&attested, "site-2"),
    );
    let [one, two] = [&first, &second].map(|named| named.start(&attested));
    eventually("two relays", || connected(&attested, 2.0, 0.0));
    // A record that says direct: no relay speaks for it, and the agent takes the other way.
    let before = refused(&attested);
    let issued = token(&attested);
    attested
        .enrol_through(&issued, through(&one, None))
        .unwrap();
    attested.passes_again(2);
    eventually("the relay was refused", || refused(&attested) > before);
    assert!(connected(&attested, 2.0, 0.0));
    // A record that names the other relay.
    speaks_through(&attested, Some("site-2"));
    let before = refused(&attested);
    eventually("both ways are refused", || {
        refused(&attested) > before + 1.0
    });
    attested.becomes("overdue");
    speaks_through(&attested, Some("site-1"));
    // It would try again after some minutes; it is started again.
    attested
        .enrol_through(&issued, through(&one, None))
        .unwrap();
    attested.becomes("trusted");
    eventually("through the first", || connected(&attested, 2.0, 1.0));
    let path = "/agents/m1/relay";
    let body = json!({ "relay": "nowhere" });
    let code = attested.server.refused("POST", path, Some(&body), 404);
    assert_eq!(code, "relay.not_found");
    attested.server.refused("POST", path, Some(&json!({})), 422);

    // Taken back: its connection ends, and no other is taken.
    attested
        .server
        .expect("DELETE", "/relays/site-1", None, 200);
    eventually("one relay is left", || connected(&attested, 1.0, 0.0));
    attested.becomes("overdue");
    assert!(attested.evidence()["first_offence"].is_null());
    let listed = attested.server.expect("GET", "/relays/", None, 200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "site-2");
    speaks_through(&attested, None);
    attested.enrol(&issued).unwrap();
    attested.becomes("trusted");
    assert!(connected(&attested, 1.0, 0.0));
    let acts = ["relay.add", "relay.remove", "agent.relay"];
    let acts = acts.map(|act| attested.server.audited(act).len());
    assert_eq!(acts, [2, 1, 3]);
    attested.stop();
    for relay in [one, two] {
        attested.runtime.block_on(relay.stop());
    }
}

#[test]
fn q16_a_relays_name_and_key_are_its_own() {
    let attested = Attested::trusted();
    let named = Named::new(&attested, "site-1");
    // The same again is another certificate; another key, or another name, is refused.
    let again = Named::new(&attested, "site-1");
    assert_eq!(again.key(), named.key());
    let mut request = Vec::new();
    relay::request(&named.settings, &mut request).unwrap();
    let request = String::from_utf8(request).unwrap();
    let csr: String = request
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let post = |name: &str, csr: &str, code: u16, what: &str| {
        let body = json!({ "name": name, "csr": csr });
        let refused = attested
            .server
            .refused("POST", "/relays/", Some(&body), code);
        assert_eq!(refused, what);
    };
    post("site-2", &csr, 409, "relay.exists");
    post("Site", &csr, 422, "request.member");
    post("site-3", "AAAA", 422, "csr.malformed");
    let acts = attested.server.audited("relay.certify");
    assert_eq!(acts.len(), 1);
}

/// A relay as it is run: a process.
struct Process {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    address: String,
}

impl Process {
    fn start(home: &Home, listen: &str) -> Self {
        let mut child = rat_agent(home)
            .args(["relay", "run", "--listen", listen])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("relay ").expect("no start");
        Self {
            address: address.to_owned(),
            child,
            _stdout: stdout,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rat_agent(home: &Home) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_ratd")).with_file_name("rat-agent");
    let place = program.display();
    assert!(program.exists(), "no {place}: cargo build -p rat-agent");
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("RAT_RELAY_STATE_DIR", home.path("relay"))
        .stdin(Stdio::null());
    command
}

/// What an operator asks of the server, and its answer.
fn post(ratd: &Ratd, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let bearer = format!("Authorization: Bearer {}", ratd.admin());
    let headers = [bearer.as_str(), "Content-Type: application/json"];
    let client = ratd.client();
    let answer = client.request("POST", path, &headers, body.as_bytes());
    assert!(answer.status < 300, "{path}: {}", answer.json());
    answer.json()
}

/// Names the relay, with the program's own commands.
fn install(home: &Home, ratd: &Ratd) {
    let asked = rat_agent(home).args(["relay", "request"]).output().unwrap();
    assert!(asked.status.success());
    let asked = String::from_utf8(asked.stdout).unwrap();
    let csr: String = asked
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let answer = post(ratd, "/relays/", &json!({ "name": "site-1", "csr": csr }));
    let file = home.path("site-1.json");
    std::fs::write(&file, answer.to_string()).unwrap();
    let mut install = rat_agent(home);
    let installed = install.args(["relay", "install"]).arg(&file).output();
    assert!(installed.unwrap().status.success());
}

#[test]
fn q16_machines_with_tpms_attest_through_a_relay_that_is_killed_and_started_again() {
    let home = Home::new();
    let machines = Machines {
        dir: home.path("machines"),
        machines: 2,
        ecc: 1,
        prefix: "m".into(),
    };
    let made = machines.manufacture().unwrap();
    let ca = ek_ca(&made.ek_ca);
    let list = format!("identity.ek_list={:?}", [made.ek_list.unwrap()]);
    let ratd = home.start(&[&INTERVAL[..], &[&ca, &list]].concat());
    install(&home, &ratd);
    let mut relay = Process::start(&home, "127.0.0.1:0");

    let baseline = home.ok(&["token", "create", "--group", "web", "--baseline"]);
    let standard = home.ok(&["token", "create", "--group", "web"]);
    let control = home.path("control");
    let options = SwtpmOptions {
        machines,
        server: url(&ratd),
        token: standard.parse().unwrap(),
        baseline_token: Some(baseline.parse().unwrap()),
        through: Some(relay.address.clone()),
        runs: vec!["/usr/bin/init".into(), "/usr/bin/service".into()],
        control: Some(control.clone()),
    };
    let fleet = Fleet::start(options, control);
    let relayed = |count: f64| {
        let text = String::from_utf8(ratd.client().get("/metrics", None).body).unwrap();
        metric(&text, "attest_transport_relayed_agents", &[]) == count
    };
    for machine in ["m1", "m2"] {
        eventually(machine, || !evidence(&ratd, machine).is_null());
        post(
            &ratd,
            &format!("/agents/{machine}/relay"),
            &json!({ "relay": "site-1" }),
        );
    }
    eventually("both speak through the relay", || relayed(2.0));
    for machine in ["m1", "m2"] {
        eventually(machine, || status(&ratd, machine) == "trusted");
    }

    // Nobody speaks for them: they are silent, and nothing worse.
    relay.kill();
    for machine in ["m1", "m2"] {
        eventually("overdue", || status(&ratd, machine) == "overdue");
        assert_eq!(failure(&ratd, machine), Value::Null);
    }
    let relay = Process::start(&home, &relay.address);
    for machine in ["m1", "m2"] {
        eventually("trusted again", || status(&ratd, machine) == "trusted");
    }
    assert!(relayed(2.0));
    // What a machine does is seen through the relay.
    fleet.tell("run m2 /tmp/implant");
    eventually("m2 is caught", || status(&ratd, "m2") == "untrusted");
    let caught = failure(&ratd, "m2");
    assert_eq!(caught["code"], "ima.path_not_listed", "{caught}");
    assert_eq!(status(&ratd, "m1"), "trusted");
    fleet.stop();
    drop(relay);
    assert_eq!(ratd.stop().code(), Some(0));
}
