//! Enrolment: who is told what, what comes of it, and what is left when it fails.
//!
//! Needs `swtpm` and `tpm2-tools` for one test; without them it fails and says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use rat_agent::device::{Device, KeyKind, Tpm, TpmSettings};
use rat_agent::enrol::{EnrolError, EnrolOptions, enrol};
use rat_agent::https::HttpError;
use rat_agent::machine::Machine;
use rat_agent::patience::enrol_within;
use rat_agent::run::Dice;
use rat_agent::state::{Enrolled, LastKnown, StateDir, StateError};
use rat_agent::token::Token;
use rat_engine::tpm::Public;
use rat_identity::ek::EkTrust;
use rat_load::keys::{EkCa, SoftwareKey};
use rat_load::software_tpm::{Boot, Keys, SoftwareLogs, SoftwareTpm};
use rat_tests::enrolment_server::{Core, GROUP};
use rat_tests::swtpm::Tpm as Swtpm;
use tempfile::TempDir;

/// A server that knows the TPMs of one software CA.
struct Installation {
    directory: TempDir,
    ek_ca: EkCa,
    core: Arc<Core>,
}

impl Installation {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let ek = directory.path().join("ek");
        let ek_ca = EkCa::open(&ek)?;
        let trust = EkTrust::load(&[EkCa::paths(&ek).0], &[])?;
        let core = Arc::new(Core::new(&directory.path().join("ca"), trust)?);
        Ok(Self {
            directory,
            ek_ca,
            core,
        })
    }

    fn machine(&self, kind: KeyKind) -> Result<Machine> {
        software_machine(kind, &self.ek_ca)
    }

    async fn options(&self, token: Token, kind: KeyKind) -> Result<EnrolOptions> {
        let address = self.core.serve().await?;
        Ok(EnrolOptions {
            token,
            server: format!("https://localhost:{}", address.port()).parse()?,
            agent: None,
            hostname: "host".into(),
            kind,
        })
    }
}

fn software_machine(kind: KeyKind, ca: &EkCa) -> Result<Machine> {
    let keys = Keys::new(
        SoftwareKey::generate(kind)?,
        SoftwareKey::generate(kind)?,
        ca,
    )?;
    let boot = Arc::new(Mutex::new(Boot::first()));
    Ok(Machine::new(
        SoftwareTpm::new(Arc::new(keys), Arc::clone(&boot)),
        SoftwareLogs::new(boot),
    ))
}

