//! Agents like one that attested, with keys and certificates that `rat-load` can use.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rat_agent::device::KeyKind;
use rat_agent::keys::{self, ClientKey};
use rat_engine::agent_id::AgentId;
use rat_engine::shard::AgentRecord;
use rat_identity::ca::Ca;
use rat_identity::relay_certificate::RelayName;
use rat_load::fleet::identities::{Identities, RelayIdentity, Way};
use rat_load::keys::SoftwareKey;
use rat_load::software_tpm::attestation_public;
use rat_store::{Store, StoredAgent, StoredRelay};
use rat_tests::fleet;
use rayon::prelude::*;

/// Keys of each kind, which the agents have by turns.
const KEYS: usize = 16;
/// First part of the ids.
const PREFIX: &str = "made";
/// Entries of the list of an agent of `rat-load fleet`.
const ENTRIES: usize = 20;
const INTERVAL_MS: u64 = 60_000;

struct Options {
    like: AgentId,
    identities: PathBuf,
    evidence: String,
    relays: usize,
    /// How many of the first agents have a certificate.
    certificates: u64,
}

fn options(arguments: &[String], agents: u64) -> Options {
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1))
    };
    let needed = |name: &str| value(name).unwrap_or_else(|| panic!("{name} is needed"));
    Options {
        like: AgentId::parse(needed("--like")).unwrap(),
        identities: PathBuf::from(needed("--identities")),
        evidence: needed("--evidence").clone(),
        relays: value("--relays").map_or(0, |relays| relays.parse().unwrap()),
        certificates: value("--certificates").map_or(agents, |first| first.parse().unwrap()),
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

pub(crate) async fn multiply(store: &Store, directory: &Path, agents: u64, arguments: &[String]) {
    let options = options(arguments, agents);
    let now = unix_ms();
    let ca = Ca::open(&directory.join("ca"), now).unwrap();
    let pattern = store.enrolled_agent(&options.like).await.unwrap();
    let pattern = pattern.expect("the agent is not enrolled");
    assert!(pattern.state.passed > 0, "the agent has not attested");
    let attestation: Vec<SoftwareKey> = (0..KEYS)
        .map(|_| SoftwareKey::generate(KeyKind::Ecc).unwrap())
        .collect();
    let client: Vec<ClientKey> = (0..KEYS).map(|_| ClientKey::generate().unwrap()).collect();
    let mut relays = Vec::new();
    for nth in 0..options.relays {
        relays.push(relay(store, &ca, nth, now).await);
    }
    let relay_keys: Vec<[u8; 32]> = relays.iter().map(|(_, key)| *key).collect();
    let ak_publics = attestation
        .iter()
        .map(|key| attestation_public(key).unwrap());
    let ak_publics: Vec<Vec<u8>> = ak_publics.collect();
    let client_keys: Vec<[u8; 32]> = client.iter().map(|key| key.sha256().unwrap()).collect();
    let record = |number: u64| {
        let nth = number as usize;
        AgentRecord {
            id: id(number),
            ak_public: ak_publics[nth % KEYS].clone(),
            ek_sha256: fleet::hash("made ek", number),
            client_key_sha256: client_keys[nth % KEYS],
            relay_key_sha256: (!relay_keys.is_empty()).then(|| relay_keys[nth % relay_keys.len()]),
            baseline: None,
            enrolled_unix_ms: now,
            ..pattern.record.clone()
        }
    };
    super::enrol(store, now, (0..agents).map(record)).await;
    let attested = (0..agents).map(|number| attested(&pattern, number, now));
    super::attest(store, attested).await;
    let way = match options.relays {
        0 => Way::Direct(certificates(&ca, &client, options.certificates, now)),
        _ => Way::Relayed(relays.into_iter().map(|(relay, _)| relay).collect()),
    };
    let identified = match &way {
        Way::Direct(certificates) => certificates.len() as u64,
        Way::Relayed(_) => agents,
    };
    let (host, _) = options.evidence.rsplit_once(':').unwrap();
    let identities = Identities {
        prefix: PREFIX.to_owned(),
        agents: identified.try_into().unwrap(),
        group: pattern.record.group.clone(),
        entries: ENTRIES,
        ca_pem: ca
            .certificates()
            .iter()
            .map(|der| keys::to_pem([der]).unwrap())
            .collect(),
        evidence_server_name: host.to_owned(),
        evidence_address: options.evidence,
        interval_ms: INTERVAL_MS,
        attestation_keys_pem: attestation
            .iter()
            .map(|key| key.to_pem().unwrap())
            .collect(),
        client_keys_pem: client.iter().map(|key| key.to_pem().unwrap()).collect(),
        way,
    };
    identities.write(&options.identities).unwrap();
}

fn id(number: u64) -> AgentId {
    AgentId::parse(&format!("{PREFIX}-{number}")).unwrap()
}

/// What the pattern proved, of another agent, whose machine started just now.
fn attested(pattern: &StoredAgent, number: u64, now: u64) -> rat_engine::shard::Outcome {
    let mut outcome = fleet::outcome(number, 1);
    outcome.agent = id(number);
    outcome.at_unix_ms = now;
    outcome.state = pattern.state.clone();
    outcome.policy = outcome.state.passed_under;
    if let Some(clock) = &mut outcome.state.clock {
        (clock.clock_ms, clock.seen_unix_ms) = (0, now);
    }
    outcome
}

/// A certificate for each agent. Making them takes most of the time: on all cores.
fn certificates(ca: &Ca, keys: &[ClientKey], agents: u64, now: u64) -> Vec<Vec<u8>> {
    // What the request says of the agent is a hint, and not taken.
    let requests: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| key.certificate_request(&id(0)).unwrap())
        .collect();
    let issue = |number: u64| {
        let request = &requests[number as usize % requests.len()];
        let issued = ca.issue_agent(request, &id(number), now).unwrap();
        issued.chain_der.into_iter().next().unwrap()
    };
    (0..agents).into_par_iter().map(issue).collect()
}

async fn relay(store: &Store, ca: &Ca, nth: usize, now: u64) -> (RelayIdentity, [u8; 32]) {
    let key = ClientKey::generate().unwrap();
    let name = format!("{PREFIX}-relay-{nth}");
    let request = key.relay_request().unwrap();
    let issued = ca
        .issue_relay(&request, &RelayName::parse(&name).unwrap(), now)
        .unwrap();
    let stored = StoredRelay {
        name: name.clone(),
        key_sha256: issued.key_sha256,
        created_by: "bench".to_owned(),
        created_unix_ms: now,
    };
    store.put_relay(&stored).await.unwrap();
    let identity = RelayIdentity {
        name,
        key_pem: key.to_pem().unwrap(),
        chain: issued.chain_der,
    };
    (identity, issued.key_sha256)
}
