//! A machine in software whose agent attests to a server: to see what operators' acts lead to.

use std::sync::{Arc, Mutex};

use rat_agent::device::KeyKind;
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::machine::Machine;
use rat_agent::run::{Agent, Through};
use rat_agent::state::Enrolled;
use rat_engine::agent_id::AgentId;
use rat_load::keys::{EkCa, SoftwareKey};
use rat_load::measured::Entry;
use rat_load::software_tpm::{Boot, Keys, SoftwareLogs, SoftwareTpm};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::operating::Operated;
use crate::process::{Home, eventually};

const SETTINGS: [&str; 3] = [
    "attestation.interval_ms=1000",
    "attestation.challenge_deadline_ms=3000",
    "attestation.max_age_ms=5000",
];

/// The group of the machine that enrols first.
pub(crate) const GROUP: &str = "web";

/// A server and one machine.
pub(crate) struct Attested {
    pub(crate) server: Operated,
    authority: EkCa,
    endorsement: SoftwareKey,
    keys: Arc<Keys>,
    boot: Arc<Mutex<Boot>>,
    pub(crate) runtime: Runtime,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Attested {
    /// A machine whose list became the policy of its group, and which is trusted.
    pub(crate) fn trusted() -> Self {
        Self::trusted_in(Home::new(), &[])
    }

    /// The same with a home that was prepared, and more `--set` options.
    pub(crate) fn trusted_in(home: Home, set: &[&str]) -> Self {
        let folder = home.path("ek-ca");
        let authority = EkCa::open(&folder).unwrap();
        let (certificate, _) = EkCa::paths(&folder);
        let ek_ca = format!("identity.ek_ca=[{:?}]", certificate.display().to_string());
        let server = Operated::start_in(home, &[&SETTINGS[..], &[&ek_ca], set].concat());
        let endorsement = SoftwareKey::generate(KeyKind::Ecc).unwrap();
        let mut boot = Boot::first();
        boot.measure(&Entry::file("/usr/bin/init", b"init"));
        let mut attested = Self {
            keys: keys(&endorsement, &authority),
            server,
            authority,
            endorsement,
            boot: Arc::new(Mutex::new(boot)),
            runtime: Runtime::new().unwrap(),
            running: None,
        };
        let body = json!({ "policy_group_id": GROUP });
        let path = "/tokens/generate-baseline";
        let issued = attested.server.expect("POST", path, Some(&body), 200);
        attested.enrol(issued["token"].as_str().unwrap()).unwrap();
        attested.becomes("trusted");
        attested
    }

    /// Enrols, and begins to attest.
    pub(crate) fn enrol(&mut self, token: &str) -> anyhow::Result<()> {
        let (machine, enrolled) = self.enrolled(token)?;
        self.run(machine, enrolled, None);
        Ok(())
    }

    /// Enrols again, and attests through a relay.
    pub(crate) fn enrol_through(&mut self, token: &str, relay: Through) -> anyhow::Result<()> {
        let (machine, enrolled) = self.enrolled(token)?;
        self.run(machine, enrolled, Some(relay));
        Ok(())
    }

    fn enrolled(&mut self, token: &str) -> anyhow::Result<(Machine, Enrolled)> {
        self.stop();
        let device = SoftwareTpm::new(Arc::clone(&self.keys), Arc::clone(&self.boot));
        let machine = Machine::new(device, SoftwareLogs::new(Arc::clone(&self.boot)));
        let options = EnrolOptions {
            token: token.parse()?,
            server: format!("https://{}", self.server.ratd.core).parse()?,
            agent: Some(AgentId::parse("m1")?),
            hostname: "m1.example.com".into(),
            kind: KeyKind::Ecc,
        };
        let enrolled = self.runtime.block_on(enrol(&machine, &options, None))?;
        Ok((machine, enrolled))
    }

    fn run(&mut self, machine: Machine, enrolled: Enrolled, relay: Option<Through>) {
        let agent = Agent::new(machine, enrolled, None, Arc::new(|_| {})).through(relay);
        let (stop, stopped) = watch::channel(false);
        self.running = Some((stop, self.runtime.spawn(agent.run(stopped))));
    }

    pub(crate) fn stop(&mut self) {
        if let Some((stop, running)) = self.running.take() {
            stop.send(true).unwrap();
            self.runtime.block_on(running).unwrap();
        }
    }

    /// What is left when everything has ended.
    pub(crate) fn into_home(mut self) -> Home {
        self.stop();
        std::mem::replace(&mut self.server.home, Home::new())
    }

    /// Gives the same TPM another attestation key.
    pub(crate) fn change_key(&mut self) {
        self.keys = keys(&self.endorsement, &self.authority);
    }

    /// Runs a file.
    pub(crate) fn runs(&self, path: &str) {
        let entry = Entry::file(path, path.as_bytes());
        self.boot.lock().unwrap().measure(&entry);
    }

    /// Fails by running a file that its policy does not list; the failure.
    pub(crate) fn failed() -> (Self, Value) {
        let attested = Self::trusted();
        attested.runs("/tmp/implant");
        attested.becomes("untrusted");
        let failure = attested.evidence()["first_offence"].clone();
        (attested, failure)
    }

    pub(crate) fn evidence(&self) -> Value {
        self.server.expect("GET", "/agents/m1/evidence", None, 200)
    }

    pub(crate) fn status(&self) -> String {
        let evidence = self.evidence();
        let status = &evidence["agent"]["effective_status"];
        status.as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn becomes(&self, status: &str) {
        eventually(status, || self.status() == status);
    }

    /// Waits until it passed so many times more.
    #[track_caller]
    pub(crate) fn passes_again(&self, times: u64) {
        let count = || self.evidence()["attestation"]["count"].as_u64().unwrap();
        let until = count() + times;
        eventually("it passes again", || count() >= until);
    }

    /// A version of a group's policy that lists all that ran, enforced from now on.
    pub(crate) fn allow_all(&self, group: &str) -> String {
        let path = format!("/policies/groups/{GROUP}/active-policy");
        let mut content = self.server.expect("GET", &path, None, 200)["content"].clone();
        let digest = hex::encode(openssl::sha::sha256(b"/tmp/implant"));
        content["digests"]["/tmp/implant"] = json!([digest]);
        let id = self.server.policy(group, "with the implant", &content);
        let path = format!("/policies/{id}/activate");
        self.server.expect("POST", &path, None, 200);
        id
    }
}

impl Drop for Attested {
    fn drop(&mut self) {
        if let Some((stop, _)) = self.running.take() {
            let _ = stop.send(true);
        }
    }
}

fn keys(endorsement: &SoftwareKey, authority: &EkCa) -> Arc<Keys> {
    let attestation = SoftwareKey::generate(KeyKind::Ecc).unwrap();
    Arc::new(Keys::new(endorsement.clone(), attestation, authority).unwrap())
}
