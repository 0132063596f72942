//! Keylime's agents that fail: who is told, how gravely, and who is polled on; over restarts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::x509::X509;
use rat_engine::hash::HashAlg;
use rat_ops::zeromq::wire;
use rat_tests::evidence::Machine;
use rat_tests::http_client::Client;
use rat_tests::keylime::tpm2b;
use rat_tests::keylime_verifier::Pusher;
use rat_tests::measured::Measured;
use rat_tests::pull_agent::{Device, PullAgent, Reply};
use rat_tests::receiver::Receiver;
use rat_tests::registrar::client_files;
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

use crate::process::{Home, Ratd, eventually, metric};
use crate::webhooks::option;

const EVERY_SECOND: [&str; 3] = [
    "keylime.verifier.listen=127.0.0.1:0",
    "keylime.verifier.quote_interval_seconds=1",
    "keylime.pull.retry_interval_seconds=1",
];

/// A server of a home, and the CA that tenants and agents know.
struct Served {
    home: Home,
    options: Vec<String>,
    ratd: Option<Ratd>,
}

impl Served {
    fn start(home: Home, more: &[&str]) -> Self {
        let options = EVERY_SECOND.iter().chain(more);
        let mut served = Self {
            home,
            options: options.map(|&it| it.to_owned()).collect(),
            ratd: None,
        };
        served.again();
        served
    }

    fn stop(&mut self) {
        if let Some(ratd) = self.ratd.take() {
            assert!(ratd.stop().success());
        }
    }

    fn again(&mut self) {
        self.stop();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.ratd = Some(self.home.start(&options));
    }

    fn ratd(&self) -> &Ratd {
        self.ratd.as_ref().unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> rat_tests::http_client::Answer {
        let folder = self.home.data().join("cv_ca");
        let (certificate, key) = client_files(&folder);
        let address = self.ratd().verifier.unwrap();
        let ca = folder.join("cacert.crt");
        let client = Client::with_certificate(address, &ca, &certificate, &key);
        let text = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        client.request_of_own(method, path, &[], text.as_bytes())
    }

    fn standing(&self, id: &str) -> Value {
        let answer = self.ask("GET", &format!("/v2.6/agents/{id}"), &Value::Null);
        assert_eq!(answer.status, 200);
        answer.json()["results"].clone()
    }

    /// Waits until the words of Keylime are these.
    fn until(&self, id: &str, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), || {
            self.standing(id)["attestation_status"] == status
        });
        self.standing(id)
    }

    fn put(&self, id: &str, what: &str) {
        let path = format!("/v2.6/agents/{id}/{what}");
        assert_eq!(self.ask("PUT", &path, &Value::Null).status, 200);
    }

    /// An agent that takes clients of the CA in `cv_ca` alone, as Keylime's do.
    fn agent(&self, tokio: &tokio::runtime::Runtime, machine: &Machine) -> PullAgent {
        let ca = std::fs::read(self.home.data().join("cv_ca/cacert.crt")).unwrap();
        let ca = X509::from_pem(&ca).unwrap().to_der().unwrap();
        let device = Device::Software(Box::new(machine.clone()), 7);
        tokio.block_on(PullAgent::of_ca(device, ca))
    }

    /// Adds it as a tenant does.
    fn add(&self, id: &str, machine: &Machine, agent: &PullAgent, revocation_key: &str) {
        let mut pusher = Pusher::new(id);
        pusher.machine = machine.clone();
        let mut body = pusher.body();
        let certificate = X509::from_der(&agent.certificate).unwrap();
        body["cloudagent_ip"] = json!("127.0.0.1");
        body["cloudagent_port"] = json!(agent.address.port());
        body["mtls_cert"] = json!(String::from_utf8(certificate.to_pem().unwrap()).unwrap());
        body["ak_tpm"] = json!(tpm2b(&machine.ak.public()));
        body["revocation_key"] = json!(revocation_key);
        body["metadata"] = json!("{\"rack\": 7}");
        let answer = self.ask("POST", &pusher.path(), &body);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{said}");
    }

    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let ratd = self.ratd();
        let text = ratd.client().get("/metrics", Some(&ratd.admin())).body;
        metric(&String::from_utf8(text).unwrap(), name, labels)
    }
}

fn run_evil(agent: &PullAgent) -> Machine {
    let mut ran = None;
    agent.change(|device| {
        let Device::Software(machine, _) = device else {
            panic!("a TPM in software");
        };
        machine.list.push(Measured::file("/usr/bin/evil", b"evil"));
        ran = Some(machine.as_ref().clone());
    });
    ran.unwrap()
}

