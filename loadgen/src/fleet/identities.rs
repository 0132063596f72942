//! Fleets whose agents were not enrolled by this program: who they are, and with which keys.
//!
//! An enrolment costs a server some milliseconds. For fleets of a million agents their records are
//! made in a server's store while it is stopped (`benches/examples/records`), and a file of this
//! kind beside it, with certificates from the server's own CA. Agents share a few private keys, one
//! boot and one list, so that they cost this process little.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use rat_agent::device::KeyKind;
use rat_agent::keys::{self, ClientKey};
use rat_agent::machine::Machine;
use rat_agent::state::{Enrolled, Mode};
use rat_engine::agent_id::AgentId;
use rat_transport::quic::client::{Client, ClientOptions, Sockets};
use serde::{Deserialize, Serialize};

use super::members::{Member, booted};
use crate::keys::{EkCa, SoftwareKey};
use crate::software_tpm::{Keys, SharedBoot, SoftwareLogs, SoftwareTpm};

/// Machines for each attestation key: one does one thing at a time.
const MACHINES_PER_KEY: usize = 16;

/// What such a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// Ids are this, a hyphen and a number from 0 on.
    pub prefix: String,
    /// How many there are.
    pub agents: usize,
    /// Their group.
    pub group: String,
    /// Entries of their lists.
    pub entries: usize,
    /// The CAs that the server may have its certificate from, in PEM.
    pub ca_pem: Vec<String>,
    /// Where evidence goes: `host:port`.
    pub evidence_address: String,
    /// The name in the certificate of the evidence listener.
    pub evidence_server_name: String,
    /// Milliseconds between attestations.
    pub interval_ms: u64,
    /// Attestation keys, PKCS#8 in PEM; agents have them by turns.
    pub attestation_keys_pem: Vec<String>,
    /// Keys of agents' certificates, likewise.
    pub client_keys_pem: Vec<String>,
    /// How they go to the server.
    pub way: Way,
}

/// How the agents of a file go to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// By themselves, with these certificates, in DER.
    Direct(Vec<Vec<u8>>),
    /// Through these relays, by turns.
    Relayed(Vec<RelayIdentity>),
}

/// A relay that the server's operator has named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayIdentity {
    /// Its name.
    pub name: String,
    /// Its private key, PKCS#8 in PEM.
    pub key_pem: String,
    /// Its certificate and what signed it, in DER.
    pub chain: Vec<Vec<u8>>,
}

/// The nth of a list whose items are had by turns.
fn by_turns<T>(items: &[T], nth: usize) -> Result<&T> {
    let at = nth.checked_rem(items.len()).unwrap_or(0);
    items.get(at).context("a list of identities is empty")
}

impl Identities {
    /// Writes the file, which its owner alone can read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path);
        let mut file = file.with_context(|| path.display().to_string())?;
        file.write_all(&postcard::to_stdvec(self)?)?;
        Ok(())
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let identities: Self = postcard::from_bytes(&bytes)
            .with_context(|| format!("{} is no file of identities", path.display()))?;
        if let Way::Direct(certificates) = &identities.way {
            ensure!(
                certificates.len() == identities.agents,
                "a certificate for each agent"
            );
        }
        Ok(identities)
    }

    /// The id of the nth agent.
    ///
    /// # Errors
    /// When the prefix is none that ids have.
    pub fn agent(&self, nth: usize) -> Result<AgentId> {
        let agent = format!("{}-{nth}", self.prefix);
        AgentId::parse(&agent).context(agent)
    }
}

/// A fleet from a file, ready to attest.
pub(super) struct Known {
    pub(super) identities: Identities,
    machines: Vec<Machine>,
    ak_names: Vec<String>,
    ca_set: Vec<Vec<u8>>,
    client_keys_pkcs8: Vec<Vec<u8>>,
    client_keys_sha256: Vec<[u8; 32]>,
    boot: SharedBoot,
}