#[tokio::test]
async fn n14_nothing_is_sent_to_a_server_with_another_ca() -> Result<()> {
    let ours = Installation::new()?;
    let theirs = Installation::new()?;
    // The right token, and somebody else's server.
    let mut options = theirs.options(ours.core.token(false), KeyKind::Ecc).await?;
    let machine = ours.machine(KeyKind::Ecc)?;
    for baseline in [false, true] {
        options.token = ours.core.token(baseline);
        let error = enrol(&machine, &options, None).await.unwrap_err();
        let EnrolError::Http {
            source: HttpError::ForeignCa { wanted, .. },
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(wanted, hex::encode(ours.core.ca.fingerprint()));
    }
    assert_eq!(theirs.core.requests.load(Ordering::SeqCst), 0);
    assert!(theirs.core.enrolled.lock().unwrap().is_empty());
    Ok(())
}

#[tokio::test]
async fn n14_the_right_ca_under_a_wrong_name_is_refused_as_well() -> Result<()> {
    let installation = Installation::new()?;
    let token = installation.core.token(false);
    let mut options = installation.options(token, KeyKind::Ecc).await?;
    let port = options
        .server
        .to_string()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    // The certificate is for 127.0.0.1 and localhost.
    options.server = format!("https://127.0.0.2:{port}").parse()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let error = enrol(&machine, &options, None).await.unwrap_err();
    assert!(matches!(error, EnrolError::Http { .. }), "{error}");
    assert_eq!(installation.core.requests.load(Ordering::SeqCst), 0);
    Ok(())
}

#[tokio::test]
async fn a_machine_enrols_with_either_key_and_again() -> Result<()> {
    let installation = Installation::new()?;
    for kind in [KeyKind::Rsa, KeyKind::Ecc] {
        let machine = installation.machine(kind)?;
        let options = installation
            .options(installation.core.token(false), kind)
            .await?;
        let enrolled = enrol(&machine, &options, None).await?;
        assert_eq!((enrolled.group.as_str(), enrolled.kind), (GROUP, kind));
        assert_eq!(enrolled.evidence_addresses, ["127.0.0.1:1"]);
        let again = enrol(&machine, &options, Some(&enrolled)).await?;
        assert_eq!(again.agent, enrolled.agent);
        assert_eq!(again.key_pem, enrolled.key_pem);
        // Without its state the machine has the same id, by its TPM, and a new key.
        let lost = enrol(&machine, &options, None).await?;
        assert_eq!(lost.agent, enrolled.agent);
        assert_ne!(lost.key_pem, enrolled.key_pem);
    }
    assert_eq!(installation.core.enrolled.lock().unwrap().len(), 2);
    Ok(())
}

#[tokio::test]
async fn n09_a_tpm_whose_ca_the_operator_did_not_name_is_refused() -> Result<()> {
    let installation = Installation::new()?;
    let other = EkCa::open(&installation.directory.path().join("other"))?;
    let machine = software_machine(KeyKind::Ecc, &other)?;
    let token = installation.core.token(false);
    let options = installation.options(token, KeyKind::Ecc).await?;
    let error = enrol(&machine, &options, None).await.unwrap_err();
    let EnrolError::Http {
        source: HttpError::Refused { status, .. },
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(status, 422);
    assert!(installation.core.enrolled.lock().unwrap().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_baseline_token_sends_the_list_and_another_does_not() -> Result<()> {
    let installation = Installation::new()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let mut options = installation
        .options(installation.core.token(true), KeyKind::Ecc)
        .await?;
    enrol(&machine, &options, None).await?;
    let expected = machine.with(|parts| parts.logs.ascii()).await??;
    let lists = installation.core.lists.lock().unwrap().clone();
    assert_eq!(lists, [String::from_utf8(expected)?]);
    options.token = installation.core.token(false);
    enrol(&machine, &options, None).await?;
    assert_eq!(installation.core.lists.lock().unwrap().len(), 1);
    Ok(())
}

#[tokio::test]
async fn s07_a_server_that_puts_requests_off_is_asked_again_and_not_forever() -> Result<()> {
    let installation = Installation::new()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let token = installation.core.token(false);
    let options = installation.options(token, KeyKind::Ecc).await?;
    installation.core.put_off.store(1, Ordering::SeqCst);
    enrol(&machine, &options, None).await?;
    installation.core.put_off.store(1_000, Ordering::SeqCst);
    let before = installation.core.requests.load(Ordering::SeqCst);
    let error = enrol(&machine, &options, None).await.unwrap_err();
    let EnrolError::Http {
        source: HttpError::Refused { status, .. },
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(status, 503);
    let asked = installation.core.requests.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 5);
    Ok(())
}

/// Dice whose pauses are the shortest.
struct Lowest;

impl Dice for Lowest {
    fn throw(&mut self) -> u64 {
        0
    }
}

#[tokio::test]
async fn s07_a_machine_that_may_wait_enrols_once_the_server_is_back() -> Result<()> {
    let installation = Installation::new()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let token = installation.core.token(false);
    let options = installation.options(token, KeyKind::Ecc).await?;
    let mut put_off = Vec::new();
    let hour = Duration::from_secs(3_600);
    // One attempt asks five times; the second one is served.
    installation.core.put_off.store(6, Ordering::SeqCst);
    let enrolled = enrol_within(
        hour,
        &machine,
        &options,
        None,
        &mut Lowest,
        |error, pause| put_off.push((error.to_string(), pause)),
    )
    .await?;
    assert_eq!(enrolled.group, GROUP);
    let [(said, pause)] = put_off.as_slice() else {
        panic!("{put_off:?}")
    };
    assert!(said.contains("status 503: busy"), "{said}");
    assert_eq!(*pause, Duration::from_secs(1), "the shortest");
    Ok(())
}

#[tokio::test]
async fn a_machine_does_not_wait_for_what_does_not_pass() -> Result<()> {
    let installation = Installation::new()?;
    let token = || installation.core.token(false);
    let hour = Duration::from_secs(3_600);
    let never = |error: &EnrolError, _: Duration| panic!("put off: {error}");
    // A TPM that nobody knows: refused once.
    let other = EkCa::open(&installation.directory.path().join("other"))?;
    let unknown = software_machine(KeyKind::Ecc, &other)?;
    let options = installation.options(token(), KeyKind::Ecc).await?;
    let dice = &mut Lowest;
    let refused = enrol_within(hour, &unknown, &options, None, dice, never).await;
    assert!(matches!(refused, Err(EnrolError::Http { .. })));
    // N14: a server with another CA is sent nothing, however long one may wait.
    let theirs = Installation::new()?;
    let options = theirs.options(token(), KeyKind::Ecc).await?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let refused = enrol_within(hour, &machine, &options, None, dice, never).await;
    let foreign = matches!(
        refused,
        Err(EnrolError::Http {
            source: HttpError::ForeignCa { .. }
        })
    );
    assert!(foreign);
    assert_eq!(theirs.core.requests.load(Ordering::SeqCst), 0);
    Ok(())
}

#[tokio::test]
async fn a_machine_that_has_waited_long_enough_says_why() -> Result<()> {
    let installation = Installation::new()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let mut options = installation
        .options(installation.core.token(false), KeyKind::Ecc)
        .await?;
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    options.server = format!("https://{closed}").parse()?;
    let mut attempts = 1;
    let (seconds, dice) = (Duration::from_secs(3), &mut Lowest);
    let count = |_: &EnrolError, _: Duration| attempts += 1;
    let refused = enrol_within(seconds, &machine, &options, None, dice, count).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("cannot be reached"), "{said}");
    assert!((2..=3).contains(&attempts), "{attempts}");
    Ok(())
}

#[tokio::test]
async fn a_real_tpm_enrols_by_its_key_on_a_list() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let swtpm = Swtpm::start()?;
    for kind in [KeyKind::Rsa, KeyKind::Ecc] {
        let settings = TpmSettings::new(swtpm.tcti().parse()?, kind);
        // This TPM has no certificate; an operator lists the hash of its EK.
        let endorsement = Tpm::new(settings.clone()).endorsement()?;
        let list = directory.path().join("list");
        fs::write(&list, hex::encode(endorsement.sha256()?))?;
        let trust = EkTrust::load(&[], &[list])?;
        let core = Arc::new(Core::new(&directory.path().join(kind.to_string()), trust)?);
        let address = core.serve().await?;
        let options = EnrolOptions {
            token: core.token(false),
            server: format!("https://127.0.0.1:{}", address.port()).parse()?,
            agent: None,
            hostname: "host".into(),
            kind,
        };
        let logs = SoftwareLogs::new(Arc::new(Mutex::new(Boot::first())));
        let machine = Machine::new(Tpm::new(settings), logs);
        let enrolled = enrol(&machine, &options, None).await?;
        let proven = core.enrolled.lock().unwrap();
        let pending = proven.get(&enrolled.agent).unwrap();
        let name = Public::parse(&pending.ak_public)?.name();
        assert_eq!(enrolled.ak_name, name.to_string());
    }
    Ok(())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn some_enrolment() -> Result<Enrolled> {
    let installation = Installation::new()?;
    let machine = installation.machine(KeyKind::Ecc)?;
    let token = installation.core.token(false);
    let options = installation.options(token, KeyKind::Ecc).await?;
    Ok(enrol(&machine, &options, None).await?)
}

#[tokio::test]
async fn a07_the_state_is_the_agents_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("state");
    let state = StateDir::open(&path)?;
    assert_eq!(mode(&path), 0o700);
    assert!(state.enrolled()?.is_none());
    let enrolled = some_enrolment().await?;
    state.save_enrolled(&enrolled)?;
    state.save_last_known(&LastKnown::default())?;
    for file in ["identity.json", "status.json"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    let read = state.enrolled()?.unwrap();
    assert_eq!(
        (read.agent, read.key_pem),
        (enrolled.agent.clone(), enrolled.key_pem.clone())
    );

    // What a crash left of a write is no obstacle, whatever it holds.
    fs::write(path.join("identity.json.new"), b"half")?;
    state.save_enrolled(&enrolled)?;
    assert!(state.enrolled()?.is_some());

    // Modes that let others in are refused, and nothing is changed.
    fs::set_permissions(
        path.join("identity.json"),
        fs::Permissions::from_mode(0o640),
    )?;
    assert!(matches!(
        state.enrolled(),
        Err(StateError::Mode { mode: 0o640, .. })
    ));
    assert_eq!(mode(&path.join("identity.json")), 0o640);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    assert!(matches!(
        StateDir::open(&path),
        Err(StateError::Mode { .. })
    ));
    Ok(())
}

#[test]
fn two_agents_do_not_share_a_state() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("state");
    let state = StateDir::open(&path)?;
    let first = state.lock()?;
    assert!(matches!(
        StateDir::open(&path)?.lock(),
        Err(StateError::InUse { .. })
    ));
    drop(first);
    StateDir::open(&path)?.lock()?;
    Ok(())
}
