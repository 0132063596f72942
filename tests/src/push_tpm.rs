//! An agent of Keylime that pushes, with a simulated TPM behind it.

use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::pcr::{PcrIndex, PcrSet};
use serde_json::{Value, json};

use crate::http_client::{Answer, Client};
use crate::keylime_verifier::Pusher;
use crate::measured::Measured;
use crate::pull_tpm::TpmMachine;

/// The agent. What it writes is a [`Pusher`]'s, with everything that a key signs or a PCR holds
/// replaced by what the TPM says.
#[derive(Debug)]
pub struct TpmPusher {
    /// Its machine.
    pub machine: TpmMachine,
    pusher: Pusher,
    verifier: Client,
}

/// PCR 16 of an agent without a key of its own to show.
const SHOWN: &str = "";

impl TpmPusher {
    /// An agent that finds its verifier there.
    pub fn new(id: &str, machine: TpmMachine, verifier: Client) -> Self {
        let mut pusher = Pusher::new(id);
        pusher.algorithm = "rsa";
        pusher.machine.list.clone_from(&machine.list);
        Self {
            machine,
            pusher,
            verifier,
        }
    }

    /// The kernel measures something.
    ///
    /// # Errors
    /// The tool's.
    pub fn measure(&mut self, entry: Measured) -> Result<()> {
        self.machine.measure(entry)?;
        self.pusher.machine.list.clone_from(&self.machine.list);
        Ok(())
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let mut headers = vec!["content-type: application/vnd.api+json".to_owned()];
        let token = self.pusher.token.as_ref();
        headers.extend(token.map(|it| format!("authorization: Bearer {it}")));
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let body = body.to_string();
        self.verifier
            .request_of_own(method, path, &headers, body.as_bytes())
    }

    /// Asks for a session and proves its key; what was answered to the proof.
    ///
    /// # Errors
    /// The tools'.
    pub fn open(&mut self) -> Result<Value> {
        self.pusher.token = None;
        let asked = self.send("POST", "/v3.0/sessions", &self.pusher.asks());
        assert_eq!(asked.status, 200);
        let asked = asked.json();
        let (name, mut body) = self.pusher.proves(&asked);
        let requested = &asked["data"]["attributes"]["authentication_requested"][0];
        let challenge = requested["chosen_parameters"]["challenge"].as_str();
        let (message, signature) = self.machine.certify(&BASE64.decode(challenge.unwrap())?)?;
        body["data"]["attributes"]["authentication_provided"][0]["data"] = json!({
            "message": BASE64.encode(message),
            "signature": BASE64.encode(signature),
        });
        let answer = self.send("PATCH", &format!("/v3.0/sessions/{name}"), &body);
        let attributes = answer.json()["data"]["attributes"].clone();
        self.pusher.token = attributes["token"].as_str().map(str::to_owned);
        Ok(attributes)
    }

    /// One attestation, from its begin to the answer to its evidence; later, as often as it is told
    /// to come later.
    ///
    /// # Errors
    /// The tools'.
    pub fn attest(&mut self) -> Result<Answer> {
        let path = format!("/v3.0/agents/{}/attestations", self.pusher.id);
        let begun = loop {
            let begun = self.send("POST", &path, &self.offers()?);
            if begun.status != 429 {
                break begun;
            }
            let seconds = begun.header("retry-after").unwrap().parse()?;
            std::thread::sleep(Duration::from_secs(seconds));
        };
        if begun.status != 201 {
            return Ok(begun);
        }
        let location = begun.header("location").unwrap().to_owned();
        let evidence = self.evidence(&begun.json())?;
        Ok(self.send("PATCH", &location, &evidence))
    }

    fn offers(&self) -> Result<Value> {
        let mut offers = self.pusher.offers();
        let evidence = &mut offers["data"]["attributes"]["evidence_supported"];
        let key = &mut evidence[0]["capabilities"]["certification_keys"][0];
        key["public"] = crate::keylime::tpm2b(&self.machine.ak_public()?).into();
        key["key_size"] = 2048.into();
        Ok(offers)
    }

    fn evidence(&self, begun: &Value) -> Result<Value> {
        let mut evidence = self.pusher.evidence(begun);
        let requested = begun["data"]["attributes"]["evidence_requested"].as_array();
        let collected = &mut evidence["data"]["attributes"]["evidence_collected"];
        for (nth, asked) in requested.unwrap().iter().enumerate() {
            if asked["evidence_type"] != "tpm_quote" {
                continue;
            }
            let parameters = &asked["chosen_parameters"];
            let challenge = BASE64.decode(parameters["challenge"].as_str().unwrap())?;
            let pcrs = parameters["selected_subjects"]["sha256"].as_array();
            let pcrs = pcrs.unwrap().iter().filter_map(Value::as_u64);
            let pcrs = pcrs.map(|pcr| PcrIndex::new(pcr).unwrap());
            // Keylime's agents quote it whatever they are asked for.
            let pcrs: PcrSet = pcrs.chain([PcrIndex::KEYLIME_DATA]).collect();
            let [message, signature, blob] = self.machine.quoted(&challenge, pcrs, SHOWN)?;
            collected[nth]["data"] = json!({
                "message": BASE64.encode(message),
                "signature": BASE64.encode(signature),
                "subject_data": BASE64.encode(blob),
            });
        }
        Ok(evidence)
    }
}
