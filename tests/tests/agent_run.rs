//! The agent at work: over the real evidence protocol, against the engine.
//!
//! Needs `swtpm` and `swtpm-tools` for one test; without them it fails and says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a panic is how a test fails"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use rat_agent::device::{Device, DeviceError, Endorsement, KeyKind, Quoted, SealedSecret};
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::keys::{ClientKey, certificates, to_pem, validity};
use rat_agent::machine::Machine;
use rat_agent::run::{Agent, Event, Watcher};
use rat_agent::state::{CaChange, Enrolled, Mode, StateDir};
use rat_agent::unix_ms;
use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::{ClockInfo, PcrSelection};
use rat_engine::verdict::Code;
use rat_identity::ek::EkTrust;
use rat_load::keys::{EkCa, SoftwareKey};
use rat_load::measured::Entry;
use rat_load::software_tpm::{Boot, Keys, SharedBoot, SoftwareLogs, SoftwareTpm};
use rat_load::swtpm::{Machines, SimulatedMachine};
use rat_tests::enrolment_server::Core;
use rat_tests::verifier::{Round, Verifier};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const ANYWHERE: &str = "127.0.0.1:0";
const DAY_MS: u64 = 24 * 3600 * 1000;
/// How long a condition may take to come true on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An installation with one machine in software.
struct Fixture {
    directory: TempDir,
    verifier: Arc<Verifier>,
    core: Arc<Core>,
    machine: Machine,
    keys: Arc<Keys>,
    boot: SharedBoot,
    enrolled: Enrolled,
    heard: Arc<Mutex<Vec<String>>>,
}

async fn fixture() -> Result<(Fixture, rat_transport::quic::server::Server)> {
    let directory = tempfile::tempdir()?;
    let ek = directory.path().join("ek");
    let ek_ca = EkCa::open(&ek)?;
    let trust = EkTrust::load(&[EkCa::paths(&ek).0], &[])?;
    let core = Arc::new(Core::new(&directory.path().join("ca"), trust)?);
    let verifier = Verifier::new(Arc::clone(&core));
    let server = verifier.bind(ANYWHERE.parse()?)?;
    let key = || SoftwareKey::generate(KeyKind::Ecc);
    let keys = Arc::new(Keys::new(key()?, key()?, &ek_ca)?);
    let boot = Arc::new(Mutex::new(Boot::first()));
    let machine = Machine::new(
        SoftwareTpm::new(Arc::clone(&keys), Arc::clone(&boot)),
        SoftwareLogs::new(Arc::clone(&boot)),
    );
    let address = core.serve().await?;
    let options = EnrolOptions {
        token: core.token(false),
        server: format!("https://localhost:{}", address.port()).parse()?,
        agent: None,
        hostname: "host".into(),
        kind: KeyKind::Ecc,
    };
    let enrolled = enrol(&machine, &options, None).await?;
    let heard = Arc::default();
    let fixture = Fixture {
        directory,
        verifier,
        core,
        machine,
        keys,
        boot,
        enrolled,
        heard,
    };
    Ok((fixture, server))
}

