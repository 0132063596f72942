//! Keylime's own tenant, 7.14.3 from PyPI, against this program: `make interop`.
//!
//! The agents are those of the tests, with swtpm behind them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_tests::http_client::{Answer, Client};
use rat_tests::keylime::tpm2b;
use rat_tests::pull_tpm::TpmMachine;
use rat_tests::registrar::{auth_tag, client_files};
use rat_tests::{evidence, python};
use serde_json::{Value, json};

use crate::process::{Home, Ratd, eventually};
use crate::registrar::plain;

mod policies;
mod pulled;
mod pushed;

/// A server as a user of Keylime would have it, and its tenant.
pub(crate) struct World {
    ratd: Ratd,
    home: Home,
}

/// What `keylime_tenant` said.
#[derive(Debug)]
pub(crate) struct Said {
    succeeded: bool,
    text: String,
}

impl Said {
    /// What was said, if it was a success.
    #[track_caller]
    fn ok(self) -> Self {
        assert!(self.succeeded, "{}", self.text);
        self
    }

    /// What was said, if it was none.
    #[track_caller]
    fn fails(self) -> Self {
        assert!(!self.succeeded, "{}", self.text);
        self
    }

    /// The last JSON object that was said which has this member.
    #[track_caller]
    fn about(&self, member: &str) -> Value {
        let lines = self.text.lines().rev();
        let mut said = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = said.find_map(|it| it.get(member).cloned());
        found.unwrap_or_else(|| panic!("nothing about {member}: {}", self.text))
    }

    #[track_caller]
    fn has(&self, part: &str) {
        assert!(self.text.contains(part), "no {part}: {}", self.text);
    }
}

/// Keylime's INI files; the package brings none.
fn write_configuration(home: &Path, ratd: &Ratd, stores: &Path) {
    let port = |address: Option<std::net::SocketAddr>| address.unwrap().port();
    let (verifier, registrar) = (port(ratd.verifier), port(ratd.registrar_tls));
    let tenant = format!(
        "[tenant]\nversion = 2.6\nverifier_ip = 127.0.0.1\nverifier_port = {verifier}\n\
         registrar_ip = 127.0.0.1\nregistrar_port = {registrar}\ntls_dir = default\n\
         client_key = default\nclient_key_password =\nclient_cert = default\n\
         trusted_server_ca = default\ntpm_cert_store = {}\nenable_agent_mtls = True\n\
         max_payload_size = 1048576\naccept_tpm_hash_algs = ['sha512', 'sha384', 'sha256']\n\
         accept_tpm_encryption_algs = ['ecc', 'rsa']\n\
         accept_tpm_signing_algs = ['ecschnorr', 'rsassa']\nexponential_backoff = False\n\
         retry_interval = 1\nmax_retries = 30\nrequest_timeout = 60.0\n\
         require_ek_cert = True\nek_check_script =\n",
        stores.display()
    );
    let ca = "[ca]\nversion = 2.6\npassword = secret\ncert_country = US\ncert_ca_name = A CA\n\
              cert_state = MA\ncert_locality = L\ncert_organization = O\ncert_org_unit = U\n\
              cert_ca_lifetime = 3650\ncert_lifetime = 365\ncert_bits = 2048\n\
              cert_crl_dist = http://127.0.0.1/crl\n";
    let logging = "[logging]\nversion = 2.6\n[loggers]\nkeys = root,keylime\n[handlers]\n\
                   keys = consoleHandler\n[formatters]\nkeys = formatter\n\
                   [formatter_formatter]\nformat = %(message)s\n[logger_root]\nlevel = INFO\n\
                   handlers = consoleHandler\n[logger_keylime]\nlevel = INFO\n\
                   qualname = keylime\nhandlers =\n[handler_consoleHandler]\n\
                   class = StreamHandler\nlevel = INFO\nformatter = formatter\n\
                   args = (sys.stdout,)\n";
    let empty = |part: &str| format!("[{part}]\nversion = 2.6\n");
    for (part, text) in [
        ("tenant", tenant),
        ("ca", ca.to_owned()),
        ("logging", logging.to_owned()),
        ("verifier", empty("verifier")),
        ("registrar", empty("registrar")),
    ] {
        fs::write(home.join(format!("{part}.conf")), text).unwrap();
    }
}