fn pem(key: &Rsa<Private>) -> String {
    String::from_utf8(key.private_key_to_pem().unwrap()).unwrap()
}

/// The message of an envelope whose signature this key made.
#[track_caller]
fn opened(envelope: &Value, key: &Rsa<Private>) -> Value {
    let msg = envelope["msg"].as_str().unwrap();
    let signature = BASE64.decode(envelope["signature"].as_str().unwrap());
    let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &public).unwrap();
    verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    verifier.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
    let longest = RsaPssSaltlen::custom(256 - 32 - 2);
    verifier.set_rsa_pss_saltlen(longest).unwrap();
    let is_genuine = verifier.verify_oneshot(&signature.unwrap(), msg.as_bytes());
    assert!(is_genuine.unwrap(), "{envelope}");
    serde_json::from_str(msg).unwrap()
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Subscribes to everything, as `SUB` sockets do.
fn subscribe(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(&wire::greeting()).unwrap();
    let ready = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB";
    stream.write_all(ready).unwrap();
    stream.write_all(b"\0\x01\x01").unwrap();
    let mut theirs = vec![0; wire::GREETING_BYTES + wire::ready().len()];
    stream.read_exact(&mut theirs).unwrap();
    stream
}

fn frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
        // What a publisher writes may be longer than what it reads.
        let head = match bytes.as_slice() {
            [0, length] => Some(u64::from(*length)),
            [2, length @ ..] if length.len() == 8 => {
                Some(u64::from_be_bytes(length.try_into().unwrap()))
            }
            _ => None,
        };
        if let Some(length) = head {
            let mut body = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut body).unwrap();
            return body;
        }
    }
}

/// A second agent, with a key of its own, which is added as `m2`.
fn other_agent(served: &Served, tokio: &tokio::runtime::Runtime) -> PullAgent {
    let machine = Machine::valid().with(|machine| {
        machine.ak = SoftwareAk::new(Scheme::Ecdsa(256), HashAlg::Sha256);
    });
    let agent = served.agent(tokio, &machine);
    served.add("m2", &machine, &agent, "");
    agent
}

/// Whether a message is of the failure of `m1`, as Keylime writes it.
fn tells_of(message: &Value, agent: &PullAgent, event: &str) {
    assert_eq!(message["type"], "revocation");
    assert_eq!(message["agent_id"], "m1");
    assert_eq!(message["ip"], "127.0.0.1");
    assert_eq!(message["port"], agent.address.port());
    assert_eq!(message["meta_data"], "{\"rack\": 7}");
    assert_eq!(message["tpm_policy"], "{\"mask\": \"0x400\"}");
    assert_eq!(
        (&message["event_id"], &message["severity_label"]),
        (&json!(event), &json!("emergency"))
    );
    let context: Value = serde_json::from_str(message["context"].as_str().unwrap()).unwrap();
    let said = context["message"].as_str().unwrap();
    assert!(said.contains("/usr/bin/evil"), "{said}");
    assert_eq!(message["event_time"].as_str().unwrap().len(), 24);
}