impl Fixture {
    fn start(&self, state: Option<StateDir>) -> (watch::Sender<bool>, JoinHandle<()>) {
        let heard = Arc::clone(&self.heard);
        let watcher: Watcher = Arc::new(move |event: Event<'_>| {
            heard.lock().unwrap().push(format!("{event:?}"));
        });
        self.start_with(state, watcher)
    }

    fn start_with(
        &self,
        state: Option<StateDir>,
        watcher: Watcher,
    ) -> (watch::Sender<bool>, JoinHandle<()>) {
        let agent = Agent::new(self.machine.clone(), self.enrolled.clone(), state, watcher);
        let (stop, stopped) = watch::channel(false);
        (stop, tokio::spawn(agent.run(stopped)))
    }

    fn measure(&self, count: usize) {
        let mut boot = self.boot.lock().unwrap();
        for nth in 0..count {
            boot.measure(&Entry::file(&format!("/usr/bin/tool-{nth}"), b"tool"));
        }
    }

    fn rounds(&self) -> Vec<Round> {
        self.verifier.rounds()
    }

    async fn rounds_after(&self, more: usize) -> Vec<Round> {
        let before = self.rounds().len();
        until("further rounds", || self.rounds().len() >= before + more).await;
        self.rounds().split_off(before)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_sends_everything_once_and_then_what_is_new() -> Result<()> {
    let (fixture, _server) = fixture().await?;
    fixture.measure(3_000);
    let (stop, running) = fixture.start(None);
    let first = fixture.rounds_after(1).await.remove(0);
    assert_eq!((first.asked_from, first.from_entry), (0, Some(0)));
    // 3001 entries are more than one frame.
    assert!(first.boot_log && first.in_pieces, "{first:?}");
    fixture.measure(5);
    let later = fixture.rounds_after(3).await;
    let all = fixture.rounds();
    assert!(all.iter().all(|round| round.codes.is_empty()), "{all:?}");
    let last = later.last().unwrap();
    assert_eq!((last.asked_from, last.from_entry), (3_006, Some(3_006)));
    assert!(!last.boot_log && !last.in_pieces);
    let hello = fixture.verifier.hellos().remove(0);
    assert_eq!(
        (hello.agent, hello.entry_count),
        (fixture.enrolled.agent.clone(), 3_001)
    );
    stop.send(true)?;
    running.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_a_reboot_within_a_connection_is_answered_from_the_start() -> Result<()> {
    let (fixture, _server) = fixture().await?;
    fixture.measure(20);
    let (stop, running) = fixture.start(None);
    fixture.rounds_after(2).await;
    fixture.verifier.pause();
    // A machine does not reboot between its agent's quote and its agent's reading of the list.
    until("the open challenge is answered", || {
        !fixture.verifier.is_asking()
    })
    .await;
    let known = fixture.rounds().len();
    fixture.boot.lock().unwrap().reboot();
    fixture.verifier.resume();
    until("a round after the reboot", || {
        fixture.rounds()[known..]
            .iter()
            .any(|round| round.from_entry == Some(0))
    })
    .await;
    let rounds = fixture.rounds();
    let reboot = rounds[known..]
        .iter()
        .find(|round| round.from_entry == Some(0))
        .unwrap();
    assert!(reboot.asked_from > 0 && reboot.boot_log, "{reboot:?}");
    assert_eq!(reboot.codes, []);
    stop.send(true)?;
    running.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_survives_its_server_and_tells_new_from_old() -> Result<()> {
    let (fixture, server) = fixture().await?;
    let (stop, running) = fixture.start(None);
    fixture.rounds_after(1).await;
    let address: SocketAddr = server.local_addr()?;
    server.shutdown(Duration::ZERO).await;
    until("the agent notices", || {
        let heard = fixture.heard.lock().unwrap();
        heard.iter().any(|event| event.starts_with("Away"))
    })
    .await;
    let known = fixture.verifier.hellos().len();
    // The socket is closed a moment after the server is.
    let mut again = None;
    until("the port is free again", || {
        again = fixture.verifier.bind(address).ok();
        again.is_some()
    })
    .await;
    until("the agent comes back", || {
        fixture.verifier.hellos().len() > known
    })
    .await;
    let rounds = fixture.rounds_after(1).await;
    assert_eq!(rounds[0].codes, []);
    stop.send(true)?;
    running.await?;
    Ok(())
}

/// An installation whose machine has three of its certificate's four weeks behind it.
struct Old {
    fixture: Fixture,
    key: ClientKey,
    state: StateDir,
    _server: rat_transport::quic::server::Server,
}

async fn old_certificate() -> Result<Old> {
    let (mut fixture, _) = fixture().await?;
    // A CA that is as old as the certificate of this machine.
    let old = unix_ms() - 23 * DAY_MS;
    let folder = fixture.directory.path().join("old-ca");
    std::fs::create_dir(&folder)?;
    let trust = EkTrust::default();
    let mut core = Core::new(&fixture.directory.path().join("unused"), trust)?;
    core.ca = rat_identity::ca::Ca::open(&folder, old - DAY_MS)?;
    let agent = fixture.enrolled.agent.clone();
    let pending = fixture
        .core
        .enrolled
        .lock()
        .unwrap()
        .remove(&agent)
        .unwrap();
    core.enrolled.lock().unwrap().insert(agent.clone(), pending);
    let key = ClientKey::from_pem(&fixture.enrolled.key_pem)?;
    let issued = core
        .ca
        .issue_agent(&key.certificate_request(&agent)?, &agent, old)?;
    fixture.core = Arc::new(core);
    fixture.verifier = Verifier::new(Arc::clone(&fixture.core));
    let server = fixture.verifier.bind(ANYWHERE.parse()?)?;
    fixture.enrolled.evidence_addresses = vec![server.local_addr()?.to_string()];
    fixture.enrolled.certificate_pem = to_pem(&issued.chain_der)?;
    fixture.enrolled.ca_pem = vec![to_pem(&fixture.core.ca.certificates()[..1])?];
    let state = StateDir::open(&fixture.directory.path().join("state"))?;
    state.save_enrolled(&fixture.enrolled)?;
    Ok(Old {
        fixture,
        key,
        state,
        _server: server,
    })
}

impl Old {
    /// When the certificate in the state directory is to be renewed.
    fn saved_until(&self) -> Result<u64> {
        let saved = self.state.enrolled()?.unwrap();
        assert_eq!(saved.key_pem, self.fixture.enrolled.key_pem);
        let leaf = certificates(&saved.certificate_pem)?.remove(0);
        Ok(validity(&leaf, &self.key)?.renewal_unix_ms())
    }

    async fn renewed(&self) {
        until("a renewal", || {
            let heard = self.fixture.heard.lock().unwrap();
            heard.iter().any(|event| event.starts_with("Renewed"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_for_the_same_key_and_saved() -> Result<()> {
    let old = old_certificate().await?;
    let fixture = &old.fixture;
    let (stop, running) = fixture.start(Some(old.state.clone()));
    old.renewed().await;
    stop.send(true)?;
    running.await?;
    assert_eq!(fixture.verifier.renewals(), 1);
    assert!(old.saved_until()? > unix_ms());
    Ok(())
}

/// The certificates in PEM texts.
fn der(pems: impl IntoIterator<Item = String>) -> Vec<Vec<u8>> {
    let of = |pem: String| certificates(&pem).unwrap();
    pems.into_iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n14_a_ca_that_one_server_certificate_told_is_remembered_and_not_pinned() -> Result<()> {
    let (mut fixture, _server) = fixture().await?;
    let cas = fixture.core.ca.certificates();
    fixture.enrolled.ca_pem.truncate(1);
    assert_eq!(der(fixture.enrolled.ca_pem.clone()), cas[..1]);
    fixture.enrolled.mode = Mode::Leave;
    let state = StateDir::open(&fixture.directory.path().join("state"))?;
    state.save_enrolled(&fixture.enrolled)?;
    let before = unix_ms();
    let (stop, running) = fixture.start(Some(state.clone()));
    // However often it is told: each visit is a Welcome.
    until("three visits", || fixture.verifier.hellos().len() >= 3).await;
    fixture.rounds_after(1).await;
    stop.send(true)?;
    running.await?;
    let saved = state.enrolled()?.unwrap();
    assert_eq!(der(saved.ca_pem), cas[..1]);
    let [change] = &saved.ca_changes[..] else {
        panic!("{:?}", saved.ca_changes)
    };
    assert_eq!(der([change.certificate_pem.clone()]), cas[1..]);
    assert!((before..=unix_ms()).contains(&change.since_unix_ms));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n14_a_ca_that_was_told_before_the_servers_certificate_was_issued_is_pinned() -> Result<()>
{
    let (mut fixture, _server) = fixture().await?;
    let cas = fixture.core.ca.certificates();
    fixture.enrolled.ca_pem.truncate(1);
    // What an earlier certificate of the server told, and a CA that no server tells any more.
    let change = |der: &Vec<u8>| CaChange {
        certificate_pem: to_pem([der]).unwrap(),
        since_unix_ms: unix_ms() - DAY_MS,
    };
    let other = tempfile::tempdir()?;
    let other = rat_identity::ca::Ca::open(other.path(), unix_ms())?.certificates();
    fixture.enrolled.ca_changes = vec![change(&cas[1]), change(&other[0])];
    let state = StateDir::open(&fixture.directory.path().join("state"))?;
    state.save_enrolled(&fixture.enrolled)?;
    let (stop, running) = fixture.start(Some(state.clone()));
    fixture.rounds_after(1).await;
    stop.send(true)?;
    running.await?;
    let saved = state.enrolled()?.unwrap();
    assert_eq!((der(saved.ca_pem), saved.ca_changes), (cas, Vec::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s03_what_a_full_disk_did_not_take_is_saved_when_it_does() -> Result<()> {
    let old = old_certificate().await?;
    let fixture = &old.fixture;
    // Where the new file would be written stands a directory that cannot be replaced by it.
    let obstacle = old.state.path().join("identity.json.new");
    std::fs::create_dir(&obstacle)?;
    let (stop, running) = fixture.start(Some(old.state.clone()));
    // Neither the CA set nor the certificate can be saved, and the agent works all the same.
    old.renewed().await;
    fixture.rounds_after(2).await;
    assert!(old.saved_until()? < unix_ms());
    let heard = fixture.heard.lock().unwrap().clone();
    assert!(heard.iter().any(|event| event.contains("identity.json")));
    assert!(!heard.iter().any(|event| event.starts_with("Away")));
    std::fs::remove_dir(&obstacle)?;
    until("the certificate is saved", || {
        old.saved_until().unwrap() > unix_ms()
    })
    .await;
    assert_eq!(fixture.verifier.renewals(), 1, "the CA signed again");
    stop.send(true)?;
    running.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_leaves_comes_back_for_each_attestation() -> Result<()> {
    let (mut fixture, _server) = fixture().await?;
    fixture.enrolled.mode = Mode::Leave;
    let (stop, running) = fixture.start(None);
    until("three visits", || fixture.verifier.hellos().len() >= 3).await;
    until("three rounds", || fixture.rounds().len() >= 3).await;
    let rounds = fixture.rounds();
    assert!(
        rounds.iter().all(|round| round.codes.is_empty()),
        "{rounds:?}"
    );
    stop.send(true)?;
    running.await?;
    Ok(())
}

/// A device that is asked for what it does not have, until it has it.
struct Unable {
    device: SoftwareTpm,
    able: Arc<AtomicBool>,
}

impl Device for Unable {
    fn endorsement(&mut self) -> Result<Endorsement, DeviceError> {
        self.device.endorsement()
    }
    fn attestation_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        self.device.attestation_key()
    }
    fn activate(&mut self, sealed: &SealedSecret) -> Result<Vec<u8>, DeviceError> {
        self.device.activate(sealed)
    }
    fn quote(&mut self, data: &[u8; 32], selection: &PcrSelection) -> Result<Quoted, DeviceError> {
        if self.able.load(Ordering::SeqCst) {
            return self.device.quote(data, selection);
        }
        Err(DeviceError::SelectionNotQuoted {
            asked: *selection,
            quoted: PcrSelection::new([(HashAlg::Sha256, PcrSet::BOOT)]).unwrap(),
        })
    }
    fn clock(&mut self) -> Result<ClockInfo, DeviceError> {
        self.device.clock()
    }
    fn banks(&mut self) -> Result<Vec<HashAlg>, DeviceError> {
        self.device.banks()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s08_an_agent_that_leaves_and_cannot_answer_comes_back_ever_later() -> Result<()> {
    let (mut fixture, _server) = fixture().await?;
    fixture.enrolled.mode = Mode::Leave;
    let able = Arc::new(AtomicBool::new(false));
    let device = Unable {
        device: SoftwareTpm::new(Arc::clone(&fixture.keys), Arc::clone(&fixture.boot)),
        able: Arc::clone(&able),
    };
    let logs = SoftwareLogs::new(Arc::clone(&fixture.boot));
    fixture.machine = Machine::new(device, logs);
    let waits = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&waits);
    let watcher: Watcher = Arc::new(move |event: Event<'_>| {
        if let Event::Away { error, wait } = event {
            heard.lock().unwrap().push((error.is_some(), wait));
        }
    });
    let (stop, running) = fixture.start_with(None, watcher);
    // The first wait is a second at most, and each further one at most twice as long. It is
    // random: what would never happen is that one of them is longer than the first may be.
    let first = Duration::from_secs(1);
    until("a longer wait", || {
        waits.lock().unwrap().iter().any(|(_, wait)| *wait > first)
    })
    .await;
    assert!(fixture.verifier.hellos().len() >= 2);
    assert_eq!(fixture.rounds(), []);
    // It was welcome each time, and there is a verdict as soon as it can answer.
    able.store(true, Ordering::SeqCst);
    until("a verdict", || !fixture.rounds().is_empty()).await;
    // After a verdict it comes back when it is due.
    fixture.rounds_after(2).await;
    let known = waits.lock().unwrap().len();
    able.store(false, Ordering::SeqCst);
    until("a failure", || {
        let waits = waits.lock().unwrap();
        waits[known..].iter().any(|(failed, _)| *failed)
    })
    .await;
    let waits = waits.lock().unwrap().clone();
    let failure = waits[known..].iter().find(|(failed, _)| *failed).unwrap();
    assert!(failure.1 <= first, "{waits:?}");
    stop.send(true)?;
    running.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_attestation_key_than_the_enrolled_one_is_said() -> Result<()> {
    let (mut fixture, _server) = fixture().await?;
    fixture.enrolled.ak_name = "000b".to_owned() + &"00".repeat(32);
    let (stop, running) = fixture.start(None);
    until("the agent complains", || {
        let heard = fixture.heard.lock().unwrap();
        heard.iter().any(|event| event.contains("OtherKey"))
    })
    .await;
    assert_eq!(fixture.verifier.hellos(), []);
    stop.send(true)?;
    running.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_with_real_tpms_attest_hide_and_reboot() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let machines = Machines {
        dir: directory.path().join("machines"),
        machines: 1,
        ecc: 0,
        prefix: "m".into(),
    };
    let made = tokio::task::spawn_blocking(move || machines.manufacture()).await??;
    let trust = EkTrust::load(&[made.ek_ca], &[])?;
    let core = Arc::new(Core::new(&directory.path().join("ca"), trust)?);
    let verifier = Verifier::new(Arc::clone(&core));
    let _server = verifier.bind(ANYWHERE.parse()?)?;
    let home = directory.path().join("machines").join("m1");
    let mut machine = tokio::task::block_in_place(|| {
        SimulatedMachine::boot(
            AgentId::parse("m1")?,
            KeyKind::Rsa,
            &home,
            &made.manufacturer,
        )
    })?;
    let port = core.serve().await?.port();
    let url = format!("https://localhost:{port}").parse()?;
    machine.enrol(&url, &core.token(true)).await?;
    assert_eq!(core.lists.lock().unwrap()[0].lines().count(), 1);
    // What the agent had to say is printed when the test fails.
    let aloud = || -> Watcher { Arc::new(|event: Event<'_>| eprintln!("{event:?}")) };
    machine.start_agent(aloud())?;
    until("a first round", || !verifier.rounds().is_empty()).await;

    let run = |path: &str| tokio::task::block_in_place(|| machine.run_file(path, b"content"));
    run("/usr/bin/one")?;
    run("/usr/bin/two")?;
    until("both files", || {
        verifier.rounds().iter().any(|round| round.asked_from == 3)
    })
    .await;
    let rounds = verifier.rounds();
    assert!(
        rounds.iter().all(|round| round.codes.is_empty()),
        "{rounds:?}"
    );

    // The newest entry is hidden: the list no longer explains the PCR.
    tokio::task::block_in_place(|| machine.hide())?;
    until("the hidden entry", || {
        let rounds = verifier.rounds();
        rounds.last().unwrap().codes.contains(&Code::ImaPcrMismatch)
    })
    .await;

    let known = verifier.rounds().len();
    machine.reboot(aloud()).await?;
    until("a good round after the reboot", || {
        verifier.rounds()[known..]
            .iter()
            .any(|round| round.codes.is_empty())
    })
    .await;
    let hellos = verifier.hellos();
    let (first, last) = (&hellos[0], hellos.last().unwrap());
    assert_eq!(
        last.reset_count,
        first.reset_count + 1,
        "the TPM counted the reboot: {hellos:?}"
    );
    machine.stop_agent().await;
    Ok(())
}