impl Known {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let identities = Identities::read(path)?;
        let boot = Arc::new(Mutex::new(booted(identities.entries)));
        // Endorsement keys are for enrolments, of which there are none.
        let ca = EkCa::generate()?;
        let (mut pool, mut ak_names) = (Vec::new(), Vec::new());
        for pem in &identities.attestation_keys_pem {
            let attestation = SoftwareKey::from_pem(KeyKind::Ecc, pem)?;
            let endorsement = SoftwareKey::generate(KeyKind::Ecc)?;
            let keys = Arc::new(Keys::new(endorsement, attestation, &ca)?);
            ak_names.push(hex::encode(keys.attestation_name()?));
            pool.push(keys);
        }
        let count = pool.len().saturating_mul(MACHINES_PER_KEY);
        let machine = |keys: &Arc<Keys>| {
            let device = SoftwareTpm::new(Arc::clone(keys), Arc::clone(&boot));
            Machine::new(device, SoftwareLogs::new(Arc::clone(&boot)))
        };
        let (mut client_keys_sha256, mut client_keys_pkcs8) = (Vec::new(), Vec::new());
        for pem in &identities.client_keys_pem {
            let key = ClientKey::from_pem(pem)?;
            client_keys_sha256.push(key.sha256()?);
            client_keys_pkcs8.push(key.to_pkcs8_der()?);
        }
        let mut ca_set = Vec::new();
        for pem in &identities.ca_pem {
            ca_set.extend(keys::certificates(pem)?);
        }
        Ok(Self {
            machines: pool.iter().cycle().take(count).map(machine).collect(),
            identities,
            ak_names,
            ca_set,
            client_keys_pkcs8,
            client_keys_sha256,
            boot,
        })
    }

    /// The machine of the nth agent.
    pub(super) fn member(&self, nth: usize) -> Result<Member> {
        Ok(Member {
            nth,
            machine: by_turns(&self.machines, nth)?.clone(),
            boot: Arc::clone(&self.boot),
            agent: self.identities.agent(nth)?,
        })
    }

    /// SHA-256 of the public key that the nth agent's record names.
    pub(super) fn client_key_sha256(&self, nth: usize) -> Result<[u8; 32]> {
        by_turns(&self.client_keys_sha256, nth).copied()
    }

    fn certificate(&self, nth: usize) -> Result<&Vec<u8>> {
        let Way::Direct(certificates) = &self.identities.way else {
            anyhow::bail!("these agents speak through relays: --relays");
        };
        certificates.get(nth).context("a certificate")
    }

    /// A client of the nth agent.
    pub(super) fn client(&self, nth: usize, sockets: Sockets) -> Result<Client> {
        let options = ClientOptions {
            ca_set: self.ca_set.clone(),
            certificate_chain: vec![self.certificate(nth)?.clone()],
            key_pkcs8: by_turns(&self.client_keys_pkcs8, nth)?.clone(),
            keep_alive_ms: self.identities.interval_ms,
            probe_mtu: false,
        };
        Ok(Client::sharing(sockets, options)?)
    }

    /// What an enrolment of the nth agent would have told it.
    pub(super) fn enrolled(&self, nth: usize) -> Result<Enrolled> {
        let certificate_pem = keys::to_pem([self.certificate(nth)?])?;
        Ok(Enrolled {
            certificate_pem,
            ..self.place(nth)?
        })
    }

    /// The same without its certificate, for an agent whose client is made.
    pub(super) fn place(&self, nth: usize) -> Result<Enrolled> {
        let identities = &self.identities;
        Ok(Enrolled {
            agent: identities.agent(nth)?,
            group: identities.group.clone(),
            server: String::new(),
            evidence_addresses: vec![identities.evidence_address.clone()],
            evidence_server_name: identities.evidence_server_name.clone(),
            key_pem: by_turns(&identities.client_keys_pem, nth)?.clone(),
            certificate_pem: String::new(),
            ca_pem: identities.ca_pem.clone(),
            ca_changes: Vec::new(),
            kind: KeyKind::Ecc,
            ak_name: by_turns(&self.ak_names, nth)?.clone(),
            interval_ms: identities.interval_ms,
            mode: Mode::Stay,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn identities_are_read_as_they_were_written_and_by_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identities");
        let pem = |_| {
            SoftwareKey::generate(KeyKind::Ecc)
                .unwrap()
                .to_pem()
                .unwrap()
        };
        let mut identities = Identities {
            prefix: "m".to_owned(),
            agents: 3,
            group: "fleet".to_owned(),
            entries: 20,
            ca_pem: Vec::new(),
            evidence_address: "127.0.0.1:8882".to_owned(),
            evidence_server_name: "127.0.0.1".to_owned(),
            interval_ms: 60_000,
            attestation_keys_pem: (0..2).map(pem).collect(),
            client_keys_pem: (0..2).map(pem).collect(),
            way: Way::Direct(vec![vec![1], vec![2], vec![3]]),
        };
        identities.write(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Identities::read(&path).unwrap(), identities);
        let known = Known::open(&path).unwrap();
        assert_eq!(known.member(2).unwrap().agent.as_str(), "m-2");
        let keys = [0, 1, 2].map(|nth| known.client_key_sha256(nth).unwrap());
        assert!(keys[0] == keys[2] && keys[0] != keys[1]);
        let names = [0, 1, 2].map(|nth| known.place(nth).unwrap().ak_name);
        assert!(names[0] == names[2] && names[0] != names[1]);
        // One certificate too few.
        identities.agents = 4;
        identities.write(&path).unwrap();
        assert!(Identities::read(&path).is_err());
        fs::write(&path, b"no identities").unwrap();
        assert!(Identities::read(&path).is_err());
    }
}