#[test]
fn whoever_relies_on_an_agent_is_told_when_it_fails_and_it_is_polled_no_more() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, ", content=\"revocation\"");
    let port = free_port();
    let zmq = format!("keylime.revocation.zmq_listen=127.0.0.1:{port}");
    let channels = "keylime.revocation.channels=[\"agent\",\"zeromq\",\"webhook\"]";
    let mut served = Served::start(home, &[&hook, &zmq, channels]);
    let key = Rsa::generate(2048).unwrap();
    let machine = Machine::valid();
    let one = served.agent(&tokio, &machine);
    let other = other_agent(&served, &tokio);
    served.add("m1", &machine, &one, &pem(&key));
    let passed = served.until("m1", "PASS");
    served.until("m2", "PASS");
    // Item by item what a tenant is shown of what was used.
    assert_eq!(passed["hash_alg"], "sha256");
    assert_eq!(passed["enc_alg"], "ecc256");
    assert_eq!(passed["sign_alg"], "ecdsa");
    assert_eq!(passed["severity_level"], Value::Null);
    let mut subscriber = subscribe(port);
    std::thread::sleep(Duration::from_millis(500));

    let ran = run_evil(&one);
    let failed = served.until("m1", "FAIL");
    assert_eq!(failed["operational_state"], 9);
    assert_eq!(failed["severity_level"], 6);
    let event = "ima.validation.ima-ng.not_in_allowlist";
    assert_eq!(failed["last_event_id"], event);
    eventually("the other agent is told", || {
        !other.revocations().is_empty()
    });
    eventually("the webhook is told", || !receiver.taken().is_empty());
    let published: Value = serde_json::from_slice(&frame(&mut subscriber)).unwrap();
    let posted = receiver.taken()[0].json();
    assert_eq!(published, posted);
    assert_eq!(other.revocations()[0], posted);
    assert_eq!(posted.as_object().unwrap().len(), 2);
    let message = opened(&posted, &key);
    tells_of(&message, &one, event);
    // Nobody is told of itself, and nobody twice.
    assert!(one.revocations().is_empty());

    // It is polled no more, also after a restart; others are.
    let asked = |agent: &PullAgent| agent.quotes_asked().len();
    let is_left_alone = |served: &Served| {
        let (before, beside) = (asked(&one), asked(&other));
        eventually("the other is asked", || asked(&other) > beside + 2);
        assert_eq!(asked(&one), before);
        assert_eq!(served.standing("m1")["attestation_status"], "FAIL");
    };
    is_left_alone(&served);
    let told = "attest_keylime_revocations_total";
    assert!((served.metric(told, &["type=\"revocation\""]) - 1.0).abs() < 0.1);
    let taken = "attest_pull_revocations_total";
    assert!((served.metric(taken, &["result=\"taken\""]) - 1.0).abs() < 0.1);
    served.again();
    served.until("m2", "PASS");
    is_left_alone(&served);
    assert_eq!(served.standing("m1")["severity_level"], 6);
    assert_eq!(receiver.taken().len(), 1);
    assert_eq!(other.revocations().len(), 1);

    // The policy lists it: the failure ends, as for everybody.
    let mut pusher = Pusher::new("m1");
    pusher.machine = ran;
    let body = json!({"runtime_policy": BASE64.encode(pusher.policy())});
    assert_eq!(served.ask("PUT", "/v2.6/allowlists/m1", &body).status, 201);
    let passed = served.until("m1", "PASS");
    assert_eq!(passed["last_event_id"], Value::Null);
    served.stop();
}

#[test]
fn an_agent_that_a_tenant_stopped_stays_so_over_a_restart() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let mut served = Served::start(Home::new(), &[]);
    let machine = Machine::valid();
    let agent = served.agent(&tokio, &machine);
    agent.serve_versions(&["2.1", "2.3"]);
    served.add("m1", &machine, &agent, "");
    served.until("m1", "PASS");
    served.put("m1", "stop");
    let stopped = served.standing("m1");
    assert_eq!(stopped["operational_state"], 10);
    assert_eq!(stopped["attestation_status"], "FAIL");
    served.again();
    let before = agent.asked().len();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(agent.asked().len(), before, "{:?}", agent.asked());
    assert_eq!(served.standing("m1")["operational_state"], 10);
    // It attested by 2.3: after a restart too it is not talked down to an older version.
    agent.serve_versions(&["2.1"]);
    served.put("m1", "reactivate");
    eventually("it is refused", || {
        let labels = ["result=\"downgrade\""];
        let text = served
            .ratd()
            .client()
            .get("/metrics", Some(&served.ratd().admin()));
        String::from_utf8(text.body).unwrap().contains(labels[0])
    });
    assert_ne!(served.standing("m1")["attestation_status"], "FAIL");
    agent.serve_versions(&["2.1", "2.3"]);
    served.until("m1", "PASS");
    served.stop();
}

/// Changes a digit of the newest line of the list.
fn forged(_: &str, reply: Reply) -> Reply {
    reply.changed(|results| {
        let Some(list) = results["ima_measurement_list"].as_str() else {
            return;
        };
        let at = list.rfind("sha256:").map_or(0, |at| at + "sha256:".len());
        if at == 0 {
            return;
        }
        let mut list = list.to_owned().into_bytes();
        list[at] = if list[at] == b'0' { b'1' } else { b'0' };
        results["ima_measurement_list"] = json!(String::from_utf8(list).unwrap());
    })
}