impl World {
    /// A server that believes the maker of these TPMs, as its tenant does.
    fn start(machine: &TpmMachine) -> Self {
        let home = Home::new();
        let maker = machine.maker();
        let issuer = maker.join("issuercert.pem").display().to_string();
        let root = maker.join("swtpm-localca-rootca-cert.pem");
        let root = root.display().to_string();
        let ratd = home.start(&[
            "keylime.registrar.listen=127.0.0.1:0",
            "keylime.registrar.tls_listen=127.0.0.1:0",
            "keylime.verifier.listen=127.0.0.1:0",
            "keylime.verifier.quote_interval_seconds=2",
            &format!("identity.ek_ca=[{issuer:?}, {root:?}]"),
        ]);
        let keylime = home.path("keylime");
        let (folder, store) = (keylime.join("cv_ca"), keylime.join("tpm_cert_store"));
        ratd.ok(&["keylime", "ca", "export", folder.to_str().unwrap()]);
        fs::create_dir_all(&store).unwrap();
        fs::copy(issuer, store.join("issuer.pem")).unwrap();
        write_configuration(&keylime, &ratd, &store);
        Self { ratd, home }
    }

    fn keylime(&self) -> PathBuf {
        self.home.path("keylime")
    }

    /// Runs a command of the tenant.
    fn tenant(&self, command: &str, arguments: &[&str]) -> Said {
        let programs = python::keylime();
        let home = self.keylime();
        let mut tenant = Command::new(programs.join("keylime_tenant"));
        tenant.env_clear().env("KEYLIME_DIR", &home);
        for part in ["tenant", "ca", "logging", "verifier", "registrar"] {
            let name = format!("KEYLIME_{}_CONFIG", part.to_uppercase());
            tenant.env(name, home.join(format!("{part}.conf")));
        }
        tenant.current_dir(&home).args(["-c", command]);
        let output = tenant.args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said {
            succeeded: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// The same for an agent.
    fn tenant_of(&self, id: &str, command: &str, arguments: &[&str]) -> Said {
        self.tenant(command, &[&["-u", id], arguments].concat())
    }

    /// A file that the tenant is given, with its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.keylime().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The verifier, asked by somebody with the tenant's certificate.
    fn ask(&self, path: &str) -> Answer {
        let folder = self.keylime().join("cv_ca");
        let (certificate, key) = client_files(&folder);
        let (address, ca) = (self.ratd.verifier.unwrap(), folder.join("cacert.crt"));
        let client = Client::with_certificate(address, &ca, &certificate, &key);
        client.request_of_own("GET", path, &[], b"")
    }

    /// The verifier, as agents that push see it.
    fn verifier(&self) -> Client {
        let ca = self.keylime().join("cv_ca/cacert.crt");
        Client::new(self.ratd.verifier.unwrap(), &ca)
    }

    /// Waits until this member of an agent's status is so.
    #[track_caller]
    fn until(&self, id: &str, member: &str, value: impl Into<Value>) {
        let (path, value) = (format!("/v2.6/agents/{id}"), value.into());
        eventually(&format!("{id}: {member} is {value}"), || {
            self.ask(&path).json()["results"][member] == value
        });
    }

    /// Registers an agent, whose TPM answers.
    fn register(&self, id: &str, machine: &TpmMachine, more: Value) -> Result<()> {
        let (certificate, ek) = machine.endorsement()?;
        let mut body = json!({
            "ek_tpm": BASE64.encode(ek),
            "ekcert": BASE64.encode(certificate),
            "aik_tpm": tpm2b(&machine.ak_public()?),
        });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        let (address, path) = (self.ratd.registrar.unwrap(), format!("/v2.6/agents/{id}"));
        let asked = plain(address, "POST", &path, &body);
        assert_eq!(asked.status, 200, "{}", asked.json());
        let asked = asked.json();
        let blob = BASE64.decode(asked["results"]["blob"].as_str().unwrap())?;
        let secret = machine.activate(&blob)?;
        let answer = json!({"auth_tag": auth_tag(&secret, id)});
        assert_eq!(plain(address, "PUT", &path, &answer).status, 200);
        Ok(())
    }
}

/// The policy that a machine keeps to.
fn policy(machine: &TpmMachine) -> String {
    let digests = machine.list.iter().map(|entry| {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        (name, json!([hex::encode(&entry.digest)]))
    });
    evidence::policy_json(Value::Object(digests.collect()), &[])
}