#[test]
fn each_rise_in_severity_is_told_once_and_what_is_not_grave_is_polled_on() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, ", content=\"revocation\"");
    let policy = "keylime.verifier.severity_policy=[\
        {event_id=\"ima[.]validation[.]ima-ng[.]not_in_allowlist\", severity_label=\"notice\"}]";
    let channels = "keylime.revocation.channels=[\"webhook\"]";
    let mut served = Served::start(home, &[&hook, policy, channels]);
    let key = Rsa::generate(2048).unwrap();
    let machine = Machine::valid();
    let agent = served.agent(&tokio, &machine);
    served.add("m1", &machine, &agent, &pem(&key));
    served.until("m1", "PASS");
    run_evil(&agent);
    served.until("m1", "FAIL");
    eventually("it is told", || receiver.taken().len() == 1);
    let first = opened(&receiver.taken()[0].json(), &key);
    assert_eq!(first["severity_label"], "notice");
    assert_eq!(served.standing("m1")["severity_level"], 1);
    // It is asked on, a sixth as often, and nobody is told again.
    let before = agent.quotes_asked().len();
    eventually("it is asked on", || agent.quotes_asked().len() > before);
    assert_eq!(receiver.taken().len(), 1);

    // What it runs next it hides.
    agent.bend(forged);
    run_evil(&agent);
    eventually("the rise is told", || receiver.taken().len() == 2);
    let second = opened(&receiver.taken()[1].json(), &key);
    assert_eq!(second["severity_label"], "emergency", "{second}");
    let standing = served.standing("m1");
    assert_eq!(standing["severity_level"], 6);
    assert_eq!(standing["last_event_id"], second["event_id"]);
    eventually("it is left alone", || {
        let before = agent.quotes_asked().len();
        std::thread::sleep(Duration::from_secs(8));
        agent.quotes_asked().len() == before
    });
    served.again();
    assert_eq!(served.standing("m1")["severity_level"], 6);
    assert_eq!(receiver.taken().len(), 2);
    served.stop();
}

#[test]
fn an_agent_that_falls_silent_is_told_of_if_it_ever_attested() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let receiver = Receiver::start();
    let home = Home::new();
    let hook = option(&home, &receiver, ", content=\"revocation\"");
    let channels = "keylime.revocation.channels=[\"webhook\"]";
    let mut served = Served::start(home, &[&hook, channels]);
    let machine = Machine::valid();
    let mut agent = served.agent(&tokio, &machine);
    served.add("m1", &machine, &agent, "");
    served.until("m1", "PASS");
    let unlike = Machine::valid().with(|machine| {
        machine.ak = rat_tests::software_tpm::SoftwareAk::new(
            rat_tests::software_tpm::Scheme::Ecdsa(384),
            rat_engine::hash::HashAlg::Sha256,
        );
    });
    let mut never = served.agent(&tokio, &unlike);
    tokio.block_on(never.pause());
    served.add("m2", &unlike, &never, "");
    tokio.block_on(agent.pause());
    eventually("it is told", || !receiver.taken().is_empty());
    let envelope = receiver.taken()[0].json();
    assert_eq!(envelope["signature"], "");
    let message: Value = serde_json::from_str(envelope["msg"].as_str().unwrap()).unwrap();
    assert_eq!(message["type"], "comm_error");
    assert_eq!(message["agent_id"], "m1");
    assert_eq!(message["event_id"], "internal.verifier.not_reachable");
    // It is no failure: once it answers, it passes.
    tokio.block_on(agent.resume());
    assert_eq!(receiver.taken().len(), 1);
    served.stop();
}

#[test]
fn channels_and_webhooks_that_do_not_fit_together_keep_the_server_from_starting() {
    let home = Home::new();
    let receiver = Receiver::start();
    let hook = option(&home, &receiver, ", content=\"revocation\"");
    let check = |set: &[&str]| {
        let mut arguments = Vec::new();
        for option in set {
            arguments.extend(["--set", option]);
        }
        home.fails(3, &arguments)
    };
    let said = check(&[&hook]);
    assert!(said.contains("keylime.revocation.channels"), "{said}");
    let said = check(&["keylime.revocation.channels=[\"webhook\"]"]);
    assert!(said.contains("content = \"revocation\""), "{said}");
    let said = check(&["keylime.revocation.channels=[\"carrier pigeon\"]"]);
    assert!(said.contains("keylime.revocation.channels"), "{said}");
    let said =
        check(&["keylime.verifier.severity_policy=[{event_id=\"(\", severity_label=\"x\"}]"]);
    assert!(said.contains("keylime.verifier.severity_policy"), "{said}");
    let said = check(&["keylime.verifier.severity_labels=[]"]);
    assert!(said.contains("keylime.verifier.severity_labels"), "{said}");
}
